"""A daemon for client tests: a real grpc server with real keys and a real Merkle log in memory.

It does what protos/keyd/v1 says, as far as clients can see, and besides what a test tells it to:
raise errors, lie, hang. The daemon itself is tested elsewhere.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding as KeyEncoding
from cryptography.hazmat.primitives.serialization import PublicFormat
from google.protobuf import message_factory
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from keyd import publickeys
from keyd.audit import merkle
from keyd.audit.checkpoint import checkpoint_text
from keyd.audit.entry import entry_body, parse_entry
from keyd.audit.note import NoteSignature, VerifierKey, write_note
from keyd.content import read
from keyd.errors import InvalidRequestError, KeydError, KeyNotFoundError
from keyd.model import (
    Caller,
    Digest,
    EntryDraft,
    HashAlgorithm,
    KeyAlgorithm,
    Outcome,
    Principal,
    Scheme,
)
from keyd.server.status import to_grpc, to_item_error
from keyd.v1 import (
    approvals_pb2,
    audit_pb2,
    ceremonies_pb2,
    keys_pb2,
    roles_pb2,
    signing_pb2,
    tokens_pb2,
)
from tests.scripted_approvals import ScriptedApprovals

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ORIGIN = "log.example"
WHO = "socket:tester"

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_HASHES = {
    HashAlgorithm.SHA256: (signing_pb2.HASH_ALGORITHM_SHA256, hashes.SHA256()),
    HashAlgorithm.SHA384: (signing_pb2.HASH_ALGORITHM_SHA384, hashes.SHA384()),
    HashAlgorithm.SHA512: (signing_pb2.HASH_ALGORITHM_SHA512, hashes.SHA512()),
}
_SERVICES = {
    "SigningService": signing_pb2,
    "KeyService": keys_pb2,
    "TokenService": tokens_pb2,
    "AuditService": audit_pb2,
    "ApprovalService": approvals_pb2,
    "RoleService": roles_pb2,
    "CeremonyService": ceremonies_pb2,
}


def generate(algorithm: KeyAlgorithm) -> PrivateKey:
    """A software key: tests only."""
    if algorithm is KeyAlgorithm.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm.is_rsa:
        return rsa.generate_private_key(65537, int(algorithm.value[4:]))
    curve = ec.SECP256R1() if algorithm is KeyAlgorithm.ECDSA_P256 else ec.SECP384R1()
    return ec.generate_private_key(curve)


def der(key: PrivateKey) -> bytes:
    """The public part."""
    return key.public_key().public_bytes(KeyEncoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _stamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


class ScriptedDaemon(ScriptedApprovals):
    """Listens on ``FOLDER/keyd.sock``, or with TLS on a port of loopback.

    ``errors[METHOD]`` are raised first, one for each call; ``lie`` changes what leaves after a
    signature; ``asked`` counts the calls; ``requests`` keeps the last request of each method.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: grpc.ServerCredentials | None = None,
        principal: str = WHO,
    ) -> None:
        super().__init__()
        self.keys: dict[str, keys_pb2.Key] = {}
        self.private: dict[str, PrivateKey] = {}
        self.bodies: list[bytes] = []
        self.errors: dict[str, list[KeydError]] = defaultdict(list)
        self.lie: Callable[[signing_pb2.SignResponse], None] = lambda _: None
        self.lie_about_entries: Callable[[audit_pb2.Entry], None] = lambda _: None
        self.asked: Counter[str] = Counter()
        self.requests: dict[str, Any] = {}
        self.with_checkpoints = False
        self.verdict = "same"
        self.health = "SERVING"
        self.frozen: dict[str, str] = {}
        self.token_model = ""
        self.token_state = "READY"
        self.principal = principal
        self.delay: Callable[[str], object] = lambda _: None
        self.log_key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        self._folder = folder
        self._tls = tls
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)],
        )
        for name, module in _SERVICES.items():
            service = module.DESCRIPTOR.services_by_name[name]
            handlers = {m.name: self._handler(m) for m in service.methods}
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service.full_name, handlers),)
            )
        if tls is None:
            folder.mkdir(parents=True, exist_ok=True)
            self.endpoint = f"unix:{folder / 'keyd.sock'}"
            self._server.add_insecure_port(self.endpoint)
        else:
            port = self._server.add_secure_port("127.0.0.1:0", tls)
            self.endpoint = f"dns:localhost:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_watchers()
        self._server.stop(0).wait(5)

    def _handler(self, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
        name = re.sub(r"(?<=[A-Za-z])(?=[A-Z])", "_", method.name).lower()
        act = getattr(self, name, None)

        def prepare(request: Message, context: grpc.ServicerContext) -> None:
            self.asked[method.name] += 1
            self.requests[method.name] = request
            self.delay(method.name)
            if self.errors[method.name]:
                context.abort_with_status(to_grpc(self.errors[method.name].pop(0)))

        def unary(request: Message, context: grpc.ServicerContext) -> Any:
            prepare(request, context)
            if act is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no {method.name} here")
            try:
                return act(request)
            except KeydError as e:
                e.request_id = e.request_id or "req-1"
                context.abort_with_status(to_grpc(e))

        def stream(request: Message, context: grpc.ServicerContext) -> Iterator[Any]:
            prepare(request, context)
            assert act is not None
            try:
                yield from act(request)
            except KeydError as e:
                context.abort_with_status(to_grpc(e))

        make = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        made: grpc.RpcMethodHandler[Any, Any] = make(
            stream if method.server_streaming else unary,
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=lambda m: m.SerializeToString(),
        )
        return made

    # ------------------------------------------------------------------------------------- keys

    def add_key(
        self,
        name: str,
        algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256,
        scheme: Scheme | None = None,
        bindings: tuple[str, ...] = (),
    ) -> keys_pb2.Key:
        """A key with one enabled version."""
        made = keys_pb2.Key(
            name=name,
            token="online",
            algorithm=algorithm.value,
            scheme=(scheme or algorithm.schemes[0]).value,
            created_at=_stamp(NOW),
            created_by=WHO,
            active_version=1,
        )
        for binding in bindings:
            repository, _, role = binding.rpartition(":")
            made.bindings.add(repository=repository, role=role)
        self.keys[name] = made
        self.add_version(name)
        return made

    def add_version(self, name: str) -> keys_pb2.KeyVersion:
        """One more version, enabled."""
        key = self.keys[name]
        number = len(key.versions) + 1
        private = generate(KeyAlgorithm(key.algorithm))
        full = f"{name}/versions/{number}"
        self.private[full] = private
        public = der(private)
        return key.versions.add(
            name=full,
            number=number,
            state=keys_pb2.KEY_VERSION_STATE_ENABLED,
            origin="generated",
            token_serial="S1",
            object_id=bytes([number]),
            public_key=public,
            keyids=publickeys.keyids(public, Scheme(key.scheme)),
            created_at=_stamp(NOW),
            created_by=WHO,
        )

    def create_key(self, r: keys_pb2.CreateKeyRequest) -> keys_pb2.Key:
        made = self.add_key(
            r.name, KeyAlgorithm(r.algorithm), Scheme(r.scheme) if r.scheme else None
        )
        made.bindings.extend(r.bindings)
        made.labels.update(r.labels)
        made.rotation_period_s = r.rotation_period_s
        self.record("create", key=r.name)
        return made

    def get_key(self, r: keys_pb2.GetKeyRequest) -> keys_pb2.Key:
        return self._key(r.name)

    def _key(self, name: str) -> keys_pb2.Key:
        if name not in self.keys:
            raise KeyNotFoundError(
                f"no key {name}", hint="list the keys you may see with: keydctl key list", key=name
            )
        self.keys[name].frozen = self.frozen.get(name, "")
        return self.keys[name]

    def list_keys(self, r: keys_pb2.ListKeysRequest) -> keys_pb2.ListKeysResponse:
        names = sorted(n for n in self.keys if not r.name or fnmatch.fnmatch(n, r.name))
        start = int(r.page_token or 0)
        size = r.page_size or 100
        more = str(start + size) if start + size < len(names) else ""
        found = [self._key(n) for n in names[start : start + size]]
        return keys_pb2.ListKeysResponse(keys=found, next_page_token=more)

    def rotate_key(self, r: keys_pb2.RotateKeyRequest) -> keys_pb2.Key:
        version = self.add_version(r.name)
        if r.at_once:
            self.keys[r.name].active_version = version.number
        return self.keys[r.name]

    def activate_key_version(self, r: keys_pb2.ActivateKeyVersionRequest) -> keys_pb2.Key:
        self._key(r.name).active_version = r.version
        return self.keys[r.name]

    def _set_state(self, r: Any, state: keys_pb2.KeyVersionState.ValueType) -> keys_pb2.Key:
        self._key(r.name).versions[r.version - 1].state = state
        return self.keys[r.name]

    def enable_key_version(self, r: keys_pb2.KeyVersionRequest) -> keys_pb2.Key:
        return self._set_state(r, keys_pb2.KEY_VERSION_STATE_ENABLED)

    def disable_key_version(self, r: keys_pb2.KeyVersionRequest) -> keys_pb2.Key:
        return self._set_state(r, keys_pb2.KEY_VERSION_STATE_DISABLED)

    def schedule_destroy(self, r: keys_pb2.ScheduleDestroyRequest) -> keys_pb2.Key:
        key = self._set_state(r, keys_pb2.KEY_VERSION_STATE_DESTROY_SCHEDULED)
        after = NOW + timedelta(seconds=r.wait_s or 7 * 86_400)
        key.versions[r.version - 1].destroy_after.FromDatetime(after)
        return key

    def cancel_destroy(self, r: keys_pb2.KeyVersionRequest) -> keys_pb2.Key:
        key = self._set_state(r, keys_pb2.KEY_VERSION_STATE_DISABLED)
        key.versions[r.version - 1].ClearField("destroy_after")
        return key

    def destroy(self, r: keys_pb2.KeyVersionRequest) -> keys_pb2.Key:
        return self._set_state(r, keys_pb2.KEY_VERSION_STATE_DESTROYED)

    def adopt_key(self, r: keys_pb2.AdoptKeyRequest) -> keys_pb2.AdoptKeyResponse:
        made = self.add_key(r.name or "acme/found")
        made.versions[0].origin = "adopted-unproven"
        return keys_pb2.AdoptKeyResponse(keys=[made], skipped=["other/1: registered already"])

    def update_key(self, r: keys_pb2.UpdateKeyRequest) -> keys_pb2.Key:
        key = self._key(r.name)
        if r.set_bindings:
            del key.bindings[:]
            key.bindings.extend(r.bindings)
        if r.set_labels:
            key.labels.clear()
            key.labels.update(r.labels)
        if r.set_rotation_period:
            key.rotation_period_s = r.rotation_period_s
        return key

    def freeze(self, r: keys_pb2.FreezeRequest) -> keys_pb2.FreezeResponse:
        self.frozen[r.key] = f"{WHO}: {r.reason}"
        return self._freezes()

    def unfreeze(self, r: keys_pb2.FreezeRequest) -> keys_pb2.FreezeResponse:
        self.frozen.pop(r.key, None)
        return self._freezes()

    def _freezes(self) -> keys_pb2.FreezeResponse:
        lines = [f"{key or 'all keys'}, {why}" for key, why in sorted(self.frozen.items())]
        return keys_pb2.FreezeResponse(freezes=lines)

    # ---------------------------------------------------------------------------------- signing

    def sign(self, r: signing_pb2.SignRequest) -> signing_pb2.SignResponse:
        name, _, number = r.key.partition("/versions/")
        key = self._key(name)
        version = key.versions[int(number or key.active_version) - 1]
        for other in key.versions:
            if r.expected_public_key == other.public_key or (
                r.expected_keyid and r.expected_keyid in other.keyids.values()
            ):
                version = other
        scheme = Scheme(r.scheme or key.scheme)
        algorithm = KeyAlgorithm(key.algorithm)
        if algorithm.is_ecdsa and r.encoding == signing_pb2.SIGNATURE_ENCODING_UNSPECIFIED:
            raise InvalidRequestError("encoding", "an ECDSA signature has two encodings")
        as_der = r.encoding == signing_pb2.SIGNATURE_ENCODING_DER
        hash_ = scheme.hash or HashAlgorithm.SHA256
        value = r.digest.value if r.HasField("digest") else Digest.of(hash_, r.message).value
        self.use_consent(r)
        signature = b"" if r.dry_run else self._make(version.name, scheme, r.message, value)
        if signature and algorithm.is_ecdsa and not as_der:
            signature = publickeys.to_raw(signature, algorithm)
        answer = signing_pb2.SignResponse(
            key_version=version.name,
            signature=signature,
            encoding=signing_pb2.SIGNATURE_ENCODING_DER
            if as_der
            else signing_pb2.SIGNATURE_ENCODING_RAW,
            scheme=scheme.value,
            keyid=version.keyids["tuf"],
            digest=signing_pb2.Digest(algorithm=_HASHES[hash_][0], value=value),
            public_key=version.public_key,
            log_index=-1,
            rule="grant everything",
            summary=read(r.message).summary or "opaque",
            unbound=not key.bindings,
            request_id=r.request_id or "req-1",
        )
        if not r.dry_run:
            answer.log_index = self.record(
                "sign",
                key=name,
                version=version.number,
                keyid=version.keyids["tuf"],
                digest=Digest(hash_, value),
                signature_sha256=hashlib.sha256(signature).hexdigest(),
                statement=read(r.message),
                said=r.reason,
            )
            if self.with_checkpoints:
                answer.checkpoint = self.note()
        self.lie(answer)
        return answer

    def _make(self, version: str, scheme: Scheme, message: bytes, digest: bytes) -> bytes:
        private = self.private[version]
        if isinstance(private, ed25519.Ed25519PrivateKey):
            return private.sign(message)
        assert scheme.hash is not None
        hash_ = _HASHES[scheme.hash][1]
        if isinstance(private, ec.EllipticCurvePrivateKey):
            return private.sign(digest, ec.ECDSA(utils.Prehashed(hash_)))
        pad = (
            padding.PSS(padding.MGF1(hash_), scheme.hash.size_bytes)
            if scheme.is_pss
            else padding.PKCS1v15()
        )
        return private.sign(digest, pad, utils.Prehashed(hash_))

    def sign_batch(self, r: signing_pb2.SignBatchRequest) -> signing_pb2.SignBatchResponse:
        results = []
        for item in r.items:
            try:
                if self.errors["item"]:
                    raise self.errors["item"].pop(0)
                response = self.sign(item.request)
                results.append(
                    signing_pb2.SignBatchResult(reference=item.reference, response=response)
                )
            except KeydError as e:
                error = to_item_error(e)
                results.append(signing_pb2.SignBatchResult(reference=item.reference, error=error))
        return signing_pb2.SignBatchResponse(results=results, request_id="batch-1")

    # ----------------------------------------------------------------------------------- tokens

    def _token(self, state: tokens_pb2.TokenState.ValueType) -> tokens_pb2.Token:
        return tokens_pb2.Token(
            name="online",
            state=state,
            serial="S1",
            label="keyd dev",
            model=self.token_model,
            hosts=1,
        )

    def list_tokens(self, r: tokens_pb2.ListTokensRequest) -> tokens_pb2.ListTokensResponse:
        state = tokens_pb2.TokenState.Value(f"TOKEN_STATE_{self.token_state}")
        return tokens_pb2.ListTokensResponse(tokens=[self._token(state)])

    def unlock(self, r: tokens_pb2.UnlockRequest) -> tokens_pb2.Token:
        return self._token(tokens_pb2.TOKEN_STATE_READY)

    def lock(self, r: tokens_pb2.LockRequest) -> tokens_pb2.Token:
        return self._token(tokens_pb2.TOKEN_STATE_LOCKED)

    def list_objects(self, r: tokens_pb2.ListObjectsRequest) -> tokens_pb2.ListObjectsResponse:
        inside = tokens_pb2.TokenObject(
            object_id=b"\x01",
            label="acme/root/1",
            algorithm="ecdsa-p256",
            sensitive=True,
            always_sensitive=True,
            never_extractable=True,
            local=True,
            registered_as="acme/root/versions/1",
        )
        loose = tokens_pb2.TokenObject(object_id=b"\x02", label="old", extractable=True)
        return tokens_pb2.ListObjectsResponse(
            objects=[inside, loose] if r.token == "loose" else [inside]
        )

    # ------------------------------------------------------------------------------------ audit

    def record(self, action: str, **fields: Any) -> int:
        """Append an entry; its index."""
        caller = Caller(Principal(self.principal, "unix"), "req-1")
        index = len(self.bodies)
        draft = EntryDraft(action=action, outcome=Outcome.ALLOWED, caller=caller, **fields)
        self.bodies.append(entry_body(index, NOW + timedelta(seconds=index), draft))
        return index

    def _node(self, bodies: list[bytes]) -> merkle.NodeLookup:
        def node(level: int, position: int) -> bytes:
            if level == 0:
                return merkle.leaf_hash(bodies[position])
            left = node(level - 1, 2 * position)
            return merkle.node_hash(left, node(level - 1, 2 * position + 1))

        return node

    def root(self, size: int) -> bytes:
        """The Merkle root of the first entries."""
        return merkle.range_hash(0, size, self._node(self.bodies))

    @property
    def verifier_key(self) -> VerifierKey:
        """Checks the log's checkpoints."""
        return VerifierKey.from_public_key(ORIGIN, der(self.log_key))

    def note(self, size: int | None = None) -> str:
        """A signed checkpoint."""
        size = len(self.bodies) if size is None else size
        text = checkpoint_text(ORIGIN, size, self.root(size))
        key = self.verifier_key
        signature = NoteSignature(ORIGIN, key.key_id, self.log_key.sign(text.encode()))
        return write_note(text, [signature])

    def _checkpoint(self) -> audit_pb2.Checkpoint:
        size = len(self.bodies)
        return audit_pb2.Checkpoint(
            note=self.note(),
            size=size,
            root_hash=self.root(size),
            verifier_keys=f"{self.verifier_key}\n",
        )

    def get_checkpoint(self, r: audit_pb2.GetCheckpointRequest) -> audit_pb2.Checkpoint:
        return self._checkpoint()

    def list_entries(self, r: audit_pb2.ListEntriesRequest) -> audit_pb2.ListEntriesResponse:
        entries = [parse_entry(body) for body in self.bodies]
        wanted = {
            "key": r.key,
            "principal": r.principal,
            "action": r.action,
            "outcome": r.decision,
            "signature_sha256": r.signature_sha256,
            "keyid": r.keyid,
        }
        found = [
            audit_pb2.Entry(index=e.index, body=e.body)
            for e in entries
            if e.index >= r.start_index
            and all(e.fields.get(name) == value for name, value in wanted.items() if value)
        ]
        if r.descending:
            found.reverse()
        start, size = int(r.page_token or 0), r.page_size or 100
        for e in found:
            self.lie_about_entries(e)
        more = str(start + size) if start + size < len(found) else ""
        return audit_pb2.ListEntriesResponse(
            entries=found[start : start + size], next_page_token=more
        )

    def tail_entries(self, r: audit_pb2.TailEntriesRequest) -> Iterator[audit_pb2.Entry]:
        for index in range(max(r.start_index, 0), len(self.bodies)):
            yield audit_pb2.Entry(index=index, body=self.bodies[index])

    def prove_inclusion(self, r: audit_pb2.ProveInclusionRequest) -> audit_pb2.InclusionProof:
        size = len(self.bodies)
        if r.index >= size:
            raise InvalidRequestError("index", f"the log has {size} entries")
        entry = audit_pb2.Entry(index=r.index, body=self.bodies[r.index])
        self.lie_about_entries(entry)
        hashes_ = merkle.inclusion_proof(r.index, size, self._node(self.bodies))
        return audit_pb2.InclusionProof(
            entry=entry, tree_size=size, hashes=hashes_, checkpoint=self._checkpoint()
        )

    def prove_consistency(self, r: audit_pb2.ProveConsistencyRequest) -> audit_pb2.ConsistencyProof:
        new = r.new_size or len(self.bodies)
        return audit_pb2.ConsistencyProof(
            old_size=r.old_size,
            new_size=new,
            hashes=merkle.consistency_proof(r.old_size, new, self._node(self.bodies)),
            old_root_hash=self.root(r.old_size),
            new_root_hash=self.root(new),
            checkpoint=self._checkpoint(),
        )

    def show_checkpoint(self, r: audit_pb2.ShowCheckpointRequest) -> Message:
        return audit_pb2.ShowCheckpointResponse(verdict=self.verdict)

    def who_am_i(self, r: audit_pb2.WhoAmIRequest) -> audit_pb2.WhoAmIResponse:
        return audit_pb2.WhoAmIResponse(
            principal=self.principal,
            method="unix",
            grants=["everything: sign on keys *"],
            server_version="0.1.0",
        )

    def get_status(self, r: audit_pb2.GetStatusRequest) -> audit_pb2.Status:
        problems = [] if self.health == "SERVING" else ["token online is LOCKED"]
        return audit_pb2.Status(
            server_version="0.1.0",
            started_at=_stamp(NOW),
            health=self.health,
            problems=problems,
            keys=len(self.keys),
            log_size=len(self.bodies),
        )


@contextmanager
def a_daemon_with_keys(folder: Path) -> Iterator[ScriptedDaemon]:
    """One with acme/root, bound to acme:root, and acme/ed, bound to nothing."""
    with ScriptedDaemon(folder) as daemon:
        daemon.add_key("acme/root", bindings=("acme:root",))
        daemon.add_key("acme/ed", KeyAlgorithm.ED25519)
        yield daemon
