"""Every error keyd raises on purpose.

    KeydError
    ├── InvalidRequestError          INVALID_REQUEST
    ├── UnknownCallerError           UNKNOWN_CALLER
    ├── PolicyDeniedError            POLICY_DENIED
    ├── KeyNotFoundError             KEY_NOT_FOUND
    ├── KeyExistsError               KEY_EXISTS
    ├── KeyNotEnabledError           KEY_NOT_ENABLED
    ├── KeyStateError                KEY_STATE
    ├── KeyBoundError                KEY_BOUND
    ├── FrozenError                  FROZEN
    ├── ApprovalNeededError          APPROVAL_NEEDED
    ├── ApprovalNotFoundError        APPROVAL_NOT_FOUND
    ├── ApprovalStateError           APPROVAL_STATE
    ├── AlgorithmMismatchError       ALGORITHM_MISMATCH
    ├── KeyMismatchError             KEY_MISMATCH
    ├── ContentError                 CONTENT
    ├── RotationConflictError        ROTATION_CONFLICT
    ├── ConflictError                CONFLICT
    ├── VersionTakenError            VERSION_TAKEN
    ├── RuleRefusedError             RULE_REFUSED
    ├── RoleNotFoundError            ROLE_NOT_FOUND
    ├── CeremonyNotFoundError        CEREMONY_NOT_FOUND
    ├── RateLimitedError             RATE_LIMITED
    ├── TokenError
    │   ├── TokenNotFoundError       TOKEN_NOT_FOUND
    │   ├── DeviceBusyError          DEVICE_BUSY
    │   ├── DeviceGoneError          DEVICE_GONE
    │   ├── DeviceFaultError         DEVICE_FAULT
    │   ├── TokenLockedError         TOKEN_LOCKED
    │   ├── PinRefusedError          PIN_REFUSED
    │   ├── TouchRefusedError        TOUCH_REFUSED
    │   ├── WrongTokenError          WRONG_TOKEN
    │   ├── MechanismMissingError    MECHANISM_MISSING
    │   └── TokenObjectError         TOKEN_OBJECT
    ├── AuditUnavailableError        AUDIT_UNAVAILABLE
    ├── CheckpointBehindError        CHECKPOINT_BEHIND
    ├── LogProofError                LOG_PROOF (whoever verifies a log, its proofs or notes)
    ├── ClockError                   CLOCK
    ├── BadSignatureError            BAD_SIGNATURE
    ├── DeadlineError                DEADLINE (the caller's wait ended)
    ├── ServerGoneError              SERVER_GONE (client only: no daemon answered)
    ├── RepositoryError              REPOSITORY (adapters only: a TUF repository on disk)
    └── ConfigError                  CONFIG (start-up only, never on the wire)

An error carries facts as keyword fields: ``error.facts`` holds them as text for the wire
(google.rpc.ErrorInfo.metadata), ``error.hint`` says what to do next. ``reason`` and the gRPC code
chosen for it in server/status.py are API; the message text is not. The client raises the same
classes again, rebuilt from the reason by :func:`from_reason`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

DOMAIN = "keyd.v1"
"""ErrorInfo.domain of every error that leaves the daemon."""


class KeydError(Exception):
    """Base of all errors keyd raises on purpose; ``reason`` names the class on the wire."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        retry_after_s: float | None = None,
        **facts: object,
    ) -> None:
        """Keep the message, what to do next, and the facts (snake_case names, any printable value).

        ``retry_after_s``: seconds after which the same call may succeed; None where a retry of
        the same call cannot help.
        """
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.facts: Mapping[str, str] = {name: str(value) for name, value in facts.items()}
        self.request_id = ""


class InvalidRequestError(KeydError):
    """The request cannot mean anything: facts ``field`` and ``why``."""

    reason = "INVALID_REQUEST"

    def __init__(self, field: str, why: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(f"{field}: {why}", hint=hint, field=field, why=why)
        self.facts = {**self.facts, **{name: str(value) for name, value in facts.items()}}


class UnknownCallerError(KeydError):
    """The listener or certificate stands for nobody: no principal, no call."""

    reason = "UNKNOWN_CALLER"


class PolicyDeniedError(KeydError):
    """No grant allows it, or a rule refuses it (fact ``rule``); also said for unknown names."""

    reason = "POLICY_DENIED"


class KeyNotFoundError(KeydError):
    """No such key or version; said only to callers who may see the name."""

    reason = "KEY_NOT_FOUND"


class KeyExistsError(KeydError):
    """The name, the object id or the public key is registered already."""

    reason = "KEY_EXISTS"


class KeyNotEnabledError(KeydError):
    """The version is in a state that does not sign: facts ``version`` and ``state``."""

    reason = "KEY_NOT_ENABLED"


class KeyStateError(KeydError):
    """The state of the version does not allow this change: facts ``version``, ``state``."""

    reason = "KEY_STATE"


class KeyBoundError(KeydError):
    """A key bound to a repository is rotated staged only, never at once."""

    reason = "KEY_BOUND"


class FrozenError(KeydError):
    """Signing with this key, or with all keys, was stopped by a person."""

    reason = "FROZEN"


class ApprovalNeededError(KeydError):
    """People have to consent first: facts ``approval`` (its id, empty for a dry run), ``have``,
    ``need``, ``why``, and ``grave``: the words (rules/grave.py) of what keyd itself objects to."""

    reason = "APPROVAL_NEEDED"


class ApprovalNotFoundError(KeydError):
    """No approval of that id, or none the caller may see."""

    reason = "APPROVAL_NOT_FOUND"


class ApprovalStateError(KeydError):
    """The approval is used, rejected, withdrawn or expired, or this person's word does not count
    for it: facts ``approval``, ``state``."""

    reason = "APPROVAL_STATE"


class AlgorithmMismatchError(KeydError):
    """The key cannot do what was asked: digest size, scheme or encoding do not fit it."""

    reason = "ALGORITHM_MISMATCH"


class KeyMismatchError(KeydError):
    """No version of the key holds the public key or keyid the caller expects."""

    reason = "KEY_MISMATCH"


class ContentError(KeydError):
    """What shall be signed cannot be read without doubt: fact ``problem``, a word for programs
    (content/refusal.py lists them), and ``field`` where one is to blame."""

    reason = "CONTENT"


class RotationConflictError(KeydError):
    """Another rotation of the same key is under way: read again, then retry."""

    reason = "ROTATION_CONFLICT"


class ConflictError(KeydError):
    """Another change came first; nothing was changed by this one."""

    reason = "CONFLICT"


class VersionTakenError(KeydError):
    """Other bytes are signed, or being signed, at this version: facts ``repository``, ``role``,
    ``version``, ``digest`` (asked for), ``signed_digest``, ``last_version``, ``next_version``."""

    reason = "VERSION_TAKEN"


class RuleRefusedError(KeydError):
    """Content that a bound key never signs as things stand: facts ``rule`` (a word for programs;
    keyd/rules lists them), ``repository``, ``role``, ``version``; the hint names the way out."""

    reason = "RULE_REFUSED"


class RoleNotFoundError(KeydError):
    """Nothing of this repository and role was signed or shown here, or it is not the caller's to
    see."""

    reason = "ROLE_NOT_FOUND"


class CeremonyNotFoundError(KeydError):
    """No ceremony of that id, or none the caller may see."""

    reason = "CEREMONY_NOT_FOUND"


class RateLimitedError(KeydError):
    """Too much at once, or a limit of the policy is reached."""

    reason = "RATE_LIMITED"


class TokenError(KeydError):
    """Something about a token; the fact ``token`` names it."""


class TokenNotFoundError(TokenError):
    """No token of that name is configured."""

    reason = "TOKEN_NOT_FOUND"


class DeviceBusyError(TokenError):
    """The queue in front of the token is full; nothing was sent to it."""

    reason = "DEVICE_BUSY"


class DeviceGoneError(TokenError):
    """The token is absent or was removed, or its host process died."""

    reason = "DEVICE_GONE"


class DeviceFaultError(TokenError):
    """The module answered with an error that fits no other class: fact ``ckr``."""

    reason = "DEVICE_FAULT"


class TokenLockedError(TokenError):
    """Nobody is logged in and keyd must not try a PIN by itself."""

    reason = "TOKEN_LOCKED"


class PinRefusedError(TokenError):
    """The token refused the PIN; never retried by keyd itself."""

    reason = "PIN_REFUSED"


class TouchRefusedError(TokenError):
    """The token asked for a touch and said no; never asked again by keyd itself. A touch that
    does not come in time is a DeadlineError."""

    reason = "TOUCH_REFUSED"


class WrongTokenError(TokenError):
    """Serial or public key differ from what is registered: another token is in the reader."""

    reason = "WRONG_TOKEN"


class MechanismMissingError(TokenError):
    """The token or its module lacks the mechanism for this algorithm."""

    reason = "MECHANISM_MISSING"


class TokenObjectError(TokenError):
    """The object on the token is missing, doubled, or has attributes keyd does not accept."""

    reason = "TOKEN_OBJECT"


class AuditUnavailableError(KeydError):
    """The log cannot be written, so nothing is signed."""

    reason = "AUDIT_UNAVAILABLE"


class CheckpointBehindError(KeydError):
    """The log is behind a checkpoint of its own: a restored backup or a cut log."""

    reason = "CHECKPOINT_BEHIND"


class LogProofError(KeydError):
    """A log, proof or signed note does not verify. Raised by whoever checks, never by a daemon
    about its caller's request."""

    reason = "LOG_PROOF"


class ClockError(KeydError):
    """The clock jumped; what depends on time waits for `keyd-server clock accept`."""

    reason = "CLOCK"


class BadSignatureError(KeydError):
    """The token's signature does not verify with the registered public key. Page someone."""

    reason = "BAD_SIGNATURE"


class DeadlineError(KeydError):
    """The caller's wait ended; the work may still complete and is then in the log."""

    reason = "DEADLINE"


class ServerGoneError(KeydError):
    """Raised by the client: no daemon answered at the endpoint."""

    reason = "SERVER_GONE"


class RepositoryError(KeydError):
    """A TUF repository cannot be changed as asked: facts ``file`` or ``role`` where known.

    Raised by the TUF adapter only, never on the wire. Fact ``missing``: signatures that people
    still have to give.
    """

    reason = "REPOSITORY"


class ConfigError(KeydError):
    """A configuration, policy or TLS file is wrong: facts ``file`` and, where known, ``line``."""

    reason = "CONFIG"


def _all_classes(base: type[KeydError]) -> dict[str, type[KeydError]]:
    found: dict[str, type[KeydError]] = {}
    for cls in base.__subclasses__():
        found |= {cls.reason: cls} if cls.reason != "INTERNAL" else {}
        found |= _all_classes(cls)
    return found


def from_reason(
    reason: str,
    message: str,
    *,
    facts: Mapping[str, str] | None = None,
    hint: str = "",
    retry_after_s: float | None = None,
) -> KeydError:
    """Rebuild the error a daemon sent; an unknown reason becomes a plain KeydError.

    The inverse of what server/status.py and the per-item errors of a batch put on the wire.
    """
    cls = _all_classes(KeydError).get(reason, KeydError)
    error = cls.__new__(cls)
    KeydError.__init__(error, message, hint=hint, retry_after_s=retry_after_s)
    error.facts = dict(facts or {})
    return error
