"""What keydctl explain reads on the caller's own machine: no daemon is asked here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from keyd.cli.explainfile import read
from keyd.cli.keydctl import run
from keyd.errors import ContentError
from tests.tuf_documents import (
    ALICE,
    BOB,
    MALLORY,
    a_root,
    a_targets,
    keyid,
    renamed,
    signed,
    write,
)
from tests.unit.content import notary_made
from tests.unit.content.test_content_certificates import REQUEST, TBS

ROOT = a_root(1, ALICE.public_key, BOB.public_key, threshold=2, signed_by=[ALICE, BOB])
TARGETS = a_targets(3, "app/hello.txt", signed_by=[ALICE])


@dataclass
class Said:
    """What the command answered, once as text and once as JSON."""

    code: int
    text: str
    json: Any


Explain = Callable[..., Said]


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str]) -> Explain:
    def command(*args: object) -> Said:
        words = ["explain", *(str(a) for a in args), "--offline"]
        code = run(words)
        text = capsys.readouterr()
        assert run([*words, "--json"]) == code
        machine = capsys.readouterr()
        return Said(int(code), text.out + text.err, json.loads(machine.out or "null"))

    return command


def lines_of(said: Said, head: str) -> list[str]:
    """The indented lines below one that begins so."""
    lines = iter(said.text.splitlines())
    assert any(line.startswith(head) for line in lines), said.text
    found = []
    for line in lines:
        if not line.startswith("  "):
            break
        found.append(line.strip())
    return found


# ---------------------------------------------------------------------------- what is signed


@pytest.mark.parametrize("compact", [True, False])
def test_of_a_metadata_file_the_bytes_are_those_python_tuf_signs(
    explain: Explain, tmp_path: Path, compact: bool
) -> None:
    file = write(tmp_path / "targets.json", TARGETS, compact=compact)

    said = explain(file)

    assert said.code == 0
    assert read(file.read_bytes()).payload == TARGETS.signed_bytes
    assert said.json["sha256"] == hashlib.sha256(TARGETS.signed_bytes).hexdigest()
    assert said.json["form"] == "metadata-file"
    assert said.json["is_verbatim"] is compact
    assert ("which the file writes another way" in said.text) is not compact


def test_the_bare_signed_part_says_what_its_file_says(explain: Explain, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_bytes(ROOT.signed_bytes)

    said, of_file = explain(bare), explain(write(tmp_path / "root.json", ROOT))

    assert (said.json["form"], of_file.json["form"]) == ("bare", "metadata-file")
    for name in ("sha256", "kind", "summary", "lines", "problem"):
        assert said.json[name] == of_file.json[name]
    assert said.json["problem"] is None
    assert said.json["kind"] == "root"


@pytest.mark.parametrize(
    ("payload", "kind", "summary"),
    [
        (TBS, "certificate", "certificate for registry/app, until 2026-"),
        (REQUEST, "certificate-request", "certificate request for registry/app"),
    ],
)
def test_certificates_and_requests_are_told(
    explain: Explain, tmp_path: Path, payload: bytes, kind: str, summary: str
) -> None:
    file = tmp_path / "x"
    file.write_bytes(payload)

    said = explain(file)

    assert said.json["kind"] == kind
    assert said.json["summary"].startswith(summary)
    assert "subject: CN=registry/app" in lines_of(said, "content:")


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"release 1.0\n", "not JSON"),
        (b"\x30\x03\x02\x01", "DER ends within an element"),
        (bytes(range(256)), "not UTF-8"),
        (b"", "not JSON"),
        (b'{ "name": "keyd", "version": 1.5 }', "no floats"),
        (b'{ "name": "keyd" }', "no metadata"),
    ],
)
def test_anything_else_is_called_opaque_with_the_reason_and_is_no_failure(
    explain: Explain, tmp_path: Path, payload: bytes, why: str
) -> None:
    file = tmp_path / "x"
    file.write_bytes(payload)

    said = explain(file)

    assert said.code == 0
    assert said.json["kind"] == "opaque"
    assert said.json["sha256"] == hashlib.sha256(payload).hexdigest()
    assert why in said.json["problem"]["message"]
    assert any(why in line for line in lines_of(said, "content: opaque"))


def test_json_that_is_no_metadata_is_not_blamed_for_its_white_space(
    explain: Explain, tmp_path: Path
) -> None:
    file = tmp_path / "package.json"
    file.write_text('{\n  "name": "keyd"\n}\n')

    assert "not canonical" not in explain(file).text


def test_a_member_beside_the_signed_part_is_shown_as_not_signed(
    explain: Explain, tmp_path: Path
) -> None:
    file = tmp_path / "targets.json"
    file.write_text(json.dumps({**TARGETS.to_dict(), "x-approved-by": "al\u202eice"}))

    said = explain(file)

    assert said.json["not_signed"] == ["x-approved-by"]
    assert 'not signed, only beside it: x-approved-by = "al\\u202eice"' in said.text


# ------------------------------------------------------------------------------- attacks


def test_a_target_name_cannot_steer_the_terminal_or_feign_a_verdict(
    explain: Explain, tmp_path: Path
) -> None:
    name = "app\x9b2Jx\u202etxt.exe\nverdict: would be signed"
    file = write(tmp_path / "t.json", a_targets(2, name))
    old = write(tmp_path / "old.json", a_targets(1))

    said = explain(file, "--against", old)

    escaped = "app\\x9b2Jx\\u202etxt.exe\\nverdict: would be signed"
    assert any(line.startswith(f"{escaped}: 3 bytes") for line in lines_of(said, "content:"))
    assert any(escaped in line for line in lines_of(said, "changes:"))
    assert "\x9b" not in said.text
    assert "\u202e" not in said.text
    assert not any(line.startswith("verdict") for line in said.text.splitlines())
    assert any(line.strip().startswith(escaped) for line in said.json["lines"])
    assert escaped in [c["subject"] for c in said.json["changes"]]


def test_a_delegations_name_cannot_feign_a_verdict_in_the_reason_either(
    explain: Explain, tmp_path: Path
) -> None:
    role = {"keyids": [], "name": "a\nverdict: yes\x9b2J", "paths": [], "terminating": False}
    content = TARGETS.signed.to_dict()
    content["delegations"] = {"keys": {}, "roles": [role | {"threshold": 1}] * 2}
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"signed": content, "signatures": []}))

    said = explain(file)

    assert "delegates twice to a\\nverdict: yes\\x9b2J" in said.text
    assert not any(line.startswith("verdict") for line in said.text.splitlines())
    assert "\x9b" not in said.text + said.json["problem"]["message"]


def test_a_document_with_a_doubled_key_is_not_canonical_and_says_why(
    explain: Explain, tmp_path: Path
) -> None:
    file = tmp_path / "bare"
    file.write_bytes(TARGETS.signed_bytes[:-1] + b',"version":9}')

    said = explain(file)

    assert said.code == 0
    assert said.json["kind"] == "opaque"
    assert said.json["problem"]["problem"] == "duplicate-key"
    assert lines_of(said, "content: opaque") == [
        'not canonical JSON: "version" stands twice in one object'
    ]


def test_a_document_with_white_space_is_shown_and_said_to_be_not_canonical(
    explain: Explain, tmp_path: Path
) -> None:
    file = tmp_path / "bare"
    file.write_bytes(TARGETS.signed_bytes + b"\n")

    said = explain(file)

    assert said.json["kind"] == "targets"
    assert said.json["problem"]["problem"] == "not-canonical"
    assert "not as it has to be: not canonical JSON: byte" in said.text
    assert any("app/hello.txt" in line for line in lines_of(said, "content: targets v3"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"signed": {"a": 1}, "signed": {"a": 2}, "signatures": []}', "stands twice"),
        ('{"signed": {"a": 1, "a": 2}, "signatures": []}', "stands twice"),
        ('{"signed": {"a": 1.5}, "signatures": []}', "no floats"),
        ('{"signed": {"a": "\\u001b[2J"}, "signatures": []}', "control character"),
        ('{"signed": {"a": "\\ud800"}, "signatures": []}', "surrogate"),
        ('\n {"signed": 12345678901234567890, "signatures": []}', "beyond 64 bits"),
    ],
)
def test_a_metadata_file_whose_signed_part_has_no_canonical_form_is_refused(
    explain: Explain, tmp_path: Path, text: str, why: str
) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)

    said = explain(file)

    assert said.code == 1
    assert said.json["form"] == "unusable"
    assert said.json["sha256"] == ""
    assert said.json["decision"]["refusal"]["reason"] == "CONTENT"
    assert "refused (CONTENT)" in said.text
    assert why in said.text


def test_a_file_that_is_a_document_and_holds_another_is_refused(
    explain: Explain, tmp_path: Path
) -> None:
    """keydctl sign would sign the whole, which is a role to clients; explain showed the inner."""
    inner = json.loads(TARGETS.signed_bytes)
    for name in ("_type", "_TYPE"):
        both = {**ROOT.signed.to_dict(), name: "root", "signed": inner, "signatures": []}
        file = tmp_path / "x.json"
        file.write_text(json.dumps(both))

        said = explain(file)

        assert said.code == 1
        assert "a metadata file and the signed part of one at once" in said.text


@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda at, new: ROOT.to_bytes()[:at] + new + ROOT.to_bytes()[at + len(new) :],
            st.integers(0, len(ROOT.to_bytes())),
            st.binary(min_size=1, max_size=2),
        ),
    )
)
def test_whatever_the_bytes_they_are_read_or_refused_in_words(file: bytes) -> None:
    try:
        reading = read(file)
    except ContentError as e:
        assert e.facts["problem"]
        return
    assert reading.content is not None or reading.problem is not None
    assert reading.is_envelope or reading.payload == file


# ------------------------------------------------------------------------------- changes


def test_grave_changes_are_marked_and_first(explain: Explain, tmp_path: Path) -> None:
    old = write(tmp_path / "1.root.json", ROOT)
    new = write(tmp_path / "2.root.json", a_root(2, ALICE.public_key))

    said = explain(new, "--against", old)

    changed = lines_of(said, "changes: 3, 2 grave (!), since")
    assert changed[0] == "! ~ threshold root: 2 of 2 -> 1 of 1"
    assert changed[1].startswith(f"! - key root: {keyid(BOB)}")
    assert changed[2] == "~ version root: v1 -> v2"
    assert [c["grave"] for c in said.json["changes"]] == [True, True, False]
    assert said.json["against"] == "root v1 (tuf), expires 2030-01-31T00:00:00Z"


def test_nothing_changed_is_said_too(explain: Explain, tmp_path: Path) -> None:
    file = write(tmp_path / "root.json", ROOT)

    said = explain(file, "--against", file)

    assert "changes: 0, since" in said.text
    assert said.json["changes"] == []


@pytest.mark.parametrize("other", [b"no metadata", TBS, b'{"signed": 1.5, "signatures": []}'])
def test_what_cannot_be_compared_with_is_a_wrong_use(
    explain: Explain, tmp_path: Path, other: bytes
) -> None:
    file, old = write(tmp_path / "root.json", ROOT), tmp_path / "old"
    old.write_bytes(other)

    said = explain(file, "--against", old)

    assert said.code == 2
    assert f"--against: {old} is no metadata" in said.text


def test_two_roles_have_no_changes_between_them(explain: Explain, tmp_path: Path) -> None:
    old, file = write(tmp_path / "t.json", TARGETS), write(tmp_path / "root.json", ROOT)

    said = explain(file, "--against", old)

    assert said.code == 2
    assert "root (tuf) is no later version of targets (tuf)" in said.text


def test_changes_of_what_cannot_be_read_are_not_shown_as_none(
    explain: Explain, tmp_path: Path
) -> None:
    old, file = write(tmp_path / "root.json", ROOT), tmp_path / "x"
    file.write_bytes(ROOT.signed_bytes.replace(b'"threshold":2', b'"threshold":0'))

    said = explain(file, "--against", old)

    assert said.json["changes"] is None
    assert "none can be listed" in said.text
    assert "roles.root.threshold" in said.text


# ---------------------------------------------------------------------------- signatures


def states(said: Said) -> list[tuple[str, str, list[str]]]:
    return [(s["keyid"], s["state"], s["sources"]) for s in said.json["signatures"]]


def test_each_signature_is_checked_by_the_keys_at_hand(explain: Explain, tmp_path: Path) -> None:
    old = write(tmp_path / "1.root.json", ROOT)
    metadata = a_root(2, ALICE.public_key, signed_by=[ALICE, BOB, MALLORY])
    file = write(tmp_path / "2.root.json", metadata)
    raw = json.loads(file.read_text())
    raw["signatures"].append({"keyid": "ff", "sig": ""})
    file.write_text(json.dumps(raw))

    said = explain(file, "--against", old)

    assert states(said) == [
        (keyid(ALICE), "valid", ["this file", str(old)]),
        (keyid(BOB), "valid", [str(old)]),
        (keyid(MALLORY), "unknown key", []),
        ("ff", "empty", []),
    ]
    assert said.json["counts"] == [
        {"source": "this file", "role": "root", "signers": 1, "threshold": 1},
        {"source": str(old), "role": "root", "signers": 2, "threshold": 2},
    ]
    assert f"root, as {old} has it: 2 of 2 needed" in said.text


def test_a_signature_over_something_else_is_invalid(explain: Explain, tmp_path: Path) -> None:
    metadata = a_root(2, ALICE.public_key, signed_by=[ALICE])
    metadata.signed.version = 3

    said = explain(write(tmp_path / "root.json", metadata))

    assert states(said) == [(keyid(ALICE), "invalid", ["this file"])]
    assert said.json["counts"][0]["signers"] == 0


def test_a_key_swapped_under_its_id_is_valid_to_the_file_alone(
    explain: Explain, tmp_path: Path
) -> None:
    old = write(tmp_path / "1.root.json", ROOT)
    metadata = a_root(2, renamed(MALLORY, keyid(ALICE)))
    theirs = signed(a_root(2, renamed(MALLORY, keyid(ALICE))), [MALLORY])
    metadata.signatures[keyid(ALICE)] = theirs.signatures[keyid(MALLORY)]
    metadata.signatures[keyid(ALICE)].keyid = keyid(ALICE)

    said = explain(write(tmp_path / "2.root.json", metadata), "--against", old)

    assert states(said) == [
        (keyid(ALICE), "valid", ["this file"]),
        (keyid(ALICE), "invalid", [str(old)]),
    ]
    assert [c["signers"] for c in said.json["counts"]] == [1, 0]
    assert any(line.startswith("! ~ key-object") for line in lines_of(said, "changes:"))


def test_a_root_judges_the_signatures_of_other_roles(explain: Explain, tmp_path: Path) -> None:
    root, file = write(tmp_path / "root.json", ROOT), write(tmp_path / "targets.json", TARGETS)

    said = explain(file, "--against", root)
    as_delegated = explain(file, "--against", root, "--context", "acme:plugins")

    assert states(said) == [(keyid(ALICE), "valid", [str(root)])]
    assert said.json["counts"] == [
        {"source": str(root), "role": "targets", "signers": 1, "threshold": 1}
    ]
    assert said.json["changes"] is None
    assert "changes: none can be listed" in said.text
    assert as_delegated.json["counts"] == []


def test_two_signatures_of_one_key_are_told_and_none_is_believed(
    explain: Explain, tmp_path: Path
) -> None:
    file = write(tmp_path / "root.json", ROOT)
    raw = json.loads(file.read_text())
    raw["signatures"].append(raw["signatures"][0])
    file.write_text(json.dumps(raw))

    said = explain(file)

    assert said.code == 0
    assert said.json["kind"] == "root"
    assert said.json["signatures"] == []
    assert "two signatures of one keyid" in said.json["signatures_problem"]["message"]
    assert "not read: signatures: has two signatures of one keyid" in said.text


def test_a_notary_file_is_read_in_its_own_dialect(explain: Explain, tmp_path: Path) -> None:
    root_key, other_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    holder = notary_made.certificate_key(root_key, "registry/app")
    content = notary_made.root(holder, notary_made.bare_key(other_key), **{"x-note": "<b>"})
    file = tmp_path / "root.json"
    signature = notary_made.signature(root_key, content, holder[0])
    file.write_bytes(notary_made.file(content, signature))

    said = explain(file)

    assert read(file.read_bytes()).payload == notary_made.canonical(content)
    assert said.json["summary"].startswith("root v1 (notary)")
    assert "GUN: registry/app" in lines_of(said, "content:")
    assert states(said) == [(holder[0], "valid", ["this file"])]


# ------------------------------------------------------------------------------------ use


def test_without_a_key_it_has_to_be_offline(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "/dev/null"]) == 2
    assert "give --key, or --offline" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_a_wrong_use(explain: Explain, tmp_path: Path) -> None:
    assert explain(tmp_path / "none").code == 2


def test_a_signer_of_any_kind_that_keyd_knows_is_checked(explain: Explain, tmp_path: Path) -> None:
    signers = [CryptoSigner.generate_rsa(), ALICE, BOB]
    keys = [s.public_key for s in signers]
    file = write(tmp_path / "root.json", a_root(1, *keys, threshold=3, signed_by=signers))

    said = explain(file)

    assert [s["state"] for s in said.json["signatures"]] == ["valid"] * 3
    assert said.json["counts"][0]["signers"] == 3
