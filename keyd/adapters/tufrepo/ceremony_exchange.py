"""Sending a draft to holders this daemon does not serve, and taking their signatures back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from securesystemslib.signer import Signature
from tuf.api.metadata import Metadata, Root

from keyd.adapters.tufrepo.bundle import BundleSignature, Request, Response, RootFile, refuse
from keyd.adapters.tufrepo.ceremony import Work
from keyd.adapters.tufrepo.ceremony_draft import lacking, published_root
from keyd.adapters.tufrepo.ceremony_evidence import (
    Awaited,
    LoggedSignature,
    check_receipt,
    check_response,
    root_keys,
)
from keyd.adapters.tufrepo.folder import file_name
from keyd.audit.note import VerifierKey
from keyd.content import documents as content
from keyd.content import parse_document
from keyd.errors import RepositoryError
from keyd.model import Phase

_EXCHANGING = (Phase.CONSENT, Phase.SIGN)


@dataclass(frozen=True, slots=True)
class Taken:
    """A signature that was added. ``logged``: what its receipt shows, None without one."""

    keyid: str
    signer: str
    logged: LoggedSignature | None


@dataclass(frozen=True, slots=True)
class Imported:
    """What responses brought. ``needs``: signatures still lacking."""

    taken: tuple[Taken, ...]
    needs: int


def export(
    work: Work,
    *,
    lives: timedelta,
    since: int = 0,
    reason: str = "",
    new_id: Callable[[], str],
) -> Request:
    """The request for the draft. Made again, it is the same exchange with a later end.

    ``since``: the oldest root to send along, for holders who know that one; 0: from the first.

    Raises:
        RepositoryError: nothing waits for signatures, or there is no such root.
    """
    _check_phase(work)
    now = work.repository.now().replace(microsecond=0)
    with work.repository.changing() as change:
        work.draft(change)
        versions = [v for v in change.folder.root_versions() if v >= since]
        if not versions:
            raise RepositoryError(f"there is no root {since} yet")
        history = tuple(
            RootFile(v, (change.folder.metadata / file_name("root", v)).read_bytes())
            for v in versions
        )
    exchange = work.ceremony.facts.get("exchange", "")
    if not exchange:
        exchange = new_id()
        work.note({"exchange": exchange})
    return Request(
        id=exchange,
        ceremony=work.ceremony.id,
        repository=work.plan.repository,
        version=work.version,
        created=now,
        expires=now + lives,
        draft=work.ceremony.draft,
        history=history,
        asks=work.client.whoami().principal,
        reason=reason or work.ceremony.said,
    )


def import_(
    work: Work, responses: Sequence[Response], trusted: Sequence[VerifierKey] = ()
) -> Imported:
    """Add the signatures of responses: of all of them, or of none when one is refused. The daemon
    is shown what it lacked.

    ``trusted``: log keys of the other daemons, to check receipts with; without any, those that
    the responses claim.

    Raises:
        RepositoryError: fact ``problem``, see :func:`ceremony_evidence.check_response`.
    """
    _check_phase(work)
    taken: list[Taken] = []
    with work.repository.changing() as change:
        draft = work.draft(change)
        before = published_root(change)
        awaited = _awaited(work, draft, before)
        now = work.repository.now()
        for response in responses:
            check_response(response, awaited, now)
            taken += [_take(one, response, awaited, trusted) for one in response.signatures]
            for one in response.signatures:
                draft.signatures[one.keyid] = Signature(one.keyid, one.signature.hex())
            awaited = _awaited(work, draft, before)
        work.keep(change, draft)
        needs = lacking(before.signed, draft)
    work.show_draft()
    return Imported(tuple(taken), needs)


def _check_phase(work: Work) -> None:
    if work.ceremony.phase not in _EXCHANGING:
        raise RepositoryError(
            f"the ceremony is in {work.ceremony.phase}: no signatures are exchanged now",
            hint=f"keydctl tuf ceremony status {work.repository.folder.path}",
        )


def _awaited(work: Work, draft: Metadata[Root], before: Metadata[Root]) -> Awaited:
    old = parse_document(before.signed_bytes)
    new = parse_document(work.ceremony.draft)
    assert isinstance(old, content.Root) and isinstance(new, content.Root)
    exchange = work.ceremony.facts.get("exchange", "")
    return Awaited(
        ids=(exchange,) if exchange else (),
        ceremony=work.ceremony.id,
        repository=work.plan.repository,
        version=work.version,
        draft=work.ceremony.draft,
        holders=root_keys(old, new),
        signed=_valid(draft, draft.signed) | _valid(draft, before.signed),
    )


def _valid(draft: Metadata[Root], judge: Root) -> set[str]:
    result = judge.get_verification_result("root", draft.signed_bytes, draft.signatures)
    return set(result.signed)


def _take(
    one: BundleSignature, response: Response, awaited: Awaited, trusted: Sequence[VerifierKey]
) -> Taken:
    logged = None
    if one.receipt is not None:
        logged = check_receipt(one, awaited.holders[one.keyid], awaited.draft, trusted)
    elif trusted:
        raise refuse(
            "receipt",
            f"the response has no receipt for {one.keyid[:16]}",
            hint="its holder needs the grant `audit`; without --log-key it is taken as it is",
        )
    return Taken(one.keyid, response.signer, logged)
