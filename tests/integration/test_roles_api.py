"""RoleService over gRPC: real grpc servers, the real domain, fakes below it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.content.envelope import parse
from keyd.errors import (
    ConflictError,
    InvalidRequestError,
    PolicyDeniedError,
    RoleNotFoundError,
    RuleRefusedError,
)
from keyd.model import (
    Binding,
    EntryDraft,
    KeyAlgorithm,
    Mark,
    MarkContents,
    Marked,
    MarkState,
    Outcome,
    PutMark,
)
from keyd.v1 import roles_pb2 as pb
from tests.domain import ADMIN, Domain, a_domain
from tests.integration.api_daemon import Stubs, api_daemon, connect, error_of
from tests.tuf_documents import ALICE, BOB, EXPIRES, a_root, a_targets

ACME = "acme"
WHY = "moved here"
ROOT = a_root(1, ALICE.public_key, signed_by=[ALICE]).to_bytes()
TARGETS = a_targets(3, "app", signed_by=[ALICE]).to_bytes()
TARGETS_DIGEST = hashlib.sha256(parse(TARGETS).payload).digest()


@asynccontextmanager
async def roles(path: Path, name: str = "admin") -> AsyncIterator[tuple[Domain, Stubs]]:
    """A daemon with acme's root and targets keys, and a caller over the socket of that name."""
    with a_domain() as domain:
        for role in ("root", "targets"):
            await domain.a_key(f"acme/{role}", KeyAlgorithm.ECDSA_P256, Binding(ACME, role))
        async with api_daemon(path, domain=domain) as daemon:
            target = await daemon.listen(name)
            async with connect(target) as stubs:
                yield domain, stubs


def an_import(*, dry_run: bool = False, root: bytes = ROOT) -> pb.ImportRoleRequest:
    return pb.ImportRoleRequest(
        repository=ACME,
        trusted_root=root,
        files=[pb.RoleFile(role="targets", content=TARGETS)],
        reason=WHY,
        dry_run=dry_run,
    )


def a_change(role: str = "targets", digest: bytes = TARGETS_DIGEST) -> pb.ChangeRoleRequest:
    return pb.ChangeRoleRequest(repository=ACME, role=role, digest=digest, reason=WHY)


async def test_a_repository_is_imported_shown_and_moved_forward(tmp_path: Path) -> None:
    async with roles(tmp_path) as (_, stubs):
        dry = await stubs.roles.ImportRole(an_import(dry_run=True))
        assert (await stubs.roles.ListRoles(pb.ListRolesRequest())).roles == []
        made = await stubs.roles.ImportRole(an_import())
        shown = await stubs.roles.GetRole(pb.GetRoleRequest(repository=ACME, role="targets"))
        newer = a_targets(4, signed_by=[ALICE]).to_bytes()
        moved = await stubs.roles.AdvanceRole(
            pb.AdvanceRoleRequest(
                repository=ACME, files=[pb.RoleFile(role="targets", content=newer)], published=True
            )
        )
        listed = await stubs.roles.ListRoles(pb.ListRolesRequest(repository=ACME))

    assert [r.role for r in dry.roles] == [r.role for r in made.roles] == ["root", "targets"]
    assert (shown.version, shown.state) == (3, pb.ROLE_STATE_PUBLISHED)
    assert shown.digest == shown.complete_digest == TARGETS_DIGEST
    assert shown.content == shown.complete_content == parse(TARGETS).payload
    assert list(shown.keys) == ["acme/targets"]
    (signer,) = shown.signers
    assert (len(signer.identity), signer.key_version) == (64, "")
    assert [(r.role, r.version) for r in moved.roles] == [("targets", 4)]
    assert [(r.role, r.version, r.content) for r in listed.roles] == [
        ("root", 1, b""),
        ("targets", 4, b""),
    ]


async def test_more_roles_than_one_answer_holds_come_page_by_page(tmp_path: Path) -> None:
    marked = Marked(1, bytes(32), "targets", "tuf", EXPIRES)
    async with roles(tmp_path) as (domain, stubs):
        for number in range(25):
            mark = Mark(ACME, f"role-{number:02}", marked, MarkState.SIGNED, domain.clock.now())
            effect = PutMark(mark, MarkContents(b"signed"), None)
            entry = EntryDraft("role-import", Outcome.ALLOWED, ADMIN)
            await domain.audit.record(entry, (effect,))
        asked = pb.ListRolesRequest(repository=ACME, page_size=10)
        seen: list[list[str]] = []
        while not seen or asked.page_token:
            page = await stubs.roles.ListRoles(asked)
            seen.append([r.role for r in page.roles])
            asked.page_token = page.next_page_token
        other = pb.ListRolesRequest(page_token="AQ", page_size=10)
        assert isinstance(await error_of(stubs.roles.ListRoles(other)), InvalidRequestError)

    assert [len(page) for page in seen] == [10, 10, 5]
    assert [r for page in seen for r in page] == [f"role-{n:02}" for n in range(25)]


async def test_a_draft_shows_that_the_version_below_it_was_published(tmp_path: Path) -> None:
    wanted = pb.GetRoleRequest(repository=ACME, role="targets")
    async with roles(tmp_path) as (domain, stubs):
        await stubs.roles.ImportRole(an_import())
        before = domain.audit.find_mark(ACME, "targets")
        assert before is not None
        draft = replace(
            before,
            newest=replace(before.newest, version=4, digest=bytes(32)),
            state=MarkState.SIGNED,
            published_before=True,
        )
        contents = MarkContents(b"draft", parse(TARGETS).payload)
        entry = EntryDraft("sign", Outcome.ALLOWED, ADMIN)
        shown = [await stubs.roles.GetRole(wanted)]
        await domain.audit.record(entry, (PutMark(draft, contents, before),))
        shown.append(await stubs.roles.GetRole(wanted))
        left = await stubs.roles.SupersedeRole(a_change(digest=bytes(32)))

    assert [(r.version, r.complete_version, r.complete_published) for r in (*shown, left)] == [
        (3, 3, True),
        (4, 3, True),
        (3, 3, True),
    ]
    assert left.state == pb.ROLE_STATE_PUBLISHED


async def test_notes_tell_what_is_odd_about_the_files(tmp_path: Path) -> None:
    async with roles(tmp_path) as (_, stubs):
        await stubs.roles.ImportRole(an_import())
        again = await stubs.roles.ImportRole(an_import())

    assert again.roles == []
    assert any("nothing new" in note for note in again.notes)


async def test_a_role_is_reset_by_the_digest_that_was_looked_at(tmp_path: Path) -> None:
    async with roles(tmp_path) as (domain, stubs):
        await stubs.roles.ImportRole(an_import())
        assert isinstance(
            await error_of(stubs.roles.ResetRole(a_change(digest=bytes(32)))), ConflictError
        )
        assert isinstance(await error_of(stubs.roles.SupersedeRole(a_change())), RuleRefusedError)

        answer = await stubs.roles.ResetRole(a_change())

        assert answer.request_id
        assert isinstance(
            await error_of(stubs.roles.GetRole(pb.GetRoleRequest(repository=ACME, role="targets"))),
            RoleNotFoundError,
        )
        assert domain.audit.drafts[-1].action == "role-reset"


async def test_a_forged_root_is_refused_with_the_rule_and_the_way_out(tmp_path: Path) -> None:
    forged = a_root(1, ALICE.public_key, signed_by=[BOB]).to_bytes()
    async with roles(tmp_path) as (_, stubs):
        error = await error_of(stubs.roles.ImportRole(an_import(root=forged)))

    assert isinstance(error, RuleRefusedError)
    assert error.facts["rule"] == "evidence-signatures"
    assert error.hint


async def test_a_stranger_learns_nothing_of_roles(tmp_path: Path) -> None:
    async with roles(tmp_path, "mallory") as (domain, stubs):
        for call in (
            stubs.roles.ImportRole(an_import()),
            stubs.roles.ResetRole(a_change()),
            stubs.roles.SupersedeRole(a_change()),
            stubs.roles.AcceptLoss(pb.AcceptLossRequest(reason=WHY)),
        ):
            assert isinstance(await error_of(call), PolicyDeniedError)
        assert (await stubs.roles.ListRoles(pb.ListRolesRequest())).roles == []
        assert domain.audit.find_mark(ACME, "root") is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (a_change(digest=b"short"), "digest"),
        (a_change(role=""), "role"),
        (a_change(role="tar\u202egets"), "role"),
        (pb.ChangeRoleRequest(role="targets", digest=bytes(32), reason=WHY), "repository"),
        (pb.ChangeRoleRequest(repository=ACME, role="root", digest=bytes(32)), "reason"),
    ],
    ids=["short digest", "no role", "reordering text", "no repository", "no reason"],
)
async def test_a_malformed_change_names_its_field(
    tmp_path: Path, change: pb.ChangeRoleRequest, field: str
) -> None:
    async with roles(tmp_path) as (_, stubs):
        error = await error_of(stubs.roles.ResetRole(change))

    assert isinstance(error, InvalidRequestError)
    assert error.facts["field"] == field


async def test_a_loss_is_accepted_over_the_wire(tmp_path: Path) -> None:
    async with roles(tmp_path) as (domain, stubs):
        accepted = await stubs.roles.AcceptLoss(pb.AcceptLossRequest(reason="the disk died"))

        assert accepted.origin
        assert domain.audit.drafts[accepted.log_index].said == "the disk died"
