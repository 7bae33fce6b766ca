"""Why a token does not do what was asked, as keyd errors. Daemon side; faults.py is the host's."""

from __future__ import annotations

from keyd.device.v1 import device_pb2 as pb
from keyd.errors import DeviceFaultError, DeviceGoneError, KeydError, TokenLockedError, from_reason

RETRY_AFTER_S = 1.0
"""What callers are told to wait for a token that may come back by itself."""

INSTALL_YUBIKIT = (
    "with the daemon's own Python: pip install 'keyd[server,yubikey]'; then: systemctl restart "
    "keyd-server"
)
"""What to do where the extra ``yubikey`` is not installed."""

NO_CARD_SERVICE = "the smart card service does not answer"
CARD_IS_KEPT = "another program keeps a card for itself"
TROUBLE_HINTS = {
    NO_CARD_SERVICE: "start pcscd, or see what it says: journalctl -u pcscd",
    CARD_IS_KEPT: "end that program, gpg's is one: gpgconf --kill scdaemon, and to share the card "
    "from now on: echo pcsc-shared >> ~/.gnupg/scdaemon.conf",
}
"""What to do when a host cannot tell which tokens there are."""


def failure_error(token: str, failure: pb.Failure) -> KeydError:
    """The error a host sent."""
    return from_reason(
        failure.reason,
        failure.message,
        facts={"token": token, **failure.facts},
        hint=failure.hint,
        retry_after_s=RETRY_AFTER_S if failure.session_lost else None,
    )


def gone_error(token: str, what: str) -> DeviceGoneError:
    """It may come back by itself. ``what`` follows the token's name."""
    return DeviceGoneError(f"token {token} {what}", retry_after_s=RETRY_AFTER_S, token=token)


def locked_error(token: str, what: str) -> TokenLockedError:
    """A person has to log in. ``what`` follows the token's name."""
    return TokenLockedError(
        f"token {token} {what}", hint=f"keydctl token unlock {token}", token=token
    )


def fault_error(token: str, why: str) -> DeviceFaultError:
    """Something is broken, on the host's side or on ours."""
    return DeviceFaultError(f"token {token}: {why}", token=token)


def unblock_hint(token: str, *, is_yubikey: bool) -> str:
    """What to do about a blocked PIN."""
    if is_yubikey:
        return f"unblock it with its PUK: keydctl yubikey unblock {token}"
    return "unblock it with its PUK or SO PIN"
