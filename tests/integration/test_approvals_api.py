"""Two people's consent over real gRPC: each with an identity and a listener of their own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from keyd import sshsig
from keyd.approvals import Approvals, new_approval_id
from keyd.errors import (
    ApprovalNeededError,
    ApprovalNotFoundError,
    ApprovalStateError,
    InvalidRequestError,
)
from keyd.gate import Gate
from keyd.model import Action, Caller, KeyAlgorithm, Principal
from keyd.policy import parse_policy
from keyd.v1 import approvals_pb2 as pb
from keyd.v1 import keys_pb2
from tests.domain import POLICY, Domain, a_domain
from tests.integration.api_daemon import Stubs, api_daemon, connect, error_of

CONSENT = """
[[grant]]
name = "people"
principals = ["email:*@example.org"]
actions = ["approver"]
keys = ["*"]

[[rule]]
name = "two people"
keys = ["*"]
actions = ["rotate"]
approvals = 2
"""

WHO = {
    "admin": Principal("socket:admin", "unix"),
    "alice": Principal("email:alice@example.org", "mtls"),
    "bob": Principal("email:bob@example.org", "mtls"),
    "mallory": Principal("email:mallory@evil.example", "mtls"),
}


@dataclass
class Callers:
    """A channel for each."""

    admin: Stubs
    alice: Stubs
    bob: Stubs
    mallory: Stubs


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain(parse_policy(POLICY + CONSENT, "policy.toml")) as made:
        yield made


@asynccontextmanager
async def callers(path: Path, domain: Domain) -> AsyncIterator[Callers]:
    await domain.a_key("acme/root", KeyAlgorithm.ECDSA_P256)
    async with AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(api_daemon(path, domain=domain))

        async def channel(name: str) -> Stubs:
            target = await daemon.listen(name, lambda context: WHO[name])
            return await stack.enter_async_context(connect(target))

        yield Callers(**{name: await channel(name) for name in WHO})


def rotation() -> keys_pb2.RotateKeyRequest:
    return keys_pb2.RotateKeyRequest(name="acme/root", at_once=True, reason="yearly")


def approval_of(got: pb.Approval, **changes: str) -> pb.ApproveRequest:
    """A consent to what was shown, recomputed as an approver's machine does."""
    return pb.ApproveRequest(id=got.id, digest=hashlib.sha256(got.content).digest(), **changes)


async def asked(who: Callers) -> str:
    error = await error_of(who.admin.keys.RotateKey(rotation()))
    assert isinstance(error, ApprovalNeededError)
    return error.facts["approval"]


async def test_a_rotation_waits_for_two_people_and_then_happens_once(
    tmp_path: Path, domain: Domain
) -> None:
    async with callers(tmp_path, domain) as who:
        id = await asked(who)
        got = await who.alice.approvals.GetApproval(pb.GetApprovalRequest(id=id))
        await who.alice.approvals.Approve(approval_of(got, reason="as planned"))
        half = await error_of(who.admin.keys.RotateKey(rotation()))
        approved = await who.bob.approvals.Approve(approval_of(got))
        key = await who.admin.keys.RotateKey(rotation())
        done = await who.admin.approvals.GetApproval(pb.GetApprovalRequest(id=id))
        again = await asked(who)

    assert json.loads(got.content) == {
        "action": "rotate",
        "at_once": True,
        "key": "acme/root",
        "version": 2,
    }
    assert (got.requester, got.reason, got.action) == ("socket:admin", "yearly", "rotate")
    assert got.waits_for_me
    assert half.facts["have"] == "1"
    assert [(r.rule, r.needed, r.have) for r in approved.requirements] == [("two people", 2, 2)]
    assert approved.state == pb.APPROVAL_STATE_APPROVED
    assert [v.principal for v in done.votes] == ["email:alice@example.org", "email:bob@example.org"]
    assert done.votes[0].reason == "as planned"
    assert done.state == pb.APPROVAL_STATE_USED
    assert key.active_version == 2
    assert again != id


async def test_lists_carry_no_bytes_and_strangers_find_nothing(
    tmp_path: Path, domain: Domain
) -> None:
    async with callers(tmp_path, domain) as who:
        id = await asked(who)
        listed = await who.bob.approvals.ListApprovals(
            pb.ListApprovalsRequest(open=True, waits_for_me=True)
        )
        nothing = await who.mallory.approvals.ListApprovals(pb.ListApprovalsRequest())
        errors = [
            await error_of(who.mallory.approvals.GetApproval(pb.GetApprovalRequest(id=id))),
            await error_of(who.mallory.approvals.Approve(pb.ApproveRequest(id=id))),
            await error_of(who.mallory.approvals.Reject(pb.ApprovalRequest(id=id))),
            await error_of(who.mallory.approvals.Revoke(pb.ApprovalRequest(id=id))),
        ]

    assert [(a.id, a.content) for a in listed.approvals] == [(id, b"")]
    assert listed.approvals[0].digest
    assert not nothing.approvals
    assert all(isinstance(e, ApprovalNotFoundError) for e in errors)


async def test_own_consent_other_bytes_and_odd_requests_are_refused(
    tmp_path: Path, domain: Domain
) -> None:
    async with callers(tmp_path, domain) as who:
        id = await asked(who)
        own = await error_of(who.admin.approvals.Approve(pb.ApproveRequest(id=id)))
        other = await error_of(
            who.alice.approvals.Approve(pb.ApproveRequest(id=id, digest=bytes(32)))
        )
        odd = await error_of(who.alice.approvals.GetApproval(pb.GetApprovalRequest(id="; rm")))

    assert isinstance(own, ApprovalStateError)
    assert isinstance(other, InvalidRequestError)
    assert isinstance(odd, InvalidRequestError)
    assert odd.facts["field"] == "id"


async def test_a_rejection_ends_what_was_asked_for(tmp_path: Path, domain: Domain) -> None:
    async with callers(tmp_path, domain) as who:
        id = await asked(who)
        got = await who.alice.approvals.GetApproval(pb.GetApprovalRequest(id=id))
        await who.alice.approvals.Approve(approval_of(got))
        back = await who.alice.approvals.Revoke(pb.ApprovalRequest(id=id))
        gone = await who.bob.approvals.Reject(pb.ApprovalRequest(id=id, reason="not today"))
        late = await error_of(who.alice.approvals.Approve(approval_of(got)))

    assert not back.votes
    assert gone.state == pb.APPROVAL_STATE_REJECTED
    assert isinstance(late, ApprovalStateError)
    assert late.facts["state"] == "REJECTED"


async def test_the_requester_watches_until_it_is_used(tmp_path: Path, domain: Domain) -> None:
    async with callers(tmp_path, domain) as who:
        id = await asked(who)
        got = await who.alice.approvals.GetApproval(pb.GetApprovalRequest(id=id))
        seen: list[tuple[int, int]] = []

        async def watch() -> None:
            async for shown in who.admin.approvals.WatchApprovals(pb.WatchApprovalsRequest(id=id)):
                seen.append((shown.state, len(shown.votes)))
                match len(seen):
                    case 1:
                        await who.alice.approvals.Approve(approval_of(got))
                    case 2:
                        await who.bob.approvals.Approve(approval_of(got))
                    case 3:
                        await who.admin.keys.RotateKey(rotation())

        await asyncio.wait_for(watch(), 10)

    assert seen == [
        (pb.APPROVAL_STATE_PENDING, 0),
        (pb.APPROVAL_STATE_PENDING, 1),
        (pb.APPROVAL_STATE_APPROVED, 2),
        (pb.APPROVAL_STATE_USED, 2),
    ]


async def test_a_stranger_watches_nothing(tmp_path: Path, domain: Domain) -> None:
    async with callers(tmp_path, domain) as who:
        id = await asked(who)
        error = await error_of(
            who.mallory.approvals.WatchApprovals(pb.WatchApprovalsRequest(id=id)).read()
        )

    assert isinstance(error, ApprovalNotFoundError)


async def test_watching_ends_when_the_daemon_drains(tmp_path: Path, domain: Domain) -> None:
    await domain.a_key("acme/root", KeyAlgorithm.ECDSA_P256)
    async with api_daemon(tmp_path, domain=domain) as daemon:
        target = await daemon.listen("bob", lambda context: WHO["bob"])
        async with connect(target) as stubs:
            stream = stubs.approvals.WatchApprovals(pb.WatchApprovalsRequest())
            waiting = asyncio.create_task(stream.read())
            await asyncio.wait({waiting}, timeout=0.2)
            daemon.services.ended.set()

            assert await asyncio.wait_for(waiting, 5) is grpc.aio.EOF


async def test_consent_is_signed_with_ssh_keygen_and_stands_in_the_log(
    tmp_path: Path, domain: Domain
) -> None:
    for name in ("alice", "mallory"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True, timeout=20)
    line = (tmp_path / "alice.pub").read_text().strip()
    policy = parse_policy(
        POLICY
        + CONSENT.replace("approvals = 2", "approvals = 1\nsigned = true")
        + f'[[approver]]\nprincipal = "email:alice@example.org"\nssh_keys = ["{line}"]\n',
        "policy.toml",
    )
    approvals = Approvals(
        gate=Gate(policy, domain.audit, domain.audit),
        policy=policy,
        approvals=domain.audit,
        audit=domain.audit,
        clock=domain.clock,
        check_clock=lambda: None,
        new_id=new_approval_id,
        verify_signature=sshsig.verify,
    )
    admin, alice = Caller(WHO["admin"], "req-1"), Caller(WHO["alice"], "req-2")
    with pytest.raises(ApprovalNeededError) as needed:
        await approvals.consent_to(admin, Action.ROTATE, "acme/root", {"version": 2})
    shown = await approvals.get(alice, needed.value.facts["approval"])
    id, digest = shown.approval.id, shown.approval.digest
    text = shown.approval.consent_text("email:alice@example.org")

    with pytest.raises(InvalidRequestError):
        forged = sshsig.sign(text, tmp_path / "mallory")
        await approvals.approve(alice, id, digest, signature=forged)
    signature = sshsig.sign(text, tmp_path / "alice")
    await approvals.approve(alice, id, digest, signature=signature)

    details = domain.audit.drafts[-1].details
    assert sshsig.verify(text, signature, "alice", [line]) == details["consent_signer"]
    assert details["consent_text"].encode() == text
    assert details["consent_signature_1"] == signature
    assert await approvals.consent_to(admin, Action.ROTATE, "acme/root", {"version": 2})
