"""Protobuf answers -> the client's types, and the client's requests -> protobuf."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from keyd.audit.checkpoint import parse_checkpoint
from keyd.client import types
from keyd.errors import KeydError
from keyd.model import (
    Attestation,
    Binding,
    Digest,
    Encoding,
    Entry,
    HashAlgorithm,
    KeyAlgorithm,
    KeyVersion,
    Origin,
    PinPolicy,
    Purpose,
    Scheme,
    SignRequest,
    TokenState,
    TokenStatus,
    TouchPolicy,
    TouchRequest,
    VersionState,
    Waiting,
)
from keyd.v1 import audit_pb2, keys_pb2, signing_pb2, tokens_pb2

V = TypeVar("V", bound=int)

_HASHES: dict[HashAlgorithm, signing_pb2.HashAlgorithm.ValueType] = {
    HashAlgorithm.SHA256: signing_pb2.HASH_ALGORITHM_SHA256,
    HashAlgorithm.SHA384: signing_pb2.HASH_ALGORITHM_SHA384,
    HashAlgorithm.SHA512: signing_pb2.HASH_ALGORITHM_SHA512,
}
_HASHES_BACK = {number: algorithm for algorithm, number in _HASHES.items()}
_ENCODINGS: dict[Encoding | None, signing_pb2.SignatureEncoding.ValueType] = {
    None: signing_pb2.SIGNATURE_ENCODING_UNSPECIFIED,
    Encoding.DER: signing_pb2.SIGNATURE_ENCODING_DER,
    Encoding.RAW: signing_pb2.SIGNATURE_ENCODING_RAW,
}


def sign_request(request: SignRequest, request_id: str = "") -> signing_pb2.SignRequest:
    """One request as the daemon wants it; the version goes into the key's resource name."""
    message = signing_pb2.SignRequest(
        key=f"{request.key}/versions/{request.version}" if request.version else request.key,
        expected_public_key=request.expected_public_key,
        expected_keyid=request.expected_keyid,
        context=signing_pb2.SigningContext(
            repository=request.context.repository, role=request.context.role
        ),
        encoding=_ENCODINGS[request.encoding],
        scheme=request.scheme.value if request.scheme else "",
        reason=request.reason,
        dry_run=request.dry_run,
        request_id=request_id,
    )
    if request.digest is not None:
        message.digest.algorithm = _HASHES[request.digest.algorithm]
        message.digest.value = request.digest.value
    else:
        assert request.message is not None
        message.message = request.message
    return message


def signature(answer: signing_pb2.SignResponse) -> types.Signature:
    """An answer as it came, not checked yet (see :mod:`keyd.client.check`)."""
    encoding = (
        Encoding.DER if answer.encoding == signing_pb2.SIGNATURE_ENCODING_DER else Encoding.RAW
    )
    if answer.digest.algorithm not in _HASHES_BACK:
        raise unreadable("digest algorithm", answer.digest.algorithm)
    return types.Signature(
        key_version=answer.key_version,
        signature=answer.signature,
        encoding=encoding,
        scheme=Scheme(answer.scheme),
        keyid=answer.keyid,
        digest=Digest(_HASHES_BACK[answer.digest.algorithm], answer.digest.value),
        public_key=answer.public_key,
        log_index=answer.log_index,
        replayed=answer.replayed,
        rule=answer.rule,
        summary=answer.summary,
        request_id=answer.request_id,
        unbound=answer.unbound,
        checkpoint=answer.checkpoint,
        reissued=answer.reissued,
        checks=tuple(answer.checks),
        needs=tuple(answer.needs),
    )


def bindings(given: Iterable[Binding]) -> list[keys_pb2.Binding]:
    """Bindings in a stable order."""
    return [keys_pb2.Binding(repository=b.repository, role=b.role) for b in sorted(given)]


def key(message: keys_pb2.Key) -> types.Key:
    """A key with its versions."""
    return types.Key(
        name=message.name,
        token=message.token,
        algorithm=KeyAlgorithm(message.algorithm),
        scheme=Scheme(message.scheme),
        created_at=time(message.created_at),
        created_by=message.created_by,
        bindings=frozenset(Binding(b.repository, b.role) for b in message.bindings),
        labels=dict(message.labels),
        rotation_period_s=message.rotation_period_s,
        active_version=message.active_version,
        versions=tuple(_version(message.name, v) for v in message.versions),
        frozen=message.frozen,
    )


def _version(name: str, message: keys_pb2.KeyVersion) -> KeyVersion:
    return KeyVersion(
        key=name,
        number=message.number,
        state=VersionState(
            enum_name(keys_pb2.KeyVersionState.Name, message.state, "KEY_VERSION_STATE_")
        ),
        origin=Origin(message.origin),
        token_serial=message.token_serial,
        object_id=message.object_id,
        public_key=message.public_key,
        keyids=dict(message.keyids),
        created_at=time(message.created_at),
        created_by=message.created_by,
        destroy_after=time(message.destroy_after) if message.HasField("destroy_after") else None,
        attestation=attestation(message.attestation) if message.HasField("attestation") else None,
    )


def attestation(message: keys_pb2.Attestation) -> Attestation:
    """What a device has proven, as the daemon verified it."""
    return Attestation(
        slot=message.slot,
        serial=message.serial,
        firmware=message.firmware,
        form_factor=message.form_factor,
        pin=PinPolicy(message.pin_policy),
        touch=TouchPolicy(message.touch_policy),
        chain=tuple(message.chain),
    )


def token(message: tokens_pb2.Token) -> TokenStatus:
    """A token as it stands."""
    return TokenStatus(
        name=message.name,
        state=TokenState(enum_name(tokens_pb2.TokenState.Name, message.state, "TOKEN_STATE_")),
        serial=message.serial,
        label=message.label,
        model=message.model,
        manufacturer=message.manufacturer,
        firmware=message.firmware,
        pin_state=message.pin_state,
        detail=message.detail,
        hosts=message.hosts,
        queued=message.queued,
        touch=_touch(message) if message.HasField("touch") else None,
        waiting=tuple(
            Waiting(Purpose(call.key, call.what, call.asked_by), call.signatures)
            for call in message.waiting
        ),
        before=message.before_you,
    )


def _touch(message: tokens_pb2.Token) -> TouchRequest:
    touch = message.touch
    purpose = Purpose(touch.key, touch.what, touch.asked_by)
    return TouchRequest(message.serial, purpose, touch.left_s, touch.window_s)


def token_object(message: tokens_pb2.TokenObject) -> types.TokenObject:
    """A key pair on a token; an algorithm keyd does not use is None."""
    known = message.algorithm in {a.value for a in KeyAlgorithm}
    return types.TokenObject(
        object_id=message.object_id,
        label=message.label,
        algorithm=KeyAlgorithm(message.algorithm) if known else None,
        public_key=message.public_key,
        sensitive=message.sensitive,
        extractable=message.extractable,
        always_sensitive=message.always_sensitive,
        never_extractable=message.never_extractable,
        local=message.local,
        registered_as=message.registered_as,
    )


def entry(message: audit_pb2.Entry) -> Entry:
    """An entry with its canonical bytes and the same parsed."""
    fields = json.loads(message.body)
    if not isinstance(fields, dict):
        raise unreadable("audit entry", message.index)
    return Entry(index=message.index, body=message.body, fields=fields)


def checkpoint(message: audit_pb2.Checkpoint) -> types.Checkpoint:
    """A checkpoint whose size and root are those of its own note."""
    said = parse_checkpoint(message.note)
    if (said.size, said.root_hash) != (message.size, message.root_hash):
        raise unreadable("checkpoint", "its note says another tree than its fields")
    return types.Checkpoint(
        origin=said.origin,
        size=said.size,
        root_hash=said.root_hash,
        note=message.note,
        verifier_keys=tuple(message.verifier_keys.split()),
    )


def timestamp(value: datetime | None) -> Timestamp | None:
    """An aware time for the wire; None stays unset."""
    if value is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp


def state(wanted: VersionState | None) -> keys_pb2.KeyVersionState.ValueType:
    """A version state for a filter."""
    if wanted is None:
        return keys_pb2.KEY_VERSION_STATE_UNSPECIFIED
    return keys_pb2.KeyVersionState.Value(f"KEY_VERSION_STATE_{wanted.value}")


def unreadable(what: str, value: object) -> KeydError:
    """The daemon said something this client does not understand."""
    return KeydError(
        f"cannot read the daemon's answer: {what} {value}",
        hint="the daemon may be newer than this client: compare keydctl status and "
        "keydctl --version",
    )


def enum_name(name_of: Callable[[V], str], value: V, prefix: str) -> str:
    """The name of an enum's value, without the prefix that all its names have."""
    try:
        return name_of(value).removeprefix(prefix)
    except ValueError as e:
        raise unreadable(prefix.removesuffix("_").lower().replace("_", " "), value) from e


def time(stamp: Timestamp) -> datetime:
    """A wire time, aware, in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)
