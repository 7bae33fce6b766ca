"""Reading metadata files for audit find."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from securesystemslib.formats import encode_canonical

from keyd import publickeys
from keyd.cli.signedfiles import canonical, find_files, read
from keyd.errors import InvalidRequestError
from keyd.model import KeyAlgorithm
from tests.scripted_daemon import der, generate

SIGNED = {"_type": "targets", "version": 3, "nested": {"b": [1, None, True, 'q"\\'], "a": "é\n"}}


def write(file: Path, signed: object, *signatures: dict[str, str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"signed": signed, "signatures": list(signatures)}))
    return file


def test_canonical_form_is_that_of_securesystemslib() -> None:
    assert canonical(SIGNED).decode() == encode_canonical(SIGNED)


def test_a_float_has_no_canonical_form(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError):
        read(write(tmp_path / "x.json", {"version": 1.5}))


def test_tuf_writes_signatures_in_hex_and_notary_in_base64(tmp_path: Path) -> None:
    tuf = {"keyid": "a", "sig": "00ff"}
    notary = {"keyid": "b", "sig": base64.b64encode(b"\xff\xfe").decode(), "method": "ecdsa"}

    found = read(write(tmp_path / "x.json", SIGNED, tuf, notary))

    assert [(s.keyid, s.signature) for s in found.signatures] == [
        ("a", b"\x00\xff"),
        ("b", b"\xff\xfe"),
    ]


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.ECDSA_P256, KeyAlgorithm.ED25519])
@pytest.mark.parametrize("dialect", ["tuf", "notary"])
def test_keys_in_both_dialects_and_in_delegations_are_found(
    tmp_path: Path, algorithm: KeyAlgorithm, dialect: str
) -> None:
    public = der(generate(algorithm))
    key = (
        publickeys.tuf_key(public, algorithm.schemes[0])
        if dialect == "tuf"
        else json.loads(publickeys.notary_key(public))
    )

    root = read(write(tmp_path / "r.json", {"keys": {"own-id": key, "odd": {"keyval": 7}}}))
    targets = read(write(tmp_path / "t.json", {"delegations": {"keys": {"own-id": key}}}))

    assert root.keys == targets.keys == {"own-id": public}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"signed": {}}', '{"signed":{},"signatures":7}', "{"]
)
def test_what_is_no_metadata_is_an_error_by_name_and_skipped_in_a_folder(
    tmp_path: Path, text: str
) -> None:
    other = tmp_path / "package.json"
    other.write_text(text)

    with pytest.raises(InvalidRequestError) as e:
        find_files(other)
    with pytest.raises(InvalidRequestError):
        find_files(tmp_path)
    wanted = write(tmp_path / "metadata" / "1.root.json", SIGNED)

    assert "package.json" in e.value.message
    assert [f.path for f in find_files(tmp_path)] == [wanted]
