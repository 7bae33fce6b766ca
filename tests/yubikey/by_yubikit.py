"""What the tests do with the yubikit library, inside a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from smartcard.CardConnectionDecorator import CardConnectionDecorator
from smartcard.Exceptions import CardConnectionException, NoCardException
from smartcard.scard import SCARD_RESET_CARD
from ykman.device import list_all_devices
from ykman.pcsc import ScardSmartCardConnection, list_readers
from yubikit.core import InvalidPinError
from yubikit.core.smartcard import SmartCardConnection
from yubikit.management import ManagementSession
from yubikit.piv import (
    KEY_TYPE,
    MANAGEMENT_KEY_TYPE,
    PIN_POLICY,
    SLOT,
    TOUCH_POLICY,
    PivSession,
)


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list of devices shows."""

    serial: int | None
    firmware: str
    form_factor: str


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """Metadata of one slot; ``public_key`` as DER SubjectPublicKeyInfo."""

    kind: str
    pin: str
    touch: str
    generated: bool
    public_key: bytes


def listed_by_ykman() -> list[Listed]:
    """Every YubiKey, as ykman's own list finds them."""
    found = list_all_devices([SmartCardConnection])
    return [_listed(info.serial, str(info.version), str(info.form_factor)) for _, info in found]


def _listed(serial: int | None, firmware: str, form_factor: str) -> Listed:
    return Listed(serial, firmware, form_factor)


class _LeftPowered(CardConnectionDecorator):  # type: ignore[misc]
    """Left with a reset. pyscard's default cuts the card's power, which breaks the handles of all
    other programs; it takes another disposition only as an argument of connect()."""

    def connect(
        self, protocol: object = None, mode: object = None, disposition: object = None
    ) -> None:
        """See CardConnection."""
        super().connect(protocol, mode, SCARD_RESET_CARD)


@contextlib.contextmanager
def _connection(serial: int) -> Iterator[ScardSmartCardConnection]:
    """The YubiKey with this serial."""
    refused = []
    for reader in list_readers():
        if not reader.name.lower().startswith("yubico yubikey"):
            continue
        try:
            connection = ScardSmartCardConnection(_LeftPowered(reader.createConnection()))
        except NoCardException:
            continue
        except CardConnectionException as error:
            refused.append(f"{reader.name}: {error}")
            continue
        try:
            if ManagementSession(connection).read_device_info().serial == serial:
                yield connection
                return
        finally:
            connection.close()
    raise LookupError("; ".join((f"no YubiKey {serial}", *refused)))


@contextlib.contextmanager
def _piv(serial: int, management_key: bytes | None = None) -> Iterator[PivSession]:
    with _connection(serial) as connection:
        session = PivSession(connection)
        if management_key is not None:
            session.authenticate(management_key)
        yield session


def look(serial: int) -> Listed:
    """This YubiKey's identity."""
    with _connection(serial) as connection:
        info = ManagementSession(connection).read_device_info()
        return _listed(info.serial, str(info.version), str(info.form_factor))


def is_factory_fresh(serial: int) -> bool:
    """True while PIN, PUK and management key are the factory's and no slot has a key."""
    with _piv(serial) as session:
        fresh = (
            session.get_pin_metadata().default_value
            and session.get_puk_metadata().default_value
            and session.get_management_key_metadata().default_value
        )
        return fresh and not any(
            _has_key(session, slot) for slot in SLOT if slot is not SLOT.ATTESTATION
        )


def _has_key(session: PivSession, slot: SLOT) -> bool:
    try:
        session.get_slot_metadata(slot)
    except Exception as error:
        if getattr(error, "sw", None) == 0x6A88:
            return False
        raise
    return True


def set_secrets(
    serial: int, pin: tuple[str, str], puk: tuple[str, str], key: tuple[bytes, bytes], cipher: str
) -> None:
    """Change PIN, PUK and management key, each from old to new."""
    with _piv(serial, key[0]) as session:
        session.change_pin(*pin)
        session.change_puk(*puk)
        session.set_management_key(MANAGEMENT_KEY_TYPE[cipher], key[1])


def management_cipher(serial: int) -> str:
    """The management key's algorithm."""
    with _piv(serial) as session:
        return session.management_key_type.name


def generate(
    serial: int, management_key: bytes, slot: int, kind: str, pin: str, touch: str
) -> bytes:
    """Make a key with these policies: its public half, DER."""
    with _piv(serial, management_key) as session:
        public = session.generate_key(
            SLOT(slot), KEY_TYPE[kind], PIN_POLICY[pin], TOUCH_POLICY[touch]
        )
        return _spki(public)


def import_p256(serial: int, management_key: bytes, slot: int, scalar: int) -> bytes:
    """Put a key into the slot that was made elsewhere: its public half, DER."""
    key = ec.derive_private_key(scalar, ec.SECP256R1())
    with _piv(serial, management_key) as session:
        session.put_key(SLOT(slot), key)
    return _spki(key.public_key())


def put_certificate(serial: int, management_key: bytes, slot: int, certificate: bytes) -> None:
    """Put a certificate, DER, into the slot."""
    with _piv(serial, management_key) as session:
        session.put_certificate(SLOT(slot), x509.load_der_x509_certificate(certificate))


def metadata(serial: int, slot: int) -> SlotFacts:
    """What the card tells of the slot."""
    with _piv(serial) as session:
        facts = session.get_slot_metadata(SLOT(slot))
        return SlotFacts(
            facts.key_type.name,
            facts.pin_policy.name,
            facts.touch_policy.name,
            facts.generated,
            _spki(facts.public_key),
        )


def attestation(serial: int, slot: int) -> tuple[bytes, bytes]:
    """The slot's attestation, and the certificate that signed it, both DER."""
    der = serialization.Encoding.DER
    with _piv(serial) as session:
        statement = session.attest_key(SLOT(slot)).public_bytes(der)
        return statement, session.get_certificate(SLOT.ATTESTATION).public_bytes(der)


def sign(serial: int, slot: int, kind: str, pin: str, message: bytes) -> bytes:
    """A signature over SHA-256 of the message; Ed25519 signs the message."""
    key_type = KEY_TYPE[kind]
    with _piv(serial) as session:
        session.verify_pin(pin)
        return session.sign(SLOT(slot), key_type, message, hashes.SHA256(), padding.PKCS1v15())


def offer_pin(serial: int, pin: str) -> int | None:
    """None where it is right, else the tries that are left."""
    with _piv(serial) as session:
        try:
            session.verify_pin(pin)
        except InvalidPinError as error:
            return error.attempts_remaining
    return None


def unblock(serial: int, puk: str, new_pin: str) -> int | None:
    """A new PIN by the PUK: None where it worked, else the PUK's tries that are left."""
    with _piv(serial) as session:
        try:
            session.unblock_pin(puk, new_pin)
        except InvalidPinError as error:
            return error.attempts_remaining
    return None


def set_tries(serial: int, management_key: bytes, pin: str, tries: tuple[int, int]) -> None:
    """So many tries for PIN and PUK, which are the factory's again."""
    with _piv(serial, management_key) as session:
        session.verify_pin(pin)
        session.set_pin_attempts(*tries)


def move(serial: int, management_key: bytes, source: int, target: int) -> None:
    """Move a key from slot to slot (5.7)."""
    with _piv(serial, management_key) as session:
        session.move_key(SLOT(source), SLOT(target))


def delete(serial: int, management_key: bytes, slot: int) -> None:
    """Delete a key (5.7)."""
    with _piv(serial, management_key) as session:
        session.delete_key(SLOT(slot))


def write_and_read(serial: int, management_key: bytes, object_id: int, data: bytes) -> bytes:
    """Put a data object, get it back."""
    with _piv(serial, management_key) as session:
        session.put_object(object_id, data)
        return session.get_object(object_id)


def reset(serial: int) -> None:
    """Factory reset of the PIV applet: blocks PIN and PUK first."""
    with _piv(serial) as session:
        session.reset()


def _spki(public: object) -> bytes:
    assert hasattr(public, "public_bytes")
    encoded = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert isinstance(encoded, bytes)
    return encoded


def change_pin(serial: int, old: str, new: str) -> None:
    """Change the PIN."""
    with _piv(serial) as session:
        session.change_pin(old, new)
