"""docs/audit.md tells of every field and of every action word that an entry can have."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from keyd.audit import entry
from keyd.model import (
    Action,
    Caller,
    Context,
    Digest,
    EntryDraft,
    HashAlgorithm,
    Outcome,
    Principal,
    Statement,
)

ROOT = Path(__file__).parents[3]
WORD = re.compile(r"`([a-z_0-9]+)`")
ACTION = re.compile(r"^'([a-z-]+)'$")
NOW = datetime(2026, 1, 2, tzinfo=UTC)

FULL = EntryDraft(
    action="sign",
    outcome=Outcome.REFUSED,
    caller=Caller(
        Principal("uri:x", "mtls", is_group=True, fingerprint="ab", peer="192.0.2.1"), "request"
    ),
    key="acme/root",
    version=1,
    keyid="cd",
    fingerprint="ef",
    token="online",
    token_serial="01",
    scheme="ed25519",
    encoding="raw",
    digest=Digest(HashAlgorithm.SHA256, bytes(32)),
    signature_sha256="23",
    statement=Statement("root", "tuf", 1, "2027-01-01T00:00:00Z", "root 1"),
    context=Context("acme", "root"),
    rule="grant 1",
    policy_hash="45",
    reason_code="POLICY_DENIED",
    said="because",
    message="no",
    count=2,
    alert=True,
    details={"a": "b"},
)


def rows() -> dict[str, str]:
    """The table of fields: first column -> second."""
    table = (ROOT / "docs" / "audit.md").read_text().split("## Entries")[1].split("\n\n")[2]
    cells = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return {first.strip(): second.strip() for first, second in cells}


def documented_actions() -> set[str]:
    """The action words of the table."""
    return set(rows()["`action`"].split(", "))


NO_ENTRIES = ("v1", "adapters", "client", "content", "policy", "rules")
"""Folders whose code writes no entries; some of their words are parameters called action too."""

ASKS = ("EntryFilter", "decide", "may", "never")
"""What has a parameter called action and writes none of it down."""


def sources() -> Iterator[ast.Module]:
    """The modules of keyd that entries can come from."""
    for path in sorted((ROOT / "keyd").rglob("*.py")):
        if not set(NO_ENTRIES) & set(path.parts):
            yield ast.parse(path.read_text(), str(path))


def parameters(node: ast.AST) -> tuple[str, list[str]] | None:
    """What can be called, and its positional parameters without self; None for another node."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name.lstrip("_"), [arg.arg for arg in node.args.args if arg.arg != "self"]
    if isinstance(node, ast.ClassDef):
        fields = [n.target for n in node.body if isinstance(n, ast.AnnAssign)]
        return node.name, [field.id for field in fields if isinstance(field, ast.Name)]
    return None


def words(node: ast.expr) -> Iterator[str]:
    """The texts an argument can be, where the source says them."""
    if isinstance(node, ast.Constant):
        yield from ACTION.findall(repr(node.value))
    elif isinstance(node, ast.IfExp):
        yield from words(node.body)
        yield from words(node.orelse)
    elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Action":
        yield Action[node.attr].value


def name_of(node: ast.expr) -> str:
    """The last part of what is called or handed on; a room may keep it under a private name."""
    return ast.unparse(node).rsplit(".", 1)[-1].lstrip("_")


def calls(module: ast.Module) -> Iterator[tuple[str, list[ast.expr], list[ast.keyword]]]:
    """What is called with what; also what is handed on to be called, with what follows it."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            yield name_of(node.func), node.args, node.keywords
            for at, argument in enumerate(node.args):
                if isinstance(argument, ast.Attribute):
                    yield name_of(argument), node.args[at + 1 :], []


def written_actions() -> set[str]:
    """The words that keyd's own code hands to any parameter called ``action``."""
    modules = list(sources())
    places: dict[str, int] = {}
    for module in modules:
        for node in ast.walk(module):
            found = parameters(node)
            if found and "action" in found[1] and found[0] not in ASKS:
                places[found[0]] = found[1].index("action")
    written: set[str] = set()
    for module in modules:
        for name, arguments, keywords in calls(module):
            if name in places:
                given = [k.value for k in keywords if k.arg == "action"]
                for argument in given or arguments[places[name] :][:1]:
                    written.update(words(argument))
    return written


def test_the_table_of_fields_is_what_an_entry_holds() -> None:
    fields = json.loads(entry.entry_body(1, NOW, FULL, clock=NOW))

    assert {word for first in rows() for word in WORD.findall(first)} == set(fields)


def test_the_table_tells_the_parts_of_a_statement_and_a_context() -> None:
    fields = json.loads(entry.entry_body(1, NOW, FULL))

    assert set(WORD.findall(rows()["`statement`"])) == set(fields["statement"])
    assert set(WORD.findall(rows()["`context`"])) == set(fields["context"])


def test_the_module_lists_the_same_fields() -> None:
    assert entry.__doc__ is not None
    listed = re.findall(r"^``([a-z_0-9]+)``  ", entry.__doc__, re.MULTILINE)

    assert listed == sorted(word for first in rows() for word in WORD.findall(first))


def test_every_action_that_is_written_is_in_the_table_and_no_other() -> None:
    assert documented_actions() == written_actions()
