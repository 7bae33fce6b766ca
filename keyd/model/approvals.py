"""Consent of several people to one pending operation, bound to exactly that operation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class ApprovalState(StrEnum):
    """PENDING: waits for people. APPROVED: all requirements are met; the requester may come back.
    USED: spent, in the transaction of what it allowed. REJECTED: one entitled person said no.
    WITHDRAWN: the requester took it back. EXPIRED: nobody used it in time."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    USED = "USED"
    REJECTED = "REJECTED"
    WITHDRAWN = "WITHDRAWN"
    EXPIRED = "EXPIRED"

    @property
    def is_open(self) -> bool:
        """True while something can still come of it."""
        return self in (ApprovalState.PENDING, ApprovalState.APPROVED)


@dataclass(frozen=True, slots=True)
class Requirement:
    """``needed`` different people out of those that match ``of`` (globs of typed principals; empty:
    everybody whom a grant lets approve). ``own``: the requester counts too. ``signed``: the
    consent has to carry a signature by a key of the approver's own. ``expires_s``: how long an
    approval lives. ``rule``: the policy's rule, or ``keyd: WHY`` for what keyd itself demands."""

    rule: str
    needed: int
    of: tuple[str, ...] = ()
    own: bool = False
    signed: bool = False
    expires_s: int = 86_400


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's word on an approval. ``signature``: SSHSIG (armored) over
    :meth:`Approval.consent_text`, empty when there is none; ``signer``: fingerprint of its key
    (``SHA256:...``)."""

    principal: str
    at: datetime
    said: str = ""
    signature: str = ""
    signer: str = ""


BoundTo = tuple[str, str, str, int, str, str, bytes]
"""Requester, action, subject, key version, repository, role, digest: what consent is for."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A request for consent, and what became of it.

    ``subject``: key name (token name for token actions). ``key_version``: 0 where none.
    ``repository``, ``role``, ``metadata_version``: empty and 0 for what is no metadata.
    ``digest``: SHA-256 of ``content``, which is the payload to sign, or the canonical JSON of the
    operation's parameters; for a signature over a finished digest the content is empty and
    ``digest`` is that digest. ``why``: one line for each thing that made consent necessary.
    """

    id: str
    action: str
    subject: str
    key_version: int
    repository: str
    role: str
    metadata_version: int
    digest: bytes
    summary: str
    requester: str
    requirements: tuple[Requirement, ...]
    why: tuple[str, ...]
    said: str
    created_at: datetime
    expires_at: datetime
    state: ApprovalState = ApprovalState.PENDING
    votes: tuple[Vote, ...] = ()

    @property
    def bound_to(self) -> BoundTo:
        """What another operation has to share to be the same one."""
        return (
            self.requester,
            self.action,
            self.subject,
            self.key_version,
            self.repository,
            self.role,
            self.digest,
        )

    def shown_state(self, now: datetime) -> ApprovalState:
        """The state as people see it: EXPIRED once the time is over."""
        return (
            ApprovalState.EXPIRED if self.state.is_open and now >= self.expires_at else self.state
        )

    def consent_text(self, principal: str) -> bytes:
        """What an approver signs with a key of their own: canonical JSON, one line, no newline.

        It repeats everything the approval is bound to, so that the signature means nothing
        else."""
        text = {
            "action": self.action,
            "approval": self.id,
            "digest": f"sha256:{self.digest.hex()}",
            "expires": self.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "key": self.subject,
            "key_version": self.key_version,
            "metadata_version": self.metadata_version,
            "principal": principal,
            "repository": self.repository,
            "requester": self.requester,
            "role": self.role,
        }
        return json.dumps(text, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class ApprovalContents:
    """``content``: see Approval.digest. ``previous``: the last complete version of the same role
    when consent was asked for; empty where there is none."""

    content: bytes = b""
    previous: bytes = b""


class OpenApprovals(Protocol):
    """Approvals as of the last commit (store/). The first two never block."""

    def find_approval(self, approval_id: str) -> Approval | None:
        """An open (PENDING or APPROVED) approval, or None."""

    def open_approvals(self) -> Sequence[Approval]:
        """All open approvals, oldest first."""

    async def load_approval(self, approval_id: str) -> tuple[Approval, ApprovalContents] | None:
        """Any approval with its bytes, also one that is done; or None."""

    async def list_approvals(self, *, limit: int) -> Sequence[Approval]:
        """The newest approvals in any state, newest first."""
