"""Roles: who may look, what leads forward, and what people give up, each in the log."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.serialization.json import CanonicalJSONSerializer

from keyd.content.envelope import parse
from keyd.errors import (
    ApprovalNeededError,
    CheckpointBehindError,
    ConflictError,
    InvalidRequestError,
    PolicyDeniedError,
    RoleNotFoundError,
    RuleRefusedError,
    VersionTakenError,
)
from keyd.model import (
    Binding,
    Caller,
    Context,
    Encoding,
    EntryDraft,
    Key,
    KeyAlgorithm,
    Mark,
    MarkContents,
    MarkState,
    Outcome,
    Principal,
    PutMark,
    SignRequest,
)
from keyd.policy import parse_policy
from keyd.roles import RoleFile
from tests.domain import ADMIN, CI, STRANGER, Domain, a_domain
from tests.tuf_documents import ALICE, BOB, EXPIRES, a_root, a_targets

ACME = "acme"
DER = Encoding.DER
WHY = "moved here"
LATER = EXPIRES + timedelta(days=7)
POLICY = """
[[grant]]
name = "admins"
principals = ["socket:admin"]
actions = ["admin", "signer", "auditor"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "ci publishes targets"
principals = ["uri:spiffe://acme/ci"]
actions = ["sign", "list", "advance"]
keys = ["acme/targets"]

[[grant]]
name = "alice approves"
principals = ["email:alice@example.org"]
actions = ["approver"]
keys = ["*"]
"""
CONSENT = (
    POLICY
    + """
[[rule]]
name = "two look at roles"
keys = ["acme/*"]
actions = ["role"]
approvals = 1
"""
)
ALICE_CALLS = Caller(Principal("email:alice@example.org", "mtls"), "req-alice")


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain(parse_policy(POLICY, "policy.toml")) as found:
        yield found


async def keys_of(domain: Domain) -> tuple[Key, Key]:
    """acme/root and acme/targets, bound."""
    root = await domain.a_key("acme/root", KeyAlgorithm.ECDSA_P256, Binding(ACME, "root"))
    targets = await domain.a_key("acme/targets", KeyAlgorithm.ECDSA_P256, Binding(ACME, "targets"))
    return root, targets


def root(
    version: int, *holders: CryptoSigner, by: Sequence[CryptoSigner], threshold: int = 1
) -> bytes:
    made = a_root(version, *(h.public_key for h in holders), threshold=threshold, signed_by=by)
    return made.to_bytes()


def targets(version: int, *paths: str, by: Sequence[CryptoSigner] = (ALICE,)) -> RoleFile:
    return RoleFile("targets", a_targets(version, *paths, signed_by=by).to_bytes())


FIRST = root(1, ALICE, by=[ALICE])


async def import_acme(domain: Domain, *files: RoleFile) -> None:
    await domain.roles.import_(ADMIN, ACME, FIRST, files or (targets(3),), said=WHY)


def last(domain: Domain) -> EntryDraft:
    return domain.audit.drafts[-1]


def mark(domain: Domain, role: str) -> Mark:
    found = domain.audit.find_mark(ACME, role)
    assert found is not None
    return found


# ------------------------------------------------------------------------------- import, advance


async def test_an_import_sets_all_marks_in_one_alert_with_the_reason(domain: Domain) -> None:
    await keys_of(domain)

    shown = await domain.roles.import_(ADMIN, ACME, FIRST, [targets(3)], said=WHY)

    assert [view.mark.role for view in shown.roles] == ["root", "targets"]
    assert mark(domain, "targets").state is MarkState.PUBLISHED
    entry = last(domain)
    assert (entry.action, entry.outcome, entry.said) == ("role-import", Outcome.ALLOWED, WHY)
    assert entry.alert
    assert entry.context is not None
    assert entry.context.repository == ACME
    digest = mark(domain, "targets").newest.digest.hex()
    assert entry.details["targets"] == f"nothing -> v3 PUBLISHED sha256:{digest}"


async def test_a_dry_run_of_an_import_shows_it_and_changes_nothing(domain: Domain) -> None:
    await keys_of(domain)
    entries = len(domain.audit.drafts)

    shown = await domain.roles.import_(ADMIN, ACME, FIRST, [targets(3)], dry_run=True)

    assert len(shown.roles) == 2
    assert domain.audit.find_mark(ACME, "root") is None
    assert len(domain.audit.drafts) == entries


async def test_an_import_needs_a_reason(domain: Domain) -> None:
    await keys_of(domain)

    with pytest.raises(InvalidRequestError, match="say why"):
        await domain.roles.import_(ADMIN, ACME, FIRST, [], said=" ")


async def test_a_forged_import_sets_nothing_and_is_in_the_log(domain: Domain) -> None:
    await keys_of(domain)

    with pytest.raises(RuleRefusedError):
        await domain.roles.import_(ADMIN, ACME, FIRST, [targets(3, by=[BOB])], said=WHY)

    assert domain.audit.find_mark(ACME, "root") is None
    entry = last(domain)
    assert (entry.action, entry.outcome) == ("role-import", Outcome.REFUSED)
    assert entry.rule == "rule evidence-signatures"


async def test_who_may_advance_targets_moves_them_by_what_is_published(domain: Domain) -> None:
    await keys_of(domain)
    await import_acme(domain)

    shown = await domain.roles.advance(CI, ACME, [targets(5)], published=True)

    assert [view.mark.newest.version for view in shown.roles] == [5]
    entry = last(domain)
    assert entry.action == "role-advance"
    assert not entry.alert
    assert entry.details["targets"].startswith("v3 PUBLISHED")
    assert "-> v5 PUBLISHED" in entry.details["targets"]


async def test_two_published_files_of_one_version_are_an_alert(domain: Domain) -> None:
    await keys_of(domain)
    await import_acme(domain)

    with pytest.raises(RuleRefusedError):
        await domain.roles.advance(CI, ACME, [targets(3, "other")], published=True)

    assert last(domain).alert
    assert last(domain).outcome is Outcome.REFUSED


async def test_files_that_show_nothing_new_leave_no_entry(domain: Domain) -> None:
    await keys_of(domain)
    await import_acme(domain)
    entries = len(domain.audit.drafts)

    shown = await domain.roles.advance(CI, ACME, [targets(3)], published=True)

    assert shown.roles == ()
    assert "nothing new" in shown.notes[0]
    assert len(domain.audit.drafts) == entries


@pytest.mark.parametrize("caller", [CI, STRANGER], ids=["ci", "stranger"])
async def test_a_role_takes_the_grant_on_a_key_bound_to_it(domain: Domain, caller: Caller) -> None:
    await keys_of(domain)
    await import_acme(domain)
    digest = mark(domain, "targets").newest.digest

    with pytest.raises(PolicyDeniedError, match="denied, or no such role"):
        await domain.roles.import_(caller, ACME, FIRST, [], said=WHY)
    with pytest.raises(PolicyDeniedError):
        await domain.roles.reset(caller, ACME, "targets", digest, said=WHY)
    with pytest.raises(PolicyDeniedError):
        await domain.roles.supersede(caller, ACME, "targets", digest, said=WHY)
    with pytest.raises(PolicyDeniedError):
        await domain.roles.accept_loss(caller, said=WHY)
    with pytest.raises(PolicyDeniedError):
        await domain.roles.advance(
            caller, ACME, [RoleFile("root", root(2, BOB, by=[ALICE, BOB]))], published=True
        )

    assert mark(domain, "targets").newest.digest == digest
    assert mark(domain, "root").newest.version == 1
    assert [d.outcome for d in domain.audit.drafts[-5:]] == [Outcome.REFUSED] * 5


async def test_a_rule_that_denies_it_on_one_of_the_keys_is_heard() -> None:
    deny = '\n[[rule]]\nname = "no roles"\nkeys = ["acme/root"]\ndeny = ["role"]\n'
    with a_domain(parse_policy(POLICY + deny, "policy.toml")) as domain:
        await keys_of(domain)

        with pytest.raises(PolicyDeniedError) as error:
            await domain.roles.import_(ADMIN, ACME, FIRST, [], said=WHY)

        assert error.value.facts["rule"] == "rule no roles"


async def test_everybody_sees_the_roles_of_the_keys_they_see(domain: Domain) -> None:
    await keys_of(domain)
    await import_acme(domain)

    assert [v.mark.role for v in domain.roles.list(ADMIN)] == ["root", "targets"]
    assert [v.mark.role for v in domain.roles.list(CI)] == ["targets"]
    assert list(domain.roles.list(STRANGER)) == []
    assert list(domain.roles.list(ADMIN, "other")) == []
    view = await domain.roles.get(CI, ACME, "targets")
    assert view.keys == ("acme/targets",)
    assert view.contents.complete == parse(targets(3).content).payload
    for caller, role in ((CI, "root"), (STRANGER, "targets"), (ADMIN, "lib")):
        with pytest.raises(RoleNotFoundError):
            await domain.roles.get(caller, ACME, role)


async def test_what_expires_soon_can_be_asked_for(domain: Domain) -> None:
    await keys_of(domain)
    await import_acme(domain)
    left = mark(domain, "root").newest.expires - domain.clock.now()
    within = int(left / timedelta(seconds=1))

    assert list(domain.roles.list(ADMIN, expiring_within_s=within - 60)) == []
    assert len(list(domain.roles.list(ADMIN, expiring_within_s=within + 60))) == 2


# ------------------------------------------------------------------------------- giving up


async def a_draft(domain: Domain, *, state: MarkState = MarkState.SIGNED) -> Mark:
    """targets v4, signed here above the published v3."""
    await import_acme(domain)
    before = mark(domain, "targets")
    contents = await domain.audit.load_contents(ACME, "targets")
    made = replace(
        before,
        newest=replace(before.newest, version=4, digest=bytes(range(32))),
        state=state,
        published_before=True,
    )
    kept = MarkContents(b"draft", contents.complete)
    if state is not MarkState.SIGNED:
        made = replace(made, complete=made.newest, before=before.complete)
        kept = MarkContents(b"draft", b"draft", contents.complete)
    put = PutMark(made, kept, before)
    await domain.audit.record(EntryDraft("sign", Outcome.ALLOWED, ADMIN), (put,))
    return made


async def test_a_draft_that_is_given_up_leaves_the_last_complete_version(domain: Domain) -> None:
    await keys_of(domain)
    draft = await a_draft(domain)

    left = await domain.roles.supersede(ADMIN, ACME, "targets", draft.newest.digest, said="typo")

    assert left is not None
    assert (left.mark.newest.version, left.mark.state) == (3, MarkState.PUBLISHED)
    contents = await domain.audit.load_contents(ACME, "targets")
    assert contents.newest == contents.complete == parse(targets(3).content).payload
    entry = last(domain)
    assert (entry.action, entry.alert, entry.said) == ("role-supersede", True, "typo")
    assert entry.details["targets"].startswith(f"v4 SIGNED sha256:{draft.newest.digest.hex()}")
    assert "-> v3 PUBLISHED" in entry.details["targets"]


async def test_what_was_published_stays_so_when_the_draft_above_it_is_given_up(
    domain: Domain,
) -> None:
    await keys_of(domain)
    draft = await a_draft(domain)
    await domain.roles.supersede(ADMIN, ACME, "targets", draft.newest.digest, said="typo")
    digest = mark(domain, "targets").newest.digest

    with pytest.raises(RuleRefusedError) as error:
        await domain.roles.supersede(ADMIN, ACME, "targets", digest, said="and that one too")

    assert error.value.facts["rule"] == "draft-published"


async def test_a_draft_hides_nothing_that_is_shown_as_published_below_it(domain: Domain) -> None:
    await keys_of(domain)
    draft = await a_draft(domain)
    unseen = replace(draft, published_before=False)
    contents = await domain.audit.load_contents(ACME, "targets")
    await domain.audit.record(
        EntryDraft("sign", Outcome.ALLOWED, ADMIN), (PutMark(unseen, contents, draft),)
    )

    shown = await domain.roles.advance(ADMIN, ACME, [targets(3)], published=True)

    assert "known as published now" in " ".join(shown.notes)
    assert mark(domain, "targets").published_before
    again = await domain.roles.advance(ADMIN, ACME, [targets(3)], published=True)
    assert again.roles == ()

    await domain.audit.record(
        EntryDraft("sign", Outcome.ALLOWED, ADMIN),
        (PutMark(unseen, contents, mark(domain, "targets")),),
    )
    await import_acme(domain)
    assert mark(domain, "targets").published_before


async def test_a_complete_version_nobody_published_can_be_given_up_too(domain: Domain) -> None:
    await keys_of(domain)
    made = await a_draft(domain, state=MarkState.COMPLETE)

    left = await domain.roles.supersede(ADMIN, ACME, "targets", made.newest.digest, said="typo")

    assert left is not None
    assert (left.mark.newest.version, left.mark.state) == (3, MarkState.PUBLISHED)
    contents = await domain.audit.load_contents(ACME, "targets")
    assert contents.newest == contents.complete == parse(targets(3).content).payload


async def test_what_was_published_is_not_given_up(domain: Domain) -> None:
    await keys_of(domain)
    await import_acme(domain)
    digest = mark(domain, "targets").newest.digest

    with pytest.raises(RuleRefusedError) as error:
        await domain.roles.supersede(ADMIN, ACME, "targets", digest, said="typo")

    assert error.value.facts["rule"] == "draft-published"
    assert "role reset acme targets" in error.value.hint
    assert mark(domain, "targets").newest.version == 3


async def test_only_the_version_that_was_looked_at_is_given_up(domain: Domain) -> None:
    await keys_of(domain)
    await a_draft(domain)

    for give_up in (domain.roles.supersede, domain.roles.reset):
        with pytest.raises(ConflictError, match="the newest version is v4"):
            await give_up(ADMIN, ACME, "targets", bytes(32), said="typo")

    assert mark(domain, "targets").newest.version == 4


async def test_after_a_reset_a_repository_starts_again(domain: Domain) -> None:
    await keys_of(domain)
    await import_acme(domain)
    for role in ("targets", "root"):
        digest = mark(domain, role).newest.digest
        await domain.roles.reset(ADMIN, ACME, role, digest, said="a new server")
    assert last(domain).details["root"].endswith("-> nothing")
    assert last(domain).alert

    shown = await domain.roles.import_(
        ADMIN, ACME, root(1, BOB, by=[BOB]), [targets(1, by=[BOB])], said="a new server"
    )

    assert [view.mark.newest.version for view in shown.roles] == [1, 1]


async def test_a_role_nobody_knows_cannot_be_reset(domain: Domain) -> None:
    await keys_of(domain)

    with pytest.raises(RoleNotFoundError):
        await domain.roles.reset(ADMIN, ACME, "targets", bytes(32), said="why not")


def sslib_key(key: Key) -> SSlibKey:
    """The key as python-tuf writes it into a root."""
    assert key.active is not None
    return SSlibKey.from_crypto(load_der_public_key(key.active.public_key))


def draft_of(expires: datetime, *keys: Key) -> bytes:
    """The signed bytes of a root that two have to sign."""
    made = a_root(1, *(sslib_key(key) for key in keys), threshold=2)
    made.signed.expires = expires
    return CanonicalJSONSerializer().serialize(made.signed)


async def test_two_holders_who_show_their_signatures_at_once_both_count(domain: Domain) -> None:
    mine, _ = await keys_of(domain)
    holders = (sslib_key(mine), ALICE.public_key, BOB.public_key)
    payload = CanonicalJSONSerializer().serialize(a_root(1, *holders, threshold=3).signed)
    context = Context(ACME, "root")
    await domain.signing.sign(ADMIN, SignRequest(mine.name, payload, encoding=DER, context=context))

    async def show(holder: CryptoSigner) -> None:
        copy = a_root(1, *holders, threshold=3, signed_by=[holder]).to_bytes()
        await domain.roles.advance(ADMIN, ACME, [RoleFile("root", copy)])

    await asyncio.gather(show(ALICE), show(BOB))

    assert mark(domain, "root").state is MarkState.COMPLETE
    assert len(mark(domain, "root").signers) == 3


async def test_a_corrected_draft_signs_after_the_first_one_was_given_up(domain: Domain) -> None:
    mine, _ = await keys_of(domain)
    other = await domain.a_key("acme/root-b", KeyAlgorithm.ECDSA_P256, Binding(ACME, "root"))
    typo, corrected = draft_of(EXPIRES, mine, other), draft_of(LATER, mine, other)
    context = Context(ACME, "root")
    await domain.signing.sign(ADMIN, SignRequest(mine.name, typo, encoding=DER, context=context))
    with pytest.raises(VersionTakenError) as error:
        await domain.signing.sign(
            ADMIN, SignRequest(other.name, corrected, encoding=DER, context=context)
        )
    assert "role supersede acme root" in error.value.hint

    draft = mark(domain, "root").newest
    assert await domain.roles.supersede(ADMIN, ACME, "root", draft.digest, said="typo") is None

    for key in (mine, other):
        await domain.signing.sign(
            ADMIN, SignRequest(key.name, corrected, encoding=DER, context=context)
        )
    assert mark(domain, "root").state is MarkState.COMPLETE
    assert mark(domain, "root").newest.digest == hashlib.sha256(corrected).digest()


# ------------------------------------------------------------------------------- consent


async def test_consent_to_an_import_is_asked_once_and_used_once() -> None:
    with a_domain(parse_policy(CONSENT, "policy.toml")) as domain:
        await keys_of(domain)

        with pytest.raises(ApprovalNeededError) as error:
            await import_acme(domain)
        assert domain.audit.find_mark(ACME, "root") is None
        (asked,) = domain.audit.open_approvals()
        assert asked.id == error.value.facts["approval"]
        await domain.approvals.approve(ALICE_CALLS, asked.id, asked.digest)
        await import_acme(domain)

        assert mark(domain, "targets").newest.version == 3
        assert not domain.audit.open_approvals()
        assert last(domain).details["approval"] == asked.id


async def test_consent_to_one_import_is_none_to_another() -> None:
    with a_domain(parse_policy(CONSENT, "policy.toml")) as domain:
        await keys_of(domain)
        with pytest.raises(ApprovalNeededError):
            await import_acme(domain)
        (asked,) = domain.audit.open_approvals()
        await domain.approvals.approve(ALICE_CALLS, asked.id, asked.digest)

        with pytest.raises(ApprovalNeededError):
            await import_acme(domain, targets(4))

        assert domain.audit.find_mark(ACME, "root") is None


async def test_a_loss_is_accepted_with_a_reason(domain: Domain) -> None:
    with pytest.raises(InvalidRequestError, match="say why"):
        await domain.roles.accept_loss(ADMIN, said="")

    accepted = await domain.roles.accept_loss(ADMIN, said="the disk died")

    assert accepted.origin == "keyd.example/2"
    assert last(domain).said == "the disk died"


async def test_consent_to_one_loss_is_none_to_a_larger_one() -> None:
    rule = CONSENT.replace('keys = ["acme/*"]', 'keys = ["*"]')
    with a_domain(parse_policy(rule, "policy.toml")) as domain:
        with pytest.raises(ApprovalNeededError):
            await domain.roles.accept_loss(ADMIN, said="the disk died")
        (asked,) = domain.audit.open_approvals()
        assert "entries 5 to 9" in asked.summary
        await domain.approvals.approve(ALICE_CALLS, asked.id, asked.digest)

        domain.audit.stop_signing = CheckpointBehindError("entries 5 to 500 are lost")
        domain.losses.append("entries 5 to 500 are lost")
        with pytest.raises(ApprovalNeededError) as error:
            await domain.roles.accept_loss(ADMIN, said="the disk died")

        assert error.value.facts["approval"] != asked.id
        domain.losses.append("entries 5 to 9 are lost")
        await domain.roles.accept_loss(ADMIN, said="the disk died")
        assert last(domain).action == "checkpoint-accept"


async def test_nobody_is_asked_where_nothing_is_lost() -> None:
    rule = CONSENT.replace('keys = ["acme/*"]', 'keys = ["*"]')
    with a_domain(parse_policy(rule, "policy.toml")) as domain:
        domain.losses.append("")

        await domain.roles.accept_loss(ADMIN, said="just to be sure")

        assert not domain.audit.open_approvals()
