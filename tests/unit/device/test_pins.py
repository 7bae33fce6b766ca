"""PIN sources: what is read, and what is refused without telling the PIN."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keyd.device.pins import PinSource, PinTag
from keyd.errors import InvalidRequestError, TokenLockedError
from keyd.model import Pin


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"1234", b"1234\n", b"1234\r\n"])
def test_one_newline_at_the_end_is_not_part_of_the_pin(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "pin", content)

    assert PinSource("main", f"file:{path}", {}).read().reveal() == "1234"


def test_blanks_belong_to_the_pin(tmp_path: Path) -> None:
    path = write(tmp_path / "pin", b" 12 34 \n")

    assert PinSource("main", f"file:{path}", {}).read().reveal() == " 12 34 "


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_file_that_others_can_get_at_is_refused_with_the_command_that_helps(
    tmp_path: Path, mode: int
) -> None:
    path = write(tmp_path / "pin", b"1234", mode)

    with pytest.raises(TokenLockedError) as refused:
        PinSource("main", f"file:{path}", {}).read()

    assert refused.value.hint == f"chmod 600 {path}"
    assert f"{mode:04o}" in refused.value.message


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"9" * 2000, b"\xff\xfe12345"], ids=["empty", "line", "long", "latin"]
)
def test_a_file_without_a_pin_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "pin", content)

    with pytest.raises(TokenLockedError) as refused:
        PinSource("main", f"file:{path}", {}).read()

    assert "does not hold a PIN" in refused.value.message
    assert "12345" not in refused.value.message and "999" not in refused.value.message
    assert refused.value.__cause__ is None


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "absent", "No such file"), (tmp_path, "")):
        with pytest.raises(TokenLockedError) as refused:
            PinSource("main", f"file:{path}", {}).read()
        assert str(path) in refused.value.message and why in refused.value.message


def test_a_fifo_in_place_of_the_file_does_not_hang_the_daemon(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pin", 0o600)

    with pytest.raises(TokenLockedError):
        PinSource("main", f"file:{tmp_path / 'pin'}", {}).read()


def test_a_credential_is_a_file_in_the_credentials_directory_whatever_its_group_bits(
    tmp_path: Path,
) -> None:
    write(tmp_path / "main-pin", b"1234", 0o440)
    source = PinSource("main", "credential:main-pin", {"CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert source.read().reveal() == "1234"


@pytest.mark.parametrize("name", ["../pin", "/etc/passwd", ".."])
def test_a_credentials_name_cannot_leave_the_directory(tmp_path: Path, name: str) -> None:
    write(tmp_path / "pin", b"1234")
    folder = tmp_path / "credentials"
    folder.mkdir()
    source = PinSource("main", f"credential:{name}", {"CREDENTIALS_DIRECTORY": str(folder)})

    with pytest.raises(TokenLockedError) as refused:
        source.read()

    assert "not a credential's name" in refused.value.message


def test_a_credential_without_systemd_says_what_is_missing() -> None:
    with pytest.raises(TokenLockedError) as refused:
        PinSource("main", "credential:pin", {}).read()

    assert "CREDENTIALS_DIRECTORY" in refused.value.message
    assert "LoadCredential=pin" in refused.value.hint


def test_prompt_has_nothing_to_read() -> None:
    source = PinSource("main", "prompt", {})

    assert source.is_prompt
    with pytest.raises(InvalidRequestError):
        source.read()


def test_a_tag_knows_its_pin_and_shows_nothing_of_it() -> None:
    tag = PinTag()
    assert not tag.matches(Pin(""))
    tag.remember(Pin("1234"))

    assert tag.matches(Pin("1234")) and not tag.matches(Pin("12345"))
    assert not any("1234" in repr(value) for value in vars(tag).values())
    tag.forget()
    assert not tag.matches(Pin("1234"))
