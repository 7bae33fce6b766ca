"""The API in process: real grpc servers on unix sockets, and small fakes of the domain behind.

What stands behind the API has tests of its own; here it has to be told to be slow or to fail.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding as KeyEncoding
from cryptography.hazmat.primitives.serialization import PublicFormat

from keyd import publickeys
from keyd.approvals import Approvals, new_approval_id
from keyd.ceremonies import Ceremonies
from keyd.client import failures
from keyd.client.endpoint import Endpoint
from keyd.errors import InvalidRequestError, KeydError, KeyNotFoundError, PolicyDeniedError
from keyd.gate import Gate
from keyd.keyfields import KeyFilter, NewKey
from keyd.keys import Keys
from keyd.model import (
    Action,
    Caller,
    Ceremony,
    Checkpoint,
    Context,
    Decision,
    Digest,
    Encoding,
    Entry,
    EntryFilter,
    EntryPage,
    Freeze,
    HashAlgorithm,
    Key,
    KeyAlgorithm,
    KeyDemand,
    KeyVersion,
    Origin,
    Pin,
    Principal,
    Requirement,
    Scheme,
    Signed,
    SignRequest,
    Statement,
    TokenObject,
    TokenState,
    TokenStatus,
    VersionState,
)
from keyd.model import Limits as RoleLimits
from keyd.policy import parse_policy
from keyd.roles import Roles
from keyd.server.limits import Limits
from keyd.server.metrics import Metrics
from keyd.server.services import Services, add_services, build_services
from keyd.server.wire.audit import ConsistencyProof, InclusionProof, StatusReport
from keyd.tokens import Tokens
from keyd.v1.approvals_pb2_grpc import ApprovalServiceStub
from keyd.v1.audit_pb2_grpc import AuditServiceStub
from keyd.v1.keys_pb2_grpc import KeyServiceStub
from keyd.v1.roles_pb2_grpc import RoleServiceStub
from keyd.v1.signing_pb2_grpc import SigningServiceStub
from keyd.v1.tokens_pb2_grpc import TokenServiceStub
from tests.domain import Domain, a_domain
from tests.fakes_audit import MemoryAudit
from tests.fakes_consent import verify_fake_consent

NOW = datetime(2026, 3, 1, tzinfo=UTC)
_PRIVATE = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC_KEY = _PRIVATE.public_key().public_bytes(KeyEncoding.DER, PublicFormat.SubjectPublicKeyInfo)


class FixedClock:
    """Time stands still."""

    def now(self) -> datetime:
        """2026-03-01."""
        return NOW


def a_key(name: str) -> Key:
    """An Ed25519 key with one enabled version."""
    version = KeyVersion(
        key=name,
        number=1,
        state=VersionState.ENABLED,
        origin=Origin.GENERATED,
        token_serial="S1",
        object_id=b"\x01\x02",
        public_key=PUBLIC_KEY,
        keyids=publickeys.keyids(PUBLIC_KEY, Scheme.ED25519),
        created_at=NOW,
        created_by="socket:admin",
    )
    return Key(
        name=name,
        token="online",
        algorithm=KeyAlgorithm.ED25519,
        scheme=Scheme.ED25519,
        created_at=NOW,
        created_by="socket:admin",
        active_version=1,
        versions=(version,),
    )


Act = Callable[[Caller, SignRequest], Awaitable[None]]


class FakeSigning:
    """Signs in memory. ``act`` runs before each signature and may wait or raise; ``started``,
    ``finished`` and ``dropped`` count what became of the calls."""

    def __init__(self) -> None:
        self.act: Act | None = None
        self.started = 0
        self.finished = 0
        self.dropped = 0
        self.callers: list[Caller] = []

    async def sign(self, caller: Caller, request: SignRequest) -> Signed:
        """One real Ed25519 signature, or what ``act`` raises."""
        self.started += 1
        self.callers.append(caller)
        try:
            if self.act is not None:
                await self.act(caller, request)
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        self.finished += 1
        (version,) = a_key(request.key).versions
        message = request.message or b""
        return Signed(
            version=version,
            scheme=Scheme.ED25519,
            encoding=Encoding.RAW,
            signature=b"" if request.dry_run else _PRIVATE.sign(message),
            digest=Digest(HashAlgorithm.SHA256, hashlib.sha256(message).digest()),
            log_index=-1 if request.dry_run else self.finished - 1,
            statement=Statement(),
            rule="grant 1",
            unbound=True,
        )

    async def sign_batch(
        self, caller: Caller, requests: Sequence[SignRequest | KeydError]
    ) -> list[Signed | KeydError]:
        """Each on its own."""
        results: list[Signed | KeydError] = []
        for request in requests:
            try:
                if isinstance(request, KeydError):
                    raise request
                results.append(await self.sign(caller, request))
            except KeydError as e:
                results.append(e)
        return results


class FakeKeys(Keys):
    """Keys in a dictionary; ``calls`` holds what was asked."""

    def __init__(self) -> None:
        self.held = {name: a_key(name) for name in ("acme/root", "acme/targets")}
        self.calls: list[tuple[object, ...]] = []

    def list(self, caller: Caller, wanted: KeyFilter) -> list[Key]:
        """Sorted and filtered."""
        return [k for _, k in sorted(self.held.items()) if wanted.matches(k, NOW)]

    def get(self, caller: Caller, name: str) -> Key:
        """KeyNotFoundError when it is not there."""
        if name not in self.held:
            raise KeyNotFoundError(f"no key {name}", key=name)
        return self.held[name]

    def frozen(self, name: str) -> Freeze | None:
        """acme/targets is frozen."""
        return Freeze(name, "socket:admin", "leaked", NOW) if name == "acme/targets" else None

    async def create(self, caller: Caller, new: NewKey) -> Key:
        """Kept as asked for."""
        self.calls.append(("create", caller.principal.id, new))
        self.held[new.name] = a_key(new.name)
        return self.held[new.name]

    async def disable(self, caller: Caller, name: str, number: int, *, said: str = "") -> Key:
        """Only noted."""
        self.calls.append(("disable", name, number, said))
        return self.get(caller, name)

    async def freeze(self, caller: Caller, key: str, *, said: str = "") -> Sequence[Freeze]:
        """Only answered."""
        return [Freeze(key, caller.principal.id, said, NOW)]


class FakeTokens(Tokens):
    """One token, ``online``; remembers the PIN it was given."""

    def __init__(self) -> None:
        self.pin: Pin | None = None

    def list(self, caller: Caller) -> list[TokenStatus]:
        """The one."""
        return [TokenStatus("online", TokenState.READY, serial="S1", hosts=2)]

    async def unlock(
        self, caller: Caller, token: str, pin: Pin | None, *, spend_last_try: bool = False
    ) -> TokenStatus:
        """Always works."""
        self.pin = pin
        return self.list(caller)[0]

    async def objects(self, caller: Caller, token: str) -> Sequence[tuple[TokenObject, str]]:
        """The one key pair on it."""
        found = TokenObject(
            object_id=b"\x01",
            label="acme/root/1",
            algorithm=None,
            public_key=PUBLIC_KEY,
            sensitive=True,
            extractable=False,
            always_sensitive=True,
            never_extractable=True,
            local=True,
        )
        return [(found, "acme/root/versions/1")]


class FakeCeremonies(Ceremonies):
    """No ceremony is open."""

    def __init__(self) -> None:
        pass

    def list(
        self, caller: Caller, repository: str = "", *, only_open: bool = False
    ) -> list[Ceremony]:
        """None."""
        return []


class FakeReads:
    """A log in a list."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.verifier_keys = "keyd.example+00000000+AAAA\n"
        self._grown = asyncio.Event()

    @property
    def size(self) -> int:
        """Entries."""
        return len(self.entries)

    def append(self, count: int = 1, body: bytes = b"{}") -> None:
        """Add entries and wake whoever waits for them."""
        for _ in range(count):
            self.entries.append(Entry(len(self.entries), body, {}))
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def list_entries(
        self, wanted: EntryFilter, *, limit: int, after: int | None = None
    ) -> EntryPage:
        """As the real log pages: by index, or backwards."""
        matching = [e for e in self.entries if e.index >= wanted.start_index]
        if wanted.descending:
            matching.reverse()
        if after is not None:
            matching = [
                e for e in matching if (e.index < after if wanted.descending else e.index > after)
            ]
        page = tuple(matching[:limit])
        return EntryPage(page, page[-1].index if len(matching) > limit else None)

    async def wait_for_entry(self, index: int) -> None:
        """Until it is there."""
        while len(self.entries) <= index:
            await self._grown.wait()

    async def get_checkpoint(self, *, fresh: bool) -> Checkpoint | None:
        """None for an empty log."""
        if not self.entries:
            return None
        return Checkpoint("keyd.example", self.size, bytes(32), "fresh" if fresh else "kept")

    async def prove_inclusion(self, index: int, tree_size: int) -> InclusionProof:
        """A proof of the right shape."""
        if index >= self.size:
            raise InvalidRequestError("index", "beyond the log")
        checkpoint = await self.get_checkpoint(fresh=False)
        assert checkpoint is not None
        return InclusionProof(self.entries[index], tree_size or self.size, [b"\1" * 32], checkpoint)

    async def prove_consistency(self, old_size: int, new_size: int) -> ConsistencyProof:
        """A proof of the right shape."""
        checkpoint = await self.get_checkpoint(fresh=False)
        assert checkpoint is not None
        return ConsistencyProof(
            old_size, new_size or self.size, bytes(32), b"\2" * 32, [b"\3" * 32], checkpoint
        )

    async def show_checkpoint(self, caller: Caller, note: str) -> str:
        """Everything is the same."""
        return "same"


class FakePolicy:
    """Everybody may do everything, but nobody of ``no_audit`` may read the log."""

    hash = "ab" * 32

    def __init__(self) -> None:
        self.no_audit: set[str] = set()

    def decide(
        self,
        principal: Principal,
        action: Action,
        key: str,
        *,
        statement: Statement | None = None,
        context: Context | None = None,
    ) -> Decision:
        """As the set says."""
        refused = action is Action.AUDIT and principal.id in self.no_audit
        return Decision(not refused, "grant 1" if not refused else "no grant")

    def grants_of(self, principal: Principal) -> list[str]:
        """One line."""
        return [f"{principal.id} may do everything"]

    def requirements(
        self, principal: Principal, action: Action, key: str, context: Context
    ) -> tuple[Requirement, ...]:
        """None."""
        return ()

    def counts_for(self, requirement: Requirement, principal: Principal) -> bool:
        """Everybody counts."""
        return True

    def demands(
        self, principal: Principal, action: Action, key: str, context: Context
    ) -> tuple[KeyDemand, ...]:
        """None."""
        return ()

    def limits(self, repository: str, role: str, dialect: str) -> RoleLimits:
        """A year."""
        return RoleLimits(365)

    def approver_keys(self, principal: str) -> tuple[str, ...]:
        """None."""
        return ()

    async def authorize(self, caller: Caller, action: Action, key: str) -> None:
        """As the daemon's gate."""
        if not self.decide(caller.principal, action, key).allowed:
            raise PolicyDeniedError(f"{action}: denied, or no such name", rule="no grant")


@dataclass
class ApiDaemon:
    """A daemon's API and the fakes behind it."""

    path: Path
    services: Services
    metrics: Metrics
    signing: FakeSigning
    keys: FakeKeys
    tokens: FakeTokens
    reads: FakeReads
    policy: FakePolicy
    report: StatusReport
    checkpoint: str = ""
    servers: list[grpc.aio.Server] = field(default_factory=list)

    async def listen(
        self,
        name: str,
        resolver: Callable[[object], Principal] | None = None,
        *,
        reflection: bool = False,
        options: Sequence[tuple[str, int]] = (),
    ) -> str:
        """Add a listener; answers its target. Without a resolver it stands for ``socket:NAME``."""
        principal = Principal(f"socket:{name}", "unix")
        server = grpc.aio.server(options=list(options))
        add_services(
            server,
            self.services,
            resolver or (lambda context: principal),
            reflection=reflection,
        )
        target = f"unix:{self.path}/{name}.sock"
        server.add_insecure_port(target)
        await server.start()
        self.servers.append(server)
        return target


class Stubs:
    """The services over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.signing = SigningServiceStub(channel)
        self.keys = KeyServiceStub(channel)
        self.tokens = TokenServiceStub(channel)
        self.approvals = ApprovalServiceStub(channel)
        self.roles = RoleServiceStub(channel)
        self.audit = AuditServiceStub(channel)
        self.channel = channel


@asynccontextmanager
async def connect(target: str) -> AsyncIterator[Stubs]:
    """A client without a library around it."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield Stubs(channel)


@asynccontextmanager
async def api_daemon(
    path: Path, limits: Limits | None = None, *, domain: Domain | None = None
) -> AsyncIterator[ApiDaemon]:
    """The API over fakes; its servers are ended with it. ``domain``: real keys and approvals in
    place of fake keys and of approvals that nobody may see."""
    limits = limits or Limits()
    metrics, policy = Metrics(), FakePolicy()
    signing, keys, tokens, reads = FakeSigning(), FakeKeys(), FakeTokens(), FakeReads()
    report = StatusReport(
        started_at=NOW,
        health="DEGRADED",
        problems=["token online is LOCKED: keydctl token unlock online"],
        keys=2,
        unbound_keys=1,
        log_size=5,
        uncheckpointed=3,
        freezes=["acme/targets: frozen"],
        policy_sha256="ab" * 32,
    )
    daemon: ApiDaemon
    services = build_services(
        signing=signing,
        keys=domain.keys if domain else keys,
        tokens=tokens,
        approvals=domain.approvals if domain else _no_approvals(),
        ceremonies=FakeCeremonies(),
        roles=domain.roles if domain else _no_roles(),
        audit=reads,
        authorize=policy.authorize,
        policy=lambda: policy,
        report=lambda: daemon.report,
        newest_checkpoint=lambda: daemon.checkpoint,
        clock=FixedClock(),
        limits=limits,
        metrics=metrics,
        server_version="0.1.0",
    )
    services.health.set_serving(daemon=True, signing=True)
    daemon = ApiDaemon(path, services, metrics, signing, keys, tokens, reads, policy, report)
    try:
        yield daemon
    finally:
        await services.drain(daemon.servers, 0.2)


def _no_roles() -> Roles:
    """Roles of which nothing is known, behind a policy without grants."""
    with a_domain(parse_policy("", "policy.toml")) as domain:
        return domain.roles


def _no_approvals() -> Approvals:
    policy, clock = parse_policy("", "policy.toml"), FixedClock()
    audit = MemoryAudit(clock)
    return Approvals(
        gate=Gate(policy, audit, audit),
        policy=policy,
        approvals=audit,
        audit=audit,
        clock=clock,
        check_clock=lambda: None,
        new_id=new_approval_id,
        verify_signature=verify_fake_consent,
    )


async def error_of(call: Awaitable[object]) -> KeydError:
    """The error a call ends with, as the client library raises it."""
    try:
        await asyncio.wait_for(call, 10)
    except grpc.aio.AioRpcError as e:
        trailers = [(name, value) for name, value in e.trailing_metadata()]
        return failures.from_call(
            e.code(), e.details() or "", trailers, Endpoint("unix:/test", "a test")
        )
    raise AssertionError("the call did not fail")
