"""Metadata files in the one form in which notary-server hashes them as they are.

notary-server keeps the bytes that were sent, but puts the hash of what it makes of them itself
into its snapshot: members in its own order, ``<`` ``>`` ``&`` and the two line separators of
Unicode escaped, unknown members dropped. A file in any other form is taken, and nobody can read
the collection any more. Signatures cover the unescaped canonical form.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from keyd.content import canonical, envelope
from keyd.content.documents import Root, Snapshot, Targets
from keyd.content.envelope import Envelope, FileSignature
from keyd.errors import RepositoryError

EXPIRY_DAYS = {"root": 3650, "targets": 1095, "snapshot": 1095, "timestamp": 14}
"""How long each role lives with notary; delegated roles live as long as targets."""

_ESCAPES = re.compile("[<>&\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x1f]")


@dataclass(slots=True)
class Draft:
    """A file in the making. ``signed``: what is signed, as JSON values; ``signatures``: those that
    were made over exactly this. ``base``: the published version that it comes after, 0 for none."""

    role: str
    signed: dict[str, Any]
    signatures: list[FileSignature] = field(default_factory=list)
    base: int = 0

    @property
    def version(self) -> int:
        """Its number."""
        return int(self.signed["version"])

    @property
    def payload(self) -> bytes:
        """The bytes that signatures cover."""
        return canonical.encode(self.signed)

    def renumber(self, version: int) -> None:
        """Another number; signatures over the old one go."""
        self.signed["version"] = version
        self.signatures = []

    def expire(self, at: datetime) -> None:
        """Another end; signatures over the old one go."""
        self.signed["expires"] = expiry_text(at)
        self.signatures = []

    def says(self) -> dict[str, Any]:
        """The content without version and expiry: what people decided."""
        content = copy.deepcopy(self.signed)
        return {k: v for k, v in content.items() if k not in ("version", "expires")}

    def file(self) -> bytes:
        """The file as it is sent and served.

        Raises:
            RepositoryError: notary-server would not hash these bytes as they are.
        """
        return seal(self.signed, self.signatures)


def seal(signed: Mapping[str, Any], signatures: Sequence[FileSignature]) -> bytes:
    """The file around a signed object, checked to be in the form that is safe.

    Raises:
        RepositoryError: it holds what notary-server would write in another way.
    """
    text = canonical.encode(dict(signed)).decode()
    inner = _ESCAPES.sub(lambda m: f"\\u{ord(m[0]):04x}", text)
    outer = [
        {
            "keyid": s.keyid,
            "method": s.method,
            "sig": base64.b64encode(s.value).decode("ascii"),
        }
        for s in signatures
    ]
    file = f'{{"signed":{inner},"signatures":{json.dumps(outer, separators=(",", ":"))}}}'.encode()
    _check(text, envelope.parse(file))
    return file


def open_file(role: str, file: bytes) -> Draft:
    """A draft from a file that was read, to be changed or signed further."""
    content = canonical.load(file)
    assert isinstance(content, dict) and isinstance(content["signed"], dict)
    return Draft(role, content["signed"], list(envelope.parse(file).signatures))


def next_draft(role: str, base: Envelope, file: bytes, expires: datetime) -> Draft:
    """The next version of a published file, with its content."""
    signed = copy.deepcopy(open_file(role, file).signed)
    signed["version"] = base.document.version + 1
    signed["expires"] = expiry_text(expires)
    return Draft(role, signed, base=base.document.version)


def new_root(
    keys: Mapping[str, dict[str, Any]], roles: Mapping[str, Sequence[str]], expires: datetime
) -> Draft:
    """Root version 1. ``keys``: id -> object; ``roles``: role -> ids, one of which signs."""
    signed = {
        "_type": "Root",
        "consistent_snapshot": False,
        "expires": expiry_text(expires),
        "keys": dict(keys),
        "roles": {role: {"keyids": list(ids), "threshold": 1} for role, ids in roles.items()},
        "version": 1,
    }
    return Draft("root", signed)


def new_targets(role: str, expires: datetime) -> Draft:
    """Version 1 of a targets role that signs nothing yet."""
    signed = {
        "_type": "Targets",
        "delegations": {"keys": {}, "roles": []},
        "expires": expiry_text(expires),
        "targets": {},
        "version": 1,
    }
    return Draft(role, signed)


def meta_of(file: bytes) -> dict[str, Any]:
    """What a snapshot says of a file."""
    digests = {name: hashlib.new(name, file).digest() for name in ("sha256", "sha512")}
    hashes = {name: base64.b64encode(d).decode("ascii") for name, d in digests.items()}
    return {"hashes": hashes, "length": len(file)}


def expiry(role: str, now: datetime, days: float | None = None) -> datetime:
    """When a new version ends: as notary has it, or after fewer days."""
    usual = EXPIRY_DAYS.get(role, EXPIRY_DAYS["targets"])
    return now + timedelta(days=usual if days is None else min(days, usual))


def expiry_text(at: datetime) -> str:
    """RFC 3339 in UTC without a fraction: the form that Go writes back as it was."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _check(text: str, parsed: Envelope) -> None:
    document = parsed.document
    unknown: list[Mapping[str, Any]] = [document.unknown]
    if isinstance(document, Targets):
        unknown += [t.unknown for t in document.targets.values()]
        if document.delegations is not None:
            unknown += [document.delegations.unknown, *_unknown_of(document.delegations.roles)]
    elif isinstance(document, Root):
        unknown += _unknown_of(document.roles.values())
    elif isinstance(document, Snapshot):
        unknown += [m.unknown for m in document.meta.values()]
    members = sorted({name for each in unknown for name in each})
    if members:
        raise RepositoryError(
            f"{document.kind} {document.version} has members that notary-server drops "
            f"({', '.join(members)}): its snapshot would match no file",
            hint="take them out; notary knows only its own members",
        )
    if _CONTROL.search(text):
        raise RepositoryError(
            f"{document.kind} {document.version} has a control character in a name or in custom "
            "data, which notary-server cannot read",
            hint="take names of printable characters",
        )


def _unknown_of(roles: Any) -> list[Mapping[str, Any]]:
    return [role.unknown for role in roles]
