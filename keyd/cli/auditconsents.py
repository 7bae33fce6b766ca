"""Signed consents in an exported log, checked without a daemon.

An entry ``approve`` whose approver signed the consent keeps text and signature, in parts
(docs/audit.md). The log proves that the daemon wrote them; the signature proves that the approver
consented, and to what.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from keyd import sshsig
from keyd.audit.entry import parse_entry, parse_time
from keyd.errors import DeadlineError, KeydError, LogProofError
from keyd.model import Entry

_MARK = b'"consent_signer":"'


def keep_consents(lines: Iterable[bytes], kept: list[bytes]) -> Iterator[bytes]:
    """The lines as they come; those that may hold a signed consent are kept besides."""
    for line in lines:
        if _MARK in line:
            kept.append(line)
        yield line


def read_consents(kept: Iterable[bytes]) -> list[Entry]:
    """The entries with a signed consent, of lines that were verified before."""
    entries = [parse_entry(line.removesuffix(b"\n")) for line in kept]
    return [e for e in entries if "consent_signer" in _details(e)]


def verify_consent(entry: Entry, allowed_signers: str) -> str:
    """Check the signature, and that what was signed is what the entry says.

    ``allowed_signers``: text of an allowed-signers file (ssh-keygen(1)). Returns the principal.

    Raises:
        LogProofError: the consent is not what the entry claims, or not by a listed key.
    """
    details = _details(entry)
    text = _joined(details, "consent_text", "consent_text_{}", 2)
    signature = _joined(details, "consent_signature_1", "consent_signature_{}", 2)
    principal = str(entry.fields.get("principal", ""))
    try:
        signer = sshsig.verify_listed(
            text.encode(),
            signature,
            principal,
            allowed_signers,
            at=parse_time(str(entry.fields["time"])),
        )
    except DeadlineError:
        raise
    except KeydError as e:
        raise _wrong(entry, e.message) from e
    if signer != details["consent_signer"]:
        raise _wrong(entry, f"it is signed by {signer}, not by {details['consent_signer']}")
    _compare(entry, details, text)
    return principal


def _compare(entry: Entry, details: Mapping[str, str], text: str) -> None:
    """What was consented to has to be what the entry is about."""
    fields = entry.fields
    given = fields.get("context")
    context = given if isinstance(given, dict) else {}
    says: dict[str, object] = {
        "action": details.get("asked", ""),
        "approval": details.get("approval", ""),
        # Of a finished digest the text has no algorithm of its own.
        "digest": f"sha256:{str(fields.get('digest', '')).rpartition(':')[2]}",
        "expires": details.get("expires", ""),
        "key": fields.get("key") or fields.get("token") or "",
        "key_version": fields.get("version", 0),
        "metadata_version": int(details.get("metadata_version") or 0),
        "principal": fields.get("principal", ""),
        "repository": context.get("repository", ""),
        "requester": details.get("requester", ""),
        "role": context.get("role", ""),
    }
    try:
        signed = json.loads(text)
    except ValueError as e:
        raise _wrong(entry, "what was signed cannot be read") from e
    if fields.get("action") != "approve" or fields.get("outcome") != "allowed":
        raise _wrong(entry, "it is no entry of a consent")
    if not isinstance(signed, dict) or signed.keys() != says.keys():
        raise _wrong(entry, "what was signed is no text of consent")
    for name, value in says.items():
        if signed[name] != value:
            raise _wrong(
                entry, f"signed was consent with {name} {signed[name]!r}, the entry says {value!r}"
            )


def _details(entry: Entry) -> Mapping[str, str]:
    found = entry.fields.get("details")
    return cast("Mapping[str, str]", found) if isinstance(found, dict) else {}


def _joined(details: Mapping[str, str], first: str, further: str, at: int) -> str:
    parts = [details.get(first, "")]
    while part := details.get(further.format(at)):
        parts.append(part)
        at += 1
    return "".join(parts)


def _wrong(entry: Entry, why: str) -> LogProofError:
    return LogProofError(
        f"the signed consent in entry {entry.index} does not verify: {why}",
        hint="the daemon, or the list of allowed signers, is not what you take it for",
        index=entry.index,
    )
