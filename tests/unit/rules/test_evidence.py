"""Published files become marks by their signatures alone; what is forged becomes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from keyd.content.documents import Root as DocumentRoot
from keyd.content.envelope import parse
from keyd.errors import ContentError, RuleRefusedError
from keyd.model import MarkState
from keyd.rules.evidence import Evidence, Known, RoleFile, verify_advance, verify_import
from keyd.rules.refusal import WORDS
from tests.tuf_documents import ALICE, BOB, EXPIRES, MALLORY, a_root, a_targets, signed
from tests.tuf_repositories import a_published_repository

REPOSITORY = "acme"
NOW = datetime(2029, 6, 1, tzinfo=UTC)
CAROL = CryptoSigner.generate_ed25519()


def file(role: str, metadata: Metadata[Any]) -> RoleFile:
    return RoleFile(role, metadata.to_bytes())


def root(
    version: int, *holders: CryptoSigner, by: Sequence[CryptoSigner], threshold: int = 1
) -> Metadata[Root]:
    return a_root(version, *(h.public_key for h in holders), threshold=threshold, signed_by=by)


def snapshot(version: int, by: CryptoSigner, **meta: int) -> Metadata[Snapshot]:
    found = Snapshot(version, expires=EXPIRES)
    found.meta = {f"{role}.json": MetaFile(number) for role, number in meta.items()}
    return signed(Metadata(found), [by])


def timestamp(version: int, by: CryptoSigner, of: int) -> Metadata[Timestamp]:
    found = Timestamp(version, expires=EXPIRES)
    found.snapshot_meta = MetaFile(of)
    return signed(Metadata(found), [by])


def delegating(
    version: int, role: str, holder: CryptoSigner, by: CryptoSigner
) -> Metadata[Targets]:
    targets = Targets(version, expires=EXPIRES)
    key = holder.public_key
    targets.delegations = Delegations(
        {key.keyid: key}, {role: DelegatedRole(role, [key.keyid], 1, False, paths=["*"])}
    )
    return signed(Metadata(targets), [by])


def known_after(evidence: Evidence, before: Mapping[str, Known] | None = None) -> dict[str, Known]:
    after = dict(before or {})
    return after | {c.mark.role: Known(c.mark, c.contents) for c in evidence.changes}


def imported(
    trusted: Metadata[Any], *files: RoleFile, known: Mapping[str, Known] | None = None
) -> Evidence:
    return verify_import(REPOSITORY, trusted.to_bytes(), files, known or {}, NOW)


def advanced(known: Mapping[str, Known], *files: RoleFile, published: bool = True) -> Evidence:
    return verify_advance(REPOSITORY, files, known, NOW, published=published)


def stands(evidence: Evidence) -> dict[str, tuple[int, MarkState]]:
    return {c.mark.role: (c.mark.newest.version, c.mark.state) for c in evidence.changes}


def refused(error: pytest.ExceptionInfo[RuleRefusedError]) -> str:
    assert error.value.hint
    return error.value.facts["rule"]


def start(*holders: CryptoSigner, threshold: int = 1) -> dict[str, Known]:
    """A known repository: root v1, and targets, snapshot and timestamp v1 by its first holder."""
    holders = holders or (ALICE,)
    return known_after(
        imported(
            root(1, *holders, by=holders, threshold=threshold),
            file("targets", a_targets(1, signed_by=holders[:1])),
            file("snapshot", snapshot(1, holders[0], targets=1)),
            file("timestamp", timestamp(1, holders[0], 1)),
        )
    )


# ------------------------------------------------------------------------------- import


def test_a_repository_that_python_tuf_wrote_is_imported_whole(tmp_path: Path) -> None:
    a_published_repository(tmp_path / "repository", tmp_path / "keys")
    folder = tmp_path / "repository" / "metadata"
    newest: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        role = path.name.removesuffix(".json").rpartition(".")[2]
        if role != "root":
            content = path.read_bytes()
            old = newest.get(role)
            if old is None or parse(old).document.version <= parse(content).document.version:
                newest[role] = content

    evidence = verify_import(
        "acme",
        (folder / "1.root.json").read_bytes(),
        [RoleFile(role, content) for role, content in newest.items()],
        {},
        datetime.now(UTC),
    )

    assert set(stands(evidence)) == {"root", "targets", "snapshot", "timestamp"}
    for change in evidence.changes:
        content = change.contents.newest
        assert change.mark.state is MarkState.PUBLISHED
        assert change.mark.complete == change.mark.newest
        assert change.mark.newest.digest == hashlib.sha256(content).digest()
        assert all(need.is_met(change.mark.signers) for need in change.mark.needs)
    assert evidence.notes == ()


def test_a_chain_of_roots_leads_from_the_trusted_one_to_new_keys() -> None:
    second = root(2, BOB, by=[ALICE, BOB])
    third = root(3, BOB, CAROL, by=[BOB, CAROL], threshold=2)

    evidence = imported(
        root(1, ALICE, by=[ALICE]),
        file("root", third),
        file("root", second),
        file("targets", a_targets(7, signed_by=[BOB])),
    )

    assert stands(evidence) == {
        "root": (3, MarkState.PUBLISHED),
        "targets": (7, MarkState.PUBLISHED),
    }
    (change, _) = evidence.changes
    assert len(change.mark.needs) == 2
    assert change.mark.missing == 0


@pytest.mark.parametrize(
    ("what", "following", "rule"),
    [
        ("the old key did not sign", [root(2, BOB, by=[BOB])], "evidence-signatures"),
        ("the new key did not sign", [root(2, BOB, by=[ALICE])], "evidence-signatures"),
        ("somebody else's root", [root(2, MALLORY, by=[MALLORY])], "evidence-signatures"),
        (
            "one signature where two are needed",
            [root(2, ALICE, BOB, by=[ALICE], threshold=2)],
            "evidence-signatures",
        ),
        ("one root left out", [root(3, ALICE, by=[ALICE])], "evidence-chain"),
        (
            "two roots of one version",
            [root(2, BOB, by=[ALICE, BOB]), root(2, CAROL, by=[ALICE, CAROL])],
            "evidence-conflict",
        ),
        (
            "a forged link in the middle",
            [root(2, MALLORY, by=[MALLORY]), root(3, MALLORY, by=[MALLORY])],
            "evidence-signatures",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_forged_chain_of_roots_is_no_evidence(
    what: str, following: list[Metadata[Any]], rule: str
) -> None:
    with pytest.raises(RuleRefusedError) as error:
        imported(root(1, ALICE, by=[ALICE]), *(file("root", each) for each in following))

    assert refused(error) == rule


def test_a_trusted_root_that_did_not_sign_itself_is_refused() -> None:
    with pytest.raises(RuleRefusedError) as error:
        imported(root(1, ALICE, by=[MALLORY]))

    assert refused(error) == "evidence-signatures"


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (file("targets", a_targets(1, signed_by=[MALLORY])), "evidence-signatures"),
        (file("timestamp", snapshot(1, ALICE)), "evidence-role"),
        (file("lib", a_targets(1, signed_by=[ALICE])), "evidence-delegation"),
    ],
    ids=["targets of another repository", "a snapshot said to be a timestamp", "nobody delegates"],
)
def test_a_file_that_does_not_belong_here_is_refused(given: RoleFile, rule: str) -> None:
    with pytest.raises(RuleRefusedError) as error:
        imported(root(1, ALICE, by=[ALICE]), given)

    assert refused(error) == rule


def test_a_file_that_is_no_metadata_is_named_in_the_refusal() -> None:
    with pytest.raises(ContentError, match=r"^snapshot: ") as error:
        imported(root(1, ALICE, by=[ALICE]), RoleFile("snapshot", b"{}"))

    assert error.value.facts["role"] == "snapshot"


def test_delegated_files_count_by_the_keys_their_delegator_names() -> None:
    files = [
        file("lib/deep", a_targets(4, signed_by=[CAROL])),
        file("lib", delegating(3, "lib/deep", CAROL, BOB)),
        file("targets", delegating(2, "lib", BOB, ALICE)),
    ]

    evidence = imported(root(1, ALICE, by=[ALICE]), *files)

    versions = {role: version for role, (version, _) in stands(evidence).items()}
    assert versions == {"root": 1, "targets": 2, "lib": 3, "lib/deep": 4}
    with pytest.raises(RuleRefusedError) as error:
        imported(
            root(1, ALICE, by=[ALICE]),
            file("targets", delegating(2, "lib", BOB, ALICE)),
            file("lib", a_targets(1, signed_by=[ALICE])),
        )
    assert refused(error) == "evidence-signatures"


def test_history_is_evidence_and_what_does_not_fit_together_is_said() -> None:
    old = NOW + timedelta(days=2000)
    evidence = verify_import(
        REPOSITORY,
        root(1, ALICE, by=[ALICE]).to_bytes(),
        [
            file("targets", a_targets(2, signed_by=[ALICE])),
            file("snapshot", snapshot(5, ALICE, targets=3, lib=1)),
        ],
        {},
        old,
    )

    said = "\n".join(evidence.notes)
    assert "targets v2 expired" in said
    assert "snapshot v5 names targets v3, but targets v2 was given" in said
    assert "snapshot v5 names lib v1; no file of it was given" in said
    assert len(evidence.changes) == 3


def test_an_import_lowers_nothing_and_names_the_way_out() -> None:
    known = known_after(
        advanced(start(), file("targets", a_targets(9, signed_by=[ALICE]))), start()
    )

    with pytest.raises(RuleRefusedError) as error:
        imported(
            root(1, ALICE, by=[ALICE]),
            file("targets", a_targets(8, signed_by=[ALICE])),
            known=known,
        )

    assert refused(error) == "evidence-lower"
    assert "keydctl role reset acme targets" in error.value.hint


def test_an_import_cannot_swap_a_root_that_is_known() -> None:
    with pytest.raises(RuleRefusedError) as error:
        imported(root(1, MALLORY, by=[MALLORY]), known=start())

    assert refused(error) == "evidence-conflict"


# ------------------------------------------------------------------------------- advance


def test_published_files_move_the_marks_forward_through_a_change_of_keys() -> None:
    evidence = advanced(
        start(),
        file("root", root(2, BOB, by=[ALICE, BOB])),
        file("timestamp", timestamp(6, BOB, 4)),
        file("snapshot", snapshot(4, BOB, targets=3)),
        file("targets", a_targets(3, signed_by=[BOB])),
    )

    assert stands(evidence) == {
        "root": (2, MarkState.PUBLISHED),
        "targets": (3, MarkState.PUBLISHED),
        "snapshot": (4, MarkState.PUBLISHED),
        "timestamp": (6, MarkState.PUBLISHED),
    }


def test_without_a_known_root_nothing_advances() -> None:
    with pytest.raises(RuleRefusedError) as error:
        advanced({}, file("targets", a_targets(3, signed_by=[ALICE])))

    assert refused(error) == "no-history"
    assert "role import" in error.value.hint


def test_files_by_a_key_that_was_dropped_advance_nothing() -> None:
    known = known_after(advanced(start(), file("root", root(2, BOB, by=[ALICE, BOB]))), start())

    with pytest.raises(RuleRefusedError) as error:
        advanced(known, file("targets", a_targets(9, signed_by=[ALICE])))

    assert refused(error) == "evidence-signatures"


def test_older_files_are_ignored_and_lower_nothing() -> None:
    known = known_after(advanced(start(), file("snapshot", snapshot(5, ALICE, targets=1))), start())

    evidence = advanced(known, file("snapshot", snapshot(3, ALICE, targets=1)))

    assert evidence.changes == ()
    assert "snapshot v3 is older than v5" in evidence.notes[0]


def test_two_published_targets_of_one_version_are_refused() -> None:
    known = start()

    with pytest.raises(RuleRefusedError) as error:
        advanced(known, file("targets", a_targets(1, "other", signed_by=[ALICE])))

    assert refused(error) == "evidence-conflict"
    assert error.value.facts["signed_digest"] == known["targets"].mark.newest.digest.hex()


def test_a_published_snapshot_takes_the_place_of_one_that_was_not() -> None:
    known = start()

    evidence = advanced(known, file("snapshot", snapshot(1, ALICE, targets=1, lib=1)))

    (change,) = evidence.changes
    assert change.mark.reissued == 1
    assert change.mark.newest.digest != known["snapshot"].mark.newest.digest


def draft_known(
    known: dict[str, Known], draft: Metadata[Root], *by: CryptoSigner
) -> dict[str, Known]:
    """The mark as after signatures here: some of those that the draft needs."""
    complete = advanced(known, file("root", signed(draft, [])), published=False)
    mark = complete.changes[0].mark
    before = known["root"]
    mark = replace(
        mark,
        state=MarkState.SIGNED,
        signers=frozenset(identity(signer) for signer in by),
        complete=before.mark.complete,
    )
    contents = replace(complete.changes[0].contents, complete=before.contents.complete)
    return known | {"root": Known(mark, contents)}


def identity(signer: CryptoSigner) -> str:
    """What marks call a signer."""
    document = parse(root(1, signer, by=[]).to_bytes()).document
    assert isinstance(document, DocumentRoot)
    return next(iter(document.keys.values())).identity


def only_signed_by(draft: Metadata[Root], signers: Iterable[CryptoSigner]) -> Metadata[Root]:
    copy = Metadata.from_bytes(draft.to_bytes())
    kept = {s.public_key.keyid for s in signers}
    copy.signatures = {k: s for k, s in copy.signatures.items() if k in kept}
    return copy


def test_a_colleagues_signature_completes_the_draft_that_was_signed_here() -> None:
    known = start(ALICE, BOB, threshold=2)
    draft = root(2, ALICE, BOB, by=[ALICE, BOB], threshold=2)
    known = draft_known(known, draft, ALICE)

    evidence = advanced(known, file("root", only_signed_by(draft, [BOB])), published=False)

    (change,) = evidence.changes
    assert change.mark.state is MarkState.COMPLETE
    assert change.mark.complete == change.mark.newest
    assert len(change.mark.signers) == 2
    assert change.contents.complete == change.contents.newest


def test_a_signature_that_is_not_enough_is_only_remembered() -> None:
    holders = (ALICE, BOB, CAROL)
    known = start(*holders, threshold=3)
    draft = root(2, *holders, by=holders, threshold=3)
    known = draft_known(known, draft, ALICE)

    evidence = advanced(known, file("root", only_signed_by(draft, [BOB])))

    (change,) = evidence.changes
    assert change.mark.state is MarkState.SIGNED
    assert len(change.mark.signers) == 2
    assert change.mark.complete is not None
    assert change.mark.complete.version == 1
    assert "still lacks 1 of its signatures" in evidence.notes[0]


def test_signatures_that_people_gave_apart_count_together() -> None:
    known = start(ALICE, BOB, threshold=2)
    draft = root(2, ALICE, BOB, by=[ALICE, BOB], threshold=2)

    evidence = advanced(
        known,
        file("root", only_signed_by(draft, [ALICE])),
        file("root", only_signed_by(draft, [BOB])),
        published=False,
    )

    assert stands(evidence) == {"root": (2, MarkState.COMPLETE)}


def test_a_strangers_signature_on_a_draft_is_no_evidence() -> None:
    known = start(ALICE, BOB, threshold=2)
    draft = root(2, ALICE, BOB, by=[ALICE, BOB, MALLORY], threshold=2)
    known = draft_known(known, draft, ALICE)

    with pytest.raises(RuleRefusedError) as error:
        advanced(known, file("root", only_signed_by(draft, [MALLORY])))

    assert refused(error) == "evidence-signatures"


def test_a_root_published_elsewhere_at_the_version_of_a_draft_waits_for_a_person() -> None:
    known = start(ALICE, BOB, threshold=2)
    draft = root(2, ALICE, BOB, CAROL, by=[ALICE, BOB, CAROL], threshold=2)
    known = draft_known(known, draft, ALICE)

    with pytest.raises(RuleRefusedError) as error:
        advanced(known, file("root", root(2, ALICE, BOB, by=[ALICE, BOB], threshold=2)))

    assert refused(error) == "evidence-conflict"
    assert "keydctl role supersede acme root" in error.value.hint


def test_the_page_on_roles_tells_a_way_out_of_every_refusal() -> None:
    page = (Path(__file__).parents[3] / "docs" / "roles.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    told = {cells[1].strip().strip("`"): cells[3].strip() for cells in rows}

    assert all(told.get(word) for word in WORDS)


# ------------------------------------------------------------------------------- a first root


def begun_by(first: Metadata[Root], *by: CryptoSigner) -> dict[str, Known]:
    """Root v1 as one of its holders signed it here: nothing was complete before."""
    known = imported(first).changes[0]
    signers = frozenset(identity(signer) for signer in by)
    mark = replace(known.mark, state=MarkState.SIGNED, signers=signers, complete=None)
    return {"root": Known(mark, replace(known.contents, complete=b""))}


def test_the_other_holders_signatures_complete_the_first_root_and_what_was_published_with_it() -> (
    None
):
    first = root(1, ALICE, BOB, by=[ALICE, BOB], threshold=2)

    evidence = advanced(
        begun_by(first, ALICE),
        file("root", first),
        file("targets", a_targets(1, signed_by=[ALICE])),
    )

    assert stands(evidence) == {
        "root": (1, MarkState.PUBLISHED),
        "targets": (1, MarkState.PUBLISHED),
    }


def test_a_first_root_that_still_lacks_signatures_vouches_for_nothing_else() -> None:
    first = root(1, ALICE, BOB, CAROL, by=[ALICE, BOB, CAROL], threshold=3)
    known = begun_by(first, ALICE)
    partly = file("root", only_signed_by(first, [BOB]))

    assert stands(advanced(known, partly)) == {"root": (1, MarkState.SIGNED)}
    with pytest.raises(RuleRefusedError) as error:
        advanced(known, partly, file("targets", a_targets(1, signed_by=[ALICE])))

    assert refused(error) == "no-history"


def test_another_first_root_than_the_one_signed_here_is_refused() -> None:
    known = begun_by(root(1, ALICE, BOB, by=[ALICE, BOB], threshold=2), ALICE)

    with pytest.raises(RuleRefusedError) as error:
        advanced(known, file("root", root(1, CAROL, by=[CAROL])))

    assert refused(error) == "evidence-conflict"
