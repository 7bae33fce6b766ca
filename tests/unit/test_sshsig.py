"""Consent signed by a person's own OpenSSH key, with the real ssh-keygen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd import sshsig
from keyd.errors import InvalidRequestError

ALICE = "email:alice@example.org"
TEXT = b'{"approval":"ap-1","principal":"email:alice@example.org"}'


def a_key(folder: Path, name: str, kind: str = "ed25519") -> Path:
    file = folder / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", str(file)],
        check=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    return file


def public(key: Path) -> str:
    return Path(f"{key}.pub").read_text()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("ssh")
    yield a_key(folder, "alice"), a_key(folder, "mallory")


def test_a_signature_names_the_key_that_made_it(keys: tuple[Path, Path]) -> None:
    alice, mallory = keys
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", f"{alice}.pub"], check=True, capture_output=True, timeout=30
    )

    signature = sshsig.sign(TEXT, alice)
    found = sshsig.verify(TEXT, signature, ALICE, [public(mallory), public(alice)])

    assert found == shown.stdout.decode().split()[1]


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_every_kind_of_key_will_do(tmp_path: Path, kind: str) -> None:
    key = a_key(tmp_path, "key", kind)

    found = sshsig.verify(TEXT, sshsig.sign(TEXT, key), ALICE, [public(key)])

    assert found.startswith("SHA256:")


def test_signing_leaves_no_file_behind(tmp_path: Path) -> None:
    key = a_key(tmp_path, "key")
    before = sorted(tmp_path.iterdir())

    sshsig.sign(TEXT, key)

    assert sorted(tmp_path.iterdir()) == before


def refused(text: bytes, signature: str, principal: str, listed: list[str]) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        sshsig.verify(text, signature, principal, listed)
    assert caught.value.facts["field"] == "signature"
    return caught.value


def test_consent_moved_to_another_text_is_refused(keys: tuple[Path, Path]) -> None:
    alice, _ = keys
    signature = sshsig.sign(TEXT, alice)

    assert "incorrect signature" in str(refused(TEXT + b" ", signature, ALICE, [public(alice)]))


def test_a_key_that_is_not_listed_is_refused(keys: tuple[Path, Path]) -> None:
    alice, mallory = keys

    refused(TEXT, sshsig.sign(TEXT, mallory), ALICE, [public(alice)])


def test_a_signature_made_for_another_purpose_is_refused(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    alice, _ = keys
    text = tmp_path / "text"
    text.write_bytes(TEXT)
    subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-q", "-n", "git", "-f", str(alice), str(text)],
        check=True,
        timeout=30,
    )

    refused(TEXT, Path(f"{text}.sig").read_text(), ALICE, [public(alice)])


@pytest.mark.parametrize(
    "signature", ["", "nonsense", "-----BEGIN SSH SIGNATURE-----\n", "x" * 100_000, "\u00e9"]
)
def test_what_is_no_signature_is_refused(keys: tuple[Path, Path], signature: str) -> None:
    refused(TEXT, signature, ALICE, [public(keys[0])])


@pytest.mark.parametrize(
    "principal", ["*", "email:*@example.org", "a b", "a\nb", 'a"', "!x", "a,b", "", "#x"]
)
def test_a_principal_that_would_be_a_pattern_is_refused(
    keys: tuple[Path, Path], principal: str
) -> None:
    refused(TEXT, sshsig.sign(TEXT, keys[0]), principal, [public(keys[0])])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-ed25519",
        "cert-authority {key}",
        'namespaces="git" {key}',
        "no-key-at-all here",
    ],
)
def test_a_listed_line_that_is_no_bare_public_key_counts_for_nobody(
    keys: tuple[Path, Path], line: str
) -> None:
    key = public(keys[0])

    error = refused(TEXT, sshsig.sign(TEXT, keys[0]), ALICE, [line.format(key=key.strip())])

    assert "no key listed" in str(error)


def test_a_second_line_in_a_listed_key_lets_nobody_else_in(keys: tuple[Path, Path]) -> None:
    alice, mallory = keys
    line = f"{public(alice).strip()}\n{ALICE} {public(mallory)}"

    refused(TEXT, sshsig.sign(TEXT, mallory), ALICE, [line])


def test_a_file_that_is_no_key_is_said_to_be_none(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("hello")

    with pytest.raises(InvalidRequestError, match="could not sign") as caught:
        sshsig.sign(TEXT, file)
    with pytest.raises(InvalidRequestError, match="no key file"):
        sshsig.sign(TEXT, tmp_path / "missing")

    assert "ssh-keygen -t ed25519" in caught.value.hint


def test_a_machine_without_ssh_keygen_is_told_which_package_to_install(tmp_path: Path) -> None:
    asked = (
        "from keyd import errors, sshsig\n"
        "try:\n"
        f"    sshsig.verify(b'x', 'y', {ALICE!r}, ['ssh-ed25519 AAAAC3'])\n"
        "except errors.InvalidRequestError as e:\n"
        "    print(e, e.hint)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", asked],
        env={"PATH": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert "no ssh-keygen on this machine" in done.stdout
    assert "openssh-client" in done.stdout
