"""What examine promises: parse and read in one pass, and never an exception."""

from __future__ import annotations

import pytest

from keyd import content
from keyd.content import canonical
from keyd.content.documents import Targets
from tests.tuf_documents import ALICE, a_root, a_targets

SIGNED = a_targets(7, "file").signed


def payload(**changes: object) -> bytes:
    return canonical.encode(SIGNED.to_dict() | changes)


def test_it_finds_what_parse_and_read_find() -> None:
    reading = content.examine(payload())

    assert isinstance(reading.content, Targets)
    assert reading.content == content.parse(payload())
    assert reading.statement == content.read(payload())
    assert reading.problem is None


@pytest.mark.parametrize(
    ("text", "problem", "kind"),
    [
        (b"", "not-json", "opaque"),
        (b"\x30\x03abc", "not-der", "opaque"),
        (b"hello", "not-json", "opaque"),
        (payload() + b" ", "not-canonical", "targets"),
        (payload(targets=[]), "field", "targets"),
        (payload(_TYPE="root"), "duplicate-key", "opaque"),
    ],
)
def test_what_parse_refuses_is_a_problem_with_what_read_makes_of_it(
    text: bytes, problem: str, kind: str
) -> None:
    reading = content.examine(text)

    assert reading.content is None
    assert reading.problem is not None
    assert reading.problem.facts["problem"] == problem
    assert reading.statement.kind == kind


def test_the_summary_of_a_root_tells_its_thresholds() -> None:
    root = canonical.encode(a_root(1, ALICE.public_key).signed.to_dict())

    assert "root 1 of 1" in content.examine(root).statement.summary
