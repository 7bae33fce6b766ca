"""What a token and a key pair on it have to show before keyd counts on them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from keyd import publickeys
from keyd.errors import (
    KeydError,
    PolicyDeniedError,
    TokenNotFoundError,
    TokenObjectError,
    WrongTokenError,
)
from keyd.model import (
    Caller,
    Device,
    Digest,
    KeyAlgorithm,
    KeyDemand,
    KeyVersion,
    Purpose,
    Scheme,
    SignJob,
    Slot,
    TokenObject,
    TouchPolicy,
)


def check_demands(version: KeyVersion, demands: Iterable[KeyDemand]) -> None:
    """Refuse a key version that is not what a rule demands.

    Raises:
        PolicyDeniedError: naming the rule, and what to do.
    """
    for demand in demands:
        proven = version.attestation
        touching = " --touch always" if demand.touch else ""
        if proven is None:
            why = f"{version.name} is {version.origin}"
            made_there = "keydctl key create NAME --token TOKEN --slot 9c" + touching
            if Slot.of_object(version.object_id) is not None and not demand.touch:
                made_there = f"keydctl key rotate {version.key}"
            hint = (
                "if it was made on a YubiKey: keydctl yubikey attest TOKEN SLOT; else make a key "
                f"there: {made_there}"
            )
        elif demand.touch and proven.touch is TouchPolicy.NEVER:
            why = f"{version.name} signs without a touch, as its attestation proves"
            hint = (
                "the policy of a key never changes: keydctl key create NAME --token TOKEN "
                f"--slot 9c{touching}"
            )
        else:
            continue
        wanted = "an attested key that wants a touch" if demand.touch else "an attested key"
        raise PolicyDeniedError(
            f"rule {demand.rule} demands {wanted}, and {why}",
            hint=hint,
            rule=f"rule {demand.rule}",
            version=version.name,
        )


def check_serial(device: Device, token: str, version: KeyVersion) -> None:
    """Refuse to draw conclusions about a version from another token than the one it lies on.

    Raises:
        TokenNotFoundError: the token is not configured any more.
        WrongTokenError: another token has its place.
    """
    status = next((t for t in device.tokens() if t.name == token), None)
    if status is None:
        raise TokenNotFoundError(
            f"no token {token} is configured", hint="keydctl token list", token=token
        )
    if version.token_serial and status.serial and version.token_serial != status.serial:
        raise WrongTokenError(
            f"{version.name} lies on the token with serial {version.token_serial}, and {token} "
            f"has {status.serial}",
            hint="put the right token back",
            token=token,
            serial=status.serial,
            expected=version.token_serial,
        )


def check_attributes(found: TokenObject) -> None:
    """Refuse a private key that could leave its token.

    Raises:
        TokenObjectError: naming the attribute (PKCS#11 4.9: CKA_SENSITIVE, CKA_EXTRACTABLE).
    """
    if not found.sensitive or found.extractable:
        wrong = "is EXTRACTABLE" if found.extractable else "is not SENSITIVE"
        raise TokenObjectError(
            f"the private key {found.label or found.object_id.hex()} {wrong}: it could leave the "
            "token, so keyd does not use it",
            hint="generate the key on the token with: keydctl key create",
        )


def proof_of(caller: Caller, key: str, number: int) -> Purpose:
    """What the person at the token reads while a new key version proves that it signs."""
    what = f"to prove that version {number} signs"
    return Purpose(key, what, caller.principal.id, caller.request_id)


async def check_signs(
    device: Device,
    token: str,
    algorithm: KeyAlgorithm,
    scheme: Scheme,
    found: TokenObject,
    purpose: Purpose,
) -> None:
    """Have the key pair sign random bytes and verify it; the signature goes nowhere. ``purpose``:
    see :func:`proof_of`.

    Raises:
        BadSignatureError: private and public key do not belong together.
    """
    message = secrets.token_bytes(32)
    signed: bytes | Digest = message
    if scheme.hash is not None:
        # A digest nobody knows a preimage of: the signature proves nothing about any content.
        signed = Digest(scheme.hash, secrets.token_bytes(scheme.hash.size_bytes))
    job = SignJob(
        object_id=found.object_id,
        public_key=found.public_key,
        algorithm=algorithm,
        scheme=scheme,
        payload=signed.value if isinstance(signed, Digest) else signed,
        serial=found.serial,
        purpose=purpose,
    )
    (answer,) = await device.sign(token, [job])
    if isinstance(answer, KeydError):
        raise answer
    publickeys.verify(found.public_key, scheme, answer, signed)
