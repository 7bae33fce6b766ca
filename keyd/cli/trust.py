"""keydctl trust: Docker Content Trust and Notary, with every key on a token."""

from __future__ import annotations

import warnings

import click

from keyd.cli import (
    trustdelegations,
    trustimages,
    trustkeys,
    trustmigrate,
    trustreads,
    trusttargets,
)
from keyd.cli.trustsession import TrustGroup


@click.group(cls=TrustGroup)
def trust() -> None:
    """Publish and read signed collections and image tags, as notary and docker trust do.

    GUN is a collection's name by docker's rules: alpine is docker.io/library/alpine. Its keys are
    on tokens, named notary/GUN/ROLE. The server comes from -s, DOCKER_CONTENT_TRUST_SERVER,
    notary's configuration file, or the name of the collection.
    """
    # Names of collections may be longer than X.520 has them; notary does not mind.
    warnings.filterwarnings("ignore", "Attribute's length must be", UserWarning)


for _module in (
    trusttargets,
    trustreads,
    trustkeys,
    trustdelegations,
    trustimages,
    trustmigrate,
):
    for _command in _module.COMMANDS:
        trust.add_command(_command)
