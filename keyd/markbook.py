"""The marks as a decision needs them: with the documents behind them, and with what is being
signed right now above them.

A decision, and the reservation that follows from it, happen between two looks at other callers:
whoever asks next sees what is reserved as if it were signed. What comes of it is settled by the
constraints of the commit; a reservation that came to nothing leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from datetime import datetime
from types import TracebackType
from typing import TypeVar

from keyd.content.documents import TOP_LEVEL_ROLES, Document, Root, Targets
from keyd.errors import ConflictError, KeydError, VersionTakenError
from keyd.markdocuments import CACHE_BYTES, MarkDocuments
from keyd.model import ONLINE_ROLES, Mark, Marked, Marks, RecordMark
from keyd.rules import History
from keyd.rules.needs import find_holders
from keyd.store.plan_marks import MarkPlan

_LOADS = 8
"""How often one role's contents are loaded for one history before others change them too fast."""
_DELEGATORS = 32
"""Targets files that are searched for who delegates to a role, when its name does not tell."""
_AGAIN_S = 1.0

_Kind = TypeVar("_Kind", bound=Document)


class Reservation:
    """A version that is being signed; ends by :meth:`release` or as a context manager."""

    def __init__(
        self, book: MarkBook, effect: RecordMark, document: Document, at: datetime, alone: bool
    ) -> None:
        self.effect = effect
        self.document = document
        self.at = at
        self.alone = alone
        self._book = book

    def release(self) -> None:
        """Others see the marks alone again; a second call does nothing."""
        self._book._release(self)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class MarkBook:
    """Marks, documents and reservations of one daemon; for its event loop alone."""

    def __init__(
        self, marks: Marks, *, workers: Executor | None = None, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """``workers``: threads that parse large documents; None for the event loop's own."""
        self._marks = marks
        self._workers = workers
        self._documents = MarkDocuments(marks, workers, cache_bytes)
        self._reserved: dict[tuple[str, str], list[Reservation]] = {}
        self._below: MarkBook | None = None

    def aside(self) -> MarkBook:
        """A book for what nobody signs, such as a dry run: it sees what is reserved here, and
        reserves for itself alone."""
        book = MarkBook(self._marks, workers=self._workers)
        book._documents = self._documents
        book._below = self
        return book

    async def history(self, repository: str, role: str) -> History:
        """What a signature for the role is judged by. What is returned holds until the caller
        gives up the event loop: judge and reserve before that.

        Raises:
            ContentError: what is stored behind a mark cannot be read any more.
            ConflictError: the marks change faster than their contents can be read.
        """
        held: dict[bytes, Document | None] = {}
        loads: dict[tuple[str, str], int] = {}
        while True:
            try:
                return self._assemble(repository, role, held)
            except _Missing as e:
                loads[e.where] = loads.get(e.where, 0) + 1
                if loads[e.where] > _LOADS:
                    raise ConflictError(
                        f"the mark of {e.where[0]}:{e.where[1]} changes faster than it can be read",
                        hint="ask again",
                        retry_after_s=_AGAIN_S,
                        repository=e.where[0],
                        role=e.where[1],
                    ) from None
                where = e.where
            held |= await self._documents.load(*where)

    async def previous(self, repository: str, role: str) -> bytes:
        """The bytes of the last complete version, for people to compare with; or empty."""
        return (await self._marks.load_contents(repository, role)).complete

    def remembers(self, repository: str, role: str, version: int, digest: bytes) -> bool:
        """True for the bytes that the mark is of, and for a version below it: not for what was
        given up since, or never was signed for this role."""
        mark = self._marks.find_mark(repository, role)
        if mark is None:
            return False
        known = (mark.newest, mark.complete)
        return version < mark.newest.version or any(m and m.digest == digest for m in known)

    def check_free(self, repository: str, role: str, version: int, digest: bytes) -> None:
        """Refuse to judge what waits for others first.

        Raises:
            VersionTakenError: other bytes are being signed at this version; of snapshot and
                timestamp there may be several.
            ConflictError: what people consented to is being signed, and comes to its end alone.
        """
        for other in self._reservations(repository, role):
            marked = other.effect.marked
            if marked.digest == digest:
                continue
            if marked.version == version and role not in ONLINE_ROLES:
                raise _being_signed(other.effect, digest)
            if other.alone:
                raise ConflictError(
                    f"{repository}:{role} v{marked.version} is being signed, with people's "
                    "consent, and everything after it depends on whether it succeeds",
                    hint="ask again",
                    retry_after_s=_AGAIN_S,
                    repository=repository,
                    role=role,
                )

    def reserve(
        self, effect: RecordMark, document: Document, at: datetime, *, alone: bool = False
    ) -> Reservation:
        """Let others see this version as signed until the reservation ends. ``alone``: and let
        nobody build on it before that.

        Raises:
            VersionTakenError, ConflictError: as :meth:`check_free`.
        """
        marked = effect.marked
        self.check_free(effect.repository, effect.role, marked.version, marked.digest)
        reservation = Reservation(self, effect, document, at, alone)
        self._reserved.setdefault((effect.repository, effect.role), []).append(reservation)
        return reservation

    # ------------------------------------------------------------------------------- inside

    def _release(self, reservation: Reservation) -> None:
        effect = reservation.effect
        where = (effect.repository, effect.role)
        standing = self._reserved.get(where, [])
        if reservation not in standing:
            return
        standing.remove(reservation)
        if not standing:
            del self._reserved[where]
        mark = self._marks.find_mark(*where)
        if mark is not None and mark.newest.digest == effect.marked.digest:
            self._documents.put(mark.newest.digest, reservation.document, len(effect.content))

    def _reservations(self, repository: str, role: str) -> list[Reservation]:
        below = self._below._reservations(repository, role) if self._below else []
        return below + self._reserved.get((repository, role), [])

    def _mark(self, repository: str, role: str) -> Mark | None:
        mark = self._marks.find_mark(repository, role)
        for reservation in self._reservations(repository, role):
            mark = _after(mark, reservation.effect, reservation.at)
        return mark

    def _assemble(
        self, repository: str, role: str, held: Mapping[bytes, Document | None]
    ) -> History:
        mark = self._mark(repository, role)
        root_mark = self._mark(repository, "root")
        delegator = None
        if role not in TOP_LEVEL_ROLES:
            delegator = self._delegator(repository, role, held)
        return History(
            mark=mark,
            newest=self._document(mark, mark.newest if mark else None, Document, held),
            complete=self._document(mark, mark.complete if mark else None, Document, held),
            root=self._document(root_mark, root_mark.complete if root_mark else None, Root, held),
            delegator=delegator,
        )

    def _delegator(
        self, repository: str, role: str, held: Mapping[bytes, Document | None]
    ) -> Targets | None:
        for name in self._delegators(repository, role):
            mark = self._mark(repository, name)
            targets = self._document(mark, mark.complete if mark else None, Targets, held)
            if targets is not None and find_holders(role, None, targets) is not None:
                return targets
        return None

    def _delegators(self, repository: str, role: str) -> Iterable[str]:
        """Where to look for who delegates to a role: the targets, what the name says (Notary's
        do), then the other targets files of the repository."""
        parents = [role[:end] for end in range(len(role) - 1, 0, -1) if role[end] == "/"]
        first = ["targets", *(p for p in parents if p != "targets")]
        yield from first
        others = (
            m.role
            for m in self._marks.marks()
            if m.repository == repository and m.newest.kind == "targets"
        )
        for _, name in zip(range(_DELEGATORS), others, strict=False):
            if name not in first and name != role:
                yield name

    def _document(
        self,
        mark: Mark | None,
        marked: Marked | None,
        kind: type[_Kind],
        held: Mapping[bytes, Document | None],
    ) -> _Kind | None:
        if mark is None or marked is None:
            return None
        for reservation in self._reservations(mark.repository, mark.role):
            if reservation.effect.marked.digest == marked.digest:
                found: Document | None = reservation.document
                break
        else:
            found = held.get(marked.digest) or self._documents.find(marked.digest)
            if found is None and marked.digest not in held:
                raise _Missing(mark.repository, mark.role)
        return found if isinstance(found, kind) else None


class _Missing(Exception):  # noqa: N818 - never leaves this module
    """A document that has to be loaded first."""

    def __init__(self, repository: str, role: str) -> None:
        super().__init__(repository, role)
        self.where = (repository, role)


def _after(mark: Mark | None, effect: RecordMark, at: datetime) -> Mark | None:
    """The mark as the commit of the effect will leave it; unchanged where it will refuse that."""
    where = (effect.repository, effect.role)
    plan = MarkPlan({where: mark} if mark else {}, at)
    try:
        plan.apply(effect)
    except KeydError:
        return mark
    for layer in plan.layers:
        layer.keep()
    planned = plan.changes.get(where)
    return planned.mark if planned else mark


def _being_signed(effect: RecordMark, digest: bytes) -> VersionTakenError:
    marked = effect.marked
    return VersionTakenError(
        f"other bytes are being signed as {effect.repository}:{effect.role} v{marked.version} "
        f"right now (SHA-256 {marked.digest.hex()}, yours {digest.hex()})",
        hint=f"number yours {marked.version + 1}, or ask again in case they come to nothing",
        retry_after_s=_AGAIN_S,
        repository=effect.repository,
        role=effect.role,
        version=marked.version,
        digest=digest.hex(),
        signed_digest=marked.digest.hex(),
        last_version=marked.version,
        next_version=marked.version + 1,
    )
