"""What is due is prepared for people: never twice, never against their word, never further than to
them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from tuf.api.metadata import Root
from tuf.api.serialization.json import CanonicalJSONSerializer

from keyd.adapters.tuf import tuf_key
from keyd.adapters.tufrepo.ceremony_draft import restored
from keyd.adapters.tufrepo.ceremony_keys import generated
from keyd.adapters.tufrepo.ceremony_plan import read_plan
from keyd.content import documents as content
from keyd.content import parse_document
from keyd.model import Phase, VersionState
from tests.bound_keys import EXPIRES, REPOSITORY, ask, root
from tests.domain import ADMIN, Domain, a_domain
from tests.looking_ahead import (
    MONTH,
    NEARLY_DUE,
    Ahead,
    a_key,
    a_repository,
    states,
    the_key,
)


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain() as made:
        yield made


async def test_nothing_is_prepared_unless_it_is_configured(domain: Domain) -> None:
    await a_repository(domain)
    domain.clock.advance(MONTH)
    ahead = Ahead(domain, prepare=False)

    await ahead.look(times=2)

    assert states(domain, "acme/online") == [VersionState.ENABLED]
    assert domain.audit.ceremonies() == ()
    assert "keydctl tuf ceremony start DIR --rotate snapshot=acme/online" in ahead.note(
        "acme/online"
    )


async def test_a_new_version_is_staged_once_and_never_activated(domain: Domain) -> None:
    await a_key(domain, "acme/key")
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)

    for _ in range(3):
        await ahead.look(times=2)
        ahead = ahead.restarted()
    domain.clock.advance(MONTH)
    await ahead.look(times=2)

    assert states(domain, "acme/key") == [VersionState.ENABLED] * 2
    assert the_key(domain, "acme/key").active_version == 1
    made = [d for d in domain.audit.drafts if d.action == "rotate"]
    assert {d.caller.principal.id for d in made} == {"system:keyd"} and len(made) == 2
    assert "keydctl key activate acme/key 2" in ahead.alerts[0].message


async def test_a_ceremony_is_opened_once_with_the_root_that_people_sign(domain: Domain) -> None:
    payload = await a_repository(domain)
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)

    for _ in range(3):
        await ahead.look(times=3)
        ahead = ahead.restarted()

    (ceremony,) = domain.audit.ceremonies()
    assert (ceremony.phase, ceremony.step, ceremony.started_by) == (Phase.CONSENT, 1, "system:keyd")
    after, before = parse_document(ceremony.draft), parse_document(payload)
    assert isinstance(after, content.Root) and isinstance(before, content.Root)
    new = the_key(domain, "acme/online").versions[1]
    assert after.version == 2
    for role in ("targets", "snapshot", "timestamp"):
        assert after.roles[role].keyids == (new.keyids["tuf"],)
        assert after.roles[role].threshold == before.roles[role].threshold
    assert after.roles["root"] == before.roles["root"]
    assert set(after.keys) == {new.keyids["tuf"], *before.roles["root"].keyids}
    entries = [d for d in domain.audit.drafts if d.action == "ceremony-start"]
    assert len(entries) == 1 and entries[0].alert
    assert "ceremony c1 waits" in ahead.alerts[0].message


async def test_keydctl_reads_the_plan_and_would_draft_the_same_root(domain: Domain) -> None:
    payload = await a_repository(domain)
    domain.clock.advance(NEARLY_DUE)
    await Ahead(domain).look()
    (ceremony,) = domain.audit.ceremonies()

    plan = read_plan(ceremony.plan)
    made = [name for _, name in generated(plan, ceremony.facts)]
    draft: Root = restored(ceremony.draft, "DIR").signed
    key = the_key(domain, "acme/online")
    own = Root.from_dict(json.loads(payload, strict=False))
    successor = tuf_key(key.versions[1].public_key, key.scheme)
    plan.edit(own, [successor] * len(plan.rotate))
    own.version, own.expires = 2, draft.expires

    assert made == ["acme/online/versions/2"] * 3
    assert (plan.repository, plan.base, plan.roles) == (
        "acme",
        1,
        ("targets", "snapshot", "timestamp"),
    )
    assert CanonicalJSONSerializer().serialize(own) == ceremony.draft


async def test_the_draft_keeps_every_rule_for_the_holders_of_root(domain: Domain) -> None:
    await a_repository(domain)
    domain.clock.advance(NEARLY_DUE)
    await Ahead(domain).look()
    (ceremony,) = domain.audit.ceremonies()

    signed = await domain.signing.sign(ADMIN, ask("acme/root", ceremony.draft, "root"))

    assert signed.statement.version == 2
    mark = domain.audit.find_mark(REPOSITORY, "root")
    assert mark is not None and mark.is_complete and mark.newest.version == 2


async def test_a_root_lives_as_long_as_the_one_before(domain: Domain) -> None:
    lived = EXPIRES - domain.clock.now()
    await a_repository(domain)
    domain.clock.advance(NEARLY_DUE)
    await Ahead(domain).look()
    (ceremony,) = domain.audit.ceremonies()

    assert parse_document(ceremony.draft).expires == domain.clock.now() + lived


async def test_root_keys_that_are_due_wait_for_old_and_new(domain: Domain) -> None:
    holder = await a_key(domain, "acme/root", "root")
    await domain.signing.sign(ADMIN, ask("acme/root", root(1, holder.versions[0]), "root"))
    domain.clock.advance(NEARLY_DUE)
    await Ahead(domain).look()
    (ceremony,) = domain.audit.ceremonies()
    new = the_key(domain, "acme/root").versions[1]

    for number in (1, 2):
        await domain.signing.sign(ADMIN, ask("acme/root", ceremony.draft, "root", version=number))

    # The key has the other roles too, but is bound to root alone: there its version stays.
    draft = parse_document(ceremony.draft)
    assert isinstance(draft, content.Root)
    assert draft.roles["root"].keyids == (new.keyids["tuf"],)
    assert draft.roles["targets"].keyids == (holder.versions[0].keyids["tuf"],)
    mark = domain.audit.find_mark(REPOSITORY, "root")
    assert mark is not None and mark.is_complete


async def test_keys_that_are_due_together_share_one_ceremony(domain: Domain) -> None:
    holder = await a_key(domain, "acme/root", "root")
    online = await a_key(domain, "acme/online", "targets", "snapshot", "timestamp")
    payload = root(1, holder.versions[0], online=online.versions[0])
    await domain.signing.sign(ADMIN, ask("acme/root", payload, "root"))
    domain.clock.advance(NEARLY_DUE)

    await Ahead(domain).look()

    (ceremony,) = domain.audit.ceremonies()
    assert [r.role for r in read_plan(ceremony.plan).rotate] == [
        "root",
        "targets",
        "snapshot",
        "timestamp",
    ]
    assert sorted(set(ceremony.facts.values())) == [
        "acme/online/versions/2",
        "acme/root/versions/2",
    ]


async def test_where_old_keys_may_be_missing_the_folder_is_looked_at_before_anybody_signs(
    domain: Domain,
) -> None:
    holder = await a_key(domain, "acme/root", "root", period=timedelta(0))
    online = await a_key(domain, "acme/targets", "targets")
    elsewhere = (await domain.a_key("bob/targets")).versions[0]
    payload = root(
        1, holder.versions[0], targets=[online.versions[0], elsewhere], targets_threshold=2
    )
    await domain.signing.sign(ADMIN, ask("acme/root", payload, "root"))
    await domain.keys.disable(ADMIN, "bob/targets", 1)
    domain.clock.advance(NEARLY_DUE)

    await Ahead(domain).look()

    (ceremony,) = domain.audit.ceremonies()
    assert (ceremony.phase, ceremony.draft) == (Phase.STAGE, b"")
    assert dict(ceremony.facts) == {"new 0": "acme/targets/versions/2"}


async def test_what_a_crash_or_a_full_disk_cut_off_goes_on_with_the_version_there_is(
    domain: Domain,
) -> None:
    await a_repository(domain)
    await domain.keys.rotate(ADMIN, "acme/online", at_once=False)
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)
    domain.audit.unavailable = "disk full"
    await ahead.look(times=2)
    assert "disk full" in ahead.note("acme/online")

    domain.audit.unavailable = ""
    await ahead.look(times=5)
    await ahead.restarted().look(times=2)

    assert len(states(domain, "acme/online")) == 2
    (ceremony,) = domain.audit.ceremonies()
    assert set(ceremony.facts.values()) == {"acme/online/versions/2"}
