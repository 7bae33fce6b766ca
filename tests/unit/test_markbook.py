"""What the mark book promises: the documents behind marks, and what is being signed above them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from keyd.content import parse_document
from keyd.content.documents import Document
from keyd.errors import ConflictError, ContentError, VersionTakenError
from keyd.markbook import MarkBook
from keyd.model import (
    Mark,
    MarkContents,
    Marked,
    MarkState,
    Need,
    RecordMark,
)
from keyd.rules import History
from tests.bound_keys import REPOSITORY, snapshot, targets, timestamp
from tests.unit.rules.ledger import ALICE, delegating, payload_of, root

NOW = datetime(2030, 1, 2, tzinfo=UTC)


class HeldMarks:
    """model.Marks that a test fills; counts how often contents are loaded."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], tuple[Mark, MarkContents]] = {}
        self.loads = 0

    def put(self, role: str, payload: bytes, *, complete: bytes | None = None) -> None:
        """A mark at this payload; ``complete``: the last complete version where it is another."""
        newest = marked(payload)
        before = newest if complete is None else marked(complete) if complete else None
        state = MarkState.COMPLETE if complete is None else MarkState.SIGNED
        mark = Mark(REPOSITORY, role, newest, state, NOW, complete=before)
        contents = MarkContents(payload, payload if complete is None else complete)
        self.held[REPOSITORY, role] = (mark, contents)

    def find_mark(self, repository: str, role: str) -> Mark | None:
        found = self.held.get((repository, role))
        return found[0] if found else None

    def marks(self) -> Sequence[Mark]:
        return [mark for mark, _ in self.held.values()]

    async def load_contents(self, repository: str, role: str) -> MarkContents:
        self.loads += 1
        found = self.held.get((repository, role))
        return found[1] if found else MarkContents()


class RestlessMarks(HeldMarks):
    """Others sign the next version whenever contents are loaded, as long as ``left`` lasts."""

    left = 3

    async def load_contents(self, repository: str, role: str) -> MarkContents:
        contents = await super().load_contents(repository, role)
        if self.left > 0:
            self.left -= 1
            mark = self.find_mark(repository, role)
            assert mark is not None
            self.put(role, targets(mark.newest.version + 1))
        return contents


def marked(payload: bytes) -> Marked:
    document = parse_document(payload)
    return Marked(
        document.version,
        hashlib.sha256(payload).digest(),
        document.kind,
        document.dialect.value,
        document.expires,
    )


def effect(role: str, payload: bytes, *needs: Need, signer: str = "one") -> RecordMark:
    return RecordMark(REPOSITORY, role, marked(payload), payload, signer, needs)


async def seen(book: MarkBook, role: str = "targets") -> tuple[int, int]:
    """The versions of the newest and the last complete document; 0 for none."""
    history = await book.history(REPOSITORY, role)
    assert _version(history.newest) == (history.mark.newest.version if history.mark else 0)
    return _version(history.newest), _version(history.complete)


def _version(document: Document | None) -> int:
    return document.version if document else 0


async def test_without_marks_nothing_is_known_and_nothing_is_loaded() -> None:
    marks = HeldMarks()

    assert await MarkBook(marks).history(REPOSITORY, "targets") == History()
    assert marks.loads == 0


async def test_documents_are_loaded_once_and_large_ones_too() -> None:
    marks = HeldMarks()
    marks.put("targets", targets(4, *(f"file-{n}" for n in range(500))))
    book = MarkBook(marks)

    for _ in range(3):
        assert await seen(book) == (4, 4)
    assert marks.loads == 1


async def test_a_draft_stands_beside_the_last_complete_version() -> None:
    marks = HeldMarks()
    marks.put("root", payload_of(root(2, ALICE)), complete=payload_of(root(1, ALICE)))
    marks.put("targets", targets(4))

    history = await MarkBook(marks).history(REPOSITORY, "targets")

    assert await seen(MarkBook(marks), "root") == (2, 1)
    assert history.root is not None
    assert history.root.version == 1, "a root that lacks signatures says nothing about others"


async def test_no_more_is_kept_in_memory_than_was_allowed() -> None:
    marks = HeldMarks()
    for role in ("targets", "a", "b"):
        marks.put(role, targets(4, f"file-{role}"))
    book = MarkBook(marks, cache_bytes=len(targets(4, "file-targets")) + 10)

    for role in ("a", "b", "a", "b"):
        assert (await book.history(REPOSITORY, role)).newest is not None

    assert marks.loads >= 4, "each of them had to make room for the other"


async def test_a_history_is_whole_even_where_nothing_can_be_kept_in_memory() -> None:
    marks = HeldMarks()
    marks.put("root", payload_of(root(1, ALICE)))
    marks.put("targets", targets(4))

    history = await MarkBook(marks, cache_bytes=0).history(REPOSITORY, "targets")

    assert history.root is not None
    assert _version(history.newest) == _version(history.complete) == 4


async def test_marks_that_change_while_they_are_read_are_read_again() -> None:
    marks = RestlessMarks()
    marks.put("targets", targets(4))

    assert await seen(MarkBook(marks)) == (7, 7)


async def test_marks_that_never_stop_changing_end_in_an_error_that_says_so() -> None:
    marks = RestlessMarks()
    marks.left = 1000
    marks.put("targets", targets(4))

    with pytest.raises(ConflictError, match="faster than it can be read"):
        await MarkBook(marks).history(REPOSITORY, "targets")


async def test_stored_content_that_cannot_be_read_is_no_missing_history() -> None:
    marks = HeldMarks()
    marks.put("targets", targets(4))
    mark, _ = marks.held[REPOSITORY, "targets"]
    marks.held[REPOSITORY, "targets"] = (mark, MarkContents(b"damaged", b"damaged"))

    with pytest.raises(ContentError, match="what is stored of acme:targets cannot be read") as e:
        await MarkBook(marks).history(REPOSITORY, "targets")

    assert "keydctl role import acme" in e.value.hint


@pytest.mark.parametrize(
    ("delegator", "role"), [("targets", "django"), ("a", "a/b"), ("projects", "django")]
)
async def test_the_delegator_of_a_role_is_found(delegator: str, role: str) -> None:
    marks = HeldMarks()
    marks.put("targets", targets(1))
    marks.put("other", targets(9))
    marks.put(delegator, payload_of(delegating(3, role, ALICE)))

    history = await MarkBook(marks).history(REPOSITORY, role)

    assert history.delegator is not None
    assert history.delegator.version == 3


async def test_a_reservation_is_seen_until_it_ends() -> None:
    marks = HeldMarks()
    marks.put("targets", targets(4))
    book = MarkBook(marks)

    with book.reserve(effect("targets", targets(5)), parse_document(targets(5)), NOW):
        assert await seen(book) == (5, 5)
    assert await seen(book) == (4, 4)


async def test_a_reserved_version_that_needs_more_signatures_is_no_base() -> None:
    marks = HeldMarks()
    marks.put("targets", targets(4))
    book = MarkBook(marks)
    need = Need(2, frozenset({"one", "other"}))

    first = book.reserve(effect("targets", targets(5), need), parse_document(targets(5)), NOW)
    assert await seen(book) == (5, 4)
    beside = effect("targets", targets(5), need, signer="other")
    with book.reserve(beside, parse_document(targets(5)), NOW):
        assert await seen(book) == (5, 5)
    assert await seen(book) == (5, 4)

    first.release()
    first.release()
    assert await seen(book) == (4, 4)


async def test_other_bytes_at_a_reserved_version_are_told_what_is_being_signed() -> None:
    book = MarkBook(HeldMarks())
    one, other = targets(5, "one"), targets(5, "other")

    with (
        book.reserve(effect("targets", one), parse_document(one), NOW),
        pytest.raises(VersionTakenError, match="being signed") as e,
    ):
        book.reserve(effect("targets", other), parse_document(other), NOW)

    assert e.value.retry_after_s
    assert e.value.facts["digest"] == hashlib.sha256(other).hexdigest()
    assert e.value.facts["signed_digest"] == hashlib.sha256(one).hexdigest()
    with book.reserve(effect("targets", other), parse_document(other), NOW):
        assert await seen(book) == (5, 5)


async def test_two_timestamps_of_one_version_may_be_signed_at_once() -> None:
    book = MarkBook(HeldMarks())
    one, other = timestamp(5, of=1), timestamp(5, of=2)

    with (
        book.reserve(effect("timestamp", one), parse_document(one), NOW),
        book.reserve(effect("timestamp", other), parse_document(other), NOW),
    ):
        history = await book.history(REPOSITORY, "timestamp")

    assert history.mark is not None
    assert history.mark.newest.digest == hashlib.sha256(other).digest()
    assert history.mark.reissued == 1


async def test_nothing_is_built_on_what_people_consented_to_before_it_is_signed() -> None:
    book = MarkBook(HeldMarks())
    lowered = snapshot(5, targets=1)

    with (
        book.reserve(effect("snapshot", lowered), parse_document(lowered), NOW, alone=True),
        pytest.raises(ConflictError, match="people's consent") as e,
    ):
        book.check_free(REPOSITORY, "snapshot", 6, b"other")

    assert e.value.retry_after_s


async def test_a_book_aside_sees_what_is_reserved_and_keeps_its_own_to_itself() -> None:
    book = MarkBook(HeldMarks())
    aside = book.aside()

    with book.reserve(effect("targets", targets(5)), parse_document(targets(5)), NOW):
        supposed = aside.reserve(effect("targets", targets(6)), parse_document(targets(6)), NOW)
        assert await seen(aside) == (6, 6)
        assert await seen(book) == (5, 5)
    supposed.release()

    assert await seen(aside) == (0, 0)


async def test_what_was_signed_here_needs_no_loading() -> None:
    marks = HeldMarks()
    book = MarkBook(marks)
    reservation = book.reserve(effect("targets", targets(5)), parse_document(targets(5)), NOW)
    marks.put("targets", targets(5))  # the commit
    reservation.release()

    assert await seen(book) == (5, 5)
    assert marks.loads == 0
