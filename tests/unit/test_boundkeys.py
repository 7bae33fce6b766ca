"""The keys a role goes by, found without a look at every key."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.boundkeys import BoundKeys, binds
from keyd.model import Binding, Key, KeyAlgorithm, Scheme
from tests.domain import Domain, a_domain
from tests.fakes import FakeClock
from tests.fakes_audit import MemoryAudit

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NAMES = st.sampled_from(["acme", "acme/app", "hub.io/lib/*", "hub.io/lib/a", "a?me", "[a]cme"])
ROLES = st.sampled_from(["root", "targets", "t*", "*"])
BINDINGS = st.frozensets(st.builds(Binding, NAMES, ROLES), max_size=3)
ASKED = st.sampled_from(["acme", "acme@2", "acme/app", "hub.io/lib/a", "hub.io/lib/a@3", "x"])


def keys_bound(to: list[frozenset[Binding]]) -> list[Key]:
    algorithm, scheme = KeyAlgorithm.ECDSA_P256, Scheme.ECDSA_P256_SHA256
    return [
        Key(f"key-{n}", "main", algorithm, scheme, NOW, "socket:admin", bindings)
        for n, bindings in enumerate(to)
    ]


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain() as made:
        yield made


@given(st.lists(BINDINGS, max_size=6), ASKED, st.sampled_from(["", "root", "targets"]))
def test_they_are_those_a_look_at_every_key_finds(
    bound: list[frozenset[Binding]], repository: str, role: str
) -> None:
    keys = keys_bound(bound)

    found = BoundKeys(MemoryAudit(FakeClock(), keys)).of(repository, role)

    assert found == [key for key in keys if binds(key, repository, role)]


async def test_a_key_that_comes_later_is_found_and_so_is_its_signer(domain: Domain) -> None:
    bound = BoundKeys(domain.audit)
    assert bound.of("acme", "root") == []

    key = await domain.a_key("acme/root", KeyAlgorithm.ECDSA_P256, Binding("acme", "root"))

    assert [found.name for found in bound.of("acme", "root")] == ["acme/root"]
    assert bound.find_signer(key.versions[0].fingerprint) == key.versions[0]
    assert bound.find_signer("00" * 32) is None
