"""Metadata files that somebody shows: what they are, and which keys of a role signed them.

A file says neither its repository nor, for targets, its role. What it claims counts only as far as
keys that are trusted already have signed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from keyd.content.documents import (
    TOP_LEVEL_ROLES,
    Dialect,
    Document,
    MetaFile,
    Root,
    Snapshot,
    Timestamp,
)
from keyd.content.envelope import FileSignature, parse
from keyd.content.refusal import printable
from keyd.content.verification import verify_threshold
from keyd.errors import ContentError
from keyd.model import Context
from keyd.rules.needs import Holders, holders_in
from keyd.rules.refusal import refuse
from keyd.rules.root import covers

MAX_FILES = 4096
"""More files at once are refused: each may hold signatures that have to be verified."""


@dataclass(frozen=True, slots=True)
class RoleFile:
    """A metadata file as published, and the role it is said to be of."""

    role: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Shown:
    """One version of a role as files show it. ``copies``: the files' bytes; several when people
    signed the same payload apart. ``signatures``: of each copy."""

    role: str
    document: Document
    payload: bytes
    copies: tuple[bytes, ...]
    signatures: tuple[tuple[FileSignature, ...], ...]

    def __str__(self) -> str:
        return f"{printable(self.role)} v{self.document.version}"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload."""
        return hashlib.sha256(self.payload).digest()


def signers_of(shown: Shown, holders: Holders) -> frozenset[str]:
    """Identities of the holders' keys that really signed, over all copies."""
    role, keys = holders
    return frozenset(
        keys[keyid].identity
        for signatures in shown.signatures
        for keyid in verify_threshold(shown.payload, signatures, role, keys).valid
    )


def read_files(repository: str, files: Sequence[RoleFile]) -> dict[str, list[Shown]]:
    """Every role's versions, lowest first; no signature is looked at yet.

    Raises:
        ContentError: a file cannot be read without doubt; the message begins with its role.
        RuleRefusedError: a file is of another role than it is said to be, or two files of one
            version differ.
    """
    if len(files) > MAX_FILES:
        raise ContentError(f"{len(files)} files; keyd looks at up to {MAX_FILES}", problem="files")
    found: dict[str, dict[int, Shown]] = {}
    for file in files:
        shown = read_file(repository, file)
        versions = found.setdefault(shown.role, {})
        before = versions.get(shown.document.version)
        if before is not None and before.payload != shown.payload:
            raise refuse(
                "evidence-conflict",
                f"two different files of {shown} were given",
                hint="clients see one of them only; find out which, and give that one",
                context=Context(repository, file.role),
                content=shown.document,
            )
        if before is not None:
            shown = replace(
                before,
                copies=before.copies + shown.copies,
                signatures=before.signatures + shown.signatures,
            )
        versions[shown.document.version] = shown
    return {role: [versions[v] for v in sorted(versions)] for role, versions in found.items()}


def read_file(repository: str, file: RoleFile) -> Shown:
    """Read one file; see :func:`read_files`."""
    try:
        envelope = parse(file.content)
    except ContentError as e:
        error = ContentError(f"{printable(file.role)}: {e.message}", hint=e.hint)
        error.facts = {**e.facts, "role": printable(file.role)}
        raise error from e
    document = envelope.document
    wanted = file.role if file.role in TOP_LEVEL_ROLES else "targets"
    if document.kind != wanted:
        raise refuse(
            "evidence-role",
            f"the file given as {printable(file.role)} is a {document.kind}",
            hint="say of each file which role it is of",
            context=Context(repository, file.role),
            content=document,
        )
    return Shown(file.role, document, envelope.payload, (file.content,), (envelope.signatures,))


def root_holders(repository: str, root: Root) -> Holders:
    """The keys of a root's own role that count for the repository.

    Notary trusts a root key by its certificate: its common name is the GUN, or ``PREFIX/*``.

    Raises:
        RuleRefusedError: no certificate of a Notary root is for this GUN.
    """
    role, keys = holders_in(root, "root")
    if root.dialect is not Dialect.NOTARY:
        return role, keys
    own = {
        keyid: key
        for keyid, key in keys.items()
        if key.certificate is not None and covers(key.certificate.common_name, repository)
    }
    if not any(keyid in own for keyid in role.keyids):
        names = ", ".join(printable(name) for name in sorted(root.common_names)) or "none"
        raise refuse(
            "wrong-gun",
            f"root v{root.version} is for {names}, not for {printable(repository)}",
            hint="name the GUN exactly as the certificate of the root key has it",
            context=Context(repository, "root"),
            content=root,
        )
    return role, own


def expiry_notes(shown: Iterable[Shown], now: datetime) -> list[str]:
    """Files that are history: they are evidence all the same."""
    return [
        f"{each} expired on {each.document.expires_text}: taken as history"
        for each in shown
        if each.document.expires <= now
    ]


def mismatch_notes(files: Mapping[str, Shown]) -> list[str]:
    """Where the files do not fit together: ``files`` is the newest of each role."""
    notes: list[str] = []
    timestamp, snapshot = files.get("timestamp"), files.get("snapshot")
    if timestamp is not None and isinstance(timestamp.document, Timestamp):
        notes += _mismatch(timestamp, timestamp.document.snapshot, "snapshot", snapshot)
    if snapshot is not None and isinstance(snapshot.document, Snapshot):
        for role, meta in sorted(snapshot.document.meta.items()):
            notes += _mismatch(snapshot, meta, role, files.get(role))
    return notes


def _mismatch(by: Shown, meta: MetaFile, role: str, shown: Shown | None) -> list[str]:
    if shown is None:
        if role == "root":
            return []
        said = f" v{meta.version}" if meta.version is not None else ""
        return [f"{by} names {printable(role)}{said}; no file of it was given"]
    if meta.version is not None and meta.version != shown.document.version:
        return [f"{by} names {printable(role)} v{meta.version}, but {shown} was given"]
    wanted = meta.hashes.get("sha256")
    if wanted is not None and wanted not in {hashlib.sha256(c).digest() for c in shown.copies}:
        return [f"{by} names other bytes of {shown} than those given"]
    return []
