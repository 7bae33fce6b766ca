"""Every step of the real notary against the real notary-server, with keyd as its signer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.notary_programs import PRINCIPAL, TABLES, Sandbox, a_port, running
from tests.notary_steps import STEPS
from tests.notary_walk import GUN, Walk
from tests.postgres import Postgres
from tests.private_keys import private_keys
from tests.trust_stage import TRUST_POLICY, Person

pytestmark = pytest.mark.softhsm


@contextmanager
def a_storage(kind: str) -> Iterator[tuple[dict[str, str], list[Path]]]:
    """notary-server's, and the folders it writes to."""
    if kind == "memory":
        yield {"backend": "memory"}, []
        return
    with Postgres(a_port()) as postgres:
        postgres.query("CREATE DATABASE notary")
        postgres.query(TABLES, "notary")
        data = Path(postgres.query("SHOW data_directory"))
        yield {"backend": "postgres", "db_url": postgres.url("notary")}, [data]


@pytest.mark.parametrize("kind", ["memory", "postgres"])
def test_notary_and_notary_server_go_all_their_steps_with_keyd_as_signer(
    tmp_path: Path, kind: str
) -> None:
    with (
        a_storage(kind) as (storage, folders),
        running(Sandbox(tmp_path, storage=storage, policy=TRUST_POLICY)) as sandbox,
    ):
        assert sandbox.get("/_notary_server/health") == (200, b"{}")
        walk = Walk(sandbox, sandbox.client("alice"))
        for number, (name, do) in enumerate(STEPS, 1):
            try:
                do(walk)
            except BaseException as e:
                e.add_note(f"in step {number}, {name}; notary-server:\n{sandbox.server.tail()}")
                raise
        assert_the_log_knows_every_signature(walk)
        assert_keys_are_where_they_belong(walk, folders)
    assert len(STEPS) >= 43


def assert_the_log_knows_every_signature(walk: Walk) -> None:
    """One entry for each that notary-server got, none besides, and a log that verifies."""
    entries = [e for e in walk.sandbox.entries() if str(e["key"]).startswith(f"notary/{GUN}/")]
    assert {(e["outcome"], e["principal"]) for e in entries} == {("allowed", PRINCIPAL)}
    assert "alice" not in json.dumps(entries)
    assert sorted(str(e["signature_sha256"]) for e in entries) == sorted(walk.signed)
    assert len({str(e["key"]) for e in entries}) == 4

    auditor = Person(walk.sandbox, walk.sandbox.folder / "auditor")
    files = auditor.folder / "served"
    files.mkdir()
    for body in walk.signed.values():
        document: Any = json.loads(body)["signed"]
        name = f"{document['version']}.{document['_type'].lower()}.json"
        (files / name).write_bytes(body)
    found = answer(auditor, "audit", "find", files)
    assert found["accounted"]
    assert [each["standing"] for each in found["signatures"]] == ["logged"] * len(entries)
    export, log_key = auditor.folder / "log.jsonl", auditor.folder / "log.key"
    answer(auditor, "audit", "export", "-o", export)
    log_key.write_bytes(auditor.run("audit", "log-key").stdout)
    assert answer(auditor, "audit", "verify", export, "--log-key", log_key)["verified"]


def answer(person: Person, *words: str | Path) -> Any:
    """What keydctl says with --json."""
    done = person.run(*words, "--json")
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return json.loads(done.stdout)


def assert_keys_are_where_they_belong(walk: Walk, folders: list[Path]) -> None:
    """In alice's folder, who has them in files; and the servers' own, of TLS."""
    sandbox = walk.sandbox
    files = {found.file for found in private_keys(sandbox.folder, *folders)}
    hers = {file for file in files if file.is_relative_to(walk.alice.folder)}
    assert any(file.name == "mine-key.pem" for file in hers)
    assert {file.parent for file in files - hers} == {sandbox.certificates.folder}
