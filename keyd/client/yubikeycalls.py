"""The YubiKey calls of TokenService: arguments in, a :class:`Call` out. Nothing here talks to
anybody.

The docstrings are those of the methods of Client and AsyncClient. All of them raise KeydError
subclasses. What carries a PIN or PUK is never repeated, and Client sends it over unix sockets only.
"""

from __future__ import annotations

from keyd import model
from keyd.client import types, wire
from keyd.client.call import Call, call
from keyd.model import Pin, PinPolicy, Slot, TokenStatus, TouchPolicy
from keyd.v1 import tokens_pb2


def list_yubikeys(token: str = "") -> Call[list[types.YubiKey]]:
    """The YubiKeys among the tokens the caller may see, or one, with what lies in their slots."""
    return call(
        "TokenService/ListYubiKeys",
        tokens_pb2.ListYubiKeysRequest(token=token),
        tokens_pb2.ListYubiKeysResponse,
        lambda m: [_yubikey(y) for y in m.yubikeys],
        repeatable=True,
    )


def list_plugged_in() -> Call[types.PluggedInList]:
    """YubiKeys in readers of the daemon's machine that no token is configured for."""
    return call(
        "TokenService/ListPluggedIn",
        tokens_pb2.ListPluggedInRequest(),
        tokens_pb2.ListPluggedInResponse,
        lambda m: types.PluggedInList(tuple(_plugged_in(y) for y in m.yubikeys), m.problem),
        repeatable=True,
    )


def init_yubikey(
    token: str, pin: Pin, puk: Pin, *, factory: bool, reason: str = ""
) -> Call[tuple[str, ...]]:
    """Set PIN, PUK and a random management key of a YubiKey that is as at the factory; ``factory``
    has to say that its factory secrets shall be tried. Answers what was left as it was."""
    request = tokens_pb2.InitYubiKeyRequest(
        token=token, pin=pin.reveal(), puk=puk.reveal(), factory=factory, reason=reason
    )
    return call(
        "TokenService/InitYubiKey",
        request,
        tokens_pb2.InitYubiKeyResponse,
        lambda m: tuple(m.notes),
    )


def change_pin(
    token: str, old: Pin, new: Pin, *, spend_last_try: bool = False, reason: str = ""
) -> Call[TokenStatus]:
    """Change a YubiKey's PIN; a wrong old one costs a try."""
    request = tokens_pb2.ChangePinRequest(
        token=token,
        old_pin=old.reveal(),
        new_pin=new.reveal(),
        reason=reason,
        spend_last_try=spend_last_try,
    )
    return call("TokenService/ChangePin", request, tokens_pb2.Token, wire.token)


def unblock_pin(
    token: str, puk: Pin, new: Pin, *, spend_last_try: bool = False, reason: str = ""
) -> Call[TokenStatus]:
    """Set a YubiKey's PIN by its PUK; a wrong PUK costs a try. The token is LOCKED afterwards."""
    request = tokens_pb2.UnblockPinRequest(
        token=token,
        puk=puk.reveal(),
        new_pin=new.reveal(),
        reason=reason,
        spend_last_try=spend_last_try,
    )
    return call("TokenService/UnblockPin", request, tokens_pb2.Token, wire.token)


def attest(token: str, slot: Slot, *, reason: str = "") -> Call[types.Attested]:
    """Have a YubiKey prove where the key in a slot was made; kept with the key version."""
    return call(
        "TokenService/Attest",
        tokens_pb2.AttestRequest(token=token, slot=str(slot), reason=reason),
        tokens_pb2.AttestResponse,
        lambda m: types.Attested(wire.attestation(m.attestation), m.public_key, m.registered_as),
    )


def write_slot_certificate(
    token: str, slot: Slot, certificate: bytes, *, reason: str = ""
) -> Call[None]:
    """Put a DER certificate for the slot's own key into the slot."""
    request = tokens_pb2.WriteSlotCertificateRequest(
        token=token, slot=str(slot), certificate=certificate, reason=reason
    )
    return call(
        "TokenService/WriteSlotCertificate",
        request,
        tokens_pb2.WriteSlotCertificateResponse,
        lambda _: None,
    )


def _plugged_in(message: tokens_pb2.PluggedIn) -> types.PluggedIn:
    return types.PluggedIn(
        serial=message.serial,
        firmware=message.firmware,
        form_factor=message.form_factor,
        reader=message.reader,
        module=message.module,
        token=message.token,
    )


def _yubikey(message: tokens_pb2.YubiKey) -> types.YubiKey:
    if message.problem:
        return types.YubiKey(message.token, message.serial, message.problem, None)
    slots = tuple(
        types.YubiKeySlot(
            slot=Slot.parse(found.slot),
            algorithm=found.algorithm,
            pin=PinPolicy(found.pin_policy) if found.pin_policy else None,
            touch=TouchPolicy(found.touch_policy) if found.touch_policy else None,
            origin=found.origin,
            public_key=found.public_key,
            certificate=found.certificate,
            registered_as=found.registered_as,
        )
        for found in message.slots
    )
    state = model.YubiKey(
        serial=message.serial,
        firmware=message.firmware,
        form_factor=message.form_factor,
        pin_tries=message.pin_tries,
        pin_tries_of=message.pin_tries_of,
        puk_tries=message.puk_tries,
        puk_tries_of=message.puk_tries_of,
        factory=frozenset(message.factory),
        management_algorithm=message.management_algorithm,
        management_protected=message.management_protected,
        slots=slots,
    )
    return types.YubiKey(message.token, message.serial, "", state, slots)
