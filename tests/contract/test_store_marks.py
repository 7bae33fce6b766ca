"""Marks in every database: the last judgement on versions, and what is shown of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from keyd.errors import (
    AuditUnavailableError,
    ConflictError,
    InvalidRequestError,
    KeydError,
    RuleRefusedError,
    VersionTakenError,
)
from keyd.model import (
    DropMark,
    Effect,
    Mark,
    MarkContents,
    Marked,
    MarkState,
    Need,
    PutMark,
    RecordMark,
    SetFlag,
)
from keyd.store.backup import backup, restore
from keyd.store.store import Store
from tests.contract.databases import Factory, a_draft, commit
from tests.fakes import FakeClock
from tests.fakes_audit import MemoryAudit

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TWO_OF_AB = (Need(2, frozenset({"a", "b"})),)
SIGNED, COMPLETE, PUBLISHED = MarkState.SIGNED, MarkState.COMPLETE, MarkState.PUBLISHED


def marked(version: int, content: bytes, role: str = "targets") -> Marked:
    digest = hashlib.sha256(content).digest()
    return Marked(version, digest, role, "tuf", NOW + timedelta(days=version % 100), "keys")


def signing(
    version: int,
    content: bytes,
    role: str = "targets",
    *,
    signer: str = "a",
    needs: tuple[Need, ...] = (),
    repository: str = "acme",
) -> RecordMark:
    return RecordMark(repository, role, marked(version, content, role), content, signer, needs)


def putting(
    version: int,
    content: bytes,
    role: str = "targets",
    *,
    state: MarkState = PUBLISHED,
    expect: Mark | None = None,
) -> PutMark:
    newest = marked(version, content, role)
    complete = None if state is SIGNED else newest
    mark = Mark("acme", role, newest, state, NOW, frozenset({"a"}), (), complete)
    return PutMark(mark, MarkContents(content, content), expect)


def each(store: Store, *items: Effect | Sequence[Effect], now: datetime = NOW) -> list[str]:
    """What became of items that come one by one: the rule, the reason, or nothing."""
    return [said(commit(store, [(a_draft(), of(item))], now)[0]) for item in items]


def together(store: Store, *items: Effect | Sequence[Effect]) -> list[str]:
    """What became of items that come in one group."""
    return [said(result) for result in commit(store, [(a_draft(), of(item)) for item in items])]


def of(item: Effect | Sequence[Effect]) -> Sequence[Effect]:
    return item if isinstance(item, Sequence) else [item]


def said(conflict: KeydError | None) -> str:
    return "" if conflict is None else conflict.facts.get("rule", conflict.reason)


def get(store: Store, role: str = "targets") -> Mark:
    found: Mark | None = store.marks.find_mark("acme", role)
    assert found is not None
    return found


# ------------------------------------------------------------------------------------ versions


def test_the_first_signature_of_a_role_makes_a_mark_that_is_complete_when_no_keys_are_known(
    store: Store,
) -> None:
    assert each(store, signing(7, b"seven")) == [""]

    newest = marked(7, b"seven")
    assert get(store) == Mark(
        "acme", "targets", newest, COMPLETE, NOW, frozenset({"a"}), (), newest, 0
    )
    assert store.marks.find_mark("acme", "snapshot") is None


async def test_a_second_signer_makes_the_version_complete_and_the_one_before_gives_its_place(
    store: Store,
) -> None:
    each(store, signing(1, b"one"), signing(2, b"two", needs=TWO_OF_AB))
    half = get(store)
    assert (half.state, half.complete, half.missing) == (SIGNED, marked(1, b"one"), 1)
    assert await store.marks.load_contents("acme", "targets") == MarkContents(b"two", b"one")

    each(store, signing(2, b"two", signer="b"), now=NOW + timedelta(hours=1))

    whole = get(store)
    assert (whole.state, whole.complete) == (COMPLETE, marked(2, b"two"))
    assert whole.signers == {"a", "b"}
    assert whole.signed_at == NOW + timedelta(hours=1)
    contents = await store.marks.load_contents("acme", "targets")
    assert contents == MarkContents(b"two", b"two", b"one")
    assert contents.newest is contents.complete


def test_a_signer_who_does_not_count_and_one_who_signs_twice_complete_nothing(
    store: Store,
) -> None:
    each(
        store,
        signing(1, b"one", needs=TWO_OF_AB),
        signing(1, b"one", signer="a"),
        signing(1, b"one", signer="stranger"),
    )

    assert get(store).state is SIGNED
    assert get(store).complete is None
    assert get(store).missing == 1


def test_every_need_has_to_be_met(store: Store) -> None:
    old_and_new = (Need(1, frozenset({"a"})), Need(1, frozenset({"n"})))
    each(store, signing(1, b"one", "root", needs=old_and_new))
    assert get(store, "root").state is SIGNED

    each(store, signing(1, b"one", "root", signer="n", needs=old_and_new))

    assert get(store, "root").state is COMPLETE


def test_needs_that_are_known_better_replace_those_of_the_same_bytes(store: Store) -> None:
    each(store, signing(1, b"one", needs=TWO_OF_AB))

    each(store, signing(1, b"one", needs=(Need(1, frozenset({"a"})),)))

    assert get(store).state is COMPLETE
    assert get(store).needs == (Need(1, frozenset({"a"})),)


def test_more_signatures_never_take_back_that_a_version_is_published(store: Store) -> None:
    each(store, putting(3, b"three"), signing(3, b"three", signer="b", needs=TWO_OF_AB))

    assert get(store).state is PUBLISHED
    assert get(store).signers == {"a", "b"}


def test_equivocation_other_bytes_at_a_signed_version_are_refused_with_the_way_out(
    store: Store,
) -> None:
    for role, other in (("targets", b"evil"), ("team/delegated", b"evil")):
        conflict = commit(
            store,
            [(a_draft(), [signing(4, b"four", role)]), (a_draft(), [signing(4, other, role)])],
        )[1]

        assert isinstance(conflict, VersionTakenError)
        assert conflict.facts == {
            "repository": "acme",
            "role": role,
            "version": "4",
            "digest": hashlib.sha256(b"evil").hexdigest(),
            "signed_digest": hashlib.sha256(b"four").hexdigest(),
            "last_version": "4",
            "next_version": "5",
        }
        assert "number it 5" in conflict.hint
        assert f"keydctl role supersede acme {role}" in conflict.hint
        assert get(store, role).newest == marked(4, b"four", role)


def test_another_root_draft_is_refused_and_supersede_keeps_its_number(store: Store) -> None:
    each(store, signing(1, b"one", "root"), signing(2, b"two", "root", needs=TWO_OF_AB))

    conflict = commit(store, [(a_draft(), [signing(2, b"better", "root")])])[0]

    assert isinstance(conflict, VersionTakenError)
    assert (conflict.facts["last_version"], conflict.facts["next_version"]) == ("2", "2")
    assert "keydctl role supersede acme root" in conflict.hint


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "delegated"])
def test_rollback_a_lower_version_is_refused_even_when_it_was_complete_once(
    store: Store, role: str
) -> None:
    needs = (Need(9, frozenset({"a"})),)
    each(store, signing(1, b"one", role), signing(2, b"two", role, needs=needs))

    assert (
        each(store, signing(1, b"one", role), signing(1, b"other", role)) == ["version-lower"] * 2
    )
    conflict = commit(store, [(a_draft(), [signing(1, b"one", role)])])[0]
    assert isinstance(conflict, RuleRefusedError)
    assert "keydctl role reset acme" in conflict.hint
    assert get(store, role).newest.version == 2


def test_a_root_takes_one_step_after_a_complete_one(store: Store) -> None:
    assert each(
        store,
        signing(2, b"two", "root"),
        signing(1, b"one", "root", needs=TWO_OF_AB),
        signing(2, b"two", "root"),
        signing(1, b"one", "root", signer="b"),
        signing(3, b"three", "root"),
        signing(2, b"two", "root"),
    ) == ["no-history", "", "root-incomplete", "", "root-step", ""]
    assert get(store, "root").newest.version == 2


def test_each_refusal_of_a_root_names_a_command(store: Store) -> None:
    def hint(effect: Effect) -> str:
        conflict = commit(store, [(a_draft(), [effect])])[0]
        assert isinstance(conflict, RuleRefusedError)
        assert conflict.facts["repository"] == "acme"
        return conflict.hint

    assert "keydctl role import acme" in hint(signing(5, b"five", "root"))
    each(store, signing(1, b"one", "root", needs=TWO_OF_AB))
    assert "keydctl role supersede acme root" in hint(signing(2, b"two", "root"))
    each(store, signing(1, b"one", "root", signer="b"))
    assert "keydctl role advance acme FILES" in hint(signing(3, b"three", "root"))


def test_targets_may_step_over_an_incomplete_version(store: Store) -> None:
    each(store, signing(1, b"one"), signing(2, b"two", needs=TWO_OF_AB), signing(9, b"nine"))

    assert get(store).newest.version == 9
    assert get(store).complete == marked(9, b"nine")


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
async def test_a_server_may_sign_its_online_roles_anew_until_they_are_known_published(
    store: Store, role: str
) -> None:
    one_of_b = (Need(1, frozenset({"b"})),)
    assert each(
        store,
        signing(5, b"first", role, signer="b", needs=one_of_b),
        signing(5, b"again", role, needs=one_of_b),
    ) == ["", ""]
    mark = get(store, role)
    assert (mark.reissued, mark.signers, mark.state) == (1, frozenset({"a"}), SIGNED)
    assert mark.complete == marked(5, b"first", role)
    assert await store.marks.load_contents("acme", role) == MarkContents(b"again", b"first")

    # The old bytes come back: they were complete, so they are.
    each(store, signing(5, b"first", role, needs=one_of_b))
    mark = get(store, role)
    assert (mark.reissued, mark.state, mark.newest) == (2, COMPLETE, marked(5, b"first", role))

    each(store, signing(6, b"next", role))
    assert get(store, role).reissued == 0

    published = putting(6, b"next", role, expect=get(store, role))
    assert each(store, published, signing(6, b"other", role)) == ["", "VERSION_TAKEN"]


def test_bytes_that_come_back_after_two_others_at_their_version_are_no_floor(store: Store) -> None:
    each(store, *(signing(5, said, "timestamp") for said in (b"one", b"two", b"three")))

    each(store, signing(5, b"two", "timestamp"))

    mark = get(store, "timestamp")
    assert (mark.is_floor, mark.may_be_reissued, mark.reissued) == (False, True, 3)
    assert each(store, signing(5, b"four", "timestamp")) == [""]


def test_a_mark_is_of_one_repository_and_role(store: Store) -> None:
    each(
        store,
        signing(5, b"five"),
        signing(1, b"one", repository="other"),
        signing(2, b"two", "team"),
    )

    shown: Sequence[Mark] = store.marks.marks()
    assert [(m.repository, m.role, m.newest.version) for m in shown] == [
        ("acme", "targets", 5),
        ("acme", "team", 2),
        ("other", "targets", 1),
    ]


# ------------------------------------------------------------------------------------ groups


async def test_the_loser_of_a_race_in_one_group_is_refused_and_its_neighbours_are_unharmed(
    store: Store,
) -> None:
    assert together(
        store,
        signing(1, b"one", needs=TWO_OF_AB),
        [SetFlag("loser", "1"), signing(1, b"evil", signer="b")],
        signing(1, b"one", signer="b"),
        signing(2, b"two", needs=TWO_OF_AB),
        signing(1, b"one", "snapshot"),
    ) == ["", "VERSION_TAKEN", "", "", ""]

    assert get(store).newest == marked(2, b"two")
    assert get(store).complete == marked(1, b"one")
    assert await store.marks.load_contents("acme", "targets") == MarkContents(b"two", b"one")
    assert get(store, "snapshot").state is COMPLETE
    assert store.get_flag("loser") is None
    assert store.head().size == 5


async def test_bytes_move_to_their_place_when_one_group_takes_two_steps(store: Store) -> None:
    each(store, signing(1, b"one"), signing(2, b"two", needs=TWO_OF_AB))

    # Two becomes complete and three is signed over it, before anything is written.
    together(store, signing(2, b"two", signer="b"), signing(3, b"three", needs=TWO_OF_AB))

    assert await store.marks.load_contents("acme", "targets") == MarkContents(b"three", b"two")
    assert get(store).complete == marked(2, b"two")


def test_a_mark_that_was_dropped_and_signed_in_one_group_starts_anew(store: Store) -> None:
    each(store, signing(9, b"nine"))

    results = together(store, DropMark("acme", "targets", expect=get(store)), signing(2, b"two"))

    assert results == ["", ""]
    assert get(store).newest == marked(2, b"two")


def test_a_thousand_roles_in_one_group_and_the_next(store: Store) -> None:
    for version in (1, 2):
        items = [signing(version, b"%d" % n, f"role-{n:04}") for n in range(1000)]
        assert together(store, *items) == [""] * 1000

    shown = store.marks.marks()
    assert [mark.role for mark in shown] == [f"role-{n:04}" for n in range(1000)]
    assert {mark.newest.version for mark in shown} == {2}


# ------------------------------------------------------------------------------------ by people


def test_published_files_set_a_mark_only_over_the_one_that_was_looked_at(store: Store) -> None:
    five, three = putting(5, b"five"), putting(3, b"three")
    assert each(
        store,
        putting(5, b"five", expect=three.mark),
        five,
        putting(6, b"six"),
        replace(three, expect=five.mark),
        DropMark("acme", "targets", five.mark),
        DropMark("acme", "targets", three.mark),
        DropMark("acme", "targets", None),
    ) == ["CONFLICT", "", "CONFLICT", "", "CONFLICT", "", ""]
    assert store.marks.find_mark("acme", "targets") is None
    assert store.marks.marks() == ()


def test_a_conflict_over_a_mark_says_where_to_look(store: Store) -> None:
    each(store, signing(5, b"five"))

    conflict = commit(store, [(a_draft(), [DropMark("acme", "targets", None)])])[0]

    assert isinstance(conflict, ConflictError)
    assert "version 5" in conflict.message
    assert "keydctl role show acme targets" in conflict.hint


def test_a_mark_that_was_looked_at_loses_no_signature_that_came_meanwhile(store: Store) -> None:
    each(store, signing(2, b"two", needs=TWO_OF_AB))
    seen = get(store)
    shown = replace(seen, signers=seen.signers | {"c"})

    results = together(
        store,
        signing(2, b"two", signer="b", needs=TWO_OF_AB),
        PutMark(shown, MarkContents(b"two"), seen),
        DropMark("acme", "targets", seen),
    )

    assert results == ["", "CONFLICT", "CONFLICT"]
    assert (get(store).state, get(store).signers) == (COMPLETE, frozenset({"a", "b"}))


def test_a_published_version_is_known_as_such_below_the_drafts_above_it(store: Store) -> None:
    each(store, putting(1, b"one"), signing(2, b"two", needs=TWO_OF_AB))
    below_a_draft = get(store)
    each(store, signing(3, b"three", needs=TWO_OF_AB))
    below_two = get(store)
    each(store, signing(3, b"three", signer="b", needs=TWO_OF_AB))
    complete = get(store)
    each(store, signing(4, b"four", needs=TWO_OF_AB))

    known = [below_a_draft, below_two, complete, get(store)]
    assert [mark.published_before for mark in known] == [True, True, True, False]
    assert [mark.complete and mark.complete.version for mark in known] == [1, 1, 3, 3]


async def test_what_was_complete_is_remembered_below_what_is_complete_at_once(
    store: Store,
) -> None:
    each(store, putting(4, b"four"), signing(5, b"five"), signing(6, b"six"))

    mark = get(store)
    assert (mark.complete, mark.before, mark.floor) == (
        marked(6, b"six"),
        marked(5, b"five"),
        marked(4, b"four"),
    )
    assert not mark.published_before
    contents = await store.marks.load_contents("acme", "targets")
    assert contents == MarkContents(b"six", b"six", b"five")


async def test_what_was_complete_is_remembered_below_what_two_complete_in_one_group(
    store: Store,
) -> None:
    each(store, putting(4, b"four"))
    together(
        store,
        signing(5, b"five", needs=TWO_OF_AB),
        signing(5, b"five", signer="b", needs=TWO_OF_AB),
    )

    mark = get(store)
    assert (mark.state, mark.before, mark.published_before) == (COMPLETE, marked(4, b"four"), True)
    contents = await store.marks.load_contents("acme", "targets")
    assert contents == MarkContents(b"five", b"five", b"four")


def test_bytes_that_were_published_are_so_still_after_a_draft_at_their_version(
    store: Store,
) -> None:
    each(store, signing(4, b"four", "snapshot"))
    each(store, signing(4, b"4", "snapshot", needs=TWO_OF_AB))
    draft = get(store, "snapshot")
    told = replace(draft, published_before=True)
    each(store, PutMark(told, MarkContents(b"4", b"four"), draft))

    assert each(store, signing(4, b"four", "snapshot")) == [""]

    assert (get(store, "snapshot").state, get(store, "snapshot").below) == (PUBLISHED, None)


async def test_superseding_a_draft_puts_the_complete_version_back(store: Store) -> None:
    each(store, signing(1, b"one", "root"), signing(2, b"two", "root", needs=TWO_OF_AB))
    draft = get(store, "root")
    assert draft.complete is not None
    back = Mark("acme", "root", draft.complete, COMPLETE, NOW, complete=draft.complete)
    contents = await store.marks.load_contents("acme", "root")

    results = each(
        store,
        PutMark(back, MarkContents(contents.complete, contents.complete), draft),
        signing(2, b"better", "root", needs=TWO_OF_AB),
    )

    assert results == ["", ""]
    assert await store.marks.load_contents("acme", "root") == MarkContents(b"better", b"one")


def test_a_mark_that_contradicts_itself_is_refused_and_harms_no_neighbour(store: Store) -> None:
    good = Mark("acme", "targets", marked(2, b"two"), SIGNED, NOW)
    bad = [
        replace(good, complete=marked(3, b"three")),
        replace(good, state=PUBLISHED),
        replace(good, state=COMPLETE, complete=marked(1, b"one")),
        replace(good, published_before=True),
        replace(good, complete=good.newest, published_before=True),
        replace(good, complete=good.newest),
        replace(good, before=marked(1, b"one")),
        replace(good, state=COMPLETE, complete=good.newest, before=good.newest),
        replace(good, state=COMPLETE, complete=good.newest, before=marked(3, b"three")),
        replace(good, floor=marked(3, b"three")),
        replace(good, repository="\ud800"),
        replace(good, role="a\0"),
        replace(good, newest=replace(good.newest, version=2**63)),
    ]

    results = together(
        store,
        *(PutMark(mark, MarkContents(b"two"), None) for mark in bad),
        signing(2**64, b"far"),
        signing(1, b"one", "snapshot"),
    )

    assert results == [InvalidRequestError.reason] * 14 + [""]
    assert [mark.role for mark in store.marks.marks()] == ["snapshot"]


def test_the_tables_refuse_a_mark_that_contradicts_itself(store: Store) -> None:
    each(store, signing(1, b"one"), signing(2, b"two", needs=TWO_OF_AB), signing(2, b"2", "root"))

    for change in (
        "version = 0",
        "version = -1",
        "state = 'PUBLISHED'",
        "state = 'GONE'",
        "complete_digest = NULL",
        "below_content = NULL",
        "before = '[]'",
        "complete_version = 2, complete_digest = digest",
        "content = NULL",
        "reissued = -1",
    ):
        with pytest.raises(AuditUnavailableError, match="constraint"), store.write() as connection:
            connection.execute(text(f"UPDATE marks SET {change} WHERE role = 'targets'"))


# ------------------------------------------------------------------------------------ durability


def test_a_group_that_never_commits_shows_no_mark(store: Store) -> None:
    each(store, signing(1, b"one"))

    with pytest.raises(RuntimeError), store.group() as group:
        assert group.apply([[signing(2, b"two")]], NOW) == [None]
        raise RuntimeError("the disk is full")

    assert get(store).newest.version == 1
    assert each(store, signing(2, b"other")) == [""]


def test_marks_are_read_again_when_nobody_knows_whether_a_commit_came_through(
    store: Store,
) -> None:
    each(store, signing(1, b"one"))
    with pytest.raises(RuntimeError), store.group():
        raise RuntimeError("the answer to the commit was lost")
    # What the database turns out to hold, as if that commit had come through.
    with store.write() as connection:
        connection.execute(text("UPDATE marks SET version = 8, complete_version = 8"))

    each(store, signing(1, b"one", "snapshot"))

    assert get(store).newest.version == 8
    assert get(store, "snapshot").newest.version == 1


async def test_marks_survive_closing_and_a_backup(
    database: Factory, tmp_path: Path, clock: FakeClock, store: Store
) -> None:
    each(
        store,
        signing(1, b"one", "root"),
        signing(2, b"two", "root", needs=TWO_OF_AB),
        signing(5, b"five", "timestamp", repository="other"),
    )
    shown = store.marks.marks()
    assert backup(tmp_path / "state", tmp_path / "backup") == 3
    store.close()
    restore(tmp_path / "backup", tmp_path / "restored", clock.now())

    for folder in ("state", "restored"):
        again = database(tmp_path / folder, clock)
        try:
            assert again.marks.marks() == shown
            contents = await again.marks.load_contents("acme", "root")
            assert contents == MarkContents(b"two", b"one")
            assert await again.marks.load_contents("acme", "nothing") == MarkContents()
        finally:
            again.close()
    assert [mark.role for mark in shown] == ["root", "timestamp"]


ROLES = st.sampled_from(["root", "targets", "timestamp"])
BYTES = st.sampled_from([b"x", b"y", b"z"])
NEEDS = st.sampled_from([(), TWO_OF_AB, (Need(1, frozenset({"b"})),)])
RECORDS = st.builds(
    lambda version, content, role, signer, needs: signing(
        version, content + b"%d" % version, role, signer=signer, needs=needs
    ),
    st.integers(1, 4),
    BYTES,
    ROLES,
    st.sampled_from(["a", "b"]),
    NEEDS,
)
OTHERS: st.SearchStrategy[Effect] = st.one_of(
    st.builds(
        lambda version, content, role, state: putting(version, content, role, state=state),
        st.integers(1, 4),
        BYTES,
        ROLES,
        st.sampled_from(MarkState),
    ),
    st.builds(lambda role: DropMark("acme", role, None), ROLES),
)


def looked(effect: Effect, marks: MemoryAudit) -> Effect:
    """The effect of somebody who looked at the mark before the group came."""
    if isinstance(effect, PutMark):
        return replace(effect, expect=marks.find_mark("acme", effect.mark.role))
    if isinstance(effect, DropMark):
        return replace(effect, expect=marks.find_mark("acme", effect.role))
    return effect


ITEMS = st.lists(RECORDS | OTHERS, min_size=1, max_size=3)


@given(st.lists(st.lists(RECORDS, min_size=1, max_size=4), max_size=8))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_order_of_signatures_lowers_a_version_or_signs_two_texts_of_a_published_one(
    database: Factory,
    tmp_path_factory: pytest.TempPathFactory,
    groups: list[list[RecordMark]],
) -> None:
    store = database(tmp_path_factory.mktemp("state"), FakeClock())
    signed: dict[tuple[str, int], set[bytes]] = {}
    try:
        for group in groups:
            before = {mark.role: mark for mark in store.marks.marks()}
            results = commit(store, [(a_draft(), [record]) for record in group])
            for record, result in zip(group, results, strict=True):
                if result is None:
                    place = (record.role, record.marked.version)
                    signed.setdefault(place, set()).add(record.marked.digest)
            for mark in store.marks.marks():
                old = before.get(mark.role)
                assert old is None or mark.newest.version >= old.newest.version
                assert old is None or old.complete is None or mark.complete is not None
                if mark.complete is not None:
                    assert mark.complete.version <= mark.newest.version
                    assert (
                        old is None
                        or old.complete is None
                        or mark.complete.version >= old.complete.version
                    )
    finally:
        store.close()
    for (role, _version), digests in signed.items():
        assert len(digests) == 1 or role == "timestamp"


@given(st.lists(st.lists(ITEMS, min_size=1, max_size=4), max_size=6))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_whatever_effects_come_memory_database_and_the_tests_fake_agree(
    database: Factory,
    tmp_path_factory: pytest.TempPathFactory,
    groups: list[list[list[Effect]]],
) -> None:
    clock = FakeClock()
    folder = tmp_path_factory.mktemp("state")
    fake = MemoryAudit(clock)
    store = database(folder, clock)
    try:
        for each_group in groups:
            group = [[looked(effect, fake) for effect in item] for item in each_group]
            results = commit(store, [(a_draft(), item) for item in group], clock.now())
            others = await fake.record_many([(a_draft(), item) for item in group])
            assert [said(result) for result in results] == [
                said(other if isinstance(other, KeydError) else None) for other in others
            ]
            shown = store.marks.marks()
            assert shown == fake.marks()
            for mark in shown:
                name = (mark.repository, mark.role)
                assert await store.marks.load_contents(*name) == await fake.load_contents(*name)
    finally:
        store.close()

    again = database(folder, clock)
    try:
        assert again.marks.marks() == fake.marks()
    finally:
        again.close()
