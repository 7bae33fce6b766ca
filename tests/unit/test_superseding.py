"""Giving up what was signed leads one version back, and never lower than what was complete."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from keyd.errors import RuleRefusedError, VersionTakenError
from keyd.model import Binding, Key, KeyAlgorithm, Mark, MarkState
from keyd.policy import parse_policy
from keyd.roles import RoleFile, RoleView
from tests.bound_keys import REPOSITORY, ask, root, snapshot, targets
from tests.domain import ADMIN, Domain, a_domain
from tests.tuf_documents import ALICE, a_root, a_targets

KEY = "acme/targets"
ROOT = "acme/root"
POLICY = """
[[grant]]
name = "admins"
principals = ["socket:admin"]
actions = ["admin", "signer", "auditor"]
keys = ["*"]
tokens = ["*"]
"""


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain(parse_policy(POLICY, "policy.toml")) as made:
        yield made


async def a_key(domain: Domain, role: str) -> Key:
    return await domain.a_key(f"acme/{role}", KeyAlgorithm.ECDSA_P256, Binding(REPOSITORY, role))


async def sign(domain: Domain, name: str, *messages: bytes) -> None:
    for message in messages:
        await domain.signing.sign(ADMIN, ask(name, message))


async def refused(domain: Domain, name: str, message: bytes) -> str:
    with pytest.raises(RuleRefusedError) as e:
        await domain.signing.sign(ADMIN, ask(name, message))
    return e.value.facts["rule"]


def mark_of(domain: Domain, role: str = "targets") -> Mark:
    mark = domain.audit.find_mark(REPOSITORY, role)
    assert mark is not None
    return mark


async def give_up(domain: Domain, role: str = "targets") -> RoleView | None:
    digest = mark_of(domain, role).newest.digest
    return await domain.roles.supersede(ADMIN, REPOSITORY, role, digest, said="a typo")


async def test_superseding_what_one_signer_completed_opens_no_way_to_an_older_version(
    domain: Domain,
) -> None:
    await a_key(domain, "targets")
    await sign(domain, KEY, targets(5, "five"), targets(6, "six"))

    left = await give_up(domain)

    assert left is not None
    assert left.mark.newest.digest == hashlib.sha256(targets(5, "five")).digest()
    assert await refused(domain, KEY, targets(3, "old")) == "version-lower"
    with pytest.raises(VersionTakenError):
        await sign(domain, KEY, targets(5, "other"))
    await sign(domain, KEY, targets(6, "corrected"))
    assert mark_of(domain).newest.version == 6


async def test_superseding_the_root_of_one_holder_leads_to_the_root_before_it(
    domain: Domain,
) -> None:
    key = await a_key(domain, "root")
    first, second = root(1, *key.versions), root(2, *key.versions)
    await sign(domain, ROOT, first, second)

    await give_up(domain, "root")

    changed = first.replace(b"2030-04-01", b"2030-03-01")
    with pytest.raises(VersionTakenError):
        await sign(domain, ROOT, changed)
    corrected = second.replace(b"2030-04-01", b"2030-03-01")
    await sign(domain, ROOT, corrected)
    contents = await domain.audit.load_contents(REPOSITORY, "root")
    assert (contents.complete, contents.before) == (corrected, first)


async def test_superseding_twice_leaves_a_floor_and_no_way_below_it(domain: Domain) -> None:
    await a_key(domain, "targets")
    await sign(domain, KEY, targets(4, "four"), targets(5, "five"), targets(6, "six"))
    await give_up(domain)
    await give_up(domain)

    mark = mark_of(domain)
    assert mark.is_floor
    assert mark.newest.digest == hashlib.sha256(targets(4, "four")).digest()
    assert (await domain.audit.load_contents(REPOSITORY, "targets")).newest == b""
    assert await refused(domain, KEY, targets(3, "old")) == "version-lower"
    with pytest.raises(VersionTakenError):
        await sign(domain, KEY, targets(4, "other"))
    with pytest.raises(RuleRefusedError, match="given up already") as e:
        await give_up(domain)
    assert e.value.facts["rule"] == "nothing-below"
    assert "keydctl role reset acme targets" in e.value.hint
    assert mark_of(domain) == mark


async def test_what_follows_a_floor_leads_back_to_it(domain: Domain) -> None:
    await a_key(domain, "targets")
    await sign(domain, KEY, targets(4, "four"), targets(5, "five"), targets(6, "six"))
    await give_up(domain)
    await give_up(domain)
    await a_root_that_trusts_alice(domain)

    file = RoleFile("targets", a_targets(5, "corrected", signed_by=[ALICE]).to_bytes())
    await domain.roles.advance(ADMIN, REPOSITORY, [file])
    await give_up(domain)

    assert mark_of(domain).is_floor
    assert mark_of(domain).newest.version == 4


async def a_root_that_trusts_alice(domain: Domain) -> None:
    await a_key(domain, "root")
    trusted = a_root(1, ALICE.public_key, signed_by=[ALICE]).to_bytes()
    await domain.roles.import_(ADMIN, REPOSITORY, trusted, [], said="moved here")


async def test_a_floor_under_a_root_is_no_root_to_go_on_from(domain: Domain) -> None:
    key = await a_key(domain, "root")
    await sign(domain, ROOT, *(root(n, *key.versions) for n in (1, 2, 3)))
    await give_up(domain, "root")
    await give_up(domain, "root")
    file = RoleFile("root", a_root(2, ALICE.public_key, signed_by=[ALICE]).to_bytes())

    with pytest.raises(RuleRefusedError) as e:
        await domain.roles.advance(ADMIN, REPOSITORY, [file], published=True)

    assert e.value.facts["rule"] == "no-history"
    assert await refused(domain, ROOT, root(3, *key.versions)) == "root-step"


async def test_nobody_reissues_a_snapshot_at_the_version_of_a_floor(domain: Domain) -> None:
    await a_key(domain, "snapshot")
    await sign(domain, "acme/snapshot", snapshot(4), snapshot(5), snapshot(6))
    await give_up(domain, "snapshot")
    await give_up(domain, "snapshot")

    with pytest.raises(VersionTakenError):
        await sign(domain, "acme/snapshot", snapshot(4, targets=2))


async def test_what_was_published_below_is_so_when_it_is_the_newest_again(domain: Domain) -> None:
    await a_key(domain, "targets")
    await a_root_that_trusts_alice(domain)
    shown = RoleFile("targets", a_targets(5, "five", signed_by=[ALICE]).to_bytes())
    next_one = RoleFile("targets", a_targets(6, "six", signed_by=[ALICE]).to_bytes())
    await domain.roles.advance(ADMIN, REPOSITORY, [shown], published=True)
    await domain.roles.advance(ADMIN, REPOSITORY, [next_one])
    assert mark_of(domain).before is not None

    left = await give_up(domain)

    assert left is not None
    assert (left.mark.newest.version, left.mark.state) == (5, MarkState.PUBLISHED)


async def test_the_first_version_ever_leaves_nothing_when_it_is_given_up(domain: Domain) -> None:
    await a_key(domain, "targets")
    await sign(domain, KEY, targets(57, "a typo"))

    assert await give_up(domain) is None

    await sign(domain, KEY, targets(1, "first"))
