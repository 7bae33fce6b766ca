"""The canonical JSON of entries, against vectors that other tools can read too."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.audit.entry import entry_body, format_time, parse_entry, parse_time
from keyd.audit.merkle import leaf_hash
from keyd.errors import LogProofError
from keyd.model import (
    SYSTEM,
    Caller,
    Context,
    Digest,
    EntryDraft,
    HashAlgorithm,
    Outcome,
    Principal,
    Statement,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "audit_entries.json"
NOON = datetime(2030, 1, 2, 12, 0, 0, 500, tzinfo=UTC)

DRAFTS = {
    "signed": EntryDraft(
        action="sign",
        outcome=Outcome.ALLOWED,
        caller=Caller(
            Principal(
                "uri:spiffe://acme/ci", "mtls", fingerprint="ab" * 32, peer="ipv4:192.0.2.1:99"
            ),
            "req-1",
        ),
        key="acme/targets",
        version=3,
        keyid="cd" * 32,
        fingerprint="ef" * 32,
        token="online",
        token_serial="0123456789abcdef",
        scheme="ecdsa-sha2-nistp256",
        encoding="der",
        digest=Digest.of(HashAlgorithm.SHA256, b"message"),
        signature_sha256="01" * 32,
        statement=Statement("targets", "tuf", 7, "2030-02-01T00:00:00Z", "3 targets"),
        context=Context("acme/app", "targets"),
        rule="grant ci",
        policy_hash="02" * 32,
        said="release 1.2",
    ),
    "refused by a group's socket, counted": EntryDraft(
        action="sign",
        outcome=Outcome.REFUSED,
        caller=Caller(Principal("socket:ci", "unix", is_group=True), "req-2"),
        key="acme/root",
        rule="no grant",
        reason_code="POLICY_DENIED",
        message="denied, or no such key",
        count=17,
    ),
    "start": EntryDraft("start", Outcome.ALLOWED, Caller(SYSTEM, ""), details={"z": "1", "a": "2"}),
    "odd texts": EntryDraft(
        "create",
        Outcome.FAILED,
        Caller(Principal("email:zoë@example.org", "mtls"), 'quote " backslash \\'),
        said="tab\tnewline\ndelete\x7fline separator\u2028emoji \U0001f511",
        message="x" * 1200,
        alert=True,
    ),
}


@pytest.mark.parametrize("name", DRAFTS)
def test_entries_are_written_as_the_vectors_say(name: str) -> None:
    vector = next(v for v in json.loads(VECTORS.read_text()) if v["name"] == name)

    body = entry_body(vector["index"], NOON, DRAFTS[name])

    assert body.decode() == vector["body"]
    assert leaf_hash(body).hex() == vector["leaf_hash"]


@given(
    st.builds(
        EntryDraft,
        action=st.text(max_size=10),
        outcome=st.sampled_from(Outcome),
        caller=st.builds(
            Caller, st.builds(Principal, st.text(max_size=20), st.text(max_size=5)), st.text()
        ),
        key=st.text(),
        version=st.integers(0, 9),
        statement=st.none() | st.builds(Statement, st.text(), st.text(), st.integers(0)),
        context=st.none() | st.builds(Context, st.text(), st.text()),
        count=st.integers(1, 5),
        alert=st.booleans(),
        said=st.text(max_size=2000),
        details=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=40),
    )
)
def test_any_draft_gives_one_sorted_line_that_reads_back(draft: EntryDraft) -> None:
    body = entry_body(5, NOON, draft)

    fields = parse_entry(body).fields
    again = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert again.encode() == body
    assert b"\n" not in body
    assert b"\r" not in body
    assert len(body) < 65_536
    assert all(value not in ("", None, False) for value in fields.values())


def test_a_lone_surrogate_does_not_stop_an_entry() -> None:
    draft = EntryDraft("start", Outcome.ALLOWED, Caller(SYSTEM, ""), said="a\udc80b")

    assert parse_entry(entry_body(0, NOON, draft)).fields["said"] == "a?b"


def test_times_are_utc_with_microseconds_whatever_zone_they_come_in() -> None:
    there = datetime(2030, 1, 2, 14, 0, tzinfo=timezone(timedelta(hours=2)))

    assert format_time(there) == "2030-01-02T12:00:00.000000Z"
    assert parse_time(format_time(NOON)) == NOON


def test_an_entry_says_what_a_clock_behind_the_log_said() -> None:
    draft = EntryDraft("start", Outcome.ALLOWED, Caller(SYSTEM, ""))

    body = entry_body(0, NOON, draft, clock=NOON - timedelta(hours=1))

    assert parse_entry(body).fields["clock"] == "2030-01-02T11:00:00.000500Z"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"index":"1"}', b'{"index":true}', b"\xff"])
def test_what_is_no_entry_is_refused(body: bytes) -> None:
    with pytest.raises(LogProofError):
        parse_entry(body)
