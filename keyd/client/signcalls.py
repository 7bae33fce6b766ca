"""Signing: single calls, and batches cut into messages the daemon takes.

``sign`` and the chunks of a :class:`Batch` check each answer before anybody sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keyd.client import wire
from keyd.client.call import Call, call
from keyd.client.check import check_signature
from keyd.client.failures import from_item
from keyd.client.retry import Retries
from keyd.client.types import Signature
from keyd.errors import KeydError
from keyd.model import Context, Digest, Encoding, Scheme, SignRequest
from keyd.v1 import signing_pb2

MAX_ITEMS = 1_000
"""Items in one SignBatch message. The daemon takes ten times as many; but while it signs the next
message, this side checks the last."""

IN_FLIGHT = 4
"""Messages of one batch that are on their way at once."""

MAX_CHUNK_BYTES = 8 * 1024 * 1024
"""Size of one SignBatch message; one item that is larger travels alone."""

NO_CONTEXT = Context()

Outcome = Signature | KeydError


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some items of a batch, by position, and the call that carries them."""

    numbers: Sequence[int]
    call: Call[tuple[list[Outcome], str]]


def sign_one(request: SignRequest, *, request_id: str = "") -> Call[Signature]:
    """Sign one message or digest; the answer's digest, key and signature are checked.

    Raises:
        BadSignatureError: the daemon answered with something else than was asked for.
    """
    return call(
        "SigningService/Sign",
        wire.sign_request(request, request_id),
        signing_pb2.SignResponse,
        lambda m: check_signature(request, wire.signature(m)),
        repeatable=True,
        note_of=lambda s: s.checkpoint,
        by_hand=True,
    )


def sign(
    key: str,
    message: bytes | None = None,
    *,
    digest: Digest | None = None,
    expected_public_key: bytes = b"",
    expected_keyid: str = "",
    encoding: Encoding | None = None,
    scheme: Scheme | None = None,
    context: Context = NO_CONTEXT,
    reason: str = "",
    dry_run: bool = False,
    request_id: str = "",
) -> Call[Signature]:
    """Sign a message or a digest with a key (its active version) or KEY/versions/N.

    ``expected_public_key`` (DER SubjectPublicKeyInfo) or ``expected_keyid``: the version that
    holds it signs and no other. ECDSA needs an ``encoding``. The answer's digest, key and
    signature are checked before this returns.

    Raises:
        BadSignatureError: the daemon answered with something else than was asked for.
    """
    request = SignRequest(
        key=key,
        message=message,
        digest=digest,
        expected_public_key=expected_public_key,
        expected_keyid=expected_keyid,
        encoding=encoding,
        scheme=scheme,
        context=context,
        reason=reason,
        dry_run=dry_run,
    )
    return sign_one(request, request_id=request_id)


class Batch:
    """Many signatures on their way: who is still to be asked, and what came back.

    The clients carry out :meth:`chunks`, hand each result to :meth:`take`, and go round again
    while :meth:`pending` items can be asked once more.
    """

    def __init__(self, requests: Sequence[SignRequest], retries: Retries, request_id: str) -> None:
        self._items = [
            signing_pb2.SignBatchItem(reference=str(n), request=wire.sign_request(r))
            for n, r in enumerate(requests)
        ]
        self._requests = requests
        self._retries = retries
        self._request_id = request_id
        self._outcomes: list[Outcome | None] = [None] * len(requests)
        self._rounds = 0
        self._answered = False

    def chunks(self) -> list[Chunk]:
        """What to send now."""
        chunks: list[list[int]] = []
        size_bytes = 0
        for n in self.pending():
            item_bytes = self._items[n].ByteSize() + 8
            if (
                not chunks
                or len(chunks[-1]) >= MAX_ITEMS
                or size_bytes + item_bytes > MAX_CHUNK_BYTES
            ):
                chunks.append([])
                size_bytes = 0
            chunks[-1].append(n)
            size_bytes += item_bytes
        self._rounds += 1
        return [Chunk(numbers, self._call(numbers)) for numbers in chunks]

    def take(self, numbers: Sequence[int], outcomes: Sequence[Outcome] | KeydError) -> None:
        """Keep a chunk's results; a chunk that failed as a whole failed for each of its items."""
        if isinstance(outcomes, KeydError):
            outcomes = [outcomes] * len(numbers)
        else:
            self._answered = True
        for n, outcome in zip(numbers, outcomes, strict=True):
            self._outcomes[n] = outcome

    def pending(self) -> list[int]:
        """Items without an answer, and those whose error says that asking again may help."""
        return [
            n
            for n, outcome in enumerate(self._outcomes)
            if outcome is None
            or (isinstance(outcome, KeydError) and outcome.retry_after_s is not None)
        ]

    def wait_s(self, left_s: float) -> float | None:
        """How long to wait before the next round; None when this was the last."""
        errors = [self._outcomes[n] for n in self.pending()]
        waits = [
            self._retries.wait_s(e, self._rounds - 1, left_s, repeatable=True)
            for e in errors
            if isinstance(e, KeydError)
        ]
        known = [w for w in waits if w is not None]
        return max(known) if known else None

    def outcomes(self) -> list[Outcome]:
        """One result or error for each request, in order.

        Raises:
            KeydError: not a single item was answered: the error of the first.
        """
        done = [o for o in self._outcomes if o is not None]
        assert len(done) == len(self._items), "every chunk was taken"
        if done and not self._answered:
            assert isinstance(done[0], KeydError)
            raise done[0]
        return done

    def _call(self, numbers: Sequence[int]) -> Call[tuple[list[Outcome], str]]:
        request = signing_pb2.SignBatchRequest(
            items=[self._items[n] for n in numbers], request_id=self._request_id
        )

        def read(message: signing_pb2.SignBatchResponse) -> tuple[list[Outcome], str]:
            if [r.reference for r in message.results] != [str(n) for n in numbers]:
                raise wire.unreadable("batch", "its results are not those of the items asked for")
            outcomes = [
                self._outcome(self._requests[n], result, message.request_id)
                for n, result in zip(numbers, message.results, strict=True)
            ]
            return outcomes, message.checkpoint

        return call(
            "SigningService/SignBatch",
            request,
            signing_pb2.SignBatchResponse,
            read,
            repeatable=True,
            heavy=True,
            note_of=lambda answer: answer[1],
            by_hand=True,
        )

    @staticmethod
    def _outcome(
        request: SignRequest, result: signing_pb2.SignBatchResult, request_id: str
    ) -> Outcome:
        if result.WhichOneof("outcome") == "error":
            return from_item(result.error, request_id)
        try:
            return check_signature(request, wire.signature(result.response))
        except (KeydError, ValueError) as e:
            return e if isinstance(e, KeydError) else wire.unreadable("signature", e)
