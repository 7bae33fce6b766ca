"""keyd.v1.TokenService: messages <-> nouns."""

from __future__ import annotations

from keyd.errors import InvalidRequestError
from keyd.model import Pin, TokenObject, TokenState, TokenStatus
from keyd.v1 import tokens_pb2 as pb

MAX_PIN_BYTES = 256

_STATES_OUT = {s: pb.TokenState.Value(f"TOKEN_STATE_{s}") for s in TokenState}


def pin(message: pb.UnlockRequest) -> Pin | None:
    """The PIN under its own type from here on; the message forgets it. None when it is empty."""
    value = message.pin
    message.ClearField("pin")
    if not value:
        return None
    # The error must not quote what was given.
    if len(value.encode()) > MAX_PIN_BYTES or "\0" in value:
        raise InvalidRequestError("pin", f"at most {MAX_PIN_BYTES} bytes, without NUL")
    return Pin(value)


def token_message(status: TokenStatus) -> pb.Token:
    """A token as it stands."""
    message = pb.Token(
        name=status.name,
        state=_STATES_OUT[status.state],
        serial=status.serial,
        label=status.label,
        model=status.model,
        manufacturer=status.manufacturer,
        firmware=status.firmware,
        pin_state=status.pin_state,
        detail=status.detail,
        hosts=status.hosts,
        queued=status.queued,
        waiting=[
            pb.WaitingCall(
                key=call.purpose.key,
                what=call.purpose.what,
                asked_by=call.purpose.asked_by,
                signatures=call.signatures,
            )
            for call in status.waiting
        ],
        before_you=status.before,
    )
    if status.touch is not None:
        touch, purpose = status.touch, status.touch.purpose
        message.touch.CopyFrom(
            pb.Touch(
                key=purpose.key,
                what=purpose.what,
                asked_by=purpose.asked_by,
                left_s=touch.left_s,
                window_s=touch.window_s,
                text=str(touch),
            )
        )
    return message


def object_message(found: TokenObject, registered_as: str) -> pb.TokenObject:
    """A key pair on a token."""
    return pb.TokenObject(
        object_id=found.object_id,
        label=found.label,
        algorithm=found.algorithm or "",
        public_key=found.public_key,
        sensitive=found.sensitive,
        extractable=found.extractable,
        always_sensitive=found.always_sensitive,
        never_extractable=found.never_extractable,
        local=found.local,
        registered_as=registered_as,
    )
