"""The one form in which notary-server hashes metadata as it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from keyd.adapters.notary import changes, metadata
from keyd.adapters.notary.changes import Change
from keyd.content.envelope import FileSignature, parse
from keyd.errors import RepositoryError

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
DIGESTS = {"sha256": b"\1" * 32}


def a_draft(name: str = "v1", custom: object = None) -> metadata.Draft:
    draft = metadata.new_targets("targets", metadata.expiry("targets", NOW))
    changes.apply(draft.signed, "targets", [changes.add("targets", name, 1, DIGESTS, custom)])
    return draft


def test_the_file_escapes_what_go_escapes_and_the_signature_covers_the_bare_form() -> None:
    draft = a_draft("a&b<c>\u2028\u2029é")

    file = draft.file()

    assert b"a\\u0026b\\u003cc\\u003e\\u2028\\u2029\xc3\xa9" in file
    assert "a&b<c>\u2028\u2029é".encode() in draft.payload
    assert parse(file).payload == draft.payload


def test_members_stand_in_the_order_of_the_server() -> None:
    draft = a_draft()
    draft.signatures.append(FileSignature("ab", "ecdsa", b"\1" * 64))

    file = draft.file()

    assert file.startswith(b'{"signed":{"_type":"Targets","delegations":')
    assert b'"signatures":[{"keyid":"ab","method":"ecdsa","sig":"AQEB' in file
    assert b" " not in file


def test_the_end_has_no_fraction() -> None:
    assert metadata.expiry_text(NOW) == "2026-03-01T12:00:00Z"
    assert b'"expires":"2029-02-28T12:00:00Z"' in a_draft().payload


def test_what_the_server_would_drop_is_refused() -> None:
    draft = a_draft()
    draft.signed["x-note"] = 1

    with pytest.raises(RepositoryError, match="x-note"):
        draft.file()


@pytest.mark.parametrize("name", ["a\nb", "a\tb"])
def test_control_characters_are_refused(name: str) -> None:
    with pytest.raises(RepositoryError, match="control character"):
        a_draft(name).file()


def test_custom_data_is_signed_in_canonical_order() -> None:
    file = a_draft(custom={"note": "x", "a": 7}).file()

    assert b'"custom":{"a":7,"note":"x"}' in file


def test_another_number_or_end_takes_signatures_away() -> None:
    draft = a_draft()
    draft.signatures.append(FileSignature("ab", "ecdsa", b"\1" * 64))
    draft.renumber(7)

    assert (draft.version, draft.signatures) == (7, [])


def test_the_same_content_is_known_under_another_number() -> None:
    one, two = a_draft(), a_draft()
    two.renumber(9)
    two.expire(NOW)

    assert one.says() == two.says()
    assert one.says() != a_draft("v2").says()


def a_key(letter: str) -> dict[str, object]:
    value = {"keytype": "ecdsa", "keyval": {"private": None, "public": letter}}
    return {"keyid": letter, "value": value}


def test_changes_say_what_shall_be() -> None:
    signed = a_draft().signed
    staged = [
        Change("delegate", "targets", "targets/a", {"keys": [a_key("k"), a_key("l")], "paths": []}),
        Change("delegate", "targets", "targets/a", {"keys": [a_key("k")], "paths": ["p/"]}),
        Change("delegate", "targets", "targets/a/b", {"keys": [a_key("m")], "paths": [""]}),
        Change("remove", "targets", "v1"),
        Change("remove", "targets", "v9"),
        Change("remove", "targets/other", "v1"),
    ]

    notes = changes.apply(signed, "targets", staged)

    roles = signed["delegations"]["roles"]
    assert [(r["name"], r["keyids"], r.get("paths")) for r in roles] == [
        ("targets/a", ["k", "l"], ["p/"]),
        ("targets/a/b", ["m"], [""]),
    ]
    assert signed["targets"] == {}
    assert notes == ["targets does not sign v9: nothing to remove"]
    changes.apply(signed, "targets", [Change("undelegate", "targets", "targets/a", {"paths": []})])
    cut = Change("undelegate", "targets", "targets/a", {"keyids": ["l"], "paths": ["p/"]})
    changes.apply(signed, "targets", [cut])
    assert "paths" not in signed["delegations"]["roles"][0]  # Go leaves an empty list out
    assert sorted(signed["delegations"]["keys"]) == ["k", "m"]
    changes.apply(signed, "targets", [Change("undelegate", "targets", "targets/a")])
    assert signed["delegations"] == {"keys": {}, "roles": []}


def test_a_delegation_without_a_key_is_none() -> None:
    with pytest.raises(RepositoryError, match="needs a key"):
        changes.apply(
            a_draft().signed,
            "targets",
            [Change("delegate", "targets", "targets/a", {"keys": [], "paths": [""]})],
        )


def test_staged_changes_survive_being_written() -> None:
    staged = [
        changes.add("targets", "v1", 1, DIGESTS, {"a": [1]}),
        Change("remove", "targets", "x"),
    ]

    assert changes.read(changes.write(staged)) == staged
    assert changes.write([]) is None
    assert changes.read(None) == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format":2,"changes":[]}', b'{"format":1}'])
def test_foreign_staged_changes_are_refused(content: bytes) -> None:
    with pytest.raises(RepositoryError):
        changes.read(content)


def test_a_snapshot_names_size_and_both_hashes() -> None:
    said = metadata.meta_of(b"x")

    assert said["length"] == 1
    assert set(said["hashes"]) == {"sha256", "sha512"}
    json.dumps(said)
