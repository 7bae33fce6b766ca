"""A stored signature is given again to who asks again, and is no way past rules and marks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from keyd.errors import ConflictError, RuleRefusedError, VersionTakenError
from keyd.model import Binding, Context, KeyAlgorithm
from tests.bound_keys import REPOSITORY, ask, targets
from tests.domain import ADMIN, CI, Domain, a_domain
from tests.unit.test_signing_rules import KEY, a_bound_key, hold, mark_of


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain() as made:
        yield made


async def test_bytes_signed_for_one_repository_are_not_slipped_past_the_mark_of_another(
    domain: Domain,
) -> None:
    await domain.a_key(KEY, KeyAlgorithm.ECDSA_P256, *(Binding(r, "targets") for r in ("a", "b")))
    here, there = Context("a", "targets"), Context("b", "targets")
    await domain.signing.sign(CI, ask(KEY, targets(5), context=here))

    first = await domain.signing.sign(CI, ask(KEY, targets(5), context=there))
    again = await domain.signing.sign(CI, ask(KEY, targets(5), context=there))
    with pytest.raises(VersionTakenError):
        await domain.signing.sign(CI, ask(KEY, targets(5, "other"), context=there))

    assert not first.replayed
    assert again.replayed
    assert again.log_index == first.log_index


async def test_an_old_version_of_one_repository_is_not_given_out_again_as_anothers(
    domain: Domain,
) -> None:
    await domain.a_key(KEY, KeyAlgorithm.ECDSA_P256, *(Binding(r, "targets") for r in ("a", "b")))
    here, there = Context("a", "targets"), Context("b", "targets")
    await domain.signing.sign(CI, ask(KEY, targets(5), context=here))
    await domain.signing.sign(CI, ask(KEY, targets(7), context=there))

    with pytest.raises(RuleRefusedError) as e:
        await domain.signing.sign(CI, ask(KEY, targets(5), context=there))

    assert e.value.facts["rule"] == "version-lower"


async def test_what_was_signed_before_the_key_was_bound_is_judged_when_it_is_asked_for_again(
    domain: Domain,
) -> None:
    await domain.a_key(KEY)
    await domain.signing.sign(CI, ask(KEY, targets(500)))
    await domain.keys.update(ADMIN, KEY, bindings=frozenset([Binding(REPOSITORY, "targets")]))

    with pytest.raises(RuleRefusedError) as e:
        await domain.signing.sign(CI, ask(KEY, targets(500)))

    assert e.value.facts["rule"] == "version-step"


async def test_what_waits_for_the_token_while_its_key_is_bound_is_not_released_unjudged(
    domain: Domain,
) -> None:
    await domain.a_key(KEY)
    held = hold(domain)
    early = asyncio.create_task(domain.signing.sign(CI, ask(KEY, targets(500))))
    await asyncio.wait_for(held.asked.wait(), 5)
    await domain.keys.update(ADMIN, KEY, bindings=frozenset([Binding(REPOSITORY, "targets")]))
    held.go_on.set()

    with pytest.raises(ConflictError, match="bindings"):
        await early
    assert domain.audit.find_mark(REPOSITORY, "targets") is None


async def test_after_a_reset_the_same_bytes_make_the_mark_anew(domain: Domain) -> None:
    await a_bound_key(domain)
    first = await domain.signing.sign(CI, ask(KEY, targets(5)))
    await domain.roles.reset(
        ADMIN, REPOSITORY, "targets", mark_of(domain).newest.digest, said="restored"
    )

    again = await domain.signing.sign(CI, ask(KEY, targets(5)))

    assert again.log_index > first.log_index
    assert mark_of(domain).newest.version == 5
    with pytest.raises(RuleRefusedError):
        await domain.signing.sign(CI, ask(KEY, targets(4)))


async def test_a_draft_that_gave_way_to_another_is_not_given_out_again(domain: Domain) -> None:
    await a_bound_key(domain)
    await domain.signing.sign(CI, ask(KEY, targets(5, "draft")))
    await domain.roles.supersede(
        ADMIN, REPOSITORY, "targets", mark_of(domain).newest.digest, said="a typo"
    )
    await domain.signing.sign(CI, ask(KEY, targets(5, "final")))

    with pytest.raises(VersionTakenError):
        await domain.signing.sign(CI, ask(KEY, targets(5, "draft")))
