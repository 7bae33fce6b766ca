"""A file that is replaced is never seen half."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyd.durable import replacing


def test_the_old_content_stands_until_the_new_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    with replacing(file, prefix=".new-", mode=0o640) as stream:
        stream.write(b"new")
        stream.flush()
        meanwhile = file.read_bytes()

    assert (meanwhile, file.read_bytes()) == (b"old", b"new")
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    with pytest.raises(KeyboardInterrupt), replacing(file, prefix=".new-") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt

    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_was_not_there_is_private_unless_asked(tmp_path: Path) -> None:
    with replacing(tmp_path / "file", prefix=".new-") as stream:
        stream.write(b"new")

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
