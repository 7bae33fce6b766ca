"""When a role cannot be signed, the error says whose signature is missing, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Targets

from keyd.adapters.tuf import tuf_key
from keyd.adapters.tufrepo.keyring import KeyRing, raise_missing
from keyd.adapters.tufrepo.report import Missing
from keyd.adapters.tufrepo.settings import Settings
from keyd.client import Key, KeyFilter, Signature
from keyd.errors import (
    DeadlineError,
    DeviceGoneError,
    KeydError,
    PolicyDeniedError,
    RepositoryError,
)
from keyd.model import Scheme
from tests.unit.adapters.test_tuf_gathering import (
    KEY,
    PUBLIC,
    RefusingClient,
    a_root,
    gathering,
)
from tests.unit.adapters.test_tuf_signer import FakeClient, der_of

GONE = DeviceGoneError("token t is gone", hint="plug it in")
DENIED = PolicyDeniedError("denied")


def test_one_reason_for_all_is_the_daemons_own_error() -> None:
    missing = [Missing("k1", "a", "gone", GONE), Missing("k2", "b", "gone", GONE)]

    with pytest.raises(DeviceGoneError) as e:
        raise_missing("snapshot", missing)

    assert e.value is GONE


@pytest.mark.parametrize(
    "second",
    [Missing("k2", "b", "denied", DENIED), Missing("k2", "b", "held by nobody we know")],
    ids=["two reasons", "one without an error"],
)
def test_several_reasons_are_listed_with_the_first_hint(second: Missing) -> None:
    with pytest.raises(RepositoryError) as e:
        raise_missing("snapshot", [Missing("k1", "a", "gone", GONE), second])

    assert e.value.message == f"snapshot cannot be signed: a: gone; b: {second.why}"
    assert e.value.hint == "plug it in"
    assert e.value.facts == {"role": "snapshot", "missing": "k1, k2"}


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("keyd:acme/targets", "acme/targets has no version with the public key of keyid KEYID"),
        ("file2:/nowhere/key.pem", "/nowhere/key.pem"),
        ("nosuch:thing", "scheme"),
    ],
)
def test_a_signer_that_fails_is_quoted_in_words(uri: str, says: str) -> None:
    """The name of a Python class helps nobody who looks for a key."""
    public = tuf_key(der_of(ec.generate_private_key(ec.SECP256R1())), Scheme.ECDSA_P256_SHA256)
    settings = Settings("acme", signers={public.keyid: uri})

    (missing,) = KeyRing(settings, RefusingClient).sign(Metadata(Targets(2)), "targets", [public])

    assert says.replace("KEYID", public.keyid) in missing.why
    assert "Error" not in missing.why


class OneUntouched(FakeClient):
    """Signs with every key but acme/spare."""

    def __init__(self, error: KeydError) -> None:
        super().__init__(KEY)
        self._error = error

    def sign(self, key: str, message: bytes | None = None, **asked: Any) -> Signature:
        if key.startswith("acme/spare"):
            raise self._error
        return super().sign(key, message, **asked)

    def list_keys(self, wanted: KeyFilter | None = None, *, page_size: int = 0) -> Iterator[Key]:
        yield from ()


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (DeadlineError("touch token 1234567: spare was not touched within 15 s"), True),
        (GONE, True),
        (DENIED, False),
    ],
)
def test_a_token_that_did_not_sign_what_was_complete_without_it_is_named(
    tmp_path: Path, error: KeydError, is_told: bool
) -> None:
    """A key that somebody else may ask for its signature is nothing to worry about; one that
    nobody touched is."""
    spare = tuf_key(der_of(ec.generate_private_key(ec.SECP256R1())), Scheme.ECDSA_P256_SHA256)
    root = a_root()
    root.add_key(spare, "targets")
    gather = gathering(tmp_path, OneUntouched(error))
    gather.settings.signers[spare.keyid] = "keyd:acme/spare"
    metadata = Metadata(Targets(3))
    gather.stage("targets", metadata, 3)

    waiting = gather.collect("targets", metadata, [root])

    assert waiting is None
    assert list(metadata.signatures) == [PUBLIC.keyid]
    assert gather.notes == (
        [
            "targets 3 is signed by 1 of 2 keys, which is enough; keyd:acme/spare did not sign: "
            f"{error.message}. To have it sign the next version: keydctl tuf refresh {tmp_path} "
            "--role targets"
        ]
        if is_told
        else []
    )
