"""A key as keydctl shows it: table, details, JSON, and the public key in other tools' forms."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from keyd import publickeys
from keyd.cli import durations, output
from keyd.cli.yubikeyshapes import attestation_json
from keyd.client import Key
from keyd.errors import KeydError, KeyNotFoundError
from keyd.model import KeyVersion

FORMATS = ("pem", "tuf", "notary", "ssh", "json")


def key_json(key: Key) -> dict[str, object]:
    """A key's stable keys."""
    return {
        "name": key.name,
        "token": key.token,
        "algorithm": key.algorithm.value,
        "scheme": key.scheme.value,
        "bindings": [{"repository": b.repository, "role": b.role} for b in sorted(key.bindings)],
        "labels": dict(sorted(key.labels.items())),
        "rotation_period_s": key.rotation_period_s,
        "active_version": key.active_version,
        "frozen": key.frozen,
        "created_at": output.iso(key.created_at),
        "created_by": key.created_by,
        "versions": [version_json(key, v) for v in key.versions],
    }


def version_json(key: Key, v: KeyVersion) -> dict[str, object]:
    """A key version's stable keys."""
    return {
        "name": v.name,
        "number": v.number,
        "state": v.state.value,
        "staged": key.is_staged(v.number),
        "origin": v.origin.value,
        "token_serial": v.token_serial,
        "object_id": v.object_id.hex(),
        "public_key": base64.b64encode(v.public_key).decode(),
        "public_key_sha256": v.fingerprint if v.public_key else "",
        "keyids": dict(v.keyids),
        "created_at": output.iso(v.created_at),
        "created_by": v.created_by,
        "destroy_after": output.iso(v.destroy_after),
        "attestation": attestation_json(v.attestation) if v.attestation else None,
    }


def keys_table(keys: Sequence[Key]) -> str:
    """One line for each key."""
    rows = [(k.name, k.algorithm, k.token, _active(k), _signs_for(k), _note(k)) for k in keys]
    return output.table(("NAME", "ALGORITHM", "TOKEN", "ACTIVE", "SIGNS FOR", "NOTE"), rows)


def details(key: Key) -> str:
    """Everything about a key."""
    head = output.fields(
        [
            ("key", key.name),
            ("token", key.token),
            ("algorithm", f"{key.algorithm}, signs {key.scheme}"),
            ("signs for", _signs_for(key)),
            ("labels", ", ".join(f"{k}={v}" for k, v in sorted(key.labels.items()))),
            ("rotate every", durations.readable(key.rotation_period_s))
            if key.rotation_period_s
            else ("", ""),
            ("rotation due", _rotation_due(key)),
            ("frozen", key.frozen),
            ("created", f"{output.when(key.created_at)} by {key.created_by}"),
        ]
    )
    rows = [
        (
            f"{v.number}{'*' if v.number == key.active_version else ''}",
            "ENABLED, staged" if key.is_staged(v.number) else v.state,
            v.origin,
            output.when(v.created_at),
            output.when(v.destroy_after),
            v.keyids.get("tuf", ""),
        )
        for v in key.versions
    ]
    headers = ("VERSION", "STATE", "ORIGIN", "CREATED", "DESTROY AFTER", "TUF KEYID")
    proven = [
        f"version {v.number}: made in slot {a.slot} of YubiKey {a.serial} (firmware {a.firmware}), "
        f"PIN {a.pin}, touch {a.touch}; root {a.fingerprints[-1][:16]}"
        for v in key.versions
        if (a := v.attestation)
    ]
    shown = f"{head}\n\n{output.table(headers, rows)}\n(* signs by default)"
    return "\n\n".join([shown, *(["attested\n" + "\n".join(proven)] if proven else [])])


def pick(key: Key, number: int) -> KeyVersion:
    """A version with a public key; 0 for the active one.

    Raises:
        KeyNotFoundError: there is none.
    """
    version = key.find_version(number or key.active_version)
    if version is None:
        raise KeyNotFoundError(
            f"{key.name} has no {'active version' if not number else f'version {number}'}",
            hint=f"see its versions with: keydctl key show {key.name}",
            key=key.name,
        )
    if not version.public_key:
        raise KeydError(f"{version.name} has no public key yet: it is {version.state}")
    return version


def public_form(key: Key, version: KeyVersion, form: str) -> str:
    """The public key as PEM, TUF key object, Notary key object or authorized_keys line.

    Computed here from the DER the daemon sent, so that a form cannot name another key.
    """
    if form == "pem":
        return publickeys.pem(version.public_key).rstrip("\n")
    if form == "ssh":
        return publickeys.ssh_line(version.public_key, version.name)
    if form == "notary":
        return publickeys.notary_key(version.public_key)
    keyid = publickeys.tuf_keyid(version.public_key, key.scheme)
    return json.dumps({"keyid": keyid, **publickeys.tuf_key(version.public_key, key.scheme)})


def _active(key: Key) -> str:
    return f"{key.active_version} of {len(key.versions)}" if key.active_version else "none"


def _signs_for(key: Key) -> str:
    return ", ".join(str(b) for b in sorted(key.bindings)) or "anything (bound to nothing)"


def _rotation_due(key: Key) -> str:
    active = key.active
    if not key.rotation_period_s or active is None:
        return ""
    due = active.created_at.timestamp() + key.rotation_period_s
    return output.when(datetime.fromtimestamp(due, UTC))


def _note(key: Key) -> str:
    staged = [f"version {v.number} staged" for v in key.versions if key.is_staged(v.number)]
    # Set by trust migrate: made in software elsewhere, so that there may be copies of it.
    made = [f"imported: {key.labels['imported']}"] if "imported" in key.labels else []
    return ", ".join([f"frozen: {key.frozen}"] * bool(key.frozen) + staged + made)
