"""When the client asks again by itself: only what is safe to repeat, and only where it may help."""

from __future__ import annotations

import random
from dataclasses import dataclass

from keyd.errors import KeydError, ServerGoneError

_LONGEST_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Retries:
    """At most ``most`` repetitions of a call, within its deadline.

    Repeated are reads and signatures (the daemon gives a stored signature again), when the error
    says after how many seconds the same call may succeed. A daemon that does not answer is asked
    again only when it did answer before on this connection: then it is being restarted.
    """

    most: int = 4

    def wait_s(
        self,
        error: KeydError,
        done: int,
        left_s: float,
        *,
        repeatable: bool,
        answered: bool = False,
    ) -> float | None:
        """Seconds to wait before the next try; None to give up. ``done``: repetitions so far."""
        if not repeatable or done >= self.most:
            return None
        after_s = error.retry_after_s
        if after_s is None and isinstance(error, ServerGoneError) and answered:
            after_s = 0.25
        if after_s is None:
            return None
        # Doubling keeps a crowd off a busy daemon, and the random part keeps it apart.
        wait = min(after_s * 2**done, max(after_s, _LONGEST_WAIT_S))
        wait *= 1 + random.random() / 4  # noqa: S311
        return wait if wait < left_s else None


RETRIES = Retries()
"""What clients do when nothing else was asked for."""
