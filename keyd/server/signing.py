"""SigningService."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from keyd.errors import KeydError
from keyd.model import Caller, Signed, SignRequest
from keyd.server import status
from keyd.server.limits import Limits
from keyd.server.metrics import Metrics
from keyd.server.wire import signing as wire
from keyd.v1 import signing_pb2 as pb

log = logging.getLogger(__name__)

_ITEMS_AT_ONCE = 250
"""Items of a batch that are read or written between two looks at other callers: about 5 ms."""


class SigningCore(Protocol):
    """keyd.signing.Signing, as this servicer calls it."""

    async def sign(self, caller: Caller, request: SignRequest) -> Signed:
        """Sign one."""

    async def sign_batch(
        self, caller: Caller, requests: Sequence[SignRequest | KeydError]
    ) -> list[Signed | KeydError]:
        """Sign many; an item that is an error stays it."""


class CheckpointNews:
    """Which callers have not seen the newest checkpoint."""

    def __init__(self, newest: Callable[[], str], *, remembered: int = 4096) -> None:
        """``newest``: the newest checkpoint's note, or empty; never blocks. ``remembered``:
        principals to keep in mind; one that was forgotten is told again."""
        self._newest = newest
        self._remembered = remembered
        self._told: OrderedDict[str, str] = OrderedDict()

    def for_caller(self, caller: Caller) -> str:
        """The newest checkpoint when it is news to this principal, else empty."""
        note = self._newest()
        principal = caller.principal.id
        if not note or self._told.get(principal) == note:
            return ""
        self._told[principal] = note
        self._told.move_to_end(principal)
        while len(self._told) > self._remembered:
            self._told.popitem(last=False)
        return note


class SigningServicer:
    """Reads the request, has it signed, writes the answer."""

    def __init__(
        self, signing: SigningCore, news: CheckpointNews, limits: Limits, metrics: Metrics
    ) -> None:
        self._signing = signing
        self._news = news
        self._limits = limits
        self._metrics = metrics

    async def sign(self, caller: Caller, message: pb.SignRequest) -> pb.SignResponse:
        """One signature."""
        request = wire.sign_request(message, self._limits)
        try:
            signed = await self._signing.sign(caller, request)
        except KeydError as e:
            self._metrics.signature(*_kind(e))
            raise
        self._metrics.signature(*_kind(signed))
        response = wire.sign_response(signed)
        response.request_id = caller.request_id
        response.checkpoint = self._news.for_caller(caller)
        return response

    async def sign_batch(
        self, caller: Caller, message: pb.SignBatchRequest
    ) -> pb.SignBatchResponse:
        """Many signatures; the event loop is given up between chunks of reading and writing."""
        wire.check_batch(message, self._limits)
        items = message.items
        requests: list[SignRequest | KeydError] = []
        for start in range(0, len(items), _ITEMS_AT_ONCE):
            chunk = items[start : start + _ITEMS_AT_ONCE]
            requests.extend(wire.batch_item(item, self._limits) for item in chunk)
            await asyncio.sleep(0)
        outcomes = await self._signing.sign_batch(caller, requests)
        response = pb.SignBatchResponse(request_id=caller.request_id)
        for start in range(0, len(items), _ITEMS_AT_ONCE):
            part = slice(start, start + _ITEMS_AT_ONCE)
            for (scheme, what), count in Counter(map(_kind, outcomes[part])).items():
                self._metrics.signature(scheme, what, count)
            for outcome in outcomes[part]:
                self._log_fault(caller, outcome)
            wire.add_results(response, items[part], outcomes[part])
            await asyncio.sleep(0)
        response.checkpoint = self._news.for_caller(caller)
        return response

    def _log_fault(self, caller: Caller, outcome: Signed | KeydError) -> None:
        if isinstance(outcome, KeydError) and not status.is_sendable(outcome):
            outcome.request_id = caller.request_id
            log.error("item failed", exc_info=outcome, extra={"request_id": caller.request_id})


def _kind(outcome: Signed | KeydError) -> tuple[str, str]:
    """How the metrics name it: scheme and outcome."""
    if isinstance(outcome, KeydError):
        return "", outcome.reason
    if outcome.log_index < 0:
        return outcome.scheme, "dry-run"
    return outcome.scheme, "replayed" if outcome.replayed else "signed"
