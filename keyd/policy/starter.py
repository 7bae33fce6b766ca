"""The policy.toml that `keyd-server init` writes."""

from __future__ import annotations

import json

from keyd.model import Action
from keyd.policy.principals import check_principal

_STARTER = """\
# Who may do what with keyd's keys. Deny by default: what no grant allows is refused.
# Read again on SIGHUP (systemctl reload keyd-server), and only if it parses. docs/policy.md
# explains every setting; `keydctl policy test WHO ACTION KEY` shows what it would answer.
#
# principals: socket:NAME (a unix socket of keyd.toml), uri:, email: or dns: (client certificate).
# actions: admin, signer, approver, auditor, or single ones:
#   {actions}
# keys, tokens, principals: * is any run of characters, ? is one.

[[grant]]
name = "admins"
principals = [{principal}]
actions = ["admin"]  # everything but sign, certify and approve
keys = ["*"]
tokens = ["*"]

# The same person signs, so that a first signature works. Give this to others and take it from
# yourself once there are others.
[[grant]]
name = "signers"
principals = [{principal}]
actions = ["signer"]  # sign, list, advance, ceremony
keys = ["*"]

# A CI runner that signs the snapshot and timestamp of one repository, and nothing else:
# [[grant]]
# name = "release-ci"
# principals = ["uri:spiffe://example.org/ci/release"]
# actions = ["signer"]
# keys = ["acme/snapshot", "acme/timestamp"]
# kinds = ["snapshot", "timestamp"]  # no other content, and no bare digests
# repositories = ["acme"]

# People whose consent counts where it is needed: they see keys and log too.
# [[grant]]
# name = "approvers"
# principals = ["email:*@example.org"]
# actions = ["approver"]  # approve, list, audit
# keys = ["acme/root"]

# [[grant]]
# name = "auditors"
# principals = ["dns:audit.example.org"]
# actions = ["auditor"]  # list, audit, tokens
# keys = ["*"]
# tokens = ["*"]

# Whoever tries, on whatever grant:
# [[rule]]
# name = "keep-root"
# keys = ["acme/root"]
# deny = ["destroy"]

# Two people for the root: whoever asks waits until one of the others has consented, by
# `keydctl approve`. own = true would count the asker's own consent as well.
# [[rule]]
# name = "two-for-root"
# keys = ["acme/root"]
# actions = ["sign", "rotate", "destroy", "role"]
# approvals = 1
# approvers = ["email:*@example.org"]
# expires_h = 24

# How long metadata may live; keyd has defaults.
# [[limit]]
# name = "short-timestamp"
# repositories = ["acme"]
# roles = ["timestamp"]
# max_expiry_days = 7
"""


def starter_policy(principal: str) -> str:
    """A commented policy in which ``principal`` is admin and signer.

    Raises:
        InvalidRequestError: the principal id is not typed.
    """
    # JSON strings of printable ASCII are TOML basic strings.
    return _STARTER.format(
        principal=json.dumps(check_principal(principal)), actions=" ".join(Action)
    )
