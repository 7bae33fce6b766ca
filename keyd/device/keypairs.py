"""Key pairs on a token: list them, make one, destroy one. Host side.

A pair is a private and a public key object with the same CKA_ID. A PKCS#11 private key seldom
tells its public half, so the public object speaks for the pair, and the daemon verifies every
signature with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from keyd.device import encoding, ykcs11
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import DeviceFaultError, MechanismMissingError, TokenObjectError
from keyd.model import KeyAlgorithm

RSA_BITS = {KeyAlgorithm.RSA_2048: 2048, KeyAlgorithm.RSA_3072: 3072, KeyAlgorithm.RSA_4096: 4096}
_KEY_BITS: dict[KeyAlgorithm, tuple[int, ...]] = {
    **{algorithm: (bits,) for algorithm, bits in RSA_BITS.items()},
    KeyAlgorithm.ECDSA_P256: (256,),
    KeyAlgorithm.ECDSA_P384: (384,),
    # 255 bits by RFC 8032, 256 by SoftHSM.
    KeyAlgorithm.ED25519: (255, 256),
}
_OUR_LABEL = re.compile(r".+/[0-9]+")
"""CKA_LABEL as keyd writes it: name/version."""


def _needed(algorithm: KeyAlgorithm) -> tuple[Mechanism, Mechanism]:
    """The mechanisms that generate and that sign."""
    if algorithm.is_rsa:
        return Mechanism.RSA_PKCS_KEY_PAIR_GEN, Mechanism.RSA_PKCS
    if algorithm is KeyAlgorithm.ED25519:
        return Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA
    return Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA


def check_mechanisms(slot: pkcs11.Slot, algorithm: KeyAlgorithm, token: str) -> None:
    """Raises MechanismMissingError unless the token makes such keys and signs with them."""
    known = slot.get_mechanisms()
    generate, sign = _needed(algorithm)
    for mechanism in (generate, sign):
        if mechanism not in known:
            raise MechanismMissingError(
                f"token {token} has no CKM_{mechanism.name}, which {algorithm} needs",
                token=token,
                mechanism=f"CKM_{mechanism.name}",
                algorithm=algorithm,
            )
    info = slot.get_mechanism_info(generate)
    sizes = _KEY_BITS[algorithm]
    smallest, largest = info.min_key_length or 0, info.max_key_length or 0
    # Many modules report 0 and 0 where they do not care to tell.
    if largest and not any(smallest <= bits <= largest for bits in sizes):
        raise MechanismMissingError(
            f"token {token} makes CKM_{generate.name} keys of {smallest} to "
            f"{largest} bits, {algorithm} needs {sizes[0]}",
            token=token,
            mechanism=f"CKM_{generate.name}",
            algorithm=algorithm,
        )


def find(
    session: pkcs11.Session, kind: ObjectClass, wanted_id: bytes | None = None
) -> list[pkcs11.Object]:
    """All key objects of one class, with that CKA_ID where one is given."""
    wanted: dict[Attribute, Any] = {Attribute.CLASS: kind}
    if wanted_id is not None:
        wanted[Attribute.ID] = wanted_id
    return list(session.get_objects(wanted))


def find_pair(
    session: pkcs11.Session, wanted_id: bytes
) -> tuple[list[pkcs11.Object], list[pkcs11.Object]]:
    """The private and the public keys with that CKA_ID."""
    if ykcs11.is_yubikey(session.token):
        # Its other objects, certificates and data, have the ids of the keys too.
        return (
            find(session, ObjectClass.PRIVATE_KEY, wanted_id),
            find(session, ObjectClass.PUBLIC_KEY, wanted_id),
        )
    # One search for both: a module may go through all its objects for each.
    found = list(session.get_objects({Attribute.ID: wanted_id}))
    return (
        [obj for obj in found if obj.object_class is ObjectClass.PRIVATE_KEY],
        [obj for obj in found if obj.object_class is ObjectClass.PUBLIC_KEY],
    )


def object_id(obj: pkcs11.Object) -> bytes:
    """CKA_ID; empty where the module does not tell it."""
    return bytes(_read(obj, Attribute.ID, b""))


def _read(obj: pkcs11.Object, attribute: Attribute, default: Any) -> Any:
    """The attribute, or ``default`` where the module does not have or does not tell it."""
    try:
        return obj[attribute]
    except (
        pkcs11.AttributeTypeInvalid,
        pkcs11.AttributeSensitive,
        pkcs11.AttributeValueInvalid,
        pkcs11.FunctionFailed,
    ):
        return default


def public_key(obj: pkcs11.Object) -> tuple[KeyAlgorithm | None, bytes]:
    """Algorithm and DER SubjectPublicKeyInfo of a public key object; (None, b"") for keys of a
    kind that keyd does not use."""
    try:
        kind = _read(obj, Attribute.KEY_TYPE, None)
        if kind == KeyType.RSA:
            modulus = bytes(obj[Attribute.MODULUS])
            bits = int.from_bytes(modulus, "big").bit_length()
            algorithm = next((name for name, size in RSA_BITS.items() if size == bits), None)
            return algorithm, encoding.rsa_public_key(
                modulus, bytes(obj[Attribute.PUBLIC_EXPONENT])
            )
        if kind in (KeyType.EC, KeyType.EC_EDWARDS):
            algorithm = encoding.ec_algorithm(bytes(obj[Attribute.EC_PARAMS]))
            if algorithm is not None:
                return algorithm, encoding.ec_public_key(algorithm, bytes(obj[Attribute.EC_POINT]))
    except (ValueError, pkcs11.AttributeTypeInvalid, pkcs11.FunctionFailed):
        pass
    return None, b""


def describe(private: pkcs11.Object, public: pkcs11.Object | None) -> pb.KeyObject:
    """What is told of a pair; without a readable public half also without public key."""
    algorithm, spki = public_key(public) if public is not None else (None, b"")
    return pb.KeyObject(
        object_id=object_id(private),
        label=str(_read(private, Attribute.LABEL, "")),
        algorithm=algorithm.value if algorithm is not None else "",
        public_key=spki,
        # What a module does not tell is shown in the worse reading.
        sensitive=bool(_read(private, Attribute.SENSITIVE, False)),
        extractable=bool(_read(private, Attribute.EXTRACTABLE, True)),
        always_sensitive=bool(_read(private, Attribute.ALWAYS_SENSITIVE, False)),
        never_extractable=bool(_read(private, Attribute.NEVER_EXTRACTABLE, False)),
        local=bool(_read(private, Attribute.LOCAL, False)),
    )


def list_all(session: pkcs11.Session, moved: Callable[[], None]) -> list[pb.KeyObject]:
    """All key pairs; a private key without a readable public half shows without public key.

    ``moved``: called again and again, since a full token takes long to tell them.
    """
    publics: dict[bytes, list[pkcs11.Object]] = {}
    for obj in session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY}):
        publics.setdefault(object_id(obj), []).append(obj)
        moved()
    pairs = []
    hidden = ykcs11.ATTESTATION_ID if ykcs11.is_yubikey(session.token) else None
    for private in find(session, ObjectClass.PRIVATE_KEY):
        its_id = object_id(private)
        if its_id != hidden:
            pairs.append(describe(private, _only(publics.get(its_id, []))))
        moved()
    return pairs


def list_some(session: pkcs11.Session, wanted: bytes) -> list[pb.KeyObject]:
    """The key pairs with that CKA_ID, as :func:`list_all` tells them."""
    if ykcs11.is_yubikey(session.token) and wanted == ykcs11.ATTESTATION_ID:
        return []
    privates, publics = find_pair(session, wanted)
    return [describe(private, _only(publics)) for private in privates]


def _only(publics: Sequence[pkcs11.Object]) -> pkcs11.Object | None:
    """The public half; two public keys under one id: no telling which is the pair's."""
    return publics[0] if len(publics) == 1 else None


def generate(
    session: pkcs11.Session,
    token: str,
    algorithm: KeyAlgorithm,
    wanted_id: bytes,
    label: str,
    is_taken: Callable[[bytes], bool],
) -> tuple[pb.KeyObject, pkcs11.Object, pkcs11.Object]:
    """Make a pair, read it back, check its attributes; what is told of it, and its private and its
    public key. ``is_taken`` tells whether an object has a CKA_ID already.

    Raises:
        MechanismMissingError: the token cannot; nothing was made.
        TokenObjectError: the id is taken (nothing was made), or the attributes are not what a
            signing key needs (the pair was destroyed again).
    """
    if ykcs11.is_yubikey(session.token):
        raise ykcs11.no_generation(token)
    check_mechanisms(session.token.slot, algorithm, token)
    if is_taken(wanted_id):
        raise TokenObjectError(
            f"token {token} has an object with CKA_ID {wanted_id.hex()} already",
            token=token,
            object_id=wanted_id.hex(),
        )

    private_template = {
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.PRIVATE: True,
    }
    wanted: dict[str, Any] = {
        "id": wanted_id,
        "label": label,
        "store": True,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
        "mechanism": _needed(algorithm)[0],
        "private_template": private_template,
    }
    if algorithm.is_rsa:
        public, private = session.generate_keypair(KeyType.RSA, RSA_BITS[algorithm], **wanted)
    else:
        curve_kind = KeyType.EC_EDWARDS if algorithm is KeyAlgorithm.ED25519 else KeyType.EC
        domain = session.create_domain_parameters(
            curve_kind, {Attribute.EC_PARAMS: encoding.EC_PARAMS[algorithm]}, local=True
        )
        public, private = domain.generate_keypair(**wanted)

    made = describe(private, public)
    wrong = _unacceptable(private, made, algorithm, wanted_id)
    if wrong:
        private.destroy()
        public.destroy()
        raise TokenObjectError(
            f"token {token} made a key that is {', '.join(wrong)}; it was destroyed again",
            token=token,
            object_id=wanted_id.hex(),
        )
    return made, private, public


def _unacceptable(
    private: pkcs11.Object, made: pb.KeyObject, algorithm: KeyAlgorithm, wanted_id: bytes
) -> list[str]:
    """What is wrong with a fresh pair, in words."""
    wrong = []
    if not made.sensitive:
        wrong.append("not CKA_SENSITIVE")
    if made.extractable:
        wrong.append("CKA_EXTRACTABLE")
    # Not every module tells CKA_LOCAL; one that says False did not generate the key itself.
    if _read(private, Attribute.LOCAL, True) is False:
        wrong.append("not CKA_LOCAL")
    if made.object_id != wanted_id:
        wrong.append(f"filed under CKA_ID {made.object_id.hex()}")
    if made.algorithm != algorithm.value:
        wrong.append(f"of another kind ({made.algorithm or 'unreadable'})")
    return wrong


def destroy(
    session: pkcs11.Session, token: str, wanted_id: bytes, wanted_public_key: bytes
) -> bool:
    """Destroy the pair with this id and public key, the private half first; False: not there.

    An empty ``wanted_public_key`` matches only a pair that is labelled as keyd labels.

    Raises:
        TokenObjectError: objects with this id exist, but not surely the ones that are meant.
    """
    privates, publics = find_pair(session, wanted_id)
    if not privates and not publics:
        return False
    if len(privates) > 1 or len(publics) > 1:
        raise TokenObjectError(
            f"token {token} has several key pairs with CKA_ID {wanted_id.hex()}; "
            "which one is meant cannot be told, so none was destroyed",
            token=token,
            object_id=wanted_id.hex(),
        )
    if wanted_public_key:
        matches = bool(publics) and public_key(publics[0])[1] == wanted_public_key
        why = "it has another public key, or none"
    else:
        matches = all(_has_our_label(obj) for obj in (*privates, *publics))
        why = "its label is not one of keyd's"
    if not matches:
        raise TokenObjectError(
            f"token {token}: the pair with CKA_ID {wanted_id.hex()} was not destroyed: {why}",
            token=token,
            object_id=wanted_id.hex(),
        )
    if ykcs11.is_yubikey(session.token):
        raise ykcs11.no_destruction(token)
    _destroy_all(token, (*privates, *publics))
    return True


def _has_our_label(obj: pkcs11.Object) -> bool:
    return _OUR_LABEL.fullmatch(str(_read(obj, Attribute.LABEL, ""))) is not None


def _destroy_all(token: str, objects: Sequence[pkcs11.Object]) -> None:
    for obj in objects:
        try:
            obj.destroy()
        except (pkcs11.FunctionNotSupported, pkcs11.AttributeReadOnly) as error:
            raise DeviceFaultError(
                f"token {token} does not let its keys be destroyed through PKCS#11", token=token
            ) from error
