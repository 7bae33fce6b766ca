"""What changed between two versions of the same role, and which changes are grave.

Grave is what weakens trust or goes back: a lower threshold, a root key that goes, another key
under a known id, one key pair under two ids, a lost role, a lower version. People have to see
these; the rules for bound keys decide what they demand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from keyd.content import describe
from keyd.content.change import Change, compare_unknown
from keyd.content.delegationdiff import compare_delegations
from keyd.content.documents import (
    TOP_LEVEL_ROLES,
    Document,
    MetaFile,
    RoleKeys,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from keyd.content.holderdiff import compare_keys, compare_role
from keyd.content.refusal import printable, refuse


def compare(before: Document, after: Document) -> tuple[Change, ...]:
    """All changes from one version of a role to another, in the order of the document.

    Raises:
        ContentError: two kinds of role, or two dialects: nothing to compare.
    """
    if before.kind != after.kind or before.dialect is not after.dialect:
        raise refuse(
            "type",
            f"{after.kind} ({after.dialect}) is no later version of "
            f"{before.kind} ({before.dialect})",
        )
    return (*_header(before, after), *_body(before, after), *_unknown(before, after))


def _header(before: Document, after: Document) -> Iterator[Change]:
    if before.version != after.version:
        step = after.version - before.version
        grave = step < 0 or (after.kind == "root" and step != 1)
        yield Change("version", after.kind, f"v{before.version}", f"v{after.version}", grave=grave)
    if before.expires_text != after.expires_text:
        yield Change("expires", after.kind, before.expires_text, after.expires_text)
    if before.spec_version != after.spec_version:
        yield Change("spec_version", after.kind, before.spec_version, after.spec_version)


def _body(before: Document, after: Document) -> Iterator[Change]:
    if isinstance(before, Root) and isinstance(after, Root):
        yield from _root(before, after)
    elif isinstance(before, Targets) and isinstance(after, Targets):
        yield from _files("target", before.targets, after.targets)
        yield from compare_delegations(before.delegations, after.delegations)
    elif isinstance(before, Snapshot) and isinstance(after, Snapshot):
        yield from _files("meta", before.meta, after.meta)
    elif isinstance(before, Timestamp) and isinstance(after, Timestamp):
        yield from _files("meta", {"snapshot": before.snapshot}, {"snapshot": after.snapshot})


def _unknown(before: Document, after: Document) -> Iterator[Change]:
    return compare_unknown(after.kind, before.unknown, after.unknown)


def _root(before: Root, after: Root) -> Iterator[Change]:
    for name in TOP_LEVEL_ROLES:
        yield from compare_role(
            name,
            (before.roles[name], before.keys),
            (after.roles[name], after.keys),
            is_root=name == "root",
        )
    yield from compare_keys(
        before.keys, after.keys, _used(before.roles.values()), _used(after.roles.values())
    )
    if before.common_names != after.common_names:
        yield Change(
            "gun", "root", _names(before.common_names), _names(after.common_names), grave=True
        )
    if before.consistent_snapshot != after.consistent_snapshot:
        yield Change(
            "consistent_snapshot",
            "root",
            _said(before.consistent_snapshot),
            _said(after.consistent_snapshot),
        )


def _files(
    kind: str,
    before: Mapping[str, TargetFile] | Mapping[str, MetaFile],
    after: Mapping[str, TargetFile] | Mapping[str, MetaFile],
) -> Iterator[Change]:
    """Files that went, changed or came. A metadata file that goes, or goes back, is grave."""
    for name, old in before.items():
        new = after.get(name)
        if new is None:
            yield Change(
                kind, printable(name), describe.target(old), "", grave=isinstance(old, MetaFile)
            )
        elif new != old or _differs_within(old, new):
            yield Change(
                kind,
                printable(name),
                describe.target(old),
                describe.target(new),
                grave=_goes_back(old, new),
            )
    for name, new in after.items():
        if name not in before:
            yield Change(kind, printable(name), "", describe.target(new))


def _differs_within(old: TargetFile | MetaFile, new: TargetFile | MetaFile) -> bool:
    """True for 1 against true in what keyd does not know, which are equal to Python."""
    has_more = bool(old.unknown) or (isinstance(old, TargetFile) and old.custom is not None)
    return has_more and describe.target(old) != describe.target(new)


def _goes_back(old: TargetFile | MetaFile, new: TargetFile | MetaFile) -> bool:
    if not isinstance(old, MetaFile) or not isinstance(new, MetaFile):
        return False
    return old.version is not None and (new.version is None or new.version < old.version)


def _used(roles: Iterable[RoleKeys]) -> set[str]:
    return {keyid for role in roles for keyid in role.keyids}


def _names(names: frozenset[str]) -> str:
    return ", ".join(printable(name) for name in sorted(names)) or "none"


def _said(value: bool | None) -> str:
    return "not said" if value is None else str(value).lower()
