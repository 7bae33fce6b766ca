"""Knocking costs the log one entry an interval, however fast it is."""

from __future__ import annotations

from keyd.audit.refusals import MAX_KINDS, Refusals
from keyd.model import Caller, EntryDraft, Outcome, Principal


def refusal(
    who: str = "socket:ci", reason: str = "POLICY_DENIED", key: str = "a", rule: str = ""
) -> EntryDraft:
    caller = Caller(Principal(who, "unix"), "r")
    return EntryDraft("sign", Outcome.REFUSED, caller, key=key, reason_code=reason, rule=rule)


def test_the_first_refusal_is_written_and_the_repeated_ones_become_one_entry() -> None:
    refusals = Refusals(60.0)

    written = [refusals.admit(refusal(key=str(n)), now=float(n)) for n in range(10)]

    assert written == [True] + [False] * 9
    assert refusals.due(59.0) == []
    counted = refusals.due(60.0)
    assert [(draft.count, draft.key) for draft in counted] == [(9, "9")]


def test_another_principal_action_or_reason_is_another_refusal() -> None:
    refusals = Refusals(60.0)

    assert refusals.admit(refusal(), 0.0)
    assert refusals.admit(refusal(who="socket:other"), 0.0)
    assert refusals.admit(refusal(reason="FROZEN"), 0.0)
    assert not refusals.admit(refusal(), 0.0)


def test_a_rollback_is_not_hidden_behind_the_noise_of_harmless_mistakes() -> None:
    refusals = Refusals(60.0)
    for _ in range(100):
        refusals.admit(refusal(reason="RULE_REFUSED", rule="rule expired"), 0.0)

    assert refusals.admit(refusal(reason="RULE_REFUSED", rule="rule version-lower"), 1.0)


def test_a_refusal_that_goes_on_for_ever_gives_one_entry_an_interval() -> None:
    refusals = Refusals(60.0)
    written = 0

    for second in range(600):
        written += refusals.admit(refusal(), float(second))
        written += len(refusals.due(float(second)))

    assert written == 10


def test_after_a_quiet_interval_a_refusal_is_written_at_once_again() -> None:
    refusals = Refusals(60.0)
    refusals.admit(refusal(), 0.0)

    assert refusals.due(61.0) == []
    assert refusals.admit(refusal(), 62.0)


def test_nobodys_noise_is_counted_and_never_written() -> None:
    refusals = Refusals(60.0)

    assert not refusals.admit(refusal(who=""), 0.0)
    assert not refusals.admit(refusal(reason="UNKNOWN_CALLER"), 0.0)

    assert refusals.unauthenticated == 2
    assert refusals.due(0.0, all_of_them=True) == []


def test_a_caller_with_many_names_cannot_fill_the_memory() -> None:
    refusals = Refusals(60.0)
    for number in range(MAX_KINDS):
        assert refusals.admit(refusal(who=f"uri:{number}"), 0.0)

    assert not refusals.admit(refusal(who="uri:one-more"), 0.0)
    assert refusals.dropped == 1


def test_stopping_gives_all_counts_at_once() -> None:
    refusals = Refusals(60.0)
    for _ in range(3):
        refusals.admit(refusal(), 0.0)

    assert [draft.count for draft in refusals.due(1.0, all_of_them=True)] == [2]
