"""The canonical JSON of an audit entry: the bytes the Merkle leaf hashes.

One JSON object in one line: keys sorted by code point, no white space, UTF-8, no floats, no
nulls; control characters in strings are escaped as JSON wants, so that each line of an export is
one entry (otherwise the form is OLPC canonical JSON). Empty fields are left out.

======================  ========================================================================
``action``              what was asked: sign, create, rotate, ...; start, stop, policy-reload ...
``alert``               true: somebody should look
``certificate``         SHA-256 of the caller's client certificate, hex
``clock``               what the clock said, when it was behind the log by more than two minutes
                        (``time`` then repeats the newest entry's)
``context``             object ``repository``, ``role``: what the caller claimed to sign for
``count``               how many repeated refusals this entry stands for; left out for one
``details``             object of small texts
``digest``              ``ALGORITHM:HEX`` of what was signed; Ed25519: SHA-256 of the message
``encoding``            der or raw
``fingerprint``         SHA-256 of the signing key's DER SubjectPublicKeyInfo, hex
``group``               true: the caller's socket may be opened by a group, it is no person
``index``               position in the log, from 0
``key``                 key name
``keyid``               the key's TUF keyid
``message``             the refusal or failure in words
``method``              unix, mtls or system
``outcome``             allowed, refused or failed
``peer``                the caller's address as the listener saw it
``policy_sha256``       SHA-256 of the policy text in force, hex
``principal``           who asked, typed: socket:, uri:, email:, dns:, system:
``reason_code``         error class of a refusal or failure, as on the wire
``request_id``          correlates entry, answer and the daemon's own log
``rule``                the grant or rule that decided
``said``                the reason the caller gave
``scheme``              signature scheme, securesystemslib's names
``signature_sha256``    SHA-256 of the signature as it left the daemon, hex
``statement``           object ``dialect``, ``expires``, ``kind``, ``summary``, ``version``:
                        what the payload says
``time``                UTC, ``YYYY-MM-DDTHH:MM:SS.ffffffZ``; never before the entry above
``token``               configured name of the token
``token_serial``        its serial number
``v``                   format of the entry: 1
``version``             number of the key version
======================  ========================================================================

Texts longer than 1 000 characters are cut and end in an ellipsis: an entry stays below the 65 535
bytes of C2SP tlog-tiles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring
from typing import cast

from keyd.errors import LogProofError
from keyd.model import Context, Entry, EntryDraft, Outcome, Statement

FORMAT = 1
MAX_TEXT_CHARS = 1000
MAX_DETAILS = 30


@lru_cache(maxsize=16)
def format_time(time: datetime) -> str:
    """RFC 3339 in UTC with microseconds, always 27 characters."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_time(text: str) -> datetime:
    """The inverse of :func:`format_time`."""
    return datetime.fromisoformat(text)


def _text(value: str) -> str:
    """A text as JSON, cut to size; nothing for an empty one."""
    if not value:
        return ""
    if len(value) > MAX_TEXT_CHARS:
        value = value[: MAX_TEXT_CHARS - 1] + "\u2026"
    return encode_basestring(value)


def _members(**fields: str) -> str:
    """Members whose values are JSON already, each after a comma, in the order given; empty ones
    left out."""
    return "".join([f',"{name}":{value}' for name, value in fields.items() if value])


def _object(fields: Mapping[str, str]) -> str:
    members = _members(**fields)
    return "{" + members[1:] + "}" if members else ""


@lru_cache(maxsize=256)
def _statement(statement: Statement) -> str:
    return _object(
        {
            "dialect": _text(statement.dialect),
            "expires": _text(statement.expires),
            "kind": _text(statement.kind),
            "summary": _text(statement.summary),
            "version": str(statement.version) if statement.version else "",
        }
    )


@lru_cache(maxsize=256)
def _context(context: Context) -> str:
    return _object({"repository": _text(context.repository), "role": _text(context.role)})


def _details(details: Mapping[str, str]) -> str:
    members = [
        f"{_text(name)}:{_text(details[name])}"
        for name in sorted(details)[:MAX_DETAILS]
        if name and details[name]
    ]
    return "{" + ",".join(members) + "}" if members else ""


def entry_body(
    index: int, time: datetime, draft: EntryDraft, *, clock: datetime | None = None
) -> bytes:
    """Write an entry. Total: any draft gives an entry, whatever texts a caller sent.

    ``clock``: what the clock said, when it is not ``time``.
    """
    caller, digest = draft.caller, draft.digest
    principal = caller.principal
    # By hand and in sorted order, on the way of each signature: json.dumps takes six times as
    # long. Words are seldom said twice.
    parts = _parts.__wrapped__ if draft.said or draft.message else _parts
    before, after_digest, after_index, after_request, after_signature, after_time = parts(
        draft.action,
        draft.alert,
        principal.fingerprint,
        format_time(clock) if clock else "",
        _context(draft.context) if draft.context else "",
        draft.count,
        _details(draft.details) if draft.details else "",
        draft.encoding,
        draft.fingerprint,
        principal.is_group,
        draft.key,
        draft.keyid,
        draft.message,
        principal.method,
        draft.outcome,
        principal.peer,
        draft.policy_hash,
        principal.id,
        draft.reason_code,
        draft.rule,
        draft.said,
        draft.scheme,
        _statement(draft.statement) if draft.statement else "",
        draft.token,
        draft.token_serial,
        draft.version,
    )
    signed = f',"digest":"{digest.algorithm.value}:{digest.value.hex()}"' if digest else ""
    asked = _members(request_id=_text(caller.request_id))
    signature = _members(signature_sha256=_text(draft.signature_sha256))
    members = (
        f'{before}{signed}{after_digest},"index":{index}{after_index}{asked}{after_request}'
        f'{signature}{after_signature},"time":"{format_time(time)}"{after_time}'
    )
    # A lone surrogate cannot be UTF-8; it must not stop the group it is in.
    return ("{" + members[1:] + "}").encode("utf-8", "replace")


@lru_cache(maxsize=256)
def _parts(
    action: str,
    alert: bool,
    certificate: str,
    clock: str,
    context: str,
    count: int,
    details: str,
    encoding: str,
    fingerprint: str,
    is_group: bool,
    key: str,
    keyid: str,
    message: str,
    method: str,
    outcome: Outcome,
    peer: str,
    policy_hash: str,
    principal: str,
    reason_code: str,
    rule: str,
    said: str,
    scheme: str,
    statement: str,
    token: str,
    token_serial: str,
    version: int,
) -> tuple[str, str, str, str, str, str]:
    """What of an entry is the same for many, cut where digest, index, request, signature and time
    go."""
    return (
        _members(
            action=_text(action),
            alert="true" if alert else "",
            certificate=_text(certificate),
            clock=_text(clock),
            context=context,
            count=str(count) if count != 1 else "",
            details=details,
        ),
        _members(
            encoding=_text(encoding),
            fingerprint=_text(fingerprint),
            group="true" if is_group else "",
        ),
        _members(
            key=_text(key),
            keyid=_text(keyid),
            message=_text(message),
            method=_text(method),
            outcome=_text(outcome.value),
            peer=_text(peer),
            policy_sha256=_text(policy_hash),
            principal=_text(principal),
            reason_code=_text(reason_code),
        ),
        _members(rule=_text(rule), said=_text(said), scheme=_text(scheme)),
        _members(statement=statement),
        _members(
            token=_text(token),
            token_serial=_text(token_serial),
            v=str(FORMAT),
            version=str(version) if version else "",
        ),
    )


def parse_entry(body: bytes) -> Entry:
    """Read an entry back.

    Raises:
        LogProofError: the bytes are no entry.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise LogProofError("an entry is no JSON") from error
    if not isinstance(fields, dict) or type(fields.get("index")) is not int:
        raise LogProofError("an entry is no object with an index")
    return Entry(fields["index"], body, cast("dict[str, object]", fields))
