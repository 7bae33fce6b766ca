"""Every signature is verified with the registered public key, here in the daemon, before it leaves:
a token's module may be wrong, and so may a disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor

from keyd.errors import BadSignatureError, KeydError
from keyd.plan import Plan

log = logging.getLogger(__name__)

_CHUNK = 128
"""Signatures verified in one go on a worker thread; keeps the event loop answering others."""

_AT_ONCE = 2
"""As few as this are verified on the event loop."""


class SelfCheck:
    """Checks what tokens answered."""

    def __init__(self, workers: Executor) -> None:
        self._workers = workers

    async def check(
        self, plans: Sequence[Plan], outcomes: Sequence[bytes | KeydError]
    ) -> list[bytes | KeydError]:
        """The same outcomes, with an error in place of each signature that does not verify."""
        if len(plans) <= _AT_ONCE:
            return _check(plans, outcomes)
        loop = asyncio.get_running_loop()
        chunks = await asyncio.gather(
            *(
                loop.run_in_executor(
                    self._workers,
                    _check,
                    plans[start : start + _CHUNK],
                    outcomes[start : start + _CHUNK],
                )
                for start in range(0, len(plans), _CHUNK)
            )
        )
        return [outcome for chunk in chunks for outcome in chunk]


def _check(plans: Iterable[Plan], outcomes: Iterable[bytes | KeydError]) -> list[bytes | KeydError]:
    checked: list[bytes | KeydError] = []
    for plan, outcome in zip(plans, outcomes, strict=True):
        if isinstance(outcome, KeydError):
            checked.append(outcome)
            continue
        try:
            plan.verify(outcome)
            checked.append(outcome)
        except KeydError as e:
            name = plan.terms.version.name
            log.critical("signature of %s does not verify", name)
            checked.append(
                BadSignatureError(
                    f"the token's signature with {name} does not verify with its "
                    f"registered public key ({e.message}); it was discarded",
                    hint="look at the token and its module before signing anything else",
                    version=name,
                )
            )
    return checked
