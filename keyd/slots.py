"""Keys in the slots of YubiKeys: made there, named there, proven there.

libykcs11 has fixed labels, so a key's name and version stand in the slot's certificate, which the
key itself signed. That signature also is the test that the key signs: another one would ask for
another touch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from keyd import attestation
from keyd.enrolment import Made
from keyd.errors import BadSignatureError, InvalidRequestError, TokenObjectError, WrongTokenError
from keyd.model import (
    Attestation,
    Clock,
    Device,
    KeyAlgorithm,
    KeyVersion,
    PinPolicy,
    Registry,
    Slot,
    SlotContent,
    SlotOrder,
    TokenObject,
    TouchPolicy,
    VersionState,
    YubiKey,
    YubiKeyDevice,
)
from keyd.model.yubikeys import SLOTS

_MAX_LABEL_CHARS = 64
"""ub-common-name (RFC 5280, appendix A)."""


class InSlots:
    """Makes and reads keys in slots."""

    def __init__(
        self,
        *,
        device: Device,
        yubikeys: YubiKeyDevice,
        registry: Registry,
        trust: attestation.Trust,
        clock: Clock,
    ) -> None:
        self._device = device
        self._yubikeys = yubikeys
        self._registry = registry
        self._trust = trust
        self._clock = clock

    def is_yubikey(self, token: str) -> bool:
        """True for a token that said so when it was last seen."""
        return any(t.is_yubikey for t in self._device.tokens() if t.name == token)

    async def order(
        self,
        token: str,
        slot: Slot,
        algorithm: KeyAlgorithm,
        label: str,
        pin: PinPolicy | None,
        touch: TouchPolicy | None,
    ) -> SlotOrder:
        """An order for an empty slot.

        Raises:
            TokenObjectError: something lies there, or should; it says what.
            InvalidRequestError: the name is too long for a certificate.
        """
        if len(label) > _MAX_LABEL_CHARS:
            raise InvalidRequestError(
                "name",
                f"{label} has {len(label)} characters, and the slot's certificate takes "
                f"{_MAX_LABEL_CHARS}, version included",
            )
        yubikey = await self._yubikeys.look(token)
        found = yubikey.find(slot)
        gone = self._find_registered(yubikey, slot) if found is None else None
        if gone is not None:
            raise TokenObjectError(
                f"slot {slot} of token {token} is empty, and {gone.name} is registered as lying "
                "there: the YubiKey was reset, or another program deleted the key",
                hint=f"take another slot; or, as that key is lost for good: keydctl key destroy "
                f"{gone.key} {gone.number}",
                token=token,
                slot=slot,
            )
        if found is not None:
            raise TokenObjectError(
                f"slot {slot} of token {token} is occupied: {self._told(found)}; keyd never "
                "overwrites a key",
                hint=f"take another slot (keydctl yubikey list {token}), or register what lies "
                f"there: keydctl key adopt NAME --token {token} --slot {slot}",
                token=token,
                slot=slot,
            )
        return SlotOrder(slot, algorithm, pin or PinPolicy.ONCE, touch or TouchPolicy.NEVER, label)

    async def successor(
        self, token: str, version: KeyVersion, algorithm: KeyAlgorithm, label: str
    ) -> SlotOrder:
        """An order for the next free retired slot, with the policies of ``version``.

        Raises:
            TokenObjectError: no retired slot is free.
        """
        yubikey = await self._yubikeys.look(token)
        slot = next((s for s in SLOTS if s.is_retired and self._is_free(yubikey, s)), None)
        if slot is None:
            raise TokenObjectError(
                f"no retired slot of token {token} is free",
                hint="make the successor on another YubiKey: keydctl key create NAME --slot 82",
                token=token,
            )
        pin, touch = PinPolicy.ONCE, TouchPolicy.NEVER
        place = Slot.of_object(version.object_id)
        lies = yubikey.find(place) if place else None
        if version.attestation is not None:
            pin, touch = version.attestation.pin, version.attestation.touch
        elif lies is not None and lies.public_key == version.public_key:
            pin, touch = lies.pin or pin, lies.touch or touch
        return await self.order(token, slot, algorithm, label, pin, touch)

    async def make(self, token: str, order: SlotOrder) -> Made:
        """Make the key, see it through libykcs11 too, verify what can be verified.

        Raises:
            TokenError: see YubiKeyDevice.generate.
            BadSignatureError: the key does not sign.
        """
        made = await self._yubikeys.generate(token, order)
        _check_self_signed(made.certificate, made.public_key)
        objects = await self._device.objects(token, order.slot.object_id)
        found = objects[0] if len(objects) == 1 else None
        if found is None or found.public_key != made.public_key:
            raise WrongTokenError(
                f"token {token} shows another key in slot {order.slot} than was made there",
                hint=f"keydctl yubikey list {token}",
                token=token,
            )
        details = {
            "pin_policy": order.pin.value,
            "slot": str(order.slot),
            "touch_policy": order.touch.value,
        }
        try:
            proven = attestation.verify(
                made.statement,
                made.public_key,
                found.serial,
                order.slot,
                self._trust,
                self._clock.now(),
            )
        except TokenObjectError as e:
            return Made(found, None, details | {"not_attested": e.message}, is_tested=True)
        if (proven.pin, proven.touch) != (order.pin, order.touch):
            raise WrongTokenError(
                f"token {token} made a key with other policies than were ordered: PIN "
                f"{proven.pin}, touch {proven.touch}",
                token=token,
            )
        return Made(found, proven, details | proven.details(), is_tested=True)

    async def prove(self, token: str, slot: Slot, public_key: bytes, serial: str) -> Attestation:
        """What the card states of the key in the slot, verified.

        Raises:
            TokenObjectError: it states nothing, or nothing that counts.
        """
        said = await self._yubikeys.attest(token, slot)
        return attestation.verify(said, public_key, serial, slot, self._trust, self._clock.now())

    async def find_proof(self, token: str, found: TokenObject) -> Attestation | None:
        """What is proven of a key pair on a token, or None."""
        slot = Slot.of_object(found.object_id)
        if slot is None or not self.is_yubikey(token):
            return None
        try:
            return await self.prove(token, slot, found.public_key, found.serial)
        except TokenObjectError:
            return None

    async def labelled(self, token: str, objects: Sequence[TokenObject]) -> list[TokenObject]:
        """The key pairs in slots, with KEY/N from their certificates as labels; on other tokens
        all as they are. The attestation key (slot F9) is nobody's."""
        if not self.is_yubikey(token):
            return list(objects)
        yubikey = await self._yubikeys.look(token)
        labelled = []
        for found in objects:
            slot = Slot.of_object(found.object_id)
            if slot is not None:
                content = yubikey.find(slot)
                label = label_of(content.certificate, found.public_key) if content else ""
                labelled.append(replace(found, label=label or f"slot {slot}"))
        return labelled

    def _is_free(self, yubikey: YubiKey, slot: Slot) -> bool:
        return yubikey.find(slot) is None and self._find_registered(yubikey, slot) is None

    def _find_registered(self, yubikey: YubiKey, slot: Slot) -> KeyVersion | None:
        """The version whose key should lie there."""
        return next(
            (
                version
                for key in self._registry.keys()  # noqa: SIM118 - a method, not a dict
                for version in key.versions
                if version.object_id == slot.object_id
                and version.token_serial == yubikey.serial
                and version.state is not VersionState.DESTROYED
            ),
            None,
        )

    def _told(self, content: SlotContent) -> str:
        label = label_of(content.certificate, content.public_key)
        what = content.algorithm or "a key or certificate"
        where = f", {content.origin}" if content.origin else ""
        if label:
            return f"{what}{where}, named {label} by keyd"
        return f"{what}{where}" + (", with a certificate" if content.certificate else "")


def keys_on(registry: Registry, serial: str) -> dict[bytes, bytes]:
    """The public keys by CKA_ID that should lie on the token with this serial: those that sign."""
    return {
        version.object_id: version.public_key
        for key in registry.keys()  # noqa: SIM118 - a method, not a dict
        for version in key.versions
        if version.token_serial == serial and version.state is VersionState.ENABLED
    }


def label_of(certificate: bytes, public_key: bytes) -> str:
    """KEY/N from a certificate that the key itself signed, as keyd writes it; else empty."""
    if not certificate:
        return ""
    try:
        read = _check_self_signed(certificate, public_key)
    except BadSignatureError:
        return ""
    organisations = read.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    names = read.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if [o.value for o in organisations] != ["keyd"] or len(names) != 1:
        return ""
    return str(names[0].value)


def _check_self_signed(certificate: bytes, public_key: bytes) -> x509.Certificate:
    """The certificate, once it is clear that the key signed it."""
    try:
        read = x509.load_der_x509_certificate(certificate)
        read.verify_directly_issued_by(read)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as e:
        raise BadSignatureError("the slot's certificate is not signed by the slot's key") from e
    if attestation.spki(read) != public_key:
        raise BadSignatureError("the slot's certificate is for another key")
    return read
