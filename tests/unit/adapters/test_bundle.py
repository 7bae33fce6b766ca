"""Exchange bundles: what an attacker does to them, and the honest twin of each."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from keyd.adapters.tufrepo import bundletext
from keyd.adapters.tufrepo.bundle import (
    BundleSignature,
    LogReceipt,
    Request,
    Response,
    RootFile,
    is_bundle,
)
from keyd.adapters.tufrepo.ceremony_evidence import (
    Awaited,
    check_receipt,
    check_request,
    check_response,
    draft_identities,
)
from keyd.audit import merkle
from keyd.audit.checkpoint import checkpoint_text
from keyd.audit.entry import entry_body
from keyd.audit.note import NoteSignature, VerifierKey, write_note
from keyd.content import canonical
from keyd.errors import RepositoryError
from keyd.model import (
    Caller,
    Context,
    Digest,
    EntryDraft,
    HashAlgorithm,
    Outcome,
    Principal,
)
from tests.tuf_documents import ALICE, BOB, MALLORY, a_root

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LOG_SIGNER = CryptoSigner.generate_ed25519()
ORIGIN = "keyd.invalid/bob"


def roots(count: int, *holders: CryptoSigner, threshold: int = 1) -> list[Metadata[Root]]:
    keys = [holder.public_key for holder in holders]
    return [a_root(n, *keys, threshold=threshold, signed_by=holders) for n in range(1, count + 1)]


def a_request(chain: list[Metadata[Root]] | None = None) -> Request:
    """Root 3 waits for Alice and Bob; 1 and 2 are published."""
    chain = chain or roots(3, ALICE, BOB, threshold=2)
    return Request(
        id="ab" * 16,
        ceremony="ceremony1",
        repository="acme",
        version=3,
        created=NOW,
        expires=NOW + timedelta(days=14),
        draft=chain[2].signed_bytes,
        history=tuple(RootFile(r.signed.version, r.to_bytes()) for r in chain[:2]),
        asks="socket:alice",
        reason="yearly",
    )


def a_response(request: Request, *signers: CryptoSigner) -> Response:
    return Response(
        id=request.id,
        ceremony=request.ceremony,
        repository=request.repository,
        version=request.version,
        created=NOW,
        expires=request.expires,
        draft_sha256=request.draft_sha256,
        signatures=tuple(
            BundleSignature(s.public_key.keyid, bytes.fromhex(s.sign(request.draft).signature))
            for s in signers
        ),
        signer="email:bob@example.org",
    )


def awaited(request: Request) -> Awaited:
    return Awaited(
        ids=(request.id,),
        ceremony=request.ceremony,
        repository=request.repository,
        version=request.version,
        draft=request.draft,
        holders=draft_identities(check_request(request, NOW)),
        signed=(ALICE.public_key.keyid,),
    )


def problem(error: pytest.ExceptionInfo[RepositoryError]) -> str:
    return error.value.facts["problem"]


def resealed(data: bytes, change: Callable[[dict[str, canonical.Json]], None]) -> bytes:
    """The bundle with another body, and a checksum that fits: not an accident but an attack."""
    head, body, _, _ = data.split(b"\n")
    value = canonical.decode(body)
    assert isinstance(value, dict)
    change(value)
    text = head + b"\n" + canonical.encode(value) + b"\n"
    return text + f"sha256:{hashlib.sha256(text).hexdigest()}\n".encode()


# ------------------------------------------------------------------------------- the text


def test_a_request_and_a_response_come_back_as_they_were_written() -> None:
    request = a_request()
    response = a_response(request, BOB)

    assert bundletext.read_request(bundletext.write(request)) == request
    assert bundletext.read_response(bundletext.write(response)) == response


def test_the_first_line_says_what_to_do_and_a_file_is_known_by_it(tmp_path: Path) -> None:
    data = bundletext.write(a_request())
    path = tmp_path / "root.bundle"
    path.write_bytes(data)

    assert data.splitlines()[0] == (
        b"keyd-bundle 1 request: root 3 of acme; sign it with: keydctl tuf sign FILE --key KEY"
    )
    assert is_bundle(path)
    path.write_bytes(b'{"signed": {}}')
    assert not is_bundle(path)


def test_no_byte_of_a_bundle_can_change_unnoticed() -> None:
    data = bundletext.write(a_request())

    for at in range(0, len(data), 7):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(RepositoryError):
            bundletext.read_request(changed)


@pytest.mark.parametrize("cut", [0, 1, 20, 400, -1, -2, -70])
def test_a_bundle_that_was_cut_is_refused(cut: int) -> None:
    with pytest.raises(RepositoryError) as error:
        bundletext.read_request(bundletext.write(a_request())[:cut])

    assert problem(error) in ("damaged", "format")


def test_a_bundle_whose_first_line_promises_another_repository_is_refused() -> None:
    head, body, _, _ = bundletext.write(a_request()).split(b"\n")
    text = head.replace(b"acme", b"evil") + b"\n" + body + b"\n"
    data = text + f"sha256:{hashlib.sha256(text).hexdigest()}\n".encode()

    with pytest.raises(RepositoryError, match="first line") as error:
        bundletext.read_request(data)

    assert problem(error) == "damaged"


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("draft"),
        lambda body: body.update(unknown="x"),
        lambda body: body.update(version=True),
        lambda body: body.update(version=0),
        lambda body: body.update(history=[]),
        lambda body: body.update(history=[{"version": 1}]),
        lambda body: body.update(format=2),
        lambda body: body.update(kind="letter"),
        lambda body: body.update(expires="soon"),
        lambda body: body.update(reason="x" * 1001),
        lambda body: body["draft"].update(sha256="0" * 64),
        lambda body: body["draft"].update(base64="???"),
        lambda body: body["draft"].update(more=1),
    ],
)
def test_a_body_that_is_not_exactly_a_request_is_refused(
    change: Callable[[dict[str, canonical.Json]], None],
) -> None:
    with pytest.raises(RepositoryError) as error:
        bundletext.read_request(resealed(bundletext.write(a_request()), change))

    assert problem(error) in ("format", "damaged")


def test_a_part_whose_base64_has_another_form_is_refused() -> None:
    request = replace(a_request(), draft=b"x")
    loose = base64.b64encode(b"x").decode().replace("eA==", "eB==")

    with pytest.raises(RepositoryError, match="canonical"):
        bundletext.read_request(
            resealed(bundletext.write(request), lambda body: body["draft"].update(base64=loose))  # type: ignore[union-attr]
        )


def test_a_newer_format_and_the_wrong_kind_say_what_to_do() -> None:
    data = bundletext.write(a_request())

    with pytest.raises(RepositoryError, match="newer keydctl"):
        bundletext.read_request(data.replace(b"keyd-bundle 1", b"keyd-bundle 2", 1))
    with pytest.raises(RepositoryError) as error:
        bundletext.read_response(data)
    assert "keydctl tuf sign" in error.value.hint
    with pytest.raises(RepositoryError) as error:
        bundletext.read_request(bundletext.write(a_response(a_request(), BOB)))
    assert "ceremony import" in error.value.hint


# ------------------------------------------------------------------------------- requests


def test_an_honest_request_holds_together() -> None:
    evidence = check_request(a_request(), NOW)

    assert evidence.before.version == 2
    assert set(draft_identities(evidence)) == {ALICE.public_key.keyid, BOB.public_key.keyid}


def test_a_history_that_mallory_signed_in_the_middle_is_refused() -> None:
    chain = roots(3, ALICE)
    chain[1] = a_root(2, MALLORY.public_key, signed_by=[MALLORY])

    with pytest.raises(RepositoryError, match=r"root 2 .* not signed as root 1 demands") as error:
        check_request(a_request(chain), NOW)

    assert problem(error) == "history"


def test_a_root_with_one_signature_of_two_is_no_history() -> None:
    chain = roots(3, ALICE, BOB, threshold=2)
    del chain[1].signatures[BOB.public_key.keyid]

    with pytest.raises(RepositoryError) as error:
        check_request(a_request(chain), NOW)

    assert problem(error) == "history"


@pytest.mark.parametrize("kept", [[0], [1, 0], [0, 0, 1]])
def test_a_history_with_a_gap_or_out_of_order_is_refused(kept: list[int]) -> None:
    request = a_request()

    with pytest.raises(RepositoryError) as error:
        check_request(replace(request, history=tuple(request.history[n] for n in kept)), NOW)

    assert problem(error) == "history"


def test_a_draft_of_another_version_or_kind_is_refused() -> None:
    chain = roots(4, ALICE)
    request = a_request(chain)

    for draft in (chain[3].signed_bytes, chain[0].signed_bytes, b"{}", chain[2].to_bytes()):
        with pytest.raises(RepositoryError) as error:
            check_request(replace(request, draft=draft), NOW)
        assert problem(error) == "draft"


def test_a_bundle_out_of_its_time_is_refused_and_one_in_time_is_not() -> None:
    request = a_request()

    check_request(request, request.expires - timedelta(seconds=1))
    check_request(request, NOW - timedelta(hours=23))
    for now, word in (
        (request.expires, "expired"),
        (NOW - timedelta(days=2), "clock"),
    ):
        with pytest.raises(RepositoryError) as error:
            check_request(request, now)
        assert problem(error) == word
        assert error.value.hint


# ------------------------------------------------------------------------------- responses


def test_an_honest_response_is_taken() -> None:
    request = a_request()

    check_response(a_response(request, BOB), awaited(request), NOW)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"repository": "other"}, "repository"),
        ({"ceremony": "ceremony0"}, "ceremony"),
        ({"version": 2}, "version"),
        ({"version": 4}, "request"),
        ({"draft_sha256": "0" * 64}, "draft"),
        ({"id": "00" * 16}, "request"),
        ({"expires": NOW}, "expired"),
    ],
)
def test_a_response_that_belongs_elsewhere_is_refused(change: dict[str, object], word: str) -> None:
    request = a_request()
    response = replace(a_response(request, BOB), **change)  # type: ignore[arg-type]

    with pytest.raises(RepositoryError) as error:
        check_response(response, awaited(request), NOW)

    assert problem(error) == word


def test_a_response_that_was_imported_is_refused_when_it_comes_again() -> None:
    request = a_request()

    with pytest.raises(RepositoryError) as error:
        check_response(a_response(request, ALICE), awaited(request), NOW)

    assert problem(error) == "imported"
    assert "resume" in error.value.hint


def test_the_signature_of_a_stranger_or_over_another_draft_is_refused() -> None:
    request = a_request()
    other = a_request(roots(3, ALICE, BOB))
    assert other.draft != request.draft
    laundered = replace(a_response(other, BOB), draft_sha256=request.draft_sha256)

    for response, word in ((a_response(request, MALLORY), "key"), (laundered, "signature")):
        with pytest.raises(RepositoryError) as error:
            check_response(response, awaited(request), NOW)
        assert problem(error) == word


def test_two_signatures_under_one_keyid_are_refused() -> None:
    request = a_request()

    with pytest.raises(RepositoryError) as error:
        check_response(a_response(request, BOB, BOB), awaited(request), NOW)

    assert problem(error) == "signature"


# ------------------------------------------------------------------------------- receipts


def receipt(request: Request, *, digest: bytes = b"", fingerprint: str = "") -> LogReceipt:
    """Entry 1 of a log of two, as Bob's daemon would prove it."""
    identity = draft_identities(check_request(request, NOW))[BOB.public_key.keyid].identity
    draft = EntryDraft(
        action="sign",
        outcome=Outcome.ALLOWED,
        caller=Caller(Principal("socket:bob", "unix"), "req-1"),
        key="bob/root",
        version=1,
        fingerprint=fingerprint or identity,
        digest=Digest(HashAlgorithm.SHA256, digest or hashlib.sha256(request.draft).digest()),
        context=Context("acme", "root"),
    )
    bodies = [entry_body(n, NOW, draft) for n in range(2)]
    leaves = [merkle.leaf_hash(body) for body in bodies]
    text = checkpoint_text(ORIGIN, 2, merkle.node_hash(*leaves))
    key = log_key()
    raw = bytes.fromhex(LOG_SIGNER.sign(text.encode()).signature)
    note = write_note(text, [NoteSignature(ORIGIN, key.key_id, raw)])
    return LogReceipt(1, bodies[1], (leaves[0],), note, (str(key),))


def log_key(signer: CryptoSigner = LOG_SIGNER) -> VerifierKey:
    der = bytes.fromhex("302a300506032b6570032100") + bytes.fromhex(
        signer.public_key.keyval["public"]
    )
    return VerifierKey.from_public_key(ORIGIN, der)


def bobs(request: Request, proof: LogReceipt) -> Response:
    response = a_response(request, BOB)
    return replace(response, signatures=(replace(response.signatures[0], receipt=proof),))


def test_a_receipt_shows_whose_log_has_the_signature() -> None:
    request = a_request()
    response = bobs(request, receipt(request))

    assert bundletext.read_response(bundletext.write(response)) == response
    check_response(response, awaited(request), NOW)
    bob = awaited(request).holders[BOB.public_key.keyid]
    logged = check_receipt(response.signatures[0], bob, request.draft, [log_key()])
    assert (logged.origin, logged.index, logged.principal) == (ORIGIN, 1, "socket:bob")
    assert logged.is_verified
    assert not check_receipt(response.signatures[0], bob, request.draft).is_verified


def test_a_receipt_of_another_entry_key_or_log_is_refused() -> None:
    request = a_request()
    good = receipt(request)
    other = receipt(request, digest=bytes(32))
    bob = awaited(request).holders[BOB.public_key.keyid]
    wrong = (
        other,
        receipt(request, fingerprint="00" * 32),
        replace(good, hashes=(bytes(32),)),
        replace(good, entry=other.entry),
        replace(good, index=0),
        replace(good, checkpoint=good.checkpoint.replace("\n2\n", "\n3\n")),
        replace(good, entry=b"{}"),
    )
    for proof in wrong:
        with pytest.raises(RepositoryError) as error:
            check_response(bobs(request, proof), awaited(request), NOW)
        assert problem(error) == "receipt"
    (one,) = bobs(request, good).signatures
    with pytest.raises(RepositoryError) as error:
        check_receipt(one, bob, request.draft, [log_key(CryptoSigner.generate_ed25519())])
    assert problem(error) == "receipt"
