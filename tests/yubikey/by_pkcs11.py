"""What the tests do with libykcs11 through python-pkcs11, inside a worker: one thread, one module,
one session that stays open."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters


@dataclass
class _Loaded:
    """The module of this process."""

    library: Any = None
    session: Any = None
    keys: dict[int, Any] = field(default_factory=dict)


_loaded = _Loaded()


def load(module: Path) -> None:
    """Load the module."""
    _loaded.library = pkcs11.lib(str(module))


def reload() -> None:
    """C_Finalize and C_Initialize: every session ends."""
    _loaded.library.reinitialize()
    _loaded.session = None
    _loaded.keys = {}


def serials() -> list[str]:
    """Of all tokens that are there."""
    slots = _loaded.library.get_slots(token_present=True)
    return [slot.get_token().serial.decode().strip(" \0") for slot in slots]


def flags() -> int:
    """CK_TOKEN_INFO.flags of the first token."""
    return int(_loaded.library.get_slots(token_present=True)[0].get_token().flags)


def log_in(serial: str, pin: str) -> None:
    """Open the session as user."""
    _loaded.session = _token(serial).open(rw=True, user_pin=pin)
    _loaded.keys = {}


def generate_as_officer(serial: str, management_key: bytes, key_id: int) -> None:
    """Make a P-256 pair in a session of the security officer, and close it."""
    with _token(serial).open(rw=True, so_pin=management_key.hex()) as session:
        domain = session.create_domain_parameters(
            KeyType.EC,
            {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")},
            local=True,
        )
        domain.generate_keypair(id=bytes([key_id]), store=True)


def key_ids() -> list[int]:
    """CKA_ID of all private keys."""
    found = _loaded.session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
    return sorted(key[Attribute.ID][0] for key in found)


def sign(key_id: int, digest: bytes, mechanism: str = "ECDSA", pin: str | None = None) -> bytes:
    """A signature; ``pin`` for keys that want it each time."""
    key = _loaded.keys.get(key_id)
    if key is None:
        key = _loaded.session.get_key(ObjectClass.PRIVATE_KEY, id=bytes([key_id]))
        _loaded.keys[key_id] = key
    more = {} if pin is None else {"pin": pin}
    return bytes(key.sign(digest, mechanism=Mechanism[mechanism], **more))


def _token(serial: str) -> Any:
    for slot in _loaded.library.get_slots(token_present=True):
        token = slot.get_token()
        if token.serial.decode().strip(" \0") == serial:
            return token
    raise LookupError(f"no token {serial}")
