"""The YubiKey calls of keyd.v1.TokenService: messages <-> nouns."""

from __future__ import annotations

from keyd.errors import InvalidRequestError
from keyd.model import Pin
from keyd.newyubikeys import Suggested
from keyd.server.wire import keys as key_wire
from keyd.server.wire.fields import check_size
from keyd.server.wire.tokens import MAX_PIN_BYTES
from keyd.v1 import tokens_pb2 as pb
from keyd.yubikeys import Attested, Looked

_MAX_CERTIFICATE_BYTES = 3052
"""What the card's largest object takes."""

_WithSecrets = pb.InitYubiKeyRequest | pb.ChangePinRequest | pb.UnblockPinRequest


def secret(message: _WithSecrets, field: str) -> Pin:
    """A PIN or PUK under its own type from here on; the message forgets it.

    Raises:
        InvalidRequestError: none was given, or it is far too long.
    """
    value: str = getattr(message, field)
    message.ClearField(field)  # type: ignore[arg-type]
    if not value or len(value.encode()) > MAX_PIN_BYTES or "\0" in value:
        raise InvalidRequestError(field, "it is empty, too long, or holds NUL")
    return Pin(value)


def certificate(message: pb.WriteSlotCertificateRequest) -> bytes:
    """The DER of a certificate that a card can hold."""
    return check_size("certificate", message.certificate, _MAX_CERTIFICATE_BYTES)


def yubikey_message(looked: Looked) -> pb.YubiKey:
    """One YubiKey, or why it could not be read."""
    status, found = looked.status, looked.yubikey
    if found is None:
        return pb.YubiKey(token=status.name, serial=status.serial, problem=looked.problem)
    return pb.YubiKey(
        token=status.name,
        serial=found.serial,
        firmware=found.firmware,
        form_factor=found.form_factor,
        pin_tries=found.pin_tries,
        pin_tries_of=found.pin_tries_of,
        puk_tries=found.puk_tries,
        puk_tries_of=found.puk_tries_of,
        factory=sorted(found.factory),
        management_algorithm=found.management_algorithm,
        management_protected=found.management_protected,
        slots=[
            pb.YubiKeySlot(
                slot=str(content.slot),
                algorithm=content.algorithm,
                pin_policy=content.pin or "",
                touch_policy=content.touch or "",
                origin=content.origin,
                public_key=content.public_key,
                certificate=content.certificate,
                registered_as=looked.registered.get(content.slot, ""),
            )
            for content in found.slots
        ],
    )


def plugged_in_message(found: Suggested) -> pb.PluggedIn:
    """A YubiKey that is no token yet."""
    yubikey = found.yubikey
    return pb.PluggedIn(
        serial=yubikey.serial,
        firmware=yubikey.firmware,
        form_factor=yubikey.form_factor,
        reader=yubikey.reader,
        token=found.token,
        module=yubikey.module,
    )


def attested_message(attested: Attested) -> pb.AttestResponse:
    """What was proven."""
    return pb.AttestResponse(
        attestation=key_wire.attestation(attested.attestation),
        public_key=attested.public_key,
        registered_as=attested.registered_as,
    )
