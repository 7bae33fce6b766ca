"""What Signing promises of bound keys: the rules before the token, the mark with the signature."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import pytest

from keyd.errors import (
    AuditUnavailableError,
    DeviceGoneError,
    KeydError,
    RuleRefusedError,
    VersionTakenError,
)
from keyd.model import (
    Binding,
    Device,
    Digest,
    HashAlgorithm,
    Key,
    KeyAlgorithm,
    Mark,
    MarkState,
    Outcome,
    Signed,
    SignJob,
    TokenState,
    never_gone,
)
from tests.bound_keys import (
    EXPIRES,
    REPOSITORY,
    ask,
    delegating,
    root,
    snapshot,
    targets,
    timestamp,
)
from tests.domain import ADMIN, CI, Domain, a_domain

KEY = "acme/targets"
ONLINE = "acme/online"


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain() as made:
        yield made


async def a_bound_key(
    domain: Domain,
    name: str = KEY,
    *roles: str,
    algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256,
) -> Key:
    bindings = [Binding(REPOSITORY, role) for role in roles or ("targets",)]
    return await domain.a_key(name, algorithm, *bindings)


def mark_of(domain: Domain, role: str = "targets") -> Mark:
    mark = domain.audit.find_mark(REPOSITORY, role)
    assert mark is not None
    return mark


def sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


class HeldDevice:
    """A token that is asked, and answers when it is let."""

    def __init__(self, honest: Device) -> None:
        self._honest = honest
        self.tokens = honest.tokens
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def sign(
        self, token: str, jobs: Sequence[SignJob], gone: Callable[[], bool] = never_gone
    ) -> list[bytes | KeydError]:
        """The honest answer, later."""
        self.asked.set()
        async with asyncio.timeout(5):
            await self.go_on.wait()
        return await self._honest.sign(token, jobs, gone)


def hold(domain: Domain) -> HeldDevice:
    held = HeldDevice(domain.device)
    domain.signing._device = held  # type: ignore[assignment]
    return held


async def test_what_is_signed_becomes_the_mark_with_its_content(domain: Domain) -> None:
    key = await a_bound_key(domain)

    signed = await domain.signing.sign(CI, ask(KEY, targets(5, "file")))

    mark, entry = mark_of(domain), domain.audit.entries[signed.log_index].fields
    assert (mark.newest.version, mark.newest.digest.hex()) == (5, sha256(targets(5, "file")))
    assert mark.signers == {key.versions[0].fingerprint}
    assert mark.is_complete, "nobody here knows who else would have to sign"
    assert (await domain.audit.load_contents(REPOSITORY, "targets")).complete == targets(5, "file")
    assert entry["details"] == {"mark": "new"}
    assert entry["context"] == {"repository": "acme", "role": "targets"}


async def test_two_at_once_with_different_bytes_get_one_signature_between_them(
    domain: Domain,
) -> None:
    await a_bound_key(domain)
    held = hold(domain)
    one, other = targets(5, "one"), targets(5, "other")
    before = domain.token.signed
    first = asyncio.create_task(domain.signing.sign(CI, ask(KEY, one)))
    await asyncio.wait_for(held.asked.wait(), 5)

    with pytest.raises(VersionTakenError) as e:
        await domain.signing.sign(CI, ask(KEY, other))
    held.go_on.set()
    signed = await first

    assert domain.token.signed == before + 1
    facts = e.value.facts
    assert (facts["digest"], facts["signed_digest"]) == (sha256(other), sha256(one))
    assert (facts["version"], facts["last_version"], facts["next_version"]) == ("5", "5", "6")
    assert e.value.retry_after_s, "the first one may still come to nothing"
    refusal = domain.audit.refused[-1]
    assert (refusal.reason_code, refusal.rule) == ("VERSION_TAKEN", "rule version-taken")
    assert refusal.digest == Digest.of(HashAlgorithm.SHA256, other)
    assert refusal.details["signed_digest"] == sha256(one)
    assert mark_of(domain).newest.digest.hex() == sha256(one)
    assert domain.audit.entries[signed.log_index].fields["outcome"] == "allowed"


async def test_after_the_race_the_loser_renumbers_by_what_the_error_says(domain: Domain) -> None:
    await a_bound_key(domain)
    await domain.signing.sign(CI, ask(KEY, targets(5, "one")))

    with pytest.raises(VersionTakenError) as e:
        await domain.signing.sign(CI, ask(KEY, targets(5, "other")))
    next_version = int(e.value.facts["next_version"])
    await domain.signing.sign(CI, ask(KEY, targets(next_version, "other")))

    assert mark_of(domain).newest.version == 6


async def test_a_race_that_only_the_commit_can_see_is_a_refusal_there(domain: Domain) -> None:
    await a_bound_key(domain)
    held = hold(domain)
    slow = asyncio.create_task(domain.signing.sign(CI, ask(KEY, targets(5, "one"))))
    await asyncio.wait_for(held.asked.wait(), 5)
    domain.signing._device = domain.device
    await domain.signing.sign(CI, ask(KEY, targets(6)))

    held.go_on.set()
    with pytest.raises(RuleRefusedError) as e:
        await slow

    assert e.value.facts["rule"] == "version-lower"
    last = domain.audit.drafts[-1]
    assert (last.outcome, last.signature_sha256) == (Outcome.REFUSED, "")
    assert mark_of(domain).newest.version == 6


async def test_the_items_of_a_batch_see_each_other_and_a_loser_harms_no_neighbour(
    domain: Domain,
) -> None:
    await a_bound_key(domain)

    results = await domain.signing.sign_batch(
        CI,
        [
            ask(KEY, targets(5, "one")),
            ask(KEY, targets(5, "other")),
            ask(KEY, targets(6)),
            ask(KEY, targets(4)),
            ask(KEY, targets(7)),
        ],
    )

    assert [type(r) for r in results] == [
        Signed,
        VersionTakenError,
        Signed,
        RuleRefusedError,
        Signed,
    ]
    assert mark_of(domain).newest.version == 7
    assert [d.reason_code for d in domain.audit.refused] == ["VERSION_TAKEN", "RULE_REFUSED"]


async def test_a_whole_first_publication_goes_in_one_batch(domain: Domain) -> None:
    key = await a_bound_key(domain, ONLINE, "*")
    version = key.versions[0]

    results = await domain.signing.sign_batch(
        ADMIN,
        [
            ask(ONLINE, root(1, version), "root"),
            ask(ONLINE, targets(1), "targets"),
            ask(ONLINE, snapshot(1), "snapshot"),
            ask(ONLINE, timestamp(1), "timestamp"),
            ask(ONLINE, root(2, version), "root"),
        ],
    )

    assert [r.log_index >= 0 if isinstance(r, Signed) else r for r in results] == [True] * 5
    assert mark_of(domain, "targets").needs[0].signers == {version.fingerprint}
    assert mark_of(domain, "root").newest.version == 2


async def test_a_signature_the_token_does_not_give_leaves_no_trace(domain: Domain) -> None:
    await a_bound_key(domain)
    domain.token.gone_after = 0
    with pytest.raises(DeviceGoneError):
        await domain.signing.sign(CI, ask(KEY, targets(5, "lost")))
    domain.token.gone_after, domain.token.state = None, TokenState.READY

    assert domain.audit.find_mark(REPOSITORY, "targets") is None
    signed = await domain.signing.sign(CI, ask(KEY, targets(5, "other")))

    assert domain.audit.entries[signed.log_index].fields["details"] == {"mark": "new"}


async def test_without_its_entry_nothing_is_released_and_no_mark_is_kept(domain: Domain) -> None:
    await a_bound_key(domain)
    domain.audit.check_signing_allowed = lambda *, bound: None  # type: ignore[method-assign]
    domain.audit.unavailable = "disk full"
    with pytest.raises(AuditUnavailableError):
        await domain.signing.sign(CI, ask(KEY, targets(5, "lost")))
    domain.audit.unavailable = ""

    assert domain.audit.find_mark(REPOSITORY, "targets") is None
    assert await domain.signing.sign(CI, ask(KEY, targets(5, "other")))


async def test_a_pipeline_killed_after_signing_gets_the_same_signature_again(
    domain: Domain,
) -> None:
    await a_bound_key(domain)
    first = await domain.signing.sign(CI, ask(KEY, targets(5)))
    await domain.signing.sign(CI, ask(KEY, targets(6)))
    asked = domain.token.signed

    again = await domain.signing.sign(CI, ask(KEY, targets(5)))

    assert again.signature == first.signature
    assert again.replayed
    assert domain.token.signed == asked
    assert mark_of(domain).newest.version == 6


async def test_another_key_or_another_person_signs_the_same_bytes(domain: Domain) -> None:
    first = await a_bound_key(domain)
    second = await a_bound_key(domain, "acme/later")
    await domain.signing.sign(CI, ask(KEY, targets(5)))

    beside = await domain.signing.sign(CI, ask("acme/later", targets(5)))
    anew = await domain.signing.sign(ADMIN, ask(KEY, targets(5)))

    said = [domain.audit.entries[s.log_index].fields["details"] for s in (beside, anew)]
    assert said == [{"mark": "cosign"}, {"mark": "again"}]
    fingerprints = {key.versions[0].fingerprint for key in (first, second)}
    assert mark_of(domain).signers == fingerprints


async def test_a_role_of_two_is_complete_with_the_second_signature(domain: Domain) -> None:
    holder = await a_bound_key(domain, ONLINE, "root")
    first = await a_bound_key(domain)
    second = await a_bound_key(domain, "acme/later")
    both = [first.versions[0], second.versions[0]]
    made = root(1, holder.versions[0], targets=both, targets_threshold=2)
    await domain.signing.sign(ADMIN, ask(ONLINE, made))

    await domain.signing.sign(CI, ask(KEY, targets(1)))
    assert mark_of(domain).state is MarkState.SIGNED
    await domain.signing.sign(CI, ask("acme/later", targets(1)))

    assert mark_of(domain).state is MarkState.COMPLETE


async def test_who_holds_a_delegated_role_is_what_the_delegator_says(domain: Domain) -> None:
    top = await a_bound_key(domain)
    holder = await a_bound_key(domain, "acme/later", "django")
    await domain.signing.sign(
        CI, ask(KEY, delegating(1, "django", holder.versions[0], top.versions[0], threshold=2))
    )

    await domain.signing.sign(CI, ask("acme/later", targets(1)))

    mark = mark_of(domain, "django")
    assert (mark.state, mark.missing) == (MarkState.SIGNED, 1)


async def test_a_root_after_one_that_lacks_signatures_waits_for_them(domain: Domain) -> None:
    first = await a_bound_key(domain, KEY, "root")
    second = await a_bound_key(domain, "acme/later", "root")
    both = [first.versions[0], second.versions[0]]
    await domain.signing.sign(CI, ask(KEY, root(1, *both, threshold=2)))

    with pytest.raises(RuleRefusedError) as e:
        await domain.signing.sign(CI, ask(KEY, root(2, *both, threshold=2)))
    await domain.signing.sign(CI, ask("acme/later", root(1, *both, threshold=2)))
    await domain.signing.sign(CI, ask(KEY, root(2, *both, threshold=2)))

    assert e.value.facts["rule"] == "root-incomplete"
    assert domain.audit.refused[-1].rule == "rule root-incomplete"
    assert domain.audit.refused[-1].details == {"last_version": "1", "next_version": "1"} | {
        "missing": "1"
    }


async def test_a_timestamp_signed_anew_at_its_version_is_counted_and_said(domain: Domain) -> None:
    await a_bound_key(domain, KEY, "snapshot", "timestamp")
    await domain.signing.sign(CI, ask(KEY, timestamp(3, of=1)))

    signed = await domain.signing.sign(CI, ask(KEY, timestamp(3, of=2)))

    assert signed.reissued
    details = domain.audit.entries[signed.log_index].fields["details"]
    assert details == {"mark": "reissued", "reissued": "1"}
    assert mark_of(domain, "timestamp").reissued == 1


async def test_the_metadata_digest_stands_in_the_entry_where_another_one_was_signed(
    domain: Domain,
) -> None:
    await a_bound_key(domain, algorithm=KeyAlgorithm.ECDSA_P384)

    signed = await domain.signing.sign(CI, ask(KEY, targets(1)))

    details = domain.audit.entries[signed.log_index].fields["details"]
    assert details == {"mark": "new", "metadata_digest": f"sha256:{sha256(targets(1))}"}


async def test_expiry_is_judged_by_the_clock_of_the_signature(domain: Domain) -> None:
    await a_bound_key(domain)
    domain.clock.advance(EXPIRES - domain.clock.now() + timedelta(seconds=1))

    with pytest.raises(RuleRefusedError) as e:
        await domain.signing.sign(CI, ask(KEY, targets(1)))

    assert e.value.facts["rule"] == "expired"


async def test_while_a_batch_of_large_metadata_is_judged_others_have_their_turn(
    domain: Domain,
) -> None:
    await a_bound_key(domain)
    held = hold(domain)
    paths = [f"file-{n}" for n in range(400)]
    seen: set[int] = set()

    async def look() -> None:
        while True:
            mark = (await domain.marks.history(REPOSITORY, "targets")).mark
            seen.add(mark.newest.version if mark else 0)
            await asyncio.sleep(0)

    others = asyncio.create_task(look())
    batch = asyncio.create_task(
        domain.signing.sign_batch(CI, [ask(KEY, targets(v, *paths)) for v in range(1, 41)])
    )
    await asyncio.wait_for(held.asked.wait(), 20)
    others.cancel()
    held.go_on.set()

    assert all(isinstance(result, Signed) for result in await batch)
    assert len(seen - {0, 40}) >= 5, "others saw it go up step by step"
