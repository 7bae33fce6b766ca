"""What an approval is about, read on the approver's own machine. Pure: nobody is asked here.

The daemon says what an approval is for; only its content counts. Digest, summary and changes are
worked out anew, and whatever the daemon says that the content contradicts is found: consent that
was got by a lie is consent to something else.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keyd import content
from keyd.client import Approval
from keyd.content import canonical, describe
from keyd.content.canonical import Json
from keyd.content.change import Change
from keyd.content.diff import compare
from keyd.content.documents import TOP_LEVEL_ROLES, Document, Root
from keyd.content.refusal import printable
from keyd.errors import ContentError

SIGNING = ("sign", "certify")
"""Actions whose content is the payload; of all others it is the canonical JSON of parameters."""


@dataclass(frozen=True, slots=True)
class Review:
    """``digest``: SHA-256 of the content, worked out here; for an approval of a finished digest
    that digest. ``says``: what the payload says, None for one that keyd cannot read (``problem``
    says why) and for other actions, whose parameters are ``parameters``. ``before``: what it was
    compared with, and ``before_name`` where that comes from. ``changes``: None where there was
    nothing to compare. ``lies``: what the daemon says and the content contradicts: never consent.
    ``cautions``: what a person should know.
    """

    approval: Approval
    digest: bytes
    says: content.Content | None = None
    problem: ContentError | None = None
    parameters: Mapping[str, Json] | None = None
    before: Document | None = None
    before_name: str = ""
    changes: tuple[Change, ...] | None = None
    lies: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def is_digest_only(self) -> bool:
        """True when the content is not there to be read: it is for a finished digest, or over."""
        return not self.approval.content


def review(approval: Approval, against: Document | None = None, against_name: str = "") -> Review:
    """Read the content and hold it against what the daemon says.

    ``against``: the approver's own copy of the last version, to be compared with instead of the
    one the daemon sent.
    """
    lies: list[str] = []
    cautions: list[str] = []
    digest = approval.digest
    if approval.content:
        digest = hashlib.sha256(approval.content).digest()
        if digest != approval.digest:
            lies.append(
                f"its content has the SHA-256 {digest.hex()}, not {approval.digest.hex()[:128]}"
            )
    elif not approval.state.is_open:
        # The daemon drops long content with the end; nobody can consent to it any more.
        cautions.append("it is over, and what it was about is not here to be read")
    elif approval.action not in SIGNING or approval.metadata_version:
        lies.append("it was sent without the content it is about")
    else:
        cautions.append("it is for a finished digest: nobody can say what would be signed")
    if approval.action not in SIGNING:
        parameters = _parameters(approval, lies)
        return Review(
            approval, digest, parameters=parameters, lies=tuple(lies), cautions=tuple(cautions)
        )
    read = content.examine(approval.content) if approval.content else None
    says, problem = (read.content, read.problem) if read else (None, None)
    lies += _contradictions(approval, says, read.statement.version if read else 0)
    cautions += _doubts(approval, says)
    before, name, changes = _compared(approval, says, against, against_name, lies, cautions)
    return Review(
        approval,
        digest,
        says=says,
        problem=problem,
        before=before,
        before_name=name,
        changes=changes,
        lies=tuple(lies),
        cautions=tuple(cautions),
    )


def _contradictions(
    approval: Approval, says: content.Content | None, version: int
) -> Iterator[str]:
    """``version``: what a forgiving reader finds in content that is not read strictly."""
    claimed = approval.metadata_version
    if not isinstance(says, Document):
        if approval.content and claimed != version:
            yield f"it shall be version {claimed} of a role, and the content does not say so"
        if says is not None and approval.action != "certify" and approval.repository:
            yield "it shall be the metadata of a role, and the content is for a certificate"
        return
    if approval.action == "certify":
        yield "it shall be a certificate, and the content is metadata"
    if claimed != says.version and (claimed or approval.repository):
        yield f"it shall be version {claimed}, and the content says version {says.version}"
    role = approval.role
    kind = role if role in TOP_LEVEL_ROLES else "targets"
    if role and kind != says.kind:
        yield f"it shall be for the role {printable(role)}, and the content is a {says.kind}"


def _doubts(approval: Approval, says: content.Content | None) -> Iterator[str]:
    if approval.content and says is None:
        yield "keyd cannot read the content: nobody can say for certain what would be signed"
    if isinstance(says, Root) and says.common_names and approval.repository:
        fits = any(fnmatch.fnmatchcase(approval.repository, name) for name in says.common_names)
        if not fits:
            names = ", ".join(printable(name) for name in sorted(says.common_names))
            yield f"its keys are certified for {names}, not for {printable(approval.repository)}"


def _compared(
    approval: Approval,
    says: content.Content | None,
    against: Document | None,
    against_name: str,
    lies: list[str],
    cautions: list[str],
) -> tuple[Document | None, str, tuple[Change, ...] | None]:
    """The document to compare with, where it comes from, and the changes since."""
    if not isinstance(says, Document):
        if approval.previous and approval.content:
            lies.append("it came with an earlier version, and its content is no metadata")
        return None, "", None
    previous = _previous(approval, says, lies, cautions)
    if against is not None and previous is not None and against.version == previous.version:
        differs = _compare(previous, against)
        if differs is None or differs:
            lies.append(
                f"the earlier version it came with is not the version {against.version} in "
                f"{against_name}"
            )
    before = against or previous
    if before is None:
        cautions.append("no earlier version to compare with: everything in it is new")
        return None, "", None
    changes = _compare(before, says)
    if changes is None:
        cautions.append(f"{describe.summary(before)} is no earlier version of the same role")
    return before, against_name if against else "the daemon's last complete version", changes


def _previous(
    approval: Approval, says: Document, lies: list[str], cautions: list[str]
) -> Document | None:
    if not approval.previous:
        return None
    if approval.previous == approval.content:
        cautions.append("the earlier version it came with is the very same: no change can be seen")
    try:
        previous = content.parse_document(approval.previous)
    except ContentError as e:
        lies.append(f"the earlier version it came with cannot be read: {e.message}")
        return None
    if _compare(previous, says) is None:
        lies.append(
            f"the earlier version it came with is {describe.summary(previous)}: of another role"
        )
        return None
    return previous


def _compare(before: Document, after: Document) -> tuple[Change, ...] | None:
    try:
        return compare(before, after)
    except ContentError:
        return None


def _parameters(approval: Approval, lies: list[str]) -> Mapping[str, Json] | None:
    try:
        found = canonical.decode(approval.content) if approval.content else None
    except ContentError as e:
        lies.append(f"its content cannot be read: {e.message}")
        return None
    if not isinstance(found, dict):
        if approval.content:
            lies.append("its content names no parameters")
        return None
    claims: dict[str, object] = {
        "action": approval.action,
        "key": approval.subject,
        "version": approval.key_version,
        "repository": approval.repository,
        "role": approval.role,
    }
    for name, claimed in claims.items():
        has_to = name in ("action", "key") or (claimed and name in found)
        if has_to and found.get(name) != claimed:
            lies.append(
                f"it shall be for {name} {printable(str(claimed))}, and the content says "
                f"{describe.shown(found.get(name))}"
            )
    return found
