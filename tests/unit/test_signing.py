"""What Signing promises: nothing leaves unchecked, unlogged or ungranted."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from keyd import publickeys
from keyd.errors import (
    AlgorithmMismatchError,
    AuditUnavailableError,
    BadSignatureError,
    CheckpointBehindError,
    DeviceGoneError,
    FrozenError,
    InvalidRequestError,
    KeydError,
    KeyMismatchError,
    KeyNotEnabledError,
    KeyNotFoundError,
    PolicyDeniedError,
    TokenLockedError,
)
from keyd.keys import Keys
from keyd.model import (
    Binding,
    Context,
    Device,
    Digest,
    Effect,
    Encoding,
    EntryDraft,
    HashAlgorithm,
    KeyAlgorithm,
    Outcome,
    Receipt,
    Scheme,
    SignatureKey,
    Signed,
    SignJob,
    SignRequest,
    Statement,
    StoredSignature,
    TokenState,
    VersionState,
    never_gone,
)
from keyd.policy import parse_policy
from tests.domain import ADMIN, CI, POLICY, STRANGER, Domain, a_domain
from tests.reloaded_policy import ReloadedPolicy


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain() as made:
        yield made


def ask(
    key: str = "acme/targets", message: bytes | None = b"message", **fields: Any
) -> SignRequest:
    return SignRequest(key=key, message=message, **{"encoding": Encoding.DER, **fields})


@pytest.mark.parametrize(
    "algorithm",
    # The larger RSA keys take seconds to make and differ in nothing here.
    [a for a in KeyAlgorithm if a not in (KeyAlgorithm.RSA_3072, KeyAlgorithm.RSA_4096)],
)
async def test_every_scheme_of_every_algorithm_verifies(
    domain: Domain, algorithm: KeyAlgorithm
) -> None:
    await domain.a_key(algorithm=algorithm)
    for scheme in algorithm.schemes:
        signed = await domain.signing.sign(CI, ask(encoding=Encoding.RAW, scheme=scheme))

        publickeys.verify(signed.version.public_key, scheme, signed.signature, b"message")
        assert signed.scheme is scheme


async def test_the_answer_names_what_was_signed_and_its_entry(domain: Domain) -> None:
    key = await domain.a_key()

    signed = await domain.signing.sign(CI, ask(reason="release 7"))

    entry = domain.audit.entries[signed.log_index].fields
    assert signed.digest == Digest.of(HashAlgorithm.SHA256, b"message")
    assert entry["principal"] == CI.principal.id
    assert entry["digest"] == str(signed.digest)
    assert entry["keyid"] == key.versions[0].keyids["tuf"]
    assert entry["signature_sha256"] == hashlib.sha256(signed.signature).hexdigest()
    assert entry["said"] == "release 7"
    assert entry["rule"] == "grant ci signs targets"
    assert signed.unbound


async def test_a_stranger_cannot_tell_an_unknown_key_from_a_forbidden_one(domain: Domain) -> None:
    await domain.a_key("acme/root")

    texts = []
    for name in ("acme/root", "acme/nope"):
        with pytest.raises(PolicyDeniedError) as e:
            await domain.signing.sign(STRANGER, ask(name))
        texts.append((e.value.message.replace(name, "K"), e.value.hint, e.value.facts))

    assert texts[0] == texts[1]
    assert domain.actions()[-2:] == ["sign refused", "sign refused"]
    assert domain.token.signed == 1  # the test signature of creation


async def test_a_granted_name_without_a_key_is_said_to_be_unknown(domain: Domain) -> None:
    with pytest.raises(KeyNotFoundError):
        await domain.signing.sign(CI, ask("acme/later"))


async def test_a_bad_digest_length_cannot_be_made_into_a_request() -> None:
    with pytest.raises(InvalidRequestError, match="32 bytes"):
        Digest(HashAlgorithm.SHA256, bytes(31))


REFUSED: dict[str, tuple[dict[str, Any], type[KeydError]]] = {
    "no encoding for ECDSA": ({"encoding": None}, AlgorithmMismatchError),
    "a scheme of another key": ({"scheme": Scheme.ED25519}, AlgorithmMismatchError),
    "a digest of another hash": (
        {"message": None, "digest": Digest.of(HashAlgorithm.SHA384, b"")},
        AlgorithmMismatchError,
    ),
    "a version that is not there": ({"version": 9}, KeyNotFoundError),
    "a public key nobody holds": ({"expected_public_key": b"other"}, KeyMismatchError),
    "a keyid nobody has": ({"expected_keyid": "00"}, KeyMismatchError),
}


@pytest.mark.parametrize(("fields", "error"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_does_not_fit_the_key_is_refused_and_logged(
    domain: Domain, fields: dict[str, Any], error: type[KeydError]
) -> None:
    await domain.a_key()

    with pytest.raises(error):
        await domain.signing.sign(CI, ask(**fields))

    assert domain.actions()[-1] == "sign refused"
    assert domain.audit.drafts[-1].reason_code == error.reason
    assert domain.token.signed == 1


async def test_ed25519_refuses_a_digest(domain: Domain) -> None:
    await domain.a_key(algorithm=KeyAlgorithm.ED25519)
    digest = Digest.of(HashAlgorithm.SHA256, b"message")

    with pytest.raises(AlgorithmMismatchError, match="send the message"):
        await domain.signing.sign(CI, ask(message=None, digest=digest, encoding=Encoding.RAW))


async def test_a_staged_version_signs_only_for_those_who_expect_its_public_key(
    domain: Domain,
) -> None:
    await domain.a_key("acme/targets", KeyAlgorithm.ECDSA_P256, Binding("acme", "targets"))
    key = await domain.keys.rotate(ADMIN, "acme/targets", at_once=False)
    staged = key.versions[1]

    plain = await domain.signing.sign(CI, ask(message=targets(1)))
    expecting = await domain.signing.sign(
        CI, ask(message=targets(2), expected_public_key=staged.public_key)
    )
    by_keyid = await domain.signing.sign(
        CI, ask(message=targets(3), expected_keyid=staged.keyids["notary"])
    )

    assert plain.version.number == 1
    assert expecting.version.number == by_keyid.version.number == 2


async def test_version_and_expected_public_key_have_to_agree(domain: Domain) -> None:
    key = await domain.a_key()
    await domain.keys.rotate(ADMIN, "acme/targets", at_once=True)

    with pytest.raises(KeyMismatchError, match="version 1 does"):
        await domain.signing.sign(
            CI, ask(version=2, expected_public_key=key.versions[0].public_key)
        )


async def test_sign_refuses_a_disabled_version_and_says_how_to_enable_it(domain: Domain) -> None:
    await domain.a_key()
    await domain.keys.disable(ADMIN, "acme/targets", 1)

    with pytest.raises(KeyNotEnabledError) as e:
        await domain.signing.sign(CI, ask())

    assert e.value.facts["state"] == VersionState.DISABLED
    assert "keydctl key enable acme/targets 1" in e.value.hint


async def test_a_freeze_stops_one_key_or_all_until_it_ends(domain: Domain) -> None:
    await domain.a_key()
    await domain.a_key("acme/other")
    await domain.keys.freeze(ADMIN, "acme/targets", said="leak suspected")

    with pytest.raises(FrozenError, match="leak suspected"):
        await domain.signing.sign(CI, ask())
    await domain.signing.sign(ADMIN, ask("acme/other"))

    await domain.keys.freeze(ADMIN, "")
    with pytest.raises(FrozenError, match="all keys"):
        await domain.signing.sign(ADMIN, ask("acme/other"))

    await domain.keys.unfreeze(ADMIN, "")
    await domain.keys.unfreeze(ADMIN, "acme/targets")
    await domain.signing.sign(CI, ask())
    assert domain.audit.drafts[-2].alert


async def test_a_lost_answer_is_given_again_without_asking_the_token(domain: Domain) -> None:
    await domain.a_key()
    first = await domain.signing.sign(CI, ask())
    signed_before = domain.token.signed

    again = await domain.signing.sign(CI, ask())
    raw = await domain.signing.sign(CI, ask(encoding=Encoding.RAW))
    other = await domain.signing.sign(ADMIN, ask())

    assert again.signature == first.signature
    assert again.replayed
    assert again.log_index == first.log_index
    assert publickeys.to_der(raw.signature) == first.signature
    assert not other.replayed, "another principal gets an entry of its own"
    assert domain.token.signed == signed_before + 1


async def test_a_replay_still_has_to_pass_the_policy_and_the_freeze(domain: Domain) -> None:
    await domain.a_key()
    await domain.signing.sign(CI, ask())
    await domain.keys.freeze(ADMIN, "")

    with pytest.raises(FrozenError):
        await domain.signing.sign(CI, ask())


async def test_a_dry_run_decides_and_signs_nothing(domain: Domain) -> None:
    await domain.a_key()

    result = await domain.signing.sign(CI, ask(dry_run=True))

    assert (result.signature, result.log_index) == (b"", -1)
    assert result.rule == "grant ci signs targets"
    assert domain.token.signed == 1
    with pytest.raises(PolicyDeniedError):
        await domain.signing.sign(STRANGER, ask(dry_run=True))


async def test_nothing_is_signed_or_released_while_the_log_cannot_be_written(
    domain: Domain,
) -> None:
    await domain.a_key()
    domain.audit.unavailable = "disk full"

    with pytest.raises(AuditUnavailableError):
        await domain.signing.sign(CI, ask())

    assert domain.token.signed == 1


async def test_a_log_that_fails_after_the_token_signed_withholds_the_signature(
    domain: Domain,
) -> None:
    await domain.a_key()
    domain.audit.check_signing_allowed = lambda *, bound: None  # type: ignore[method-assign]
    domain.audit.unavailable = "disk full"

    with pytest.raises(AuditUnavailableError):
        await domain.signing.sign(CI, ask())

    assert domain.token.signed == 2


async def test_a_log_behind_its_checkpoint_stops_bound_keys_by_the_error_it_raises(
    domain: Domain,
) -> None:
    await domain.a_key()
    domain.audit.stop_signing = CheckpointBehindError("restored")

    with pytest.raises(CheckpointBehindError):
        await domain.signing.sign(CI, ask())


async def test_one_bad_item_of_a_batch_never_touches_its_neighbours(domain: Domain) -> None:
    await domain.a_key()
    parse_error = InvalidRequestError("digest", "not hex")

    results = await domain.signing.sign_batch(
        CI,
        [ask(message=b"one"), parse_error, ask("acme/root"), ask(message=b"two"), ask(version=7)],
    )

    kinds = [type(r) for r in results]
    assert kinds == [Signed, InvalidRequestError, PolicyDeniedError, Signed, KeyNotFoundError]
    assert results[1] is parse_error


async def test_a_large_batch_keeps_its_order(domain: Domain) -> None:
    key = await domain.a_key()
    messages = [f"message {n}".encode() for n in range(400)]

    results = await domain.signing.sign_batch(
        CI, [ask(message=m, encoding=Encoding.RAW) for m in messages]
    )

    public_key = key.versions[0].public_key
    for message, result in zip(messages, results, strict=True):
        assert isinstance(result, Signed)
        publickeys.verify(public_key, Scheme.ECDSA_P256_SHA256, result.signature, message)
    assert len({r.log_index for r in results if isinstance(r, Signed)}) == len(messages)


async def test_a_token_that_fails_midway_fails_its_items_only_and_logs_them(
    domain: Domain,
) -> None:
    await domain.a_key()
    domain.token.gone_after = 2

    results = await domain.signing.sign_batch(CI, [ask(message=f"{n}".encode()) for n in range(4)])

    assert [type(r) for r in results[:2]] == [Signed, Signed]
    assert all(isinstance(r, DeviceGoneError) for r in results[2:])
    failed = [d for d in domain.audit.drafts if d.outcome is Outcome.FAILED]
    assert len(failed) == 2


class LyingDevice:
    """A token whose module answers with signatures over something else."""

    def __init__(self, honest: Device) -> None:
        self._honest = honest
        self.tokens = honest.tokens

    async def sign(
        self, token: str, jobs: Sequence[SignJob], gone: Callable[[], bool] = never_gone
    ) -> list[bytes | KeydError]:
        """Signs the wrong digest."""
        wrong = [replace(job, payload=bytes(len(job.payload))) for job in jobs]
        return await self._honest.sign(token, wrong, gone)


async def test_a_signature_that_does_not_verify_is_never_released(domain: Domain) -> None:
    await domain.a_key()
    domain.signing._device = LyingDevice(domain.device)  # type: ignore[assignment]

    with pytest.raises(BadSignatureError):
        await domain.signing.sign(CI, ask())

    last = domain.audit.drafts[-1]
    assert (last.outcome, last.alert, last.signature_sha256) == (Outcome.FAILED, True, "")


class SlowDevice(LyingDevice):
    """A token that takes its time, and honours ``gone`` like the pool does."""

    def __init__(self, honest: Device) -> None:
        super().__init__(honest)
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()

    async def sign(
        self, token: str, jobs: Sequence[SignJob], gone: Callable[[], bool] = never_gone
    ) -> list[bytes | KeydError]:
        """The first job is with the token at once; the others wait in the queue."""
        first = await self._honest.sign(token, jobs[:1], never_gone)
        self.started.set()
        await self.go_on.wait()
        return first + await self._honest.sign(token, jobs[1:], gone)


async def test_a_caller_that_leaves_drops_what_waits_and_the_rest_is_logged(
    domain: Domain,
) -> None:
    await domain.a_key()
    slow = SlowDevice(domain.device)
    domain.signing._device = slow  # type: ignore[assignment]
    call = asyncio.create_task(
        domain.signing.sign_batch(CI, [ask(message=b"one"), ask(message=b"two")])
    )
    await asyncio.wait_for(slow.started.wait(), 5)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    slow.go_on.set()
    await domain.signing.drain()

    assert domain.actions()[-2:] == ["sign allowed", "sign failed"]
    assert domain.token.signed == 2  # the test signature, and the one that was under way


async def _in_flight(
    domain: Domain, *requests: SignRequest
) -> tuple[SlowDevice, asyncio.Task[list[Signed | KeydError]]]:
    """Requests that CI made: their first signature is made, their answer not yet given."""
    slow = SlowDevice(domain.device)
    domain.signing._device = slow  # type: ignore[assignment]
    call = asyncio.create_task(domain.signing.sign_batch(CI, requests))
    async with asyncio.timeout(5):
        await asyncio.wait_for(slow.started.wait(), 5)
    return slow, call


@pytest.mark.parametrize(
    ("stop", "error"),
    [
        (lambda keys: keys.freeze(ADMIN, "acme/targets"), FrozenError),
        (lambda keys: keys.freeze(ADMIN, ""), FrozenError),
        (lambda keys: keys.disable(ADMIN, "acme/targets", 1), KeyNotEnabledError),
        (lambda keys: keys.schedule_destroy(ADMIN, "acme/targets", 1), KeyNotEnabledError),
    ],
    ids=["key frozen", "all frozen", "disabled", "scheduled for destruction"],
)
async def test_what_is_stopped_while_the_token_signs_is_not_released(
    domain: Domain, stop: Callable[[Keys], Awaitable[object]], error: type[KeydError]
) -> None:
    await domain.a_key()
    slow, call = await _in_flight(domain, ask())

    await stop(domain.keys)
    slow.go_on.set()
    (result,) = await call

    assert isinstance(result, error)
    last = domain.audit.drafts[-1]
    assert (last.action, last.outcome, last.signature_sha256) == ("sign", Outcome.REFUSED, "")


async def test_a_freeze_that_returns_while_the_entry_is_written_withholds_the_answer(
    domain: Domain,
) -> None:
    await domain.a_key()
    record_many = domain.audit.record_many

    async def frozen_meanwhile(
        items: Sequence[tuple[EntryDraft, Sequence[Effect]]],
    ) -> list[Receipt | KeydError]:
        receipts = await record_many(items)
        domain.audit.record_many = record_many  # type: ignore[method-assign]
        await domain.keys.freeze(ADMIN, "")
        return receipts

    domain.audit.record_many = frozen_meanwhile  # type: ignore[method-assign]
    with pytest.raises(FrozenError):
        await domain.signing.sign(CI, ask())


async def test_a_stored_signature_is_not_released_by_a_batch_that_outlasts_a_freeze(
    domain: Domain,
) -> None:
    await domain.a_key()
    await domain.signing.sign(CI, ask())
    find = domain.audit.find_signatures

    async def slowly(wanted: Sequence[SignatureKey]) -> dict[SignatureKey, StoredSignature]:
        found = await find(wanted)
        await domain.keys.freeze(ADMIN, "acme/targets")
        return found

    domain.audit.find_signatures = slowly  # type: ignore[method-assign]
    with pytest.raises(FrozenError):
        await domain.signing.sign(CI, ask())


async def test_a_stored_signature_that_does_not_verify_is_made_anew(domain: Domain) -> None:
    await domain.a_key()
    await domain.signing.sign(CI, ask())
    for place, stored in domain.audit._signatures.items():
        damaged = bytes([stored.signature[0] ^ 1]) + stored.signature[1:]
        domain.audit._signatures[place] = replace(stored, signature=damaged)

    again = await domain.signing.sign(CI, ask(encoding=Encoding.RAW))

    assert not again.replayed
    publickeys.verify(
        again.version.public_key, Scheme.ECDSA_P256_SHA256, again.signature, b"message"
    )


async def test_a_grant_taken_away_while_the_token_signs_withholds_the_signature() -> None:
    policy = ReloadedPolicy(POLICY)
    with a_domain(policy) as domain:
        await domain.a_key()
        slow, call = await _in_flight(domain, ask())

        policy.now = parse_policy(POLICY.replace("spiffe://acme/ci", "spiffe://other"), "p")
        slow.go_on.set()
        (result,) = await call

        assert isinstance(result, PolicyDeniedError)
        assert domain.audit.drafts[-1].outcome is Outcome.REFUSED


async def test_the_entry_names_the_policy_that_decided_not_the_one_reloaded_since() -> None:
    policy = ReloadedPolicy(POLICY)
    with a_domain(policy) as domain:
        await domain.a_key()
        decided_by = policy.hash
        slow, call = await _in_flight(domain, ask())

        policy.now = parse_policy(POLICY + "# a comment\n", "policy.toml")
        slow.go_on.set()
        (result,) = await call

        assert isinstance(result, Signed)
        assert policy.hash != decided_by
        assert domain.audit.drafts[-1].policy_hash == decided_by


async def test_a_batch_to_a_token_that_is_away_does_not_fill_the_log(domain: Domain) -> None:
    await domain.a_key()
    domain.token.state = TokenState.LOCKED

    results = await domain.signing.sign_batch(CI, [ask(message=b"%d" % n) for n in range(300)])

    assert all(isinstance(r, TokenLockedError) for r in results)
    # Counted by the log (audit.refuse collapses them), not written one by one.
    assert [d.reason_code for d in domain.audit.refused] == ["TOKEN_LOCKED"] * 300


def targets(version: int) -> bytes:
    return (
        b'{"_type":"targets","expires":"2031-01-01T00:00:00Z","spec_version":"1.0.31",'
        b'"targets":{},"version":%d}' % version
    )


BOUND = (Binding("acme", "targets"), Binding("acme", "snapshot"))


async def test_the_context_of_a_bound_key_is_completed_where_one_choice_is_left(
    domain: Domain,
) -> None:
    await domain.a_key("acme/targets", KeyAlgorithm.ECDSA_P256, *BOUND)

    signed = await domain.signing.sign(CI, ask(message=targets(7)))

    entry = domain.audit.entries[signed.log_index].fields
    assert entry["context"] == {"repository": "acme", "role": "targets"}
    assert signed.statement.version == 7


async def test_a_bound_key_asks_for_the_context_where_several_are_left(domain: Domain) -> None:
    await domain.a_key("acme/targets", KeyAlgorithm.ECDSA_P256, *BOUND)

    with pytest.raises(InvalidRequestError, match="say for which role"):
        await domain.signing.sign(CI, ask(message=b"opaque"))


@pytest.mark.parametrize(
    "context", [Context("evil", "targets"), Context("acme", "root"), Context("", "timestamp")]
)
async def test_a_bound_key_refuses_a_context_it_is_not_bound_to(
    domain: Domain, context: Context
) -> None:
    await domain.a_key("acme/targets", KeyAlgorithm.ECDSA_P256, *BOUND)

    with pytest.raises(InvalidRequestError, match="is bound to"):
        await domain.signing.sign(CI, ask(message=targets(1), context=context))


async def test_what_a_key_is_bound_to_is_not_told_to_a_stranger(domain: Domain) -> None:
    await domain.a_key("acme/targets", KeyAlgorithm.ECDSA_P256, *BOUND)

    with pytest.raises(PolicyDeniedError):
        await domain.signing.sign(STRANGER, ask(context=Context("evil", "targets")))


async def test_what_a_stranger_sends_is_not_even_read(domain: Domain) -> None:
    read: list[bytes] = []

    def counted(payload: bytes) -> Statement:
        read.append(payload)
        return Statement()

    domain.signing._planning._read_content = counted
    await domain.a_key()

    with pytest.raises(PolicyDeniedError):
        await domain.signing.sign(STRANGER, ask(message=targets(1)))
    await domain.signing.sign(CI, ask(message=targets(2)))

    assert read == [targets(2)]


async def test_nobody_signs_with_the_log_key(domain: Domain) -> None:
    with pytest.raises(PolicyDeniedError):
        await domain.signing.sign(ADMIN, ask("keyd/log"))
