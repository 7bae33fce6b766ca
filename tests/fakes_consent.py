"""Signed consent without ssh-keygen: what stands where keyd/sshsig.py does in the daemon."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from keyd.consents import fingerprint
from keyd.errors import InvalidRequestError


def sign_fake_consent(text: bytes, public_key: str) -> str:
    """A signature that anybody could make, over this text with this key."""
    return f"signed {fingerprint(public_key)} {hashlib.sha256(text).hexdigest()}"


def verify_fake_consent(
    text: bytes, signature: str, principal: str, public_keys: Sequence[str]
) -> str:
    """See keyd.voting.SignatureVerifier."""
    for key in public_keys:
        if signature == sign_fake_consent(text, key):
            return fingerprint(key)
    raise InvalidRequestError("signature", f"it is not by a key of {principal} over this consent")
