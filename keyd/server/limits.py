"""How much the daemon takes on at once.

grpc has no queue of its own (beyond ``max_concurrent_streams`` it answers RST_STREAM without
details), so calls are counted here and the excess gets an error that says when to come back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from keyd.errors import RateLimitedError

MIB = 1024 * 1024
TRANSPORT_HEADROOM_BYTES = MIB
"""How much larger grpc's own message limit should be than ``max_request_bytes``: what lies between
gets an error in words, what lies above grpc's bare RESOURCE_EXHAUSTED."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on calls.

    ``max_calls``: calls in progress, all callers together; ``max_calls_per_principal``: of one.
    ``max_streams`` and ``max_streams_per_principal``: open TailEntries. ``max_request_bytes``: one
    request as it comes over the wire; ``max_bytes_in_flight``: all requests in progress together,
    half of it those of one principal.
    ``max_message_bytes``: one message to sign. ``max_page_bytes``: a page of an answer ends before
    it grows beyond this (clients take 4 MiB by default). ``retry_after_s``: what refused callers
    are told to wait.
    """

    max_calls: int = 512
    max_calls_per_principal: int = 256
    max_streams: int = 64
    max_streams_per_principal: int = 8
    max_request_bytes: int = 32 * MIB
    max_bytes_in_flight: int = 256 * MIB
    max_message_bytes: int = 8 * MIB
    max_batch_items: int = 10_000
    max_page_bytes: int = 3 * MIB
    retry_after_s: float = 0.5

    @property
    def transport_options(self) -> list[tuple[str, int]]:
        """The grpc server options that fit these limits."""
        return [
            ("grpc.max_receive_message_length", self.max_request_bytes + TRANSPORT_HEADROOM_BYTES),
            # A batch answer carries up to about 1.5 KB an item (RSA-4096); bounded by its items.
            ("grpc.max_send_message_length", -1),
        ]


class Slots:
    """Counts what is in progress, in total and for each principal; owned by the event loop."""

    def __init__(
        self,
        *,
        total: int,
        per_principal: int,
        total_bytes: int,
        retry_after_s: float,
        what: str = "calls",
    ) -> None:
        """``what`` names the counted thing in errors."""
        self._total = total
        self._per_principal = per_principal
        self._total_bytes = total_bytes
        self._retry_after_s = retry_after_s
        self._what = what
        self._held: Counter[str] = Counter()
        self._held_bytes: Counter[str] = Counter()
        self._bytes = 0

    @property
    def held(self) -> int:
        """How many are in progress."""
        return self._held.total()

    def take(self, principal: str, size_bytes: int) -> Callable[[], None]:
        """Take one slot; the caller calls what is returned, once, to give it back.

        Raises:
            RateLimitedError: nothing was taken; says when to come back.
        """
        if self._held[principal] >= self._per_principal:
            raise self._refusal(
                f"{principal} has {self._per_principal} {self._what} in progress", "per-principal"
            )
        if self.held >= self._total:
            raise self._refusal(f"{self._total} {self._what} are in progress", "total")
        if self._bytes and self._bytes + size_bytes > self._total_bytes:
            raise self._refusal(f"{self._bytes} bytes of requests are in progress", "bytes")
        own = self._held_bytes[principal]
        if own and own + size_bytes > self._total_bytes // 2:
            raise self._refusal(f"{principal} has {own} bytes of requests in progress", "bytes")
        self._held[principal] += 1
        self._held_bytes[principal] += size_bytes
        self._bytes += size_bytes

        def give_back() -> None:
            self._held[principal] -= 1
            self._held_bytes[principal] -= size_bytes
            if not self._held[principal]:
                del self._held[principal], self._held_bytes[principal]
            self._bytes -= size_bytes

        return give_back

    def _refusal(self, why: str, limit: str) -> RateLimitedError:
        return RateLimitedError(
            f"too much at once: {why}",
            hint=f"try again in {self._retry_after_s} s, or send many items in one SignBatch",
            retry_after_s=self._retry_after_s,
            limit=limit,
        )
