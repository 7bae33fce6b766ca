"""What keydctl trust answers, as text and as JSON with stable keys."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from keyd.adapters.notary.changes import Change
from keyd.adapters.notary.delegations import Delegation
from keyd.adapters.notary.lookup import Signed
from keyd.adapters.notary.trusted import Trusted
from keyd.cli import output

NameOf = Callable[[bytes], str]
"""DER SubjectPublicKeyInfo -> what to call the key, or empty."""

Do = Callable[[str], None]
"""What is done for each repository."""


def warn(trusted: Trusted) -> None:
    """Say what was trusted without a proof, and which roles do not count."""
    if trusted.is_first_sight:
        document = trusted.root_document
        ids = ", ".join(document.roles["root"].keyids)
        output.note(f"{trusted.gun} is seen for the first time; its root key is {ids}")
    for role, why in trusted.problems.items():
        output.warn(f"{role} does not count: {why}")


def change_json(number: int, change: Change) -> dict[str, object]:
    """A staged change."""
    return {
        "number": number,
        "action": change.action,
        "role": change.role,
        "name": change.name,
        "what": _what(change),
    }


def change_row(number: int, change: Change) -> tuple[object, ...]:
    """A staged change, for people."""
    return (number, change.action, change.role, change.name, _what(change))


def _what(change: Change) -> str:
    facts = change.facts
    if change.action == "add":
        digest = base64.b64decode(facts["hashes"]["sha256"]).hex()
        return f"{facts['length']} bytes, SHA-256 {digest}"
    keys = [k["keyid"] for k in facts.get("keys") or ()] + list(facts.get("keyids") or ())
    told = [f"key {keyid[:12]}" for keyid in keys]
    told += [f"path {path!r}" if path else "all paths" for path in facts.get("paths") or ()]
    return ", ".join(told)


def signed_json(signed: Signed) -> dict[str, object]:
    """A name and who signs it."""
    return {
        "name": signed.name,
        "role": signed.role,
        "sha256": signed.digest.hex(),
        "hashes": {a: d.hex() for a, d in signed.target.hashes.items()},
        "length": signed.target.length,
        "custom": signed.target.custom,
    }


def delegation_json(delegation: Delegation, name_of: NameOf) -> dict[str, object]:
    """A delegation; ``name`` of a key: its certificate's, else the daemon's KEY/versions/N."""
    return {
        "role": delegation.role.name,
        "paths": list(delegation.role.paths or ()),
        "threshold": delegation.role.threshold,
        "keys": [
            {
                "key_id": key.canonical_id,
                "keyid": key.keyid,
                "name": key.certificate.common_name if key.certificate else name_of(key.spki),
                "expires": output.iso(key.certificate.not_after) if key.certificate else None,
            }
            for key in delegation.keys
        ],
    }


def delegations_text(shown: list[dict[str, Any]]) -> str:
    """Delegations for people: a line for each key."""
    rows: list[tuple[object, ...]] = []
    for each in shown:
        paths = ", ".join(p or "all paths" for p in each["paths"]) or "no paths"
        first = (each["role"], paths, each["threshold"])
        for n, key in enumerate(each["keys"] or [{"key_id": "no key", "name": ""}]):
            rows.append((*(first if n == 0 else ("", "", "")), key["key_id"], key["name"]))
    return output.table(("ROLE", "PATHS", "THRESHOLD", "KEY ID", "NAME"), rows)


def inspected_text(shown: dict[str, Any]) -> str:
    """What ``docker trust inspect --pretty`` prints, byte for byte but the last newline."""
    name = shown["Name"]
    tags = [(t["SignedTag"], t["Digest"], ", ".join(t["Signers"])) for t in shown["SignedTags"]]
    if tags:
        lines = ["", f"Signatures for {name}", ""]
        lines += _dockers_table(("SIGNED TAG", "DIGEST", "SIGNERS"), tags)
    else:
        lines = ["", f"No signatures for {name}", ""]
    people = [(s["Name"], _short(s["Keys"])) for s in shown["Signers"]]
    if people:
        lines += ["", f"List of signers and their keys for {name}", ""]
        lines += _dockers_table(("SIGNER", "KEYS"), people)
    lines += ["", f"Administrative keys for {name}", ""]
    lines += [
        f"  {key['Name']} Key:\t{', '.join(k['ID'] for k in key['Keys'])}"
        for key in sorted(shown["AdministrativeKeys"], key=lambda k: str(k["Name"]))
    ]
    return "\n".join(lines)


def _dockers_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of ten characters at least, three of them space, as docker has them."""
    cells = [headers, *rows]
    widths = [max(10, *(len(row[n]) + 3 for row in cells)) for n in range(len(headers) - 1)]
    return [
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1]
        for row in cells
    ]


def _short(keys: list[dict[str, str]]) -> str:
    return ", ".join(key["ID"][:12] for key in keys)
