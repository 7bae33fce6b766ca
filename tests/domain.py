"""The domain put together over fakes: no sockets, no disk, real signatures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from keyd import content
from keyd.approvals import Approvals
from keyd.enrolment import Enrolment
from keyd.errors import ClockError
from keyd.gate import Gate
from keyd.keyfields import NewKey
from keyd.keys import Keys
from keyd.logkey import LogKey
from keyd.markbook import MarkBook
from keyd.model import (
    Binding,
    Caller,
    Effect,
    EntryDraft,
    Key,
    KeyAlgorithm,
    Outcome,
    Policy,
    Principal,
)
from keyd.policy import parse_policy
from keyd.roles import AcceptedLoss, Roles
from keyd.signing import Signing
from keyd.tokens import Tokens
from tests.fakes import FakeClock, FakeDevice, FakeToken
from tests.fakes_audit import MemoryAudit
from tests.fakes_consent import verify_fake_consent

ADMIN = Caller(Principal("socket:admin", "unix"), "req-admin")
CI = Caller(Principal("uri:spiffe://acme/ci", "mtls"), "req-ci")
STRANGER = Caller(Principal("dns:stranger.example", "mtls"), "req-stranger")

POLICY = """
[[grant]]
name = "admins"
principals = ["socket:admin"]
actions = ["admin", "signer", "auditor"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "ci signs targets"
principals = ["uri:spiffe://acme/ci"]
actions = ["sign", "list"]
keys = ["acme/targets", "acme/later"]
"""


@dataclass
class Domain:
    """Everything above the seams; ``clock_suspect`` makes the clock untrustworthy. Marks, open
    approvals and ceremonies are ``audit``'s."""

    audit: MemoryAudit
    device: FakeDevice
    clock: FakeClock
    gate: Gate
    approvals: Approvals
    marks: MarkBook
    roles: Roles
    signing: Signing
    keys: Keys
    tokens: Tokens
    enrolment: Enrolment
    losses: list[str]
    """What of the log is lost in words; the last one counts."""
    clock_suspect: bool = False

    @property
    def token(self) -> FakeToken:
        """The one token."""
        return self.device.token("main")

    async def a_key(
        self,
        name: str = "acme/targets",
        algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256,
        *bindings: Binding,
    ) -> Key:
        """A key with one active version."""
        new = NewKey(name, "main", algorithm, bindings=frozenset(bindings))
        return await self.keys.create(ADMIN, new)

    def log_key(self, token: str = "main") -> LogKey:
        """The log key on a token; made when it is ensured."""
        return LogKey(
            token=token,
            registry=self.audit,
            device=self.device,
            enrolment=self.enrolment,
            clock=self.clock,
            get_flag=self.audit.get_flag,
        )

    def actions(self) -> list[str]:
        """``action outcome`` of each entry, in order."""
        return [f"{d.action} {d.outcome}" for d in self.audit.drafts]


@contextmanager
def a_domain(policy: Policy | None = None) -> Iterator[Domain]:
    """One admin, one CI runner that signs acme/targets, one READY token."""
    clock = FakeClock()
    audit = MemoryAudit(clock)
    device = FakeDevice.with_token()
    policy = policy or parse_policy(POLICY, "policy.toml")
    gate = Gate(policy, audit, audit)
    enrolment = Enrolment(device=device, audit=audit, registry=audit, clock=clock)
    with ThreadPoolExecutor(1) as workers:

        def check_clock() -> None:
            if domain.clock_suspect:
                raise ClockError("the clock jumped")

        numbers = count(1)
        approvals = Approvals(
            gate=gate,
            policy=policy,
            approvals=audit,
            audit=audit,
            clock=clock,
            check_clock=check_clock,
            new_id=lambda: f"ap{next(numbers)}",
            verify_signature=verify_fake_consent,
            look_s=0.01,
        )
        marks = MarkBook(audit, workers=workers)

        losses = ["entries 5 to 9 are lost"]

        async def accept_loss(
            caller: Caller, said: str, effects: tuple[Effect, ...]
        ) -> AcceptedLoss:
            entry = EntryDraft("checkpoint-accept", Outcome.ALLOWED, caller, said=said)
            receipt = await audit.record(entry, effects)
            return AcceptedLoss(losses[-1], "keyd.example/2", receipt.index)

        roles = Roles(
            gate=gate,
            registry=audit,
            marks=audit,
            approvals=approvals,
            audit=audit,
            clock=clock,
            lost=lambda: {"loss": losses[-1]} if losses[-1] else {},
            accept_loss=accept_loss,
        )
        domain = Domain(
            audit=audit,
            device=device,
            clock=clock,
            gate=gate,
            approvals=approvals,
            marks=marks,
            roles=roles,
            signing=Signing(
                gate=gate,
                registry=audit,
                device=device,
                audit=audit,
                signatures=audit,
                marks=marks,
                approvals=approvals,
                clock=clock,
                read_content=content.read,
                workers=workers,
            ),
            keys=Keys(
                gate=gate,
                registry=audit,
                device=device,
                audit=audit,
                clock=clock,
                enrolment=enrolment,
                approvals=approvals,
                check_clock=check_clock,
                destroy_wait_s=7 * 86_400,
            ),
            tokens=Tokens(
                gate=gate, device=device, audit=audit, registry=audit, approvals=approvals
            ),
            enrolment=enrolment,
            losses=losses,
        )
        yield domain
