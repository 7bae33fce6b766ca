"""What a person reads before consenting: lines about a document, a certificate, a key.

Names and texts from the payload are made printable and cut; counts stand for long lists, which
diff.py shows where they changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from keyd.content.canonical import Json
from keyd.content.certificates import CertificateRequest, TbsCertificate
from keyd.content.documents import (
    TOP_LEVEL_ROLES,
    Delegations,
    Document,
    MetaFile,
    PublicKeyInfo,
    RoleKeys,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from keyd.content.reader import Content
from keyd.content.refusal import printable

MAX_LISTED = 50
"""Roles, files and delegations beyond this are counted, not listed."""

_MAX_OTHERS = 10


def describe(content: Content) -> list[str]:
    """Readable lines, the most important first; details are indented by two spaces."""
    if isinstance(content, Document):
        return _document(content)
    return _x509(content)


def summary(content: Content) -> str:
    """One line: what it is, which version, until when."""
    if isinstance(content, Document):
        shown = content.dialect.value
        return f"{content.kind} v{content.version} ({shown}), expires {content.expires_text}"
    name = printable(content.common_name) or "(no common name)"
    if isinstance(content, TbsCertificate):
        return f"certificate for {name}, until {when(content.not_after)}"
    return f"certificate request for {name}"


def key(info: PublicKeyInfo | None, keyid: str) -> str:
    """A key in one line: its id, its kind, its owner or common name where the file says one."""
    if info is None:
        return f"{printable(keyid)} (not in the document)"
    parts = [printable(info.scheme or info.keytype, 40)]
    if not info.spki:
        parts.append("unreadable to keyd")
    if info.certificate:
        parts.append(f"CN {printable(info.certificate.common_name)}")
        parts.append(f"until {when(info.certificate.not_after)}")
    parts.extend(_others(info.unknown))
    return f"{printable(keyid, 80)} ({', '.join(parts)})"


def target(file: TargetFile | MetaFile) -> str:
    """A file in one line: version, length, digests, and whatever else is said of it."""
    parts = []
    if isinstance(file, MetaFile) and file.version is not None:
        parts.append(f"v{file.version}")
    if file.length is not None:
        parts.append(f"{file.length} bytes")
    parts.extend(f"{printable(a, 20)}:{d.hex()}" for a, d in sorted(file.hashes.items()))
    if isinstance(file, TargetFile) and file.custom is not None:
        parts.append(f"custom {shown(file.custom)}")
    parts.extend(_others(file.unknown))
    return ", ".join(parts)


def when(time: datetime) -> str:
    """A time as people read it, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ")


def shown(value: Json) -> str:
    """Any value of a document as JSON, printable and cut."""
    return printable(json.dumps(value, ensure_ascii=False, sort_keys=True))


def plural(number: int, noun: str) -> str:
    """``1 key``, ``2 keys``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _document(document: Document) -> list[str]:
    lines = [summary(document)]
    if isinstance(document, Root):
        lines += _root(document)
    elif isinstance(document, Targets):
        lines += _targets(document)
    elif isinstance(document, Snapshot):
        lines += _files(document.meta)
    elif isinstance(document, Timestamp):
        lines.append(f"snapshot: {target(document.snapshot)}")
    return lines + _unknown(document.unknown)


def _root(root: Root) -> list[str]:
    lines = []
    for name in TOP_LEVEL_ROLES:
        lines += _role(name, root.roles[name], root.keys)
    used = {keyid for role in root.roles.values() for keyid in role.keyids}
    unused = [keyid for keyid in root.keys if keyid not in used]
    if unused:
        lines.append(f"{plural(len(unused), 'key')} of no role")
    if root.common_names:
        lines.append(f"GUN: {', '.join(printable(n) for n in sorted(root.common_names))}")
    if root.consistent_snapshot is not None:
        lines.append(f"consistent_snapshot: {str(root.consistent_snapshot).lower()}")
    return lines


def _role(name: str, role: RoleKeys, keys: Mapping[str, PublicKeyInfo]) -> list[str]:
    lines = [f"{printable(name)}: {role.threshold} of {plural(len(role.keyids), 'key')}"]
    lines += [f"  {key(keys.get(keyid), keyid)}" for keyid in role.keyids[:MAX_LISTED]]
    lines += _more(len(role.keyids), "key")
    return lines + [f"  {line}" for line in _unknown(role.unknown)]


def _targets(targets: Targets) -> list[str]:
    lines = [plural(len(targets.targets), "target")]
    for path, file in list(targets.targets.items())[:MAX_LISTED]:
        lines.append(f"  {printable(path)}: {target(file)}")
    lines += _more(len(targets.targets), "target")
    if targets.delegations is not None:
        lines += _delegations(targets.delegations)
    return lines


def _delegations(delegations: Delegations) -> list[str]:
    lines = [plural(len(delegations.roles), "delegation")]
    for role in delegations.roles[:MAX_LISTED]:
        described = _role(role.name, role, delegations.keys)
        described[0] += f", {paths(role.paths, role.path_hash_prefixes)}"
        described[0] += ", terminating" if role.terminating else ""
        lines += [f"  {line}" for line in described]
    lines += _more(len(delegations.roles), "delegation")
    if delegations.succinct is not None:
        bins = delegations.succinct
        lines = _role(
            f"{2**bins.bit_length} hash bins {bins.name_prefix}-*", bins, delegations.keys
        )
    return lines + _unknown(delegations.unknown)


def paths(patterns: tuple[str, ...] | None, prefixes: tuple[str, ...] | None) -> str:
    """What a delegation is trusted with, in words."""
    if patterns is None and prefixes is None:
        return "no paths"
    told = patterns if patterns is not None else prefixes or ()
    noun = "paths" if patterns is not None else "path hash prefixes"
    listed = " ".join(f'"{printable(p)}"' for p in told[:MAX_LISTED]) or "none"
    return f"{noun} {listed}" + (f" and {len(told) - MAX_LISTED} more" * (len(told) > MAX_LISTED))


def _files(meta: Mapping[str, MetaFile]) -> list[str]:
    lines = [f"{printable(role)}: {target(file)}" for role, file in sorted(meta.items())]
    return lines[:MAX_LISTED] + _more(len(lines), "role", indent="")


def _more(number: int, noun: str, *, indent: str = "  ") -> list[str]:
    beyond = number - MAX_LISTED
    return [f"{indent}and {plural(beyond, noun)} more"] if beyond > 0 else []


def _others(unknown: Mapping[str, Json]) -> list[str]:
    """Unknown fields within a line."""
    if len(unknown) > _MAX_OTHERS:
        return [f"{len(unknown)} unknown fields {shown(dict(unknown))}"]
    return [f"{printable(name, 40)} {shown(value)}" for name, value in sorted(unknown.items())]


def _unknown(unknown: Mapping[str, Json]) -> list[str]:
    lines = [
        f"unknown to keyd: {printable(name)} = {shown(value)}"
        for name, value in list(unknown.items())[:MAX_LISTED]
    ]
    return lines + _more(len(unknown), "unknown field", indent="")


def _x509(request: CertificateRequest) -> list[str]:
    lines = [
        summary(request),
        f"subject: {printable(request.subject)}",
        "CA: " + ("TRUE" if request.is_ca else "FALSE"),
        f"key usage: {', '.join(sorted(request.key_usage)) or 'not restricted'}",
    ]
    if request.extended_key_usage:
        lines.append(f"extended key usage: {', '.join(request.extended_key_usage[:MAX_LISTED])}")
    for name in request.alternative_names[:MAX_LISTED]:
        lines.append(f"name: {printable(name)}")
    lines += _more(len(request.alternative_names), "name", indent="")
    if request.other_extensions:
        lines.append(f"other extensions: {', '.join(request.other_extensions[:MAX_LISTED])}")
    if not request.spki:
        lines.append("its public key is of a kind keyd does not use")
    if isinstance(request, TbsCertificate):
        self_issued = " (itself)" if request.is_self_issued else ""
        lines.append(f"issuer: {printable(request.issuer)}{self_issued}")
        lines.append(f"serial: {request.serial:x}")
        lines.append(f"from {when(request.not_before)} until {when(request.not_after)}")
    return lines
