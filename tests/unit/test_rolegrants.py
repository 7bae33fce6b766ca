"""Who gets a say in a role that others hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyd.errors import PolicyDeniedError
from keyd.keyfields import NewKey
from keyd.model import Binding, Caller, KeyAlgorithm, Principal
from keyd.policy import parse_policy
from keyd.rolegrants import may_meet
from tests.domain import POLICY, Domain, a_domain

TENANT = Caller(Principal("email:tenant@example.org", "mtls"), "req-tenant")
TENANTS = """
[[grant]]
name = "tenant"
principals = ["email:tenant@example.org"]
actions = ["create", "adopt", "bind", "role", "signer"]
keys = ["team-x/*"]
"""
ACME = Binding("acme", "targets")


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain(parse_policy(POLICY + TENANTS, "policy.toml")) as made:
        yield made


def a_new_key(*bindings: Binding) -> NewKey:
    return NewKey("team-x/key", "main", KeyAlgorithm.ECDSA_P256, bindings=frozenset(bindings))


@pytest.mark.parametrize(
    "binding", [ACME, Binding("*", "targets"), Binding("acme", "*"), Binding("*e", "t*")], ids=str
)
async def test_a_tenant_makes_no_key_for_a_role_that_others_hold(
    domain: Domain, binding: Binding
) -> None:
    """It would be a way to run its versions up, and to forget its marks."""
    await domain.a_key("acme/targets", KeyAlgorithm.ECDSA_P256, ACME)

    with pytest.raises(PolicyDeniedError):
        await domain.keys.create(TENANT, a_new_key(binding))

    assert domain.audit.drafts[-1].rule == "held by others"
    assert domain.audit.find("team-x/key") is None


async def test_a_tenant_binds_no_key_to_a_role_that_others_hold(domain: Domain) -> None:
    await domain.a_key("acme/targets", KeyAlgorithm.ECDSA_P256, ACME)
    await domain.keys.create(TENANT, a_new_key(Binding("x", "targets")))

    with pytest.raises(PolicyDeniedError):
        await domain.keys.update(
            TENANT, "team-x/key", bindings=frozenset([Binding("x", "targets"), ACME])
        )

    assert domain.actions()[-1] == "bind refused"


async def test_a_tenant_has_roles_of_its_own(domain: Domain) -> None:
    await domain.a_key("acme/targets", KeyAlgorithm.ECDSA_P256, ACME)

    key = await domain.keys.create(TENANT, a_new_key(Binding("x", "targets"), Binding("x", "root")))

    assert len(key.bindings) == 2


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("acme", "acme", True),
        ("acme", "acme-2", False),
        ("acme", "a*", True),
        ("acme/*", "*/app", True),
        ("acme/*", "other/*", False),
        ("*/app", "*/tool", False),
        ("a?c", "[a-f]bc", True),
        ("acme", "other/*", False),
    ],
)
def test_patterns_that_may_stand_for_the_same_role_are_told(
    one: str, other: str, meet: bool
) -> None:
    for first, second in ((one, other), (other, one)):
        assert may_meet(Binding(first, "r"), Binding(second, "r")) is meet
