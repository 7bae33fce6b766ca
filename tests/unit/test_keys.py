"""Keys over their life: who may, in which order, and what a crash between two steps leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keyd import publickeys
from keyd.errors import (
    ClockError,
    DeviceGoneError,
    InvalidRequestError,
    KeyBoundError,
    KeydError,
    KeyExistsError,
    KeyNotFoundError,
    KeyStateError,
    MechanismMissingError,
    PolicyDeniedError,
    RotationConflictError,
    TokenNotFoundError,
    TokenObjectError,
)
from keyd.keyfields import KeyFilter, NewKey, parse_label
from keyd.logkey import LOG_KEY, REPLACE, log_keys
from keyd.model import (
    Action,
    Binding,
    Effect,
    EntryDraft,
    InsertKey,
    Key,
    KeyAlgorithm,
    Origin,
    Outcome,
    Receipt,
    Scheme,
    SetFlag,
    TokenState,
    VersionState,
    check_name,
)
from tests.domain import ADMIN, CI, STRANGER, Domain, a_domain
from tests.fakes import FakeToken

P256 = KeyAlgorithm.ECDSA_P256
BOUND = frozenset({Binding("acme", "targets")})


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain() as made:
        yield made


# ----------------------------------------------------------------------------------- create


async def test_a_new_key_is_on_the_token_active_and_accounted_for(domain: Domain) -> None:
    key = await domain.a_key("acme/root", P256, Binding("acme", "root"))

    (version,) = key.versions
    ((_, on_token),) = domain.token.keys.values()
    assert (version.state, version.origin) == (VersionState.ENABLED, Origin.GENERATED)
    assert version.public_key == on_token.public_key
    assert on_token.label == "acme/root/1"
    assert key.active_version == 1
    assert version.keyids == publickeys.keyids(version.public_key, Scheme.ECDSA_P256_SHA256)
    assert domain.actions() == ["create allowed", "create allowed"]


@pytest.mark.parametrize(
    "name", ["", "Acme", "acme//root", "../etc", "acme root", "acme/", "röt", "a\0b"]
)
async def test_odd_names_are_refused_before_anything_is_made(domain: Domain, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="not a valid name"):
        await domain.a_key(name)

    assert not domain.token.keys


def test_a_name_is_at_most_128_characters() -> None:
    assert check_name("name", "a" * 128)
    with pytest.raises(InvalidRequestError, match="1 to 128"):
        check_name("name", "a" * 129)


async def test_a_taken_name_is_refused_and_the_key_is_untouched(domain: Domain) -> None:
    before = await domain.a_key()

    with pytest.raises(KeyExistsError):
        await domain.a_key()

    assert domain.keys.get(ADMIN, "acme/targets") == before
    assert len(domain.token.keys) == 1


async def test_an_algorithm_the_token_lacks_leaves_nothing_behind(domain: Domain) -> None:
    domain.token.lacks = frozenset({KeyAlgorithm.ED25519})

    with pytest.raises(MechanismMissingError):
        await domain.a_key(algorithm=KeyAlgorithm.ED25519)

    assert domain.audit.find("acme/targets") is None
    assert domain.actions() == ["create allowed", "create failed"]


async def test_an_unknown_token_is_named(domain: Domain) -> None:
    with pytest.raises(TokenNotFoundError):
        await domain.keys.create(ADMIN, NewKey("acme/a", "other", P256))


async def test_where_there_are_several_tokens_one_is_to_be_named_by_the_option(
    domain: Domain,
) -> None:
    domain.device.add(FakeToken("yubi", serial="fa4e000000000002", pin="31415926"))

    with pytest.raises(InvalidRequestError, match="name one of the tokens: main, yubi") as refused:
        await domain.keys.create(ADMIN, NewKey("acme/a", "", P256))

    assert "--token TOKEN" in refused.value.hint
    assert domain.audit.find("acme/a") is None


async def test_an_exportable_key_pair_is_never_enabled(domain: Domain) -> None:
    generate = domain.device.generate

    async def leaky(*args: object) -> object:
        made = await generate(*args)  # type: ignore[arg-type]
        return replace(made, extractable=True)

    domain.device.generate = leaky  # type: ignore[method-assign, assignment]
    with pytest.raises(TokenObjectError, match="EXTRACTABLE"):
        await domain.a_key()

    key = domain.audit.find("acme/targets")
    assert key is not None
    assert key.versions[0].state is VersionState.PENDING


# ----------------------------------------------------------------------------------- rotate


async def test_an_unbound_key_rotates_at_once(domain: Domain) -> None:
    await domain.a_key()

    key = await domain.keys.rotate(ADMIN, "acme/targets", at_once=True)

    assert key.active_version == 2
    assert [v.state for v in key.versions] == [VersionState.ENABLED] * 2


async def test_a_bound_key_is_only_staged_with_the_hint_to_rotate_the_repository(
    domain: Domain,
) -> None:
    await domain.a_key("acme/targets", P256, *BOUND)

    with pytest.raises(KeyBoundError) as e:
        await domain.keys.rotate(ADMIN, "acme/targets", at_once=True)
    key = await domain.keys.rotate(ADMIN, "acme/targets", at_once=False)

    assert "keydctl tuf rotate" in e.value.hint
    assert (key.active_version, len(key.versions)) == (1, 2)


async def test_a_second_rotation_waits_for_the_staged_one(domain: Domain) -> None:
    await domain.a_key("acme/targets", P256, *BOUND)
    await domain.keys.rotate(ADMIN, "acme/targets", at_once=False)

    with pytest.raises(RotationConflictError, match="staged already"):
        await domain.keys.rotate(ADMIN, "acme/targets", at_once=False)

    await domain.keys.activate(ADMIN, "acme/targets", 2)
    key = await domain.keys.rotate(ADMIN, "acme/targets", at_once=False, expected_newest=2)
    assert len(key.versions) == 3


async def test_a_rotation_by_somebody_who_saw_an_older_state_is_refused(domain: Domain) -> None:
    await domain.a_key()

    with pytest.raises(RotationConflictError, match="newest version"):
        await domain.keys.rotate(ADMIN, "acme/targets", at_once=True, expected_newest=4)


# ----------------------------------------------------------------------------------- states


async def test_a_version_is_destroyed_only_by_a_person_after_the_waiting_time(
    domain: Domain,
) -> None:
    await domain.a_key()
    await domain.keys.schedule_destroy(ADMIN, "acme/targets", 1)

    with pytest.raises(KeyStateError, match="waits until"):
        await domain.keys.destroy(ADMIN, "acme/targets", 1)
    domain.clock.advance(timedelta(days=400))
    (waiting,) = domain.keys.get(ADMIN, "acme/targets").versions
    assert domain.token.keys, "the clock alone destroys nothing"
    assert waiting.shown_state(domain.clock.now()) is VersionState.DESTROYABLE

    key = await domain.keys.destroy(ADMIN, "acme/targets", 1)

    assert not domain.token.keys
    assert key.versions[0].state is VersionState.DESTROYED
    assert key.versions[0].public_key, "the public key stays registered"
    assert all(d.alert for d in domain.audit.drafts if "destroy" in d.action)


async def test_a_clock_that_jumped_ahead_destroys_nothing(domain: Domain) -> None:
    await domain.a_key()
    await domain.keys.schedule_destroy(ADMIN, "acme/targets", 1)
    domain.clock.advance(timedelta(days=8))
    domain.clock_suspect = True

    with pytest.raises(ClockError):
        await domain.keys.destroy(ADMIN, "acme/targets", 1)

    assert domain.token.keys


async def test_a_destruction_can_be_cancelled_and_the_version_comes_back(domain: Domain) -> None:
    await domain.a_key()
    await domain.keys.schedule_destroy(ADMIN, "acme/targets", 1)

    await domain.keys.cancel_destroy(ADMIN, "acme/targets", 1)
    key = await domain.keys.enable(ADMIN, "acme/targets", 1)

    assert (key.versions[0].state, key.versions[0].destroy_after) == (VersionState.ENABLED, None)


async def test_less_than_a_day_is_no_waiting_time(domain: Domain) -> None:
    await domain.a_key()

    with pytest.raises(InvalidRequestError, match="one day"):
        await domain.keys.schedule_destroy(ADMIN, "acme/targets", 1, wait_s=3600)


async def test_a_destruction_cut_off_after_the_token_is_finished_by_asking_again(
    domain: Domain,
) -> None:
    await domain.a_key()
    await domain.keys.schedule_destroy(ADMIN, "acme/targets", 1)
    domain.clock.advance(timedelta(days=8))
    domain.token.keys.clear()

    key = await domain.keys.destroy(ADMIN, "acme/targets", 1)

    assert key.versions[0].state is VersionState.DESTROYED
    assert "gone from the token already" in domain.audit.drafts[-1].message


@pytest.mark.parametrize("change", ["enable", "cancel_destroy", "destroy"])
async def test_changes_out_of_order_name_the_state(domain: Domain, change: str) -> None:
    await domain.a_key()

    with pytest.raises(KeyStateError) as e:
        await getattr(domain.keys, change)(ADMIN, "acme/targets", 1)

    assert e.value.facts["state"] == VersionState.ENABLED


async def test_a_version_that_is_not_there_is_named(domain: Domain) -> None:
    await domain.a_key()

    with pytest.raises(KeyNotFoundError, match="no version 5"):
        await domain.keys.disable(ADMIN, "acme/targets", 5)


@pytest.mark.parametrize("name", ["acme/targets", "acme/unknown"])
async def test_a_stranger_changes_and_learns_nothing(domain: Domain, name: str) -> None:
    await domain.a_key()
    keys = domain.keys

    for attempt in (
        lambda: keys.rotate(STRANGER, name, at_once=True),
        lambda: keys.disable(STRANGER, name, 1),
        lambda: keys.schedule_destroy(STRANGER, name, 1),
        lambda: keys.update(STRANGER, name, bindings=BOUND),
        lambda: keys.freeze(STRANGER, name),
        lambda: keys.adopt(STRANGER, "main", name, b"id"),
    ):
        with pytest.raises(PolicyDeniedError, match="denied, or no such name"):
            await attempt()
    with pytest.raises(PolicyDeniedError):
        keys.get(STRANGER, name)
    assert keys.list(STRANGER, KeyFilter()) == []


async def test_lists_show_what_may_be_seen_and_fits_every_filter(domain: Domain) -> None:
    await domain.a_key("acme/targets", P256, *BOUND)
    await domain.a_key("acme/root", P256, Binding("acme", "root"))
    await domain.keys.update(ADMIN, "acme/root", labels={"team": "release"})

    def names(**fields: Any) -> list[str]:
        return [k.name for k in domain.keys.list(ADMIN, KeyFilter(**fields))]

    assert names() == ["acme/root", "acme/targets"]
    assert names(role="root") == ["acme/root"]
    assert names(label="team=release") == names(label="team") == ["acme/root"]
    assert names(label="team=other") == names(repository="evil") == names(token="x") == []
    assert [k.name for k in domain.keys.list(CI, KeyFilter())] == ["acme/targets"]


async def test_a_key_that_loses_its_bindings_raises_an_alert(domain: Domain) -> None:
    await domain.a_key("acme/targets", P256, *BOUND)

    key = await domain.keys.update(ADMIN, "acme/targets", bindings=frozenset())

    assert not key.bindings
    assert domain.audit.drafts[-1].alert


async def test_a_bound_key_that_gains_another_role_raises_an_alert(domain: Domain) -> None:
    """Metadata does not name its repository: a role without a mark is a way to sign old versions
    once more."""
    await domain.a_key("acme/targets", P256)
    await domain.keys.update(ADMIN, "acme/targets", bindings=frozenset(BOUND))
    first = domain.audit.drafts[-1]

    await domain.keys.update(
        ADMIN, "acme/targets", bindings=frozenset([*BOUND, Binding("decoy", "targets")])
    )

    assert not first.alert
    assert domain.audit.drafts[-1].alert


async def test_entries_name_every_binding_that_came_and_went_however_many(
    domain: Domain,
) -> None:
    many = frozenset(Binding("acme", f"team-{n:03}-{'x' * 40}") for n in range(60))
    await domain.a_key("acme/targets", P256, *BOUND)
    created = domain.audit.drafts[0].details

    await domain.keys.update(ADMIN, "acme/targets", bindings=many)

    changed = domain.audit.drafts[-1].details
    said = ", ".join(text for name, text in changed.items() if name.split(".")[0] == "bound")
    assert created["bound"] == "acme:targets"
    assert changed["unbound"] == "acme:targets"
    assert set(said.split(", ")) == {str(b) for b in many}
    assert all(len(text) <= 1000 for text in changed.values()), "no longer than an entry keeps"


async def test_more_binding_changes_than_an_entry_can_say_are_refused(domain: Domain) -> None:
    await domain.a_key()
    too_many = frozenset(Binding("r" * 250, f"{n}{'x' * 240}") for n in range(100))

    with pytest.raises(InvalidRequestError, match="in steps"):
        await domain.keys.update(ADMIN, "acme/targets", bindings=too_many)

    assert not domain.keys.get(ADMIN, "acme/targets").bindings


# ----------------------------------------------------------------------------------- crashes


class CrashError(BaseException):
    """The process is gone: nothing after it runs, as after kill -9."""


class CrashingAudit:
    """Lets ``left`` entries through, then the process dies, before or after the commit."""

    def __init__(self, domain: Domain, left: int, *, after_commit: bool) -> None:
        self._record = domain.audit.record
        self._left = left
        self._after_commit = after_commit
        domain.audit.record = self.record  # type: ignore[method-assign]

    async def record(self, draft: EntryDraft, effects: Sequence[Effect] = ()) -> Receipt:
        """Record, or die."""
        if self._left == 0 and not self._after_commit:
            raise CrashError
        receipt = await self._record(draft, effects)
        if self._left == 0:
            raise CrashError
        self._left -= 1
        return receipt


def _restarted(domain: Domain, crashed: CrashingAudit) -> None:
    domain.audit.record = crashed._record  # type: ignore[method-assign]
    domain.enrolment._busy.clear()  # the next process knows nothing


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("entries", [0, 1])
async def test_a_creation_killed_between_any_two_steps_is_finished_or_undone(
    domain: Domain, entries: int, after_commit: bool
) -> None:
    crashed = CrashingAudit(domain, entries, after_commit=after_commit)
    with pytest.raises(CrashError):
        await _generate(domain)
    _restarted(domain, crashed)

    told = await domain.enrolment.settle("main")

    key = domain.audit.find("acme/late")
    if domain.token.keys:
        assert key is not None
        assert key.versions[0].state is VersionState.ENABLED
        assert key.active_version == 1
    else:
        assert key is None
    registered = {v.public_key for k in domain.keys.list(ADMIN, KeyFilter()) for v in k.versions}
    assert {o.public_key for _, o in domain.token.keys.values()} == registered
    pending = (entries, after_commit) in [(0, True), (1, False)]
    assert bool(told) == pending
    assert ("recovery allowed" in domain.actions()) == pending
    assert await domain.enrolment.settle("main") == []


async def _generate(domain: Domain) -> None:
    """A creation in this very task, so that the crash is not caught by another one."""
    key = Key("acme/late", "main", P256, P256.schemes[0], domain.clock.now(), "socket:admin")
    version = domain.keys._pending(ADMIN, key, 1)
    await domain.enrolment._generate(
        ADMIN, Action.CREATE, key, version, (InsertKey(key),), False, ""
    )


async def test_a_generation_the_token_made_but_never_answered_is_finished_later(
    domain: Domain,
) -> None:
    generate = domain.device.generate

    async def lost(*args: object) -> object:
        await generate(*args)  # type: ignore[arg-type]
        domain.token.state = TokenState.ABSENT
        raise DeviceGoneError("pulled", token="main")

    domain.device.generate = lost  # type: ignore[method-assign, assignment]
    with pytest.raises(DeviceGoneError):
        await domain.a_key()
    domain.token.state = TokenState.READY

    await domain.enrolment.settle("main")

    (version,) = domain.keys.get(ADMIN, "acme/targets").versions
    assert version.state is VersionState.ENABLED


async def test_a_rotation_cut_off_is_finished_as_staged(domain: Domain) -> None:
    await domain.a_key("acme/targets", P256, *BOUND)
    crashed = CrashingAudit(domain, 1, after_commit=False)
    with pytest.raises(CrashError):
        await domain.keys.rotate(ADMIN, "acme/targets", at_once=False)
    _restarted(domain, crashed)

    await domain.enrolment.settle("main")

    key = domain.keys.get(ADMIN, "acme/targets")
    assert (key.active_version, key.versions[1].state) == (1, VersionState.ENABLED)


# ----------------------------------------------------------------------------------- adopt


async def test_the_registry_is_rebuilt_from_what_keyd_once_labelled(domain: Domain) -> None:
    await domain.a_key("acme/targets")
    await domain.keys.rotate(ADMIN, "acme/targets", at_once=True)
    await domain.a_key("acme/root")
    with a_domain() as fresh:
        fresh.token.keys.update(domain.token.keys)

        keys, skipped = await fresh.keys.adopt_labelled(ADMIN, "main")
        again, left = await fresh.keys.adopt_labelled(ADMIN, "main")

        assert [k.name for k in keys] == ["acme/root", "acme/targets"]
        assert fresh.keys.get(ADMIN, "acme/targets").active_version == 2
        assert {v.origin for k in keys for v in k.versions} == {Origin.ADOPTED}
        assert not skipped
        assert not again
        assert all("registered already" in line for line in left)


async def test_one_key_pair_is_adopted_by_its_object_id_under_a_new_name(domain: Domain) -> None:
    made = await domain.device.generate("main", P256, b"\x07", "made elsewhere")

    key = await domain.keys.adopt(ADMIN, "main", "acme/old", b"\x07", bindings=BOUND)

    assert key.versions[0].public_key == made.public_key
    assert key.bindings == BOUND
    with pytest.raises(KeyExistsError, match="registered as acme/old"):
        await domain.keys.adopt(ADMIN, "main", "acme/again", b"\x07")
    with pytest.raises(TokenObjectError, match="no key pair"):
        await domain.keys.adopt(ADMIN, "main", "acme/none", b"\x08")


@pytest.mark.parametrize("change", [{"sensitive": False}, {"extractable": True}])
async def test_an_exportable_key_pair_is_not_adopted(
    domain: Domain, change: dict[str, bool]
) -> None:
    await domain.device.generate("main", P256, b"\x07", "acme/x/1")
    private, described = domain.token.keys[b"\x07"]
    domain.token.keys[b"\x07"] = (private, replace(described, **change))  # type: ignore[arg-type]

    with pytest.raises(TokenObjectError, match="could leave the token"):
        await domain.keys.adopt(ADMIN, "main", "acme/x", b"\x07")
    adopted, skipped = await domain.keys.adopt_labelled(ADMIN, "main")

    assert not adopted
    assert len(skipped) == 1


@pytest.mark.parametrize(
    ("label", "parsed"),
    [
        ("acme/root/1", ("acme/root", 1)),
        ("plain/12", ("plain", 12)),
        ("acme/root", ("", 0)),
        ("acme/root/0", ("", 0)),
        ("acme/root/01", ("", 0)),
        ("/1", ("", 0)),
        ("Acme/1", ("", 0)),
        ("acme/" + "9" * 30, ("", 0)),
        ("acme/²", ("", 0)),
    ],
)
def test_only_labels_as_keyd_writes_them_are_read_back(label: str, parsed: tuple[str, int]) -> None:
    assert parse_label(label) == parsed


async def test_the_reserved_names_are_nobodys(domain: Domain) -> None:
    with pytest.raises(PolicyDeniedError):
        await domain.a_key(LOG_KEY)
    with pytest.raises(PolicyDeniedError):
        await domain.keys.schedule_destroy(ADMIN, LOG_KEY, 1)
    with pytest.raises(PolicyDeniedError):
        await domain.keys.adopt(ADMIN, "main", "keyd/other", b"\x07")


async def test_the_log_key_is_made_once_and_falls_back_to_p256(domain: Domain) -> None:
    domain.token.lacks = frozenset({KeyAlgorithm.ED25519})
    log_key = domain.log_key()

    await log_key.ensure()
    await log_key.ensure()
    signature = await log_key.sign(b"a note\n")

    public_key = log_key.find_public_key()
    assert public_key is not None
    assert len(domain.token.keys) == 1
    raw = publickeys.to_raw(signature, P256)
    publickeys.verify(public_key, Scheme.ECDSA_P256_SHA256, raw, b"a note\n")


async def test_a_lost_log_key_is_replaced_when_a_person_asked_and_only_once(
    domain: Domain,
) -> None:
    log_key = domain.log_key()
    await log_key.ensure()
    first = log_key.find_public_key()
    domain.token.keys.clear()  # the token was lost, another one is in its place

    ask = EntryDraft("log-key-replace", Outcome.ALLOWED, ADMIN, alert=True)
    await domain.audit.record(ask, [SetFlag(REPLACE, "lost")])
    await log_key.ensure()
    await log_key.ensure()

    second = log_key.find_public_key()
    assert second not in (None, first)
    assert log_key.public_keys() == [first, second], "the old one still checks old notes"
    assert await log_key.sign(b"a note\n")
    assert [k.name for k in log_keys(domain.audit)] == ["keyd/log", "keyd/log-2"]


async def test_the_log_key_says_when_it_cannot_sign(domain: Domain) -> None:
    log_key = domain.log_key()
    with pytest.raises(KeydError, match="not made yet"):
        await log_key.sign(b"note\n")
    await log_key.ensure()
    domain.token.state = TokenState.ABSENT
    with pytest.raises(DeviceGoneError):
        await log_key.sign(b"note\n")


def test_outcomes_are_spelt_as_in_the_log() -> None:
    assert [o.value for o in Outcome] == ["allowed", "refused", "failed"]
