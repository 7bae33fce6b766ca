"""Which objects on the token have which CKA_ID. Host side.

Some modules, SoftHSM among them, go through all objects for each search. So what was made or found
once is remembered as long as its login; and when searches have taken long, all keys are gone
through, a little at a time between the requests. A handle from here is a hint: objects come and go
by other processes' hands, so whoever uses one for the first time compares what it stands for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pkcs11
from pkcs11 import Attribute, ObjectClass

from keyd.device import keypairs
from keyd.errors import TokenError

_MOST_PAIRS = 50_000
"""Pairs that are remembered, at about 700 bytes each; the oldest are searched for again."""

_SEARCHED_S = 0.1
"""Of a token with some hundred keys the first dozens may be searched for."""

_NOBODYS = bytes(16)
"""An id to search for once after each login, which tells how long that takes."""


class Login(Protocol):
    """What an index wants of pkcs11.TokenSession."""

    @property
    def generation(self) -> int:
        """Counts the logins."""

    @property
    def session(self) -> pkcs11.Session | None:
        """The one that is logged in."""

    @property
    def is_yubikey(self) -> bool:
        """A token with a few slots, and certificates that have their ids."""

    def open_session(self) -> pkcs11.Session:
        """The same, or DeviceGoneError."""

    def open_beside(self) -> pkcs11.Session:
        """A second one."""


@dataclass(slots=True)
class Pair:
    """The key objects of one CKA_ID; more than one of a class where the token has more.

    ``proven``: DER SubjectPublicKeyInfo that these were compared with; empty before.
    """

    privates: list[pkcs11.Object] = field(default_factory=list)
    publics: list[pkcs11.Object] = field(default_factory=list)
    proven: bytes = b""

    @property
    def is_single(self) -> bool:
        """True for one private and one public key."""
        return len(self.privates) == len(self.publics) == 1


class KeyIndex:
    """The key pairs of one token, by CKA_ID."""

    def __init__(
        self, token: Login, *, most: int = _MOST_PAIRS, patience_s: float = _SEARCHED_S
    ) -> None:
        """``most``: pairs that are remembered. ``patience_s``: searches of one login may take this
        long together before all keys are gone through."""
        self._token = token
        self._most = most
        self._patience_s = patience_s
        self._classes: dict[tuple[type, ...], type] = {}
        self._begin(token.generation)

    def _begin(self, generation: int) -> None:
        self._generation = generation
        self._pairs: dict[bytes, Pair] = {}
        self._listed: dict[bytes, Pair] = {}
        self._listing: Iterator[pkcs11.Object] | None = None
        self._searched_s = 0.0
        self._is_tried = self._is_listed = self._is_whole = False

    def _now(self) -> dict[bytes, Pair]:
        """The pairs of this login: handles do not outlive it."""
        if self._generation != self._token.generation:
            self._begin(self._token.generation)
        return self._pairs

    def known(self, object_id: bytes) -> Pair | None:
        """What is remembered of a CKA_ID, unasked."""
        return self._now().get(object_id)

    def search(self, object_id: bytes) -> Pair:
        """What the token has now.

        Raises:
            pkcs11.PKCS11Error: the module's.
        """
        pairs = self._now()
        pair, took_s = self._timed_search(object_id)
        pairs.pop(object_id, None)
        if pair.privates or pair.publics:
            self._keep(object_id, pair)
        # Whoever waits for a slow search waits as long again, so that soon nobody has to.
        if self._is_slow:
            self.go_on(took_s)
        return pair

    def _timed_search(self, object_id: bytes) -> tuple[Pair, float]:
        session = self._token.open_session()
        began = time.perf_counter()
        pair = Pair(*keypairs.find_pair(session, object_id))
        took_s = time.perf_counter() - began
        self._is_tried = True
        self._searched_s += took_s
        return pair, took_s

    def is_taken(self, object_id: bytes) -> bool:
        """True when an object is known to have this CKA_ID. A token is not asked while its keys
        are gone through, nor when they all were: the ids that keyd draws at random are taken by
        nobody else.

        Raises:
            pkcs11.PKCS11Error: the module's.
        """
        found = self.known(object_id)
        is_under_way = self._is_slow and not self._is_listed
        if found is None and not self._is_whole and not is_under_way:
            found = self.search(object_id)
        return found is not None and bool(found.privates or found.publics)

    def remember(self, object_id: bytes, private: pkcs11.Object, public: pkcs11.Object) -> None:
        """A pair that was just made."""
        self._now()
        self._keep(object_id, Pair([private], [public]))

    def forget(self, object_id: bytes) -> None:
        """What was remembered proved wrong, or was destroyed."""
        self._now().pop(object_id, None)
        self._listed.pop(object_id, None)

    # -- going through all keys ------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """True while it is worth time to try a search, or to go through all keys."""
        self._now()
        return (
            self._token.session is not None
            and not self._is_listed
            and not self._token.is_yubikey
            and (self._is_slow or not self._is_tried)
        )

    @property
    def _is_slow(self) -> bool:
        return self._searched_s > self._patience_s

    def go_on(self, seconds: float) -> None:
        """Go on through the keys for about that long, or one search; never raises: what the token
        lacks is noticed by those who need it."""
        if not self.is_behind:
            return
        until = time.perf_counter() + seconds
        try:
            if not self._is_tried:
                self._timed_search(_NOBODYS)
                return
            if self._listing is None:
                self._listing = self._all_keys()
            for obj in self._listing:
                self._take(obj)
                if time.perf_counter() >= until:
                    return
        except (pkcs11.PKCS11Error, TokenError):
            self._is_listed = True
            return
        self._is_listed = self._is_whole = True
        listed, self._listed = self._listed, {}
        for object_id, pair in listed.items():
            if object_id not in self._pairs:
                self._keep(object_id, pair)

    def _all_keys(self) -> Iterator[pkcs11.Object]:
        # In a session of its own, which stays open: a search occupies its session until the end,
        # and its objects are used through it.
        session = self._token.open_beside()
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
            yield from session.get_objects({Attribute.CLASS: kind})

    def _take(self, obj: pkcs11.Object) -> None:
        pair = self._listed.setdefault(keypairs.object_id(obj), Pair())
        is_private = obj.object_class is ObjectClass.PRIVATE_KEY
        (pair.privates if is_private else pair.publics).append(obj)
        self._slim(obj)

    def _keep(self, object_id: bytes, pair: Pair) -> None:
        for obj in (*pair.privates, *pair.publics):
            self._slim(obj)
        self._pairs[object_id] = pair
        if len(self._pairs) > self._most:
            del self._pairs[next(iter(self._pairs))]
            self._is_whole = False

    def _slim(self, obj: pkcs11.Object) -> None:
        """python-pkcs11 makes a class of its own for each object, which weighs more than all the
        rest; those with the same bases can share one."""
        own = type(obj)
        shared = self._classes.setdefault(own.__bases__, own)
        if shared is not own:
            obj.__class__ = shared
