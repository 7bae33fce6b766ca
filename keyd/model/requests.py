"""Who asks, for what, and what is answered; the policy that decides, the clock that tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from keyd.errors import InvalidRequestError
from keyd.model.algorithms import Digest, Encoding, Scheme
from keyd.model.approvals import Requirement
from keyd.model.keys import KeyVersion
from keyd.model.marks import Limits


class Action(StrEnum):
    """What a grant can allow. The names stand in policy.toml and in the log."""

    SIGN = "sign"
    CERTIFY = "certify"
    APPROVE = "approve"
    ADVANCE = "advance"
    ROLE = "role"
    CEREMONY = "ceremony"
    LIST = "list"
    CREATE = "create"
    ROTATE = "rotate"
    ACTIVATE = "activate"
    ENABLE = "enable"
    DISABLE = "disable"
    DESTROY = "destroy"
    ADOPT = "adopt"
    BIND = "bind"
    FREEZE = "freeze"
    UNLOCK = "unlock"
    LOCK = "lock"
    TOKENS = "tokens"
    PROVISION = "provision"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. ``id`` is typed: ``socket:NAME``, ``uri:``, ``email:``, ``dns:`` or ``system:``.

    ``method``: ``unix``, ``mtls`` or ``system`` (the daemon itself). ``is_group``: a socket that
    a group may open; it never counts as a person. ``fingerprint``: SHA-256 of the client
    certificate, hex, or empty. ``peer``: the address as the listener saw it.
    ``certificate_not_after``: when the client certificate ends; None on a unix socket.
    """

    id: str
    method: str
    is_group: bool = False
    fingerprint: str = ""
    peer: str = ""
    certificate_not_after: datetime | None = None

    @property
    def is_remote(self) -> bool:
        """True when the call came over TCP."""
        return self.method == "mtls"


SYSTEM = Principal("system:keyd", "system")
"""The daemon itself: start, stop, recovery, policy reload."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One call as the servicers see it: who, under which request id."""

    principal: Principal
    request_id: str


@dataclass(frozen=True, slots=True)
class Context:
    """What the caller claims to sign for; logged as a claim."""

    repository: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a payload says. ``kind``: root, targets, snapshot, timestamp, or opaque.

    ``dialect``: ``tuf`` (1.0), ``notary`` or empty for opaque bytes. ``expires``: as written in
    the payload.
    """

    kind: str = "opaque"
    dialect: str = ""
    version: int = 0
    expires: str = ""
    summary: str = ""


@dataclass(frozen=True, slots=True)
class SignRequest:
    """One signature that is asked for, parsed and checked at the door.

    Exactly one of ``message`` and ``digest`` is set. ``version``: 0 for the active one.
    ``expected_public_key`` (DER SPKI) or ``expected_keyid``: only the version that holds it
    signs. ``scheme`` None: the key's own.
    """

    key: str
    message: bytes | None = None
    digest: Digest | None = None
    version: int = 0
    expected_public_key: bytes = b""
    expected_keyid: str = ""
    scheme: Scheme | None = None
    encoding: Encoding | None = None
    context: Context = Context()
    reason: str = ""
    dry_run: bool = False

    def __post_init__(self) -> None:
        if (self.message is None) == (self.digest is None):
            raise InvalidRequestError("message", "give either a message or a digest")


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that may leave the daemon: checked, and its entry is durable.

    ``digest``: what was signed; for Ed25519 the SHA-256 of the message, for the record only.
    ``replayed``: the stored signature of an earlier entry. ``log_index`` is -1 for a dry run,
    which has no signature either. ``unbound``: the key is bound to nothing and signs anything.
    ``reissued``: other bytes were signed under this version before. For a dry run only:
    ``checks``, what the rules for bound keys looked at, in words, and ``needs``, whose consent
    would be asked for first.
    """

    version: KeyVersion
    scheme: Scheme
    encoding: Encoding
    signature: bytes
    digest: Digest
    log_index: int
    statement: Statement
    rule: str
    replayed: bool = False
    unbound: bool = False
    reissued: bool = False
    checks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's answer. ``rule`` names the grant that allowed it, or why it was refused."""

    allowed: bool
    rule: str


@dataclass(frozen=True, slots=True)
class KeyDemand:
    """What a rule demands of the key version that signs. ``attested``: the device has proven where
    the key was made. ``touch``: and that it signs only when somebody touches it, for each
    signature or within 15 seconds of the last."""

    rule: str
    attested: bool = True
    touch: bool = False


class Policy(Protocol):
    """Decides; pure and total: it reads no clock, no database, and raises nothing."""

    @property
    def hash(self) -> str:
        """SHA-256 of the policy text, hex; goes into every entry."""

    def decide(
        self,
        principal: Principal,
        action: Action,
        key: str,
        *,
        statement: Statement | None = None,
        context: Context | None = None,
    ) -> Decision:
        """Decide one action. ``key``: the key's name, the token's for token actions, or empty
        where the action has neither (listing entries)."""

    def grants_of(self, principal: Principal) -> list[str]:
        """The principal's grants as readable lines, for WhoAmI."""

    def requirements(
        self, principal: Principal, action: Action, key: str, context: Context
    ) -> tuple[Requirement, ...]:
        """Whose consent the rules demand before this action of this principal; empty for none."""

    def counts_for(self, requirement: Requirement, principal: Principal) -> bool:
        """True when this person is one of those whose consent the requirement asks for (a grant
        for ``approve`` on the key is another question). A socket of a group is no person."""

    def demands(
        self, principal: Principal, action: Action, key: str, context: Context
    ) -> tuple[KeyDemand, ...]:
        """What the key version has to be for this; empty for anything."""

    def limits(self, repository: str, role: str, dialect: str) -> Limits:
        """What metadata of the role may say; always something, also without a rule."""

    def approver_keys(self, principal: str) -> tuple[str, ...]:
        """The OpenSSH public keys with which this principal may sign consent, one line each."""


class Clock(Protocol):
    """Time comes in; nothing below app.py reads the clock itself."""

    def now(self) -> datetime:
        """Now, aware, in UTC."""


ContentReader = Callable[[bytes], Statement]
"""content.read: payload -> Statement; never raises, unknown bytes are opaque."""
