"""What the daemon does for itself, again and again: health, metrics, watchdog, unfinished work,
what comes due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from keyd import sdnotify
from keyd.audit.refusals import Refusals
from keyd.server.metrics import Metrics

log = logging.getLogger("keyd")

_INTERVAL_S = 0.25
_CATCH_UP_S = 5.0


class Tending:
    """Goes on until it is cancelled, which is after the drain: systemd watches that long."""

    def __init__(
        self,
        *,
        set_health: Callable[[], None],
        catch_up: Callable[[], None],
        look_ahead: Callable[[], None],
        refusals: Refusals,
        metrics: Metrics,
        interval_s: float = _INTERVAL_S,
    ) -> None:
        """``set_health``: make the health service true. ``catch_up``: take up unfinished work
        again where that can come to something. ``look_ahead``: see to what comes due. None of
        them blocks."""
        self._set_health = set_health
        self._catch_up = catch_up
        self._look_ahead = look_ahead
        self._refusals = refusals
        self._metrics = metrics
        self._interval_s = interval_s
        self._collapsed = self._dropped = 0
        self._failed = ""

    async def run(self) -> None:
        """One round after another; what fails in one is told and tried again in the next."""
        watchdog_s = sdnotify.watchdog_interval_s()
        loop = asyncio.get_running_loop()
        told = caught_up = loop.time()
        while True:
            await asyncio.sleep(min(self._interval_s, watchdog_s or self._interval_s))
            now = loop.time()
            if watchdog_s is not None and now - told >= watchdog_s / 2:
                told = now
                sdnotify.notify(sdnotify.WATCHDOG)
            try:
                self._set_health()
                self._count_refusals()
                if now - caught_up >= _CATCH_UP_S:
                    caught_up = now
                    self._catch_up()
                    self._look_ahead()
                self._failed = ""
            except Exception as e:
                # Told once: four tracebacks a second would hide everything else.
                if self._failed != repr(e):
                    self._failed = repr(e)
                    log.exception("the daemon cannot look after itself")

    def _count_refusals(self) -> None:
        collapsed, dropped = self._refusals.collapsed, self._refusals.dropped
        self._metrics.refusals_collapsed(collapsed - self._collapsed)
        self._metrics.refusals_dropped(dropped - self._dropped)
        self._collapsed, self._dropped = collapsed, dropped
