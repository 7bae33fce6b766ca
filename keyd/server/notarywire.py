"""Notary's messages <-> nouns."""

from __future__ import annotations

import re

from cryptography.hazmat.primitives.asymmetric import ed25519

from keyd import publickeys
from keyd.errors import InvalidRequestError
from keyd.model import KeyAlgorithm, Signed
from keyd.notary.v0 import signer_pb2 as pb
from keyd.notarysigner import NotaryKey
from keyd.server.limits import Limits

ALGORITHMS = {
    "ecdsa": KeyAlgorithm.ECDSA_P256,
    "ed25519": KeyAlgorithm.ED25519,
    "rsa": KeyAlgorithm.RSA_3072,
}
"""What trust_service.key_algorithm may say, and the keys that are made for it."""

_KEYID = re.compile(r"[0-9a-f]{64}")


def algorithm(message: pb.CreateKeyRequest) -> KeyAlgorithm:
    """What kind of key is asked for.

    Raises:
        InvalidRequestError: none that Notary clients verify.
    """
    found = ALGORITHMS.get(message.algorithm)
    if found is None:
        raise InvalidRequestError(
            "algorithm",
            f"{message.algorithm[:40]!r} is none of {', '.join(ALGORITHMS)}",
            hint="set key_algorithm in the trust_service of notary-server's configuration",
        )
    return found


def keyid(message: pb.KeyID) -> str:
    """The id in it.

    Raises:
        InvalidRequestError: no SHA-256.
    """
    if not _KEYID.fullmatch(message.ID):
        raise InvalidRequestError("keyID", "an id is 64 lower-case hex digits")
    return message.ID


def content(message: pb.SignatureRequest, limits: Limits) -> bytes:
    """What is to be signed.

    Raises:
        InvalidRequestError: nothing, or too much.
    """
    size = len(message.content)
    if not 0 < size <= limits.max_message_bytes:
        raise InvalidRequestError(
            "content", f"{size} bytes, 1 to {limits.max_message_bytes} are signed"
        )
    return message.content


def public_key(made: NotaryKey) -> pb.PublicKey:
    """The answer to CreateKey."""
    return pb.PublicKey(keyInfo=_info(made), publicKey=_public_bytes(made))


def key_info_response(found: NotaryKey) -> pb.GetKeyInfoResponse:
    """The answer to GetKeyInfo."""
    return pb.GetKeyInfoResponse(
        keyInfo=_info(found), publicKey=_public_bytes(found), role=found.name.role
    )


def signature(found: NotaryKey, signed: Signed) -> pb.Signature:
    """The answer to Sign."""
    if found.key.algorithm is KeyAlgorithm.ED25519:
        method = "eddsa"
    else:
        method = "rsapss" if found.key.algorithm.is_rsa else "ecdsa"
    return pb.Signature(
        keyInfo=_info(found),
        algorithm=pb.Algorithm(algorithm=method),
        content=signed.signature,
    )


def _info(found: NotaryKey) -> pb.KeyInfo:
    algorithm = found.key.algorithm
    word = (
        "ed25519" if algorithm is KeyAlgorithm.ED25519 else "rsa" if algorithm.is_rsa else "ecdsa"
    )
    return pb.KeyInfo(
        keyID=pb.KeyID(ID=found.version.keyids["notary"]), algorithm=pb.Algorithm(algorithm=word)
    )


def _public_bytes(found: NotaryKey) -> bytes:
    key = publickeys.load(found.version.public_key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key.public_bytes_raw()
    return found.version.public_key
