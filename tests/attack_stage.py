"""A real daemon to attack: SoftHSM, SQLite, gRPC over mutual TLS, and a certificate for everybody.

Each attack has a repository of its own (``case-*``), which the same few keys serve, and a principal
of its own, so that repeated refusals of others do not hide what the log says of it.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from cryptography.hazmat.primitives.serialization import load_der_public_key
from securesystemslib.signer import SSlibKey
from tuf.api import metadata as api
from tuf.api.serialization.json import CanonicalJSONSerializer

from keyd.cli.server_dev import make_folder
from keyd.client import Client
from keyd.client.endpoint import Endpoint
from keyd.client.profiles import Tls
from keyd.client.types import EntryFilter, RoleFile, Signature
from keyd.errors import KeydError
from keyd.model import (
    Binding,
    Context,
    Digest,
    Encoding,
    HashAlgorithm,
    KeyAlgorithm,
    KeyVersion,
    SignRequest,
)
from keyd.pki.authority import Authority
from keyd.pki.request import new_request
from tests.e2e.daemon_process import DaemonProcess

NOW = datetime.now(UTC).replace(microsecond=0)
SOON = NOW + timedelta(days=10)
ADMIN = "socket:dev"
CREW = "socket:crew"
"""A socket that is open to a group."""

KEYS = {
    "case/root": ["root"],
    "case/root-2": ["root"],
    "case/root-3": ["root"],
    "case/targets": ["targets"],
    "case/targets-2": ["targets"],
    "case/online": ["snapshot", "timestamp"],
    "case/online-2": ["snapshot"],
    "case/team": ["team"],
    "gated/targets": ["targets"],
    "gated/targets-2": ["targets"],
}
"""Keys of the repositories ``case-*`` and the roles they are bound to; what those called gated sign
takes two people."""

POLICY = """
[[grant]]
name = "admins"
principals = ["socket:dev"]
actions = ["admin", "auditor"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "pipelines"
principals = ["uri:spiffe://acme/*", "socket:crew", "email:alice-*@example.org"]
actions = ["signer", "certify"]
keys = ["case/*", "elsewhere/*", "free/*", "gated/*"]

[[grant]]
name = "keepers"
principals = ["email:keeper-*@example.org"]
actions = ["role", "list", "bind"]
keys = ["case/*", "elsewhere/*", "free/*", "gated/*"]

[[grant]]
name = "people"
principals = ["email:alice-*@example.org", "email:bob-*@example.org", "socket:crew"]
actions = ["approver"]
keys = ["*"]

[[rule]]
name = "two people"
keys = ["gated/*"]
actions = ["sign"]
approvals = 2

[[limit]]
name = "team"
roles = ["team"]
paths = ["team/*"]
"""


@dataclass
class Stage:
    """A running daemon and everybody's way to it."""

    daemon: DaemonProcess
    authority: Authority
    folder: Path
    stack: ExitStack
    versions: dict[str, KeyVersion] = field(default_factory=dict)
    port: int = 0
    _clients: dict[str, Client] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def admin(self) -> Client:
        return self.client(ADMIN)

    def client(self, principal: str) -> Client:
        """One who calls as this principal: with a certificate, or over a socket."""
        if principal not in self._clients:
            client = Client(self._endpoint(principal), keep_checkpoints=False)
            self._clients[principal] = self.stack.enter_context(client)
        return self._clients[principal]

    def _endpoint(self, principal: str) -> Endpoint:
        if principal.startswith("socket:"):
            name = {ADMIN: "keyd", CREW: "crew"}[principal]
            return Endpoint(f"unix:{self.daemon.socket.with_name(name)}.sock", "test")
        folder = self.folder / "people" / re.sub(r"\W", "-", principal)
        if not folder.exists():
            folder.mkdir(parents=True)
            request = new_request([principal])
            (folder / "key.pem").write_bytes(request.key_pem)
            (folder / "cert.pem").write_bytes(self.authority.sign_client(request.csr_pem, NOW))
            (folder / "ca.pem").write_bytes(self.authority.certificate_pem)
        tls = Tls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        return Endpoint(f"dns:localhost:{self.port}", "test", tls)

    def start(self) -> None:
        """The daemon comes up, at a port of its own choice."""
        self.daemon.start()
        self.port = int(re.findall(r"serving.*127\.0\.0\.1:(\d+)", self.daemon.tail())[-1])

    def hang_up(self) -> None:
        """Close everybody's connection, before the daemon goes or comes back."""
        while self._clients:
            self._clients.popitem()[1].close()

    def create(self, name: str, *bindings: Binding) -> KeyVersion:
        """A new P-256 key, once the token is ready."""
        deadline = time.monotonic() + 20
        while True:
            try:
                key = self.admin.create_key(name, KeyAlgorithm.ECDSA_P256, bindings=bindings)
                break
            except KeydError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        (self.versions[name],) = key.versions
        return self.versions[name]

    def site(self) -> Site:
        """A repository that nobody knows yet, and a pipeline that nobody has met."""
        number = next(self._numbers)
        return Site(self, f"case-{number}", f"uri:spiffe://acme/ci-{number}")

    def refusals(self, principal: str) -> list[Mapping[str, Any]]:
        """What the log says of what this principal was refused, oldest first."""
        wanted = EntryFilter(principal=principal, decision="refused")
        return [entry.fields for entry in self.admin.list_entries(wanted)]

    @contextmanager
    def stopped(self) -> Iterator[Path]:
        """The daemon is away for a while; its folder."""
        self.hang_up()
        self.daemon.stop()
        yield self.daemon.folder
        self.start()


@dataclass(frozen=True)
class Site:
    """A repository and the pipeline that signs for it."""

    stage: Stage
    repository: str
    principal: str

    @property
    def ci(self) -> Client:
        return self.stage.client(self.principal)

    @property
    def keeper(self) -> Client:
        """Who may lead roles back; one for each repository."""
        return self.stage.client(f"email:keeper-{self.repository}@example.org")

    @property
    def alice(self) -> str:
        """One of two whose consent counts, for each repository others."""
        return f"email:alice-{self.repository}@example.org"

    @property
    def bob(self) -> str:
        """The other one."""
        return f"email:bob-{self.repository}@example.org"

    def sign(self, role: str, message: bytes | None, key: str = "", **more: Any) -> Signature:
        """As the pipeline; ``key``: that of the role, if no other."""
        context = Context(more.pop("repository", self.repository), role)
        return self.ci.sign(
            key or f"case/{'online' if role in ('snapshot', 'timestamp') else role}",
            message,
            encoding=Encoding.DER,
            context=more.pop("context", context),
            **more,
        )

    def request(self, role: str, message: bytes, key: str) -> SignRequest:
        context = Context(self.repository, role)
        return SignRequest(key, message, encoding=Encoding.DER, context=context)

    def sign_digest(self, role: str, message: bytes) -> Signature:
        digest = Digest.of(HashAlgorithm.SHA256, message)
        return self.sign(role, None, digest=digest)

    def publish(self, files: Sequence[RoleFile]) -> None:
        self.ci.advance_role(self.repository, files, published=True)

    def file(self, role: str, message: bytes, *keys: str) -> RoleFile:
        """A metadata file: the payload with signatures by the keys, asked for as the pipeline."""
        keys = keys or (f"case/{'online' if role in ('snapshot', 'timestamp') else role}",)
        signatures = [
            {"keyid": s.keyid, "sig": s.signature.hex()}
            for s in (self.sign(role, message, key) for key in keys)
        ]
        return RoleFile(role, envelope(message, signatures))

    # -- content, as python-tuf writes it

    def root(
        self,
        version: int = 1,
        holders: Sequence[str] = ("case/root",),
        *,
        threshold: int = 1,
        targets: Sequence[str] = ("case/targets",),
        targets_threshold: int = 1,
        snapshot: Sequence[str] = ("case/online",),
        also: Sequence[KeyVersion | SSlibKey] = (),
        **unknown: object,
    ) -> bytes:
        made = api.Root(version, expires=SOON, unrecognized_fields={"x-for": self.repository})
        roles = {
            "root": holders,
            "targets": targets,
            "snapshot": snapshot,
            "timestamp": ("case/online",),
        }
        for role, names in roles.items():
            for name in names:
                made.add_key(tuf_key(self.stage.versions[name]), role)
        for other in also:
            made.add_key(other if isinstance(other, SSlibKey) else tuf_key(other), "root")
        made.roles["root"].threshold = threshold
        made.roles["targets"].threshold = targets_threshold
        made.unrecognized_fields.update(unknown)
        return payload(made)


def envelope(message: bytes, signatures: Sequence[Mapping[str, str]]) -> bytes:
    return json.dumps(
        {"signatures": signatures, "signed": json.loads(message, strict=False)}
    ).encode()


def tuf_key(version: KeyVersion) -> SSlibKey:
    key = SSlibKey.from_crypto(load_der_public_key(version.public_key))
    assert isinstance(key, SSlibKey)
    return key


def targets(version: int, *paths: str, expires: datetime = SOON) -> bytes:
    files = {path: api.TargetFile(3, {"sha256": "07" * 32}, path) for path in paths}
    return payload(api.Targets(version, expires=expires, targets=files))


def delegating(version: int, to: KeyVersion) -> bytes:
    """Targets that delegate everything below ``team/`` to the role ``team``."""
    key = tuf_key(to)
    role = api.DelegatedRole("team", [key.keyid], 1, False, ["team/*"])
    delegations = api.Delegations({key.keyid: key}, {"team": role})
    return payload(api.Targets(version, expires=SOON, delegations=delegations))


def snapshot(version: int, *, expires: datetime = SOON, **roles: int) -> bytes:
    meta = {f"{role}.json": api.MetaFile(at) for role, at in (roles or {"targets": 1}).items()}
    return payload(api.Snapshot(version, expires=expires, meta=meta))


def timestamp(version: int, of: int = 1, *, expires: datetime = SOON) -> bytes:
    return payload(api.Timestamp(version, expires=expires, snapshot_meta=api.MetaFile(of)))


def payload(signed: api.Signed) -> bytes:
    return CanonicalJSONSerializer().serialize(signed)


@contextmanager
def a_stage(policy: str = POLICY) -> Iterator[Stage]:
    """A daemon with all keys, ended with the block; the folder is short, for its sockets."""
    folder = Path(mkdtemp(prefix="keyd-att-"))
    made_in = folder / "d"
    made_in.mkdir(mode=0o700)
    (made_in / "policy.toml").write_text(policy)
    (made_in / "policy.toml").chmod(0o600)
    made = make_folder(made_in, tcp="127.0.0.1:0", hosts=1, now=NOW)
    crew = f'[[listener]]\nkind = "unix"\npath = "{made_in}/run/crew.sock"\nmode = "0666"\n'
    with made.config.open("a") as config:
        config.write(f'{crew}principal = "{CREW}"\n')
    daemon = DaemonProcess(made_in, "--config", str(made.config), command=("run",), forked=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        stack.callback(daemon.kill)
        authority = Authority.open(made_in / "tls" / "ca", NOW)
        stage = Stage(daemon, authority, folder, stack)
        stage.start()
        stack.callback(stage.hang_up)
        for name, roles in KEYS.items():
            stage.create(name, *(Binding("case-*", role) for role in roles))
        stage.create("elsewhere/root", Binding("elsewhere", "root"))
        stage.create("elsewhere/targets", Binding("elsewhere", "targets"))
        yield stage
        stage.hang_up()
        assert daemon.stop() == 0
