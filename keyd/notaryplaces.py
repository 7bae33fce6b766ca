"""Where keys for Notary collections are made, and how many a caller gets."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from keyd.errors import InvalidRequestError, KeydError, RateLimitedError
from keyd.policy.patterns import matches_any

_HOUR_S = 3600.0
_CALLERS = 4096
"""Callers and places that are remembered; one that was forgotten has its whole allowance."""


@dataclass(frozen=True, slots=True)
class Place:
    """For GUNs that fit one of ``guns`` (``*`` is any run of characters, ``?`` one): on which
    token keys are made. ``keys_per_hour``: new ones for one caller, on average; ``keys_at_once``:
    how many of these before the hour is over."""

    guns: tuple[str, ...]
    token: str
    keys_per_hour: int = 100
    keys_at_once: int = 50

    def __str__(self) -> str:
        return ", ".join(self.guns)


class Places:
    """All places; the first that fits decides. Allowances are kept in memory alone: a restart
    grants them anew."""

    def __init__(self, places: Sequence[Place], *, elapsed_s: Callable[[], float]) -> None:
        """``elapsed_s``: a clock that only goes forward."""
        self._places = tuple(places)
        self._elapsed_s = elapsed_s
        self._left: OrderedDict[tuple[str, int], tuple[float, float]] = OrderedDict()

    @property
    def tokens(self) -> frozenset[str]:
        """Every token that keys are made on."""
        return frozenset(place.token for place in self._places)

    def find(self, gun: str) -> Place:
        """The place for a GUN.

        Raises:
            InvalidRequestError: there is none.
        """
        return self._places[self._number(gun)]

    @contextmanager
    def allowance(self, principal: str, gun: str) -> Iterator[None]:
        """Spend one key of a caller's allowance on the block; it is given back where that fails.

        Raises:
            RateLimitedError: nothing is left; says when to come back.
        """
        number = self._number(gun)
        place, who = self._places[number], (principal, number)
        left = self._refilled(who, place)
        if left < 1:
            wait_s = (1 - left) * _HOUR_S / place.keys_per_hour
            raise RateLimitedError(
                f"{principal} had {place.keys_at_once} new keys at once made for GUNs {place}, and "
                f"gets {place.keys_per_hour} in an hour: the next in {math.ceil(wait_s)} s",
                hint="if so many are honestly needed, raise keys_per_hour and keys_at_once in the "
                "[[notary]] of keyd.toml",
                retry_after_s=wait_s,
                limit="keys_per_hour",
            )
        self._keep(who, left - 1)
        try:
            yield
        except KeydError:
            self._keep(who, min(place.keys_at_once, self._refilled(who, place) + 1))
            raise

    def _number(self, gun: str) -> int:
        for number, place in enumerate(self._places):
            if matches_any(place.guns, gun):
                return number
        raise InvalidRequestError(
            "gun",
            f"no keys are made for {gun}",
            hint="add a [[notary]] whose guns fit it to keyd.toml",
        )

    def _refilled(self, who: tuple[str, int], place: Place) -> float:
        left, at = self._left.get(who, (float(place.keys_at_once), self._elapsed_s()))
        since_s = self._elapsed_s() - at
        return min(place.keys_at_once, left + since_s * place.keys_per_hour / _HOUR_S)

    def _keep(self, who: tuple[str, int], left: float) -> None:
        self._left[who] = left, self._elapsed_s()
        self._left.move_to_end(who)
        while len(self._left) > _CALLERS:
            self._left.popitem(last=False)
