"""keyd.v1.SigningService: messages <-> nouns."""

from __future__ import annotations

from collections.abc import Sequence

from keyd.errors import InvalidRequestError, KeydError
from keyd.model import (
    Context,
    Digest,
    Encoding,
    HashAlgorithm,
    Scheme,
    Signed,
    SignRequest,
    Statement,
)
from keyd.server.limits import Limits
from keyd.server.status import to_item_error
from keyd.server.wire.fields import (
    MAX_PATTERN_CHARS,
    check_hex,
    check_reason,
    check_size,
    check_text,
    choose,
    parse_key,
)
from keyd.v1 import signing_pb2 as pb

MAX_REFERENCE_BYTES = 256
MAX_PUBLIC_KEY_BYTES = 4096
"""A DER SubjectPublicKeyInfo; RSA-4096 has 550."""

_NO_CONTEXT = Context()

_HASHES = {
    pb.HASH_ALGORITHM_SHA256: HashAlgorithm.SHA256,
    pb.HASH_ALGORITHM_SHA384: HashAlgorithm.SHA384,
    pb.HASH_ALGORITHM_SHA512: HashAlgorithm.SHA512,
}
_HASHES_OUT = {ours: theirs for theirs, ours in _HASHES.items()}
_ENCODINGS = {
    pb.SIGNATURE_ENCODING_UNSPECIFIED: None,
    pb.SIGNATURE_ENCODING_DER: Encoding.DER,
    pb.SIGNATURE_ENCODING_RAW: Encoding.RAW,
}
_ENCODINGS_OUT = {
    Encoding.DER: pb.SIGNATURE_ENCODING_DER,
    Encoding.RAW: pb.SIGNATURE_ENCODING_RAW,
}


def sign_request(message: pb.SignRequest, limits: Limits) -> SignRequest:
    """Check and read one request.

    Raises:
        InvalidRequestError: naming the field.
    """
    key, version = parse_key("key", message.key)
    given = message.WhichOneof("input")
    if given is None:
        raise InvalidRequestError("message", "give either a message or a digest")
    if message.encoding not in _ENCODINGS:
        raise InvalidRequestError("encoding", f"{message.encoding} is no SignatureEncoding")
    reason = message.reason
    return SignRequest(
        key=key,
        version=version,
        message=_message(message.message, limits) if given == "message" else None,
        digest=_digest(message.digest) if given == "digest" else None,
        expected_public_key=check_size(
            "expected_public_key", message.expected_public_key, MAX_PUBLIC_KEY_BYTES
        ),
        expected_keyid=check_hex("expected_keyid", message.expected_keyid),
        scheme=choose("scheme", message.scheme, Scheme) if message.scheme else None,
        encoding=_ENCODINGS[message.encoding],
        context=_context(message.context) if message.HasField("context") else _NO_CONTEXT,
        reason=check_reason(reason) if reason else "",
        dry_run=message.dry_run,
    )


def check_batch(message: pb.SignBatchRequest, limits: Limits) -> None:
    """What fails the batch as a whole.

    Raises:
        InvalidRequestError: no items, or too many.
    """
    if not message.items:
        raise InvalidRequestError("items", "is empty")
    if len(message.items) > limits.max_batch_items:
        raise InvalidRequestError(
            "items", f"{len(message.items)}, at most {limits.max_batch_items} are taken"
        )


def batch_item(item: pb.SignBatchItem, limits: Limits) -> SignRequest | KeydError:
    """One item's request, or what is wrong with it: its own error, not its neighbours'."""
    try:
        if len(item.reference.encode()) > MAX_REFERENCE_BYTES:
            raise InvalidRequestError("reference", f"at most {MAX_REFERENCE_BYTES} bytes are taken")
        if not item.HasField("request"):
            raise InvalidRequestError("request", "is missing")
        return sign_request(item.request, limits)
    except KeydError as e:
        return e


def sign_response(signed: Signed) -> pb.SignResponse:
    """The answer, without request id and checkpoint."""
    version = signed.version
    return pb.SignResponse(
        key_version=version.name,
        signature=signed.signature,
        encoding=_ENCODINGS_OUT[signed.encoding],
        scheme=signed.scheme,
        keyid=version.keyids.get("tuf", ""),
        digest=pb.Digest(algorithm=_HASHES_OUT[signed.digest.algorithm], value=signed.digest.value),
        public_key=version.public_key,
        log_index=signed.log_index,
        replayed=signed.replayed,
        rule=signed.rule,
        summary=summary(signed.statement),
        unbound=signed.unbound,
        reissued=signed.reissued,
        checks=signed.checks,
        needs=signed.needs,
    )


def add_results(
    message: pb.SignBatchResponse,
    items: Sequence[pb.SignBatchItem],
    outcomes: Sequence[Signed | KeydError],
) -> None:
    """Append the results in the order asked, each under its item's reference."""
    last: tuple[Signed, pb.SignResponse] | None = None
    for item, outcome in zip(items, outcomes, strict=True):
        # An over-long reference was refused; enough of it goes back to be recognised.
        result = message.results.add(reference=item.reference[:MAX_REFERENCE_BYTES])
        if isinstance(outcome, KeydError):
            result.error.CopyFrom(to_item_error(outcome))
            continue
        # Neighbours mostly differ in these three; copying the rest is a quarter of the work.
        if last is None or not _like(outcome, last[0]):
            last = outcome, sign_response(outcome)
        response = result.response
        response.CopyFrom(last[1])
        response.signature = outcome.signature
        response.digest.value = outcome.digest.value
        response.log_index = outcome.log_index


def _like(one: Signed, other: Signed) -> bool:
    """True when two answers differ in signature, digest value and index at most."""
    return (
        one.version is other.version
        and one.scheme is other.scheme
        and one.encoding is other.encoding
        and one.digest.algorithm is other.digest.algorithm
        and (one.statement is other.statement or one.statement == other.statement)
        and one.rule == other.rule
        and one.replayed == other.replayed
        and one.unbound == other.unbound
        and one.reissued == other.reissued
        and one.checks == other.checks
        and one.needs == other.needs
    )


def summary(statement: Statement) -> str:
    """What a payload says, in a few words."""
    if statement.summary:
        return statement.summary
    if statement.kind == "opaque":
        return "opaque"
    expires = f", expires {statement.expires}" if statement.expires else ""
    return f"{statement.kind} {statement.version}{expires}"


def _context(message: pb.SigningContext) -> Context:
    return Context(
        check_text("context.repository", message.repository, MAX_PATTERN_CHARS),
        check_text("context.role", message.role, MAX_PATTERN_CHARS),
    )


def _message(value: bytes, limits: Limits) -> bytes:
    if not value:
        raise InvalidRequestError("message", "is empty")
    if len(value) > limits.max_message_bytes:
        raise InvalidRequestError(
            "message",
            f"{len(value)} bytes, at most {limits.max_message_bytes} are taken",
            hint="a key without bindings signs its digest as well",
        )
    return value


def _digest(message: pb.Digest) -> Digest:
    algorithm = _HASHES.get(message.algorithm)
    if algorithm is None:
        raise InvalidRequestError("digest.algorithm", "say SHA256, SHA384 or SHA512")
    return Digest(algorithm, message.value)
