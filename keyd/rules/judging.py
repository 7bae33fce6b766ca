"""May a bound key sign this? Everything that keyd knows, looked at in one order."""

from __future__ import annotations

from datetime import datetime

from keyd.content import Content, Reading
from keyd.content.certificates import CertificateRequest
from keyd.content.documents import Document, Root, Snapshot, Targets, Timestamp
from keyd.content.refusal import printable
from keyd.model import ONLINE_ROLES, Context, Key, Limits, Marked, RecordMark
from keyd.rules import online, root, targets
from keyd.rules.case import Asked, History, Verdict
from keyd.rules.certificates import judge_certificate
from keyd.rules.expiry import check_expiry
from keyd.rules.grave import grave_changes
from keyd.rules.needs import find_holders, identities, identity_of, keyset_of, needs_of
from keyd.rules.refusal import command, of, refuse
from keyd.rules.versions import Standing

_FOREIGN = frozenset({"not-json", "not-utf8", "type"})
"""Problems of bytes that are nothing a bound key is for, rather than metadata with a fault."""


def read(reading: Reading | None, key: Key, context: Context) -> Content:
    """What a bound key is asked to sign, from what content.examine found in the message; None
    where only a digest came.

    Raises:
        RuleRefusedError: digest-only, opaque.
        ContentError: metadata or X.509, but not in the one form that is signed.
    """
    if reading is None:
        raise refuse(
            "digest-only",
            f"{key.name} is bound to repositories and signs what it can read, not a digest",
            hint="send the message itself; sign foreign digests with a key without bindings",
            context=context,
            key=key.name,
        )
    if reading.content is not None:
        return reading.content
    problem = reading.problem
    assert problem is not None
    if problem.facts.get("problem") not in _FOREIGN:
        raise problem
    raise refuse(
        "opaque",
        f"{key.name} is bound to repositories and signs their metadata and X.509 of its own key; "
        f"this is neither: {problem.message}",
        hint="sign other things with a key without bindings",
        context=context,
        key=key.name,
        problem=problem.facts["problem"],
    ) from problem


def judge(asked: Asked, history: History, limits: Limits, now: datetime) -> Verdict:
    """May it be signed, and what follows from it. Pure: the same question, the same answer.

    Raises:
        RuleRefusedError: fact ``rule``, a word of refusal.py; the hint names the way out.
        VersionTakenError: other bytes are signed at this version.
        ContentError: the document before cannot be compared with this one.
    """
    content = asked.content
    if isinstance(content, CertificateRequest):
        return judge_certificate(asked, content, now)
    checks = [_check_role(asked, content), _check_dialect(asked, content, history)]
    standing, told = _check_version(asked, content, history, limits)
    checks.append(told)
    if isinstance(content, Root):
        checks += [root.check_key(asked, content, history), root.check_gun(asked, content)]
    else:
        checks.append(_told_holders(asked, history))
    checks.append(check_expiry(content, asked.context, limits, now))
    if isinstance(content, Targets):
        checks.append(targets.check_paths(asked, content, limits))
    grave = () if standing is Standing.BELOW else grave_changes(asked, content, history)
    if history.complete is not None:
        checks.append(
            f"compared with version {history.complete.version}: "
            + ("; ".join(g.text for g in grave) or "nothing weakened or taken back")
        )
    return Verdict(
        effect=_effect(asked, content, history, standing),
        grave=grave,
        checks=tuple(checks),
        reissue=standing is Standing.REPLACE,
    )


def _check_role(asked: Asked, document: Document) -> str:
    """A root, snapshot or timestamp only for its own role; targets for any other name."""
    role = asked.context.role
    expected = role if role in ("root", *ONLINE_ROLES) else "targets"
    if document.kind != expected or not role:
        raise refuse(
            "wrong-role",
            f"this is {document.kind} metadata, and it is to be signed as {of(asked.context)}",
            hint=f"sign it for the role it is ({document.kind}), with a key that is bound to it",
            context=asked.context,
            content=document,
            kind=document.kind,
        )
    return f"{document.kind} metadata for the role {printable(role)}"


def _check_dialect(asked: Asked, document: Document, history: History) -> str:
    known = history.mark.newest.dialect if history.mark else ""
    if not known and history.root is not None:
        known = history.root.dialect.value
    if known and known != document.dialect.value:
        raise refuse(
            "wrong-dialect",
            f"{of(asked.context)} v{document.version} is written in the dialect "
            f"{document.dialect.value}, the repository in {printable(known)}",
            hint=f"write it in {printable(known)}; after a migration of the repository forget "
            f"what was signed: {command('reset', asked.context)}",
            context=asked.context,
            content=document,
            dialect=document.dialect.value,
        )
    return f"dialect {document.dialect.value}" + (", as before" if known else "")


def _check_version(
    asked: Asked, document: Document, history: History, limits: Limits
) -> tuple[Standing, str]:
    if isinstance(document, Root):
        return root.check_version(asked, document, history)
    if isinstance(document, Targets):
        return targets.check_version(asked, document, history, limits)
    assert isinstance(document, Snapshot | Timestamp)
    return online.check_version(asked, document, history, limits)


def _told_holders(asked: Asked, history: History) -> str:
    """Whether the signature will count, which is for publishing to judge and not for signing."""
    holders = find_holders(asked.context.role, history.root, history.delegator)
    if holders is None:
        return "who holds the role is not known here"
    if identity_of(asked.version.public_key) in identities(holders):
        return f"{asked.version.name} is one of the keys that hold the role"
    return f"note: {asked.version.name} is none of the keys that hold the role by now"


def _effect(
    asked: Asked, document: Document, history: History, standing: Standing
) -> RecordMark | None:
    if standing is Standing.BELOW:
        return None
    context, mark = asked.context, history.mark
    if standing is Standing.SAME and mark is not None:
        marked, needs = mark.newest, mark.needs
    else:
        marked = Marked(
            version=document.version,
            digest=asked.digest,
            kind=document.kind,
            dialect=document.dialect.value,
            expires=document.expires,
            keyset=keyset_of(context.role, history.root, history.delegator),
        )
        needs = needs_of(context.role, document, history.root, history.delegator)
    return RecordMark(
        repository=context.repository,
        role=context.role,
        marked=marked,
        content=asked.payload,
        signer=identity_of(asked.version.public_key),
        needs=needs,
    )
