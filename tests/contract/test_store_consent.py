"""Approvals and ceremonies in every database: one use, one vote, in time, step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from keyd.errors import (
    ApprovalStateError,
    AuditUnavailableError,
    ConflictError,
    KeydError,
)
from keyd.model import (
    AddVote,
    Approval,
    ApprovalContents,
    ApprovalState,
    Ceremony,
    CloseApproval,
    Effect,
    InsertApproval,
    Phase,
    PutCeremony,
    RemoveVote,
    Requirement,
    SetFlag,
    Vote,
)
from keyd.store.approval_rows import KEPT_BYTES
from keyd.store.backup import backup, restore
from keyd.store.store import Store
from tests.contract.databases import Factory, a_draft, commit
from tests.fakes import FakeClock
from tests.fakes_audit import MemoryAudit

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=24)
PENDING, APPROVED, USED, REJECTED, WITHDRAWN, EXPIRED = ApprovalState


def approval(name: str = "one", content: bytes = b"text", **fields: object) -> Approval:
    plain = Approval(
        id=name,
        action="sign",
        subject="acme/root",
        key_version=1,
        repository="acme",
        role="root",
        metadata_version=2,
        digest=hashlib.sha256(content).digest(),
        summary="root 2: one key less \u2013 \u00e9",
        requester="cert:alice",
        requirements=(
            Requirement("two-people", 2, ("email:*@example.org",), True, True, 3600),
            Requirement("keyd: a threshold is lowered", 1),
        ),
        why=("two-people: sign acme/*", "keyd: a threshold is lowered"),
        said="the holder left",
        created_at=NOW,
        expires_at=LATER,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


def asking(name: str = "one", content: bytes = b"text", **fields: object) -> InsertApproval:
    contents = ApprovalContents(content, b"previous")
    return InsertApproval(approval(name, content, **fields), contents)


def voting(
    who: str = "cert:bob",
    name: str = "one",
    *,
    state: ApprovalState = APPROVED,
    seen: int = 0,
) -> AddVote:
    vote = Vote(who, NOW + timedelta(seconds=1), "looks right", "-----BEGIN", "SHA256:abc")
    return AddVote(name, vote, state, seen)


def each(store: Store, *items: Effect | Sequence[Effect], now: datetime = NOW) -> list[str]:
    """What became of items that come one by one: the reason of a refusal, or nothing."""
    return [said(commit(store, [(a_draft(), of(item))], now)[0]) for item in items]


def together(store: Store, *items: Effect | Sequence[Effect]) -> list[str]:
    """What became of items that come in one group."""
    return [said(result) for result in commit(store, [(a_draft(), of(item)) for item in items])]


def of(item: Effect | Sequence[Effect]) -> Sequence[Effect]:
    return item if isinstance(item, Sequence) else [item]


def said(conflict: KeydError | None) -> str:
    return "" if conflict is None else conflict.reason


async def state_of(store: Store, name: str = "one") -> ApprovalState:
    found: tuple[Approval, ApprovalContents] | None = await store.approvals.load_approval(name)
    assert found is not None
    return found[0].state


STATE, CONFLICT = ApprovalStateError.reason, ConflictError.reason


# ------------------------------------------------------------------------------------ approvals


async def test_an_approval_is_kept_word_for_word_and_shown_while_it_is_open(store: Store) -> None:
    assert each(store, asking(), voting()) == ["", ""]

    expected = approval(state=APPROVED, votes=(voting().vote,))
    assert store.approvals.find_approval("one") == expected
    assert store.approvals.open_approvals() == (expected,)
    found = await store.approvals.load_approval("one")
    assert found == (expected, ApprovalContents(b"text", b"previous"))
    assert store.approvals.find_approval("two") is None
    assert await store.approvals.load_approval("two") is None


@pytest.mark.parametrize("end", [USED, REJECTED, WITHDRAWN, EXPIRED])
async def test_an_approval_that_is_done_is_open_to_nothing_but_reading(
    store: Store, end: ApprovalState
) -> None:
    each(store, asking(), voting(), CloseApproval("one", end))

    assert store.approvals.find_approval("one") is None
    assert store.approvals.open_approvals() == ()
    assert await state_of(store) is end
    for effect in (
        CloseApproval("one", USED),
        CloseApproval("one", REJECTED),
        voting("cert:carol", seen=1),
        RemoveVote("one", "cert:bob"),
    ):
        conflict = commit(store, [(a_draft(), [effect])])[0]
        assert isinstance(conflict, ApprovalStateError)
        assert conflict.facts == {"approval": "one", "state": end.value}
        assert conflict.hint
    assert await state_of(store) is end


async def test_replay_two_uses_of_one_approval_in_one_group_the_second_is_refused_whole(
    store: Store,
) -> None:
    each(store, asking(), voting())

    assert together(
        store,
        [CloseApproval("one", USED), SetFlag("first", "1")],
        [SetFlag("second", "1"), CloseApproval("one", USED)],
        SetFlag("neighbour", "1"),
    ) == ["", STATE, ""]
    assert store.get_flag("first") == "1"
    assert store.get_flag("second") is None
    assert store.get_flag("neighbour") == "1"


def test_an_approval_that_waits_for_people_cannot_be_used(store: Store) -> None:
    assert each(
        store,
        asking(),
        voting(state=PENDING),
        CloseApproval("one", USED),
        CloseApproval("one", WITHDRAWN),
    ) == ["", "", STATE, ""]


async def test_an_approval_is_over_at_the_second_it_expires(store: Store) -> None:
    each(store, asking(), asking("two", b"other"), voting(), voting(name="two"))

    assert each(store, CloseApproval("two", USED), now=LATER - timedelta(microseconds=1)) == [""]
    conflicts = commit(
        store,
        [
            (a_draft(), [CloseApproval("one", USED)]),
            (a_draft(), [voting("cert:carol", seen=1)]),
        ],
        LATER,
    )

    for conflict in conflicts:
        assert isinstance(conflict, ApprovalStateError)
        assert conflict.facts["state"] == "EXPIRED"
        assert "2030-01-02 00:00:00Z" in conflict.message
    assert each(store, CloseApproval("one", EXPIRED), now=LATER) == [""]
    assert await state_of(store) is EXPIRED


def test_one_person_has_one_vote_and_nobody_votes_on_what_they_did_not_see(store: Store) -> None:
    assert together(
        store,
        asking(),
        voting(state=PENDING),
        voting(state=APPROVED, seen=1),
        voting("cert:carol", seen=0),
        voting("cert:carol", seen=1),
    ) == ["", "", STATE, CONFLICT, ""]

    found = store.approvals.find_approval("one")
    assert found is not None
    assert [vote.principal for vote in found.votes] == ["cert:bob", "cert:carol"]
    assert found.state is APPROVED


def test_consent_that_is_taken_back_makes_the_approval_wait_again(store: Store) -> None:
    assert each(
        store,
        asking(),
        voting(),
        RemoveVote("one", "cert:carol"),
        RemoveVote("one", "cert:bob"),
        CloseApproval("one", USED),
    ) == ["", "", STATE, "", STATE]
    assert store.approvals.find_approval("one") == approval()


def test_an_approval_nobody_knows_is_said_to_be_unknown(store: Store) -> None:
    assert (
        each(
            store,
            voting(),
            RemoveVote("one", "cert:bob"),
            CloseApproval("one", USED),
            CloseApproval("\ud800", USED),
        )
        == ["APPROVAL_NOT_FOUND"] * 4
    )


def test_the_same_request_meets_the_approval_that_waits(store: Store) -> None:
    each(store, asking())

    conflict = commit(store, [(a_draft(), [asking("two")])])[0]

    assert isinstance(conflict, ConflictError)
    assert conflict.facts["approval"] == "one"
    assert "keydctl approvals" in conflict.hint
    different: list[dict[str, Any]] = [
        {"requester": "cert:mallory"},
        {"action": "certify"},
        {"subject": "acme/targets"},
        {"key_version": 2},
        {"repository": "other"},
        {"role": "targets"},
        {"content": b"other bytes"},
    ]
    for number, fields in enumerate(different):
        assert each(store, asking(f"other-{number}", **fields)) == [""]
    assert each(store, asking("one", b"again")) == [CONFLICT]


def test_two_requests_for_the_same_in_one_group_make_one_approval(store: Store) -> None:
    assert together(store, asking("one"), asking("two"), asking("three", b"other")) == [
        "",
        CONFLICT,
        "",
    ]
    assert [a.id for a in store.approvals.open_approvals()] == ["one", "three"]


def test_an_approval_that_ends_gives_its_place_to_the_next_in_the_same_item(store: Store) -> None:
    each(store, asking())

    results = each(
        store, [CloseApproval("one", EXPIRED), asking("two")], [CloseApproval("two", USED)]
    )

    assert results == ["", STATE]
    assert [a.id for a in store.approvals.open_approvals()] == ["two"]


def test_an_effect_that_makes_no_sense_is_refused_and_harms_no_neighbour(store: Store) -> None:
    assert together(
        store,
        asking(),
        CloseApproval("one", APPROVED),
        voting(state=USED),
        asking("two", b"2", state=USED),
        asking("three", b"3", summary="\ud800"),
        asking("four", b"4", key_version=-1),
        voting(),
    ) == ["", *["INVALID_REQUEST"] * 5, ""]


async def test_the_newest_approvals_come_first(store: Store) -> None:
    each(store, *(asking(f"a{n}", b"%d" % n) for n in range(5)))
    each(store, CloseApproval("a3", REJECTED), voting(name="a0"))

    newest = await store.approvals.list_approvals(limit=3)

    assert [(a.id, a.state) for a in newest] == [
        ("a4", PENDING),
        ("a3", REJECTED),
        ("a2", PENDING),
    ]
    assert [a.id for a in store.approvals.open_approvals()] == ["a0", "a1", "a2", "a4"]


async def test_long_bytes_go_when_the_approval_is_done_short_ones_stay(store: Store) -> None:
    long = b"x" * (KEPT_BYTES + 1)
    each(store, asking("long", long), asking("short", long[1:]))
    each(store, voting(name="long"))
    found = await store.approvals.load_approval("long")
    assert found is not None
    assert found[1] == ApprovalContents(long, b"previous")

    each(store, CloseApproval("long", USED), CloseApproval("short", REJECTED))

    found = await store.approvals.load_approval("long")
    assert found is not None
    assert found[1] == ApprovalContents(b"", b"previous")
    assert found[0].digest == hashlib.sha256(long).digest()
    found = await store.approvals.load_approval("short")
    assert found is not None
    assert found[1] == ApprovalContents(long[1:], b"previous")


def test_the_tables_refuse_what_no_plan_would_write(store: Store) -> None:
    each(store, asking(), CloseApproval("one", REJECTED), asking("two"), starting("c1"))

    for statement in (
        "UPDATE approvals SET state = 'PENDING' WHERE id = 'one'",
        "UPDATE approvals SET id = 'two' WHERE id = 'one'",
        "UPDATE approvals SET state = 'SOMEHOW'",
        "UPDATE approvals SET key_version = -1",
        "UPDATE ceremonies SET phase = 'PARTY'",
        "UPDATE ceremonies SET step = 0",
        "INSERT INTO ceremonies SELECT 99, 'c2', repository, plan, phase, started_by, started_at, "
        "changed_at, said, draft, facts, step FROM ceremonies",
    ):
        with pytest.raises(AuditUnavailableError, match="constraint"), store.write() as connection:
            connection.execute(text(statement))


# ------------------------------------------------------------------------------------ ceremonies


def starting(name: str = "c1", repository: str = "acme") -> PutCeremony:
    return PutCeremony(
        Ceremony(
            name,
            repository,
            '{"rotate":"root"}',
            Phase.PLAN,
            "cert:alice",
            NOW,
            NOW,
            "due",
        )
    )


def going_on(store: Store, name: str, phase: Phase, **fields: object) -> PutCeremony:
    found: Ceremony | None = store.ceremonies.find_ceremony(name)
    assert found is not None
    changed = {"phase": phase, "step": found.step + 1, **fields}
    return PutCeremony(replace(found, **changed))  # type: ignore[arg-type]


def test_a_ceremony_goes_on_step_by_step(store: Store) -> None:
    assert each(store, starting()) == [""]
    signing = going_on(
        store, "c1", Phase.SIGN, draft=b"{}", facts={"new_version": "acme/root/versions/2"}
    )

    assert each(store, signing, signing) == ["", CONFLICT]

    assert store.ceremonies.find_ceremony("c1") == signing.ceremony
    assert store.ceremonies.find_ceremony("c2") is None


def test_two_people_who_go_on_at_once_do_it_once(store: Store) -> None:
    each(store, starting())
    first = going_on(store, "c1", Phase.GENERATE, facts={"by": "alice"})
    second = going_on(store, "c1", Phase.ABORTED, facts={"by": "bob"})

    assert together(store, first, [SetFlag("loser", "1"), second]) == ["", CONFLICT]

    assert store.ceremonies.ceremonies() == (first.ceremony,)
    assert store.get_flag("loser") is None


def test_a_repository_has_one_open_ceremony(store: Store) -> None:
    assert together(store, starting("c1"), starting("c2"), starting("c3", "other")) == [
        "",
        CONFLICT,
        "",
    ]
    conflict = commit(store, [(a_draft(), [starting("c2")])])[0]
    assert isinstance(conflict, ConflictError)
    assert conflict.facts["ceremony"] == "c1"
    assert "keydctl tuf ceremony resume" in conflict.hint

    # The end of one and the start of the next, in one group.
    end = going_on(store, "c1", Phase.ABORTED)
    assert together(store, end, starting("c2")) == ["", ""]

    assert [c.id for c in store.ceremonies.ceremonies()] == ["c2", "c3", "c1"]
    again = going_on(store, "c1", Phase.SIGN)
    assert each(store, again) == [CONFLICT]


def test_a_ceremony_that_is_taken_up_again_in_the_group_that_ends_the_next_one(
    store: Store,
) -> None:
    each(store, starting("c1"))
    each(store, going_on(store, "c1", Phase.ABORTED), starting("c2"))
    noted = going_on(store, "c1", Phase.ABORTED, facts={"why": "wrong key"})
    again = PutCeremony(replace(noted.ceremony, phase=Phase.PLAN, step=noted.ceremony.step + 1))

    results = together(store, noted, going_on(store, "c2", Phase.ABORTED), again)

    assert results == ["", "", ""]
    assert store.ceremonies.find_ceremony("c1") == again.ceremony


def test_a_ceremony_starts_at_step_one_and_stays_in_its_repository(store: Store) -> None:
    late = replace(starting().ceremony, step=2)
    assert each(store, PutCeremony(late), starting(), starting()) == [CONFLICT, "", CONFLICT]
    assert each(store, going_on(store, "c1", Phase.STAGE, repository="other")) == [CONFLICT]


# ------------------------------------------------------------------------------------ durability


def test_a_group_that_never_commits_shows_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.group() as group:
        assert group.apply([[asking(), voting(), starting()]], NOW) == [None]
        raise RuntimeError("the disk is full")

    assert store.approvals.open_approvals() == ()
    assert store.ceremonies.ceremonies() == ()
    assert each(store, asking(), starting()) == ["", ""]


def test_consent_is_read_again_when_nobody_knows_whether_a_commit_came_through(
    store: Store,
) -> None:
    each(store, asking(), starting())
    with pytest.raises(RuntimeError), store.group():
        raise RuntimeError("the answer to the commit was lost")
    with store.write() as connection:
        connection.execute(text("UPDATE approvals SET state = 'USED'"))
        connection.execute(text("UPDATE ceremonies SET phase = 'DONE'"))

    each(store, SetFlag("next", "1"))

    assert store.approvals.find_approval("one") is None
    assert store.ceremonies.ceremonies()[0].phase is Phase.DONE


async def test_approvals_and_ceremonies_survive_closing_and_open_approvals_no_backup(
    database: Factory, tmp_path: Path, clock: FakeClock, store: Store
) -> None:
    """What was open when the backup was made may be used up by now: nobody uses it twice."""
    each(store, asking(), asking("two", b"2"), voting(), CloseApproval("one", USED))
    each(store, starting("c1"), starting("c2", "other"))
    each(store, going_on(store, "c1", Phase.SIGN, draft=b"{}", facts={"a": "b"}))
    shown = (store.approvals.open_approvals(), store.ceremonies.ceremonies())
    done = await store.approvals.load_approval("one")
    backup(tmp_path / "state", tmp_path / "backup")
    store.close()
    restore(tmp_path / "backup", tmp_path / "restored", clock.now())

    for folder in ("state", "restored"):
        again = database(tmp_path / folder, clock)
        try:
            opened = shown[0] if folder == "state" else ()
            assert (again.approvals.open_approvals(), again.ceremonies.ceremonies()) == (
                opened,
                shown[1],
            )
            two = await again.approvals.load_approval("two")
            assert two is not None
            assert two[0].state is (ApprovalState.PENDING if opened else ApprovalState.EXPIRED)
            assert await again.approvals.load_approval("one") == done
            assert each(again, CloseApproval("one", USED)) == [STATE]
        finally:
            again.close()


IDS = st.sampled_from(["one", "two", "three"])
APPROVAL_STATES = st.sampled_from(ApprovalState)
EFFECTS: st.SearchStrategy[Effect] = st.one_of(
    st.builds(asking, IDS, st.sampled_from([b"x", b"y"])),
    st.builds(
        voting,
        st.sampled_from(["cert:bob", "cert:carol"]),
        IDS,
        state=APPROVAL_STATES,
        seen=st.integers(0, 2),
    ),
    st.builds(RemoveVote, IDS, st.sampled_from(["cert:bob", "cert:carol"])),
    st.builds(CloseApproval, IDS, APPROVAL_STATES),
    st.builds(
        lambda name, repository, phase, step: PutCeremony(
            replace(starting(name, repository).ceremony, phase=phase, step=step)
        ),
        IDS,
        st.sampled_from(["acme", "other"]),
        st.sampled_from([Phase.PLAN, Phase.SIGN, Phase.DONE]),
        st.integers(1, 3),
    ),
)


@given(st.lists(st.lists(st.lists(EFFECTS, max_size=3), min_size=1, max_size=4), max_size=8))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_whatever_effects_come_memory_database_and_the_tests_fake_agree(
    database: Factory,
    tmp_path_factory: pytest.TempPathFactory,
    groups: list[list[list[Effect]]],
) -> None:
    clock = FakeClock(NOW)
    folder = tmp_path_factory.mktemp("state")
    fake = MemoryAudit(clock)
    used: list[str] = []
    store = database(folder, clock)
    try:
        for group in groups:
            results = commit(store, [(a_draft(), item) for item in group], clock.now())
            others = await fake.record_many([(a_draft(), item) for item in group])
            assert [said(result) for result in results] == [
                said(other if isinstance(other, KeydError) else None) for other in others
            ]
            assert store.approvals.open_approvals() == fake.open_approvals()
            assert store.ceremonies.ceremonies() == fake.ceremonies()
            listed = await store.approvals.list_approvals(limit=9)
            assert listed == list(await fake.list_approvals(limit=9))
            used += [
                effect.approval_id
                for item, result in zip(group, results, strict=True)
                for effect in item
                if result is None and isinstance(effect, CloseApproval) and effect.state is USED
            ]
    finally:
        store.close()

    assert len(used) == len(set(used))
    again = database(folder, clock)
    try:
        assert again.approvals.open_approvals() == fake.open_approvals()
        assert again.ceremonies.ceremonies() == fake.ceremonies()
    finally:
        again.close()
