"""Touches: which signatures want one, whether one is waited for now, how long one counts.

Daemon side, of one token. Pure bookkeeping on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from keyd.device.settings import TOUCH_WINDOW_S
from keyd.device.v1 import device_pb2 as pb
from keyd.model import Purpose, SignJob, TouchRequest

_MARGIN_S = 2.0
"""A cached touch is planned with until so long before its end."""

_SILENT_S = 1.0
"""A token that does not tell whether it blinks is taken to do so after this time."""

_NEVER = "never"


class TouchDesk:
    """``policies``: always, cached or unknown, by CKA_ID of the keys that may want a touch.
    ``is_wanted``: a signature that may wait for one is with the host. ``counts_for``: CKA_ID of
    the key that was touched last and is cached."""

    def __init__(self) -> None:
        self.policies: Mapping[bytes, str] = {}
        self.is_wanted = False
        self.counts_for: bytes | None = None
        self._counts_until = 0.0
        self._begun: SignJob | None = None
        self._purpose: Purpose | None = None
        self._until = 0.0
        self._window_s = 0.0
        self._soon: asyncio.TimerHandle | None = None

    # -- planning ------------------------------------------------------------------------

    def needs_touch(self, job: SignJob, now: float) -> bool:
        """Whether it may wait for a person."""
        return self.policies.get(job.object_id, _NEVER) != _NEVER and not self.is_fresh_for(
            job, now
        )

    def is_fresh_for(self, job: SignJob, now: float) -> bool:
        """A touch that is cached counts for it."""
        return job.object_id == self.counts_for and now < self._counts_until

    def frame_rule(self, now: float, *, is_idle: bool) -> Callable[[SignJob, int], bool]:
        """Whether a job may join a frame that has so many jobs already. ``is_idle``: no other
        frame is with the token."""
        is_alone = False

        def fits(job: SignJob, taken: int) -> bool:
            nonlocal is_alone
            may_wait = self.needs_touch(job, now)
            if taken == 0:
                is_alone = may_wait
                return not may_wait or is_idle
            return not (is_alone or may_wait)

        return fits

    def begin(self, job: SignJob) -> None:
        """This one is with the host, alone."""
        self.is_wanted = True
        self._begun = job

    def end(self, now: float) -> None:
        """The frame is answered."""
        if self._begun is not None and self.policies.get(self._begun.object_id) == "cached":
            self.counts_for = self._begun.object_id
            self._counts_until = now + TOUCH_WINDOW_S - _MARGIN_S
        self.is_wanted, self._begun = False, None
        self.go_out()

    def forget(self) -> None:
        """Nobody touched it."""
        self.counts_for = None

    # -- what a person is asked for ------------------------------------------------------

    def hear(self, purpose: Purpose, progress: pb.Progress) -> None:
        """A host says that it waits for a touch, or no longer."""
        if progress.HasField("touch"):
            wait = progress.touch
            self.light_up(purpose, wait.window_s, certain=wait.certain)
        else:
            self.go_out()

    def light_up(self, purpose: Purpose, window_s: float, *, certain: bool) -> None:
        """The token waits from now on."""
        self.go_out()
        loop = asyncio.get_running_loop()
        self._until, self._window_s = loop.time() + window_s, window_s
        if certain:
            self._purpose = purpose
        else:
            self._soon = loop.call_later(_SILENT_S, self._light, purpose)

    def go_out(self) -> None:
        """It does not wait any more."""
        self._purpose = None
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    def request(self, serial: str) -> TouchRequest | None:
        """What a person is asked for now."""
        if self._purpose is None:
            return None
        left_s = max(0.0, self._until - asyncio.get_running_loop().time())
        return TouchRequest(serial, self._purpose, left_s, self._window_s)

    def _light(self, purpose: Purpose) -> None:
        self._soon = None
        self._purpose = purpose
