"""Which keys of a role really signed, by the rules of each dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from keyd import publickeys
from keyd.content.documents import PublicKeyInfo, RoleKeys
from keyd.content.envelope import FileSignature
from keyd.errors import AlgorithmMismatchError, BadSignatureError, InvalidRequestError
from keyd.model import HashAlgorithm, Scheme

_PSS_HASHES: dict[HashAlgorithm | None, hashes.HashAlgorithm] = {
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}
_NOTARY_SCHEMES = {
    ("eddsa", "ed25519"): Scheme.ED25519,
    ("rsapss", "rsa"): Scheme.RSA_PSS_SHA256,
    ("rsapkcs1v15", "rsa"): Scheme.RSA_PKCS1_SHA256,
}


@dataclass(frozen=True, slots=True)
class Verification:
    """``valid``: keyids of the role whose signature verifies, in the role's order.
    ``signers``: different key pairs among them; one key under two ids counts once."""

    valid: tuple[str, ...]
    signers: int
    threshold: int

    @property
    def is_met(self) -> bool:
        """True if enough different keys have signed."""
        return self.signers >= self.threshold

    @property
    def missing(self) -> int:
        """How many more have to sign."""
        return max(0, self.threshold - self.signers)


def verify_threshold(
    payload: bytes,
    signatures: Sequence[FileSignature],
    role: RoleKeys,
    keys: Mapping[str, PublicKeyInfo],
) -> Verification:
    """Count the signatures of a role's keys over a payload.

    ``role`` and ``keys`` come from the root or the delegation that is trusted, never from the
    file that is judged (but a root also has to satisfy its own). A signature that cannot be
    checked does not count; nothing is raised.
    """
    by_keyid = {signature.keyid: signature for signature in signatures}
    valid = [
        keyid
        for keyid in role.keyids
        if keyid in keys and keyid in by_keyid and _counts(keys[keyid], by_keyid[keyid], payload)
    ]
    signers = len({keys[keyid].identity for keyid in valid})
    return Verification(tuple(valid), signers, role.threshold)


def verify_signature(key: PublicKeyInfo, signature: FileSignature, payload: bytes) -> None:
    """Verify one signature as the clients of the key's dialect do.

    Raises:
        BadSignatureError: it does not verify.
        AlgorithmMismatchError: keyd does not know the key, or key and method do not fit.
    """
    if not key.spki:
        raise AlgorithmMismatchError(f"keyd cannot read this kind of key: {key.keytype}")
    if key.scheme:
        _verify_tuf(key, signature, payload)
    else:
        _verify_notary(key, signature, payload)


def _counts(key: PublicKeyInfo, signature: FileSignature, payload: bytes) -> bool:
    try:
        verify_signature(key, signature, payload)
    except (BadSignatureError, AlgorithmMismatchError, InvalidRequestError):
        return False
    return True


def _verify_tuf(key: PublicKeyInfo, signature: FileSignature, payload: bytes) -> None:
    if key.scheme not in Scheme.__members__.values():
        raise AlgorithmMismatchError(f"keyd does not know the scheme {key.scheme}")
    scheme = Scheme(key.scheme)
    value = signature.value
    algorithm = publickeys.algorithm_of(key.spki)
    publickeys.check_scheme(algorithm, scheme)
    loaded = publickeys.load(key.spki)
    if scheme.is_pss and isinstance(loaded, rsa.RSAPublicKey):
        # securesystemslib takes any length of salt, and other signers choose other lengths.
        hash_ = _PSS_HASHES[scheme.hash]
        pss = padding.PSS(mgf=padding.MGF1(hash_), salt_length=padding.PSS.AUTO)
        _accept(lambda: loaded.verify(value, payload, pss, hash_))
        return
    if algorithm.is_ecdsa:
        value = publickeys.to_raw(value, algorithm)
    publickeys.verify(key.spki, scheme, value, payload)


def _verify_notary(key: PublicKeyInfo, signature: FileSignature, payload: bytes) -> None:
    loaded = publickeys.load(key.spki)
    value = signature.value
    keytype = key.keytype.removesuffix("-x509")
    if signature.method == "ecdsa" and isinstance(loaded, ec.EllipticCurvePublicKey):
        # SHA-256 whatever the curve, and exactly r||s.
        if len(value) != 2 * ((loaded.curve.key_size + 7) // 8):
            raise BadSignatureError("the signature is not r||s of this curve")
        as_der = publickeys.to_der(value)
        _accept(lambda: loaded.verify(as_der, payload, ec.ECDSA(hashes.SHA256())))
        return
    scheme = _NOTARY_SCHEMES.get((signature.method, keytype))
    if scheme is None:
        raise AlgorithmMismatchError(f"a {keytype} key does not sign by method {signature.method}")
    publickeys.verify(key.spki, scheme, value, payload)


def _accept(verify: Callable[[], None]) -> None:
    try:
        verify()
    except InvalidSignature as e:
        raise BadSignatureError("the signature does not verify") from e
