"""keyd.v1.RoleService: messages <-> nouns."""

from __future__ import annotations

from collections.abc import Iterable

from keyd.errors import InvalidRequestError
from keyd.model import MarkState
from keyd.roles import RoleFile, RoleView
from keyd.server.wire.fields import MAX_PATTERN_CHARS, check_range, check_text, to_timestamp
from keyd.v1 import roles_pb2 as pb

MAX_LIST_PAGE = 1000
MAX_WITHIN_S = 100 * 366 * 86_400
_DIGEST_BYTES = 32
_BETWEEN = "\0"
"""In no name of a repository or role: no database can hold it."""

_STATES_OUT = {s: pb.RoleState.Value(f"ROLE_STATE_{s}") for s in MarkState}


def repository(value: str, *, may_be_empty: bool = False) -> str:
    """A repository's name, or a Notary GUN."""
    if not value and not may_be_empty:
        raise InvalidRequestError("repository", "is empty")
    return check_text("repository", value, MAX_PATTERN_CHARS)


def role(value: str, field: str = "role") -> str:
    """A role's name."""
    if not value:
        raise InvalidRequestError(field, "is empty", hint="root, targets, or a delegated role")
    return check_text(field, value, MAX_PATTERN_CHARS)


def place(cursor: str | None) -> tuple[str, str]:
    """Behind which repository and role a page begins; empty ones for the first."""
    repository, _, role = (cursor or "").partition(_BETWEEN)
    return repository, role


def cursor(last: pb.Role) -> str:
    """What leads to the page behind that role."""
    return f"{last.repository}{_BETWEEN}{last.role}"


def digest(value: bytes) -> bytes:
    """The version a caller means."""
    if len(value) != _DIGEST_BYTES:
        raise InvalidRequestError(
            "digest",
            f"{len(value)} bytes; it is the SHA-256 of the signed bytes that you mean",
            hint="keydctl role show prints it",
        )
    return value


def within_s(value: int) -> int:
    """A span of time; 0 for none."""
    return check_range("expiring_within_s", value, 0, MAX_WITHIN_S)


def files(messages: Iterable[pb.RoleFile]) -> list[RoleFile]:
    """Metadata files, unread."""
    found = [RoleFile(role(m.role, "files.role"), m.content) for m in messages]
    for file in found:
        if not file.content:
            raise InvalidRequestError("files.content", f"the file of {file.role} is empty")
    return found


def role_message(view: RoleView) -> pb.Role:
    """A role as it stands."""
    mark, newest, complete = view.mark, view.mark.newest, view.mark.complete
    message = pb.Role(
        repository=mark.repository,
        role=mark.role,
        version=newest.version,
        state=_STATES_OUT[mark.state],
        digest=newest.digest,
        dialect=newest.dialect,
        expires=to_timestamp(newest.expires),
        signed_at=to_timestamp(mark.signed_at),
        signers=[pb.RoleSigner(identity=who, key_version=name) for who, name in view.signers],
        missing=mark.missing,
        reissued=mark.reissued,
        content=view.contents.newest,
        complete_content=view.contents.complete,
        keys=view.keys,
    )
    if complete is not None:
        message.complete_version = complete.version
        message.complete_digest = complete.digest
        message.complete_published = mark.is_complete_published
        message.complete_expires.CopyFrom(to_timestamp(complete.expires))
    return message


def nothing_left(repository: str, role: str) -> pb.Role:
    """A role of which nothing is known any more: version 0."""
    return pb.Role(repository=repository, role=role)
