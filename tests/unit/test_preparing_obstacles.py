"""What stands against preparing a rotation: people's word first, then what is not there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyd.adapters.tufrepo.ceremony_plan import read_plan
from keyd.model import SYSTEM, Ceremony, KeyAlgorithm, Phase, TokenState, VersionState
from keyd.policy import parse_policy
from tests.bound_keys import ask, root
from tests.domain import ADMIN, POLICY, Domain, a_domain
from tests.looking_ahead import (
    NEARLY_DUE,
    Ahead,
    a_key,
    a_repository,
    put_ceremony,
    put_root,
    states,
    the_key,
)
from tests.unit.content import notary_made


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain() as made:
        yield made


async def test_a_ceremony_that_people_gave_up_is_not_opened_again(domain: Domain) -> None:
    await a_repository(domain)
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)
    await ahead.look()
    (opened,) = domain.audit.ceremonies()
    await put_ceremony(domain, replace(opened, phase=Phase.ABORTED, step=2))

    await ahead.look(times=2)
    await ahead.restarted().look(times=2)

    assert [c.phase for c in domain.audit.ceremonies()] == [Phase.ABORTED]
    assert "ABORTED" in ahead.note("acme/online")


async def test_a_ceremony_that_people_opened_is_left_alone(domain: Domain) -> None:
    await a_repository(domain)
    now = domain.clock.now()
    theirs = Ceremony("theirs", "acme", "{}", Phase.PLAN, "socket:admin", now, now)
    await put_ceremony(domain, theirs)
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)

    await ahead.look(times=2)

    assert domain.audit.ceremonies() == (theirs,)
    assert "ceremony-start" not in {draft.action for draft in domain.audit.drafts}
    assert "ceremony theirs" in ahead.note("acme/online")
    assert len(states(domain, "acme/online")) == 2


async def test_a_version_that_somebody_disabled_is_not_made_again(domain: Domain) -> None:
    await a_key(domain, "acme/key")
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)
    await ahead.look()
    await domain.keys.disable(ADMIN, "acme/key", 2)

    await ahead.look(times=2)
    await ahead.restarted().look(times=2)

    assert states(domain, "acme/key") == [VersionState.ENABLED, VersionState.DISABLED]
    assert "keydctl key enable acme/key 2" in ahead.note("acme/key")


async def test_a_frozen_key_is_left_alone(domain: Domain) -> None:
    await a_key(domain, "acme/key")
    await domain.keys.freeze(ADMIN, "acme/key", said="drill")
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)

    await ahead.look()

    assert len(states(domain, "acme/key")) == 1
    assert "frozen" in ahead.alerts[0].message


RULE = """
[[rule]]
name = "two for keys"
keys = ["*"]
actions = ["{action}"]
approvals = 2
"""


async def test_a_rule_that_demands_consent_for_rotations_is_told_and_obeyed() -> None:
    with a_domain(parse_policy(POLICY + RULE.format(action="rotate"), "policy.toml")) as domain:
        await a_key(domain, "acme/key")
        domain.clock.advance(NEARLY_DUE)
        ahead = Ahead(domain)

        await ahead.look(times=2)

        assert len(states(domain, "acme/key")) == 1
        assert "two for keys" in ahead.alerts[0].message
        assert "keydctl key rotate acme/key" in ahead.alerts[0].message
        assert domain.audit.open_approvals() == ()


async def test_a_rule_that_demands_consent_for_ceremonies_leaves_them_to_people() -> None:
    with a_domain(parse_policy(POLICY + RULE.format(action="ceremony"), "policy.toml")) as domain:
        await a_repository(domain)
        domain.clock.advance(NEARLY_DUE)
        ahead = Ahead(domain)

        await ahead.look(times=2)

        assert len(states(domain, "acme/online")) == 2
        assert domain.audit.ceremonies() == ()
        assert "keydctl tuf ceremony start DIR" in ahead.note("acme/online")


async def test_a_token_that_is_away_is_waited_for(domain: Domain) -> None:
    await a_repository(domain)
    domain.clock.advance(NEARLY_DUE)
    domain.token.state = TokenState.ABSENT
    ahead = Ahead(domain)
    await ahead.look(times=20)
    own = [d.action for d in domain.audit.drafts if d.caller.principal is SYSTEM]
    assert own == ["rotation-due"] and "token main" in ahead.alerts[0].message

    domain.token.state = TokenState.READY
    await ahead.look()

    assert len(domain.audit.ceremonies()) == 1
    assert len(ahead.alerts) == 1


async def test_a_token_that_cannot_is_asked_ever_more_rarely(domain: Domain) -> None:
    await a_key(domain, "acme/key")
    domain.clock.advance(NEARLY_DUE)
    domain.token.lacks = frozenset(KeyAlgorithm)
    ahead = Ahead(domain)

    await ahead.look(times=200)

    tries = [d for d in domain.audit.drafts if d.action == "rotate" and d.outcome == "failed"]
    assert 2 <= len(tries) <= 10
    assert "tried again later" in ahead.note("acme/key")
    domain.token.lacks = frozenset()
    await ahead.look(times=70)
    assert len(states(domain, "acme/key")) == 2


async def test_a_root_nobody_has_shown_gets_no_draft(domain: Domain) -> None:
    await a_key(domain, "acme/online", "targets")
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)

    await ahead.look()

    assert len(states(domain, "acme/online")) == 2
    assert domain.audit.ceremonies() == ()
    assert "keydctl tuf ceremony start DIR --rotate targets=acme/online" in ahead.note(
        "acme/online"
    )


async def test_a_root_that_lacks_signatures_is_waited_for(domain: Domain) -> None:
    await a_repository(domain)
    holder, online = the_key(domain, "acme/root"), the_key(domain, "acme/online")
    other = (await domain.a_key("bob/root")).versions[0]
    second = root(2, holder.versions[0], other, threshold=2, online=online.versions[0])
    await domain.signing.sign(ADMIN, ask("acme/root", second, "root"))
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)

    await ahead.look(times=2)

    assert domain.audit.ceremonies() == ()
    assert "root 2 lacks signatures" in ahead.note("acme/online")


async def test_a_delegated_role_gets_a_version_and_a_word_on_what_to_do(domain: Domain) -> None:
    await a_repository(domain)
    await a_key(domain, "acme/bins", "bins")
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)

    await ahead.look()

    assert len(states(domain, "acme/bins")) == 2
    assert "keydctl tuf rotate DIR bins --key acme/bins" in ahead.note("acme/bins")
    (ceremony,) = domain.audit.ceremonies()
    assert {r.key for r in read_plan(ceremony.plan).rotate} == {"acme/online"}


async def test_a_notary_root_is_left_to_its_publisher(domain: Domain) -> None:
    key = await a_key(domain, "acme/online", "targets", repository="registry/app")
    holder = notary_made.certificate_key(ec.generate_private_key(ec.SECP256R1()), "registry/app")
    online = notary_made.key_object("ecdsa", key.versions[0].public_key)
    payload = notary_made.canonical(notary_made.root(holder, online))
    await put_root(domain, "registry/app", payload)
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)

    await ahead.look()

    assert len(states(domain, "acme/online")) == 2
    assert domain.audit.ceremonies() == ()
    assert "Notary" in ahead.note("acme/online")


async def test_a_key_of_many_repositories_waits_for_each_of_them(domain: Domain) -> None:
    key = await a_key(domain, "acme/online", "*", repository="apps/*")
    for number in range(3):
        await put_root(domain, f"apps/{number}", root(1, key.versions[0]))
    await put_root(domain, "elsewhere", root(1, key.versions[0]))
    domain.clock.advance(NEARLY_DUE)

    await Ahead(domain).look()

    opened = domain.audit.ceremonies()
    assert sorted(c.repository for c in opened) == ["apps/0", "apps/1", "apps/2"]


async def test_a_root_that_is_published_with_the_new_key_needs_no_other(domain: Domain) -> None:
    await a_repository(domain)
    domain.clock.advance(NEARLY_DUE)
    ahead = Ahead(domain)
    await ahead.look()
    (opened,) = domain.audit.ceremonies()
    await domain.signing.sign(ADMIN, ask("acme/root", opened.draft, "root"))
    await put_ceremony(domain, replace(opened, phase=Phase.DONE, step=2))

    await ahead.look(times=2)
    await ahead.restarted().look(times=2)

    assert [c.phase for c in domain.audit.ceremonies()] == [Phase.DONE]
    assert len(states(domain, "acme/online")) == 2
