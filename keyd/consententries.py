"""What entries say of approvals: the request, each word, the use. Pure.

``details`` of an entry about an approval:

======================  ========================================================================
``approval``            its id
``asked``               the action it is for, as in the policy
``requester``           the principal that asked
``expires``             until when it can be used, ``YYYY-MM-DDTHH:MM:SSZ``
``metadata_version``    of the metadata to sign; left out where there is none
``needs``               who has to consent, one rule a line (approval-request)
``why``                 what keyd itself objects to (approval-request)
``consent_text``        what the approver signed (approve, with a signature); its own parts, from
                        1 000 characters on, are ``consent_text_2`` and so on
``consent_signature_1`` the armored SSHSIG over it, in parts of 1 000 characters, ``_2`` and so on
``consent_signer``      fingerprint of the key that signed it, ``SHA256:...``
``approvers``           who had consented, in an entry of what the approval allowed
======================  ========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyd.consents import BUILT_IN
from keyd.model import (
    Action,
    Approval,
    Caller,
    Context,
    Digest,
    EntryDraft,
    HashAlgorithm,
    Outcome,
    Requirement,
    Vote,
)

PART_CHARS = 1000
"""Longer texts would be cut (audit/entry.py)."""

_BY_SIZE = {algorithm.size_bytes: algorithm for algorithm in HashAlgorithm}


def approval_entry(
    caller: Caller,
    action: str,
    approval: Approval,
    policy_hash: str,
    *,
    said: str = "",
    message: str = "",
    details: Mapping[str, str] | None = None,
) -> EntryDraft:
    """An allowed entry about an approval, with everything it is bound to."""
    on_token = approval.action == Action.UNLOCK
    context = Context(approval.repository, approval.role)
    algorithm = _BY_SIZE.get(len(approval.digest))
    return EntryDraft(
        action=action,
        outcome=Outcome.ALLOWED,
        caller=caller,
        key="" if on_token else approval.subject,
        token=approval.subject if on_token else "",
        version=approval.key_version,
        digest=None if algorithm is None else Digest(algorithm, approval.digest),
        context=context if context != Context() else None,
        policy_hash=policy_hash,
        said=said,
        message=message or approval.summary,
        details={
            "approval": approval.id,
            "asked": approval.action,
            "requester": approval.requester,
            "expires": approval.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "metadata_version": str(approval.metadata_version or ""),
            **(details or {}),
        },
    )


def request_details(approval: Approval) -> dict[str, str]:
    """Whose consent is asked for, and what made it necessary."""
    objections = [line for line in approval.why if line.startswith(BUILT_IN)]
    return {
        "needs": "\n".join(requirement_line(r) for r in approval.requirements),
        "why": "\n".join(objections),
    }


def vote_details(approval: Approval, vote: Vote) -> dict[str, str]:
    """A signed consent, so that ``audit verify`` can check it later; nothing without a
    signature."""
    if not vote.signature:
        return {}
    text = _parts(approval.consent_text(vote.principal).decode())
    signature = _parts(vote.signature)
    return (
        {"consent_text": text[0], "consent_signer": vote.signer}
        | {f"consent_text_{at}": part for at, part in enumerate(text[1:], 2)}
        | {f"consent_signature_{at}": part for at, part in enumerate(signature, 1)}
    )


def use_details(approvals: Sequence[Approval]) -> dict[str, str]:
    """For the entry of what the approvals allowed."""
    people = dict.fromkeys(vote.principal for a in approvals for vote in a.votes)
    return {"approval": ", ".join(a.id for a in approvals), "approvers": ", ".join(people)}


def requirement_line(requirement: Requirement) -> str:
    """A requirement as people read it."""
    of = ", ".join(requirement.of) or "those who may approve"
    extras = [", the requester counts"] if requirement.own else []
    extras += [", signed"] if requirement.signed else []
    name = requirement.rule if requirement.rule.startswith(BUILT_IN) else f"rule {requirement.rule}"
    return f"{name}: {requirement.needed} of {of}{''.join(extras)}"


def _parts(text: str) -> Sequence[str]:
    return [text[at : at + PART_CHARS] for at in range(0, len(text), PART_CHARS)]
