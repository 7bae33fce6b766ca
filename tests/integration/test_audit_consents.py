"""keydctl audit verify on signed consents: by the right person, and to what the entry says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyd import sshsig
from keyd.cli.keydctl import run
from keyd.model import Approval, Context, Digest, HashAlgorithm
from tests.scripted_daemon import ScriptedDaemon

ALICE = "email:alice@example.org"
DIGEST = Digest.of(HashAlgorithm.SHA256, b"root 2")


def an_approval(**changed: object) -> Approval:
    fields: dict[str, object] = {
        "id": "ap-1",
        "action": "sign",
        "subject": "acme/root",
        "key_version": 1,
        "repository": "acme",
        "role": "root",
        "metadata_version": 2,
        "digest": DIGEST.value,
        "summary": "root 2",
        "requester": "email:bob@example.org",
        "requirements": (),
        "why": (),
        "said": "",
        "created_at": datetime(2026, 3, 1, tzinfo=UTC),
        "expires_at": datetime(2026, 3, 2, tzinfo=UTC),
    }
    return Approval(**(fields | changed))  # type: ignore[arg-type]


class Bench:
    """A log with signed consents in it, its export, and the command that verifies it."""

    def __init__(self, folder: Path, daemon: ScriptedDaemon, keys: Path) -> None:
        self.folder, self.daemon, self.keys = folder, daemon, keys
        daemon.principal = ALICE
        daemon.record("create", key="acme/root")

    def consent(
        self, key: str = "alice", *, signed: Approval | None = None, entry: Approval | None = None
    ) -> None:
        """An entry about ``entry`` that holds a signature over ``signed``."""
        about = entry or an_approval()
        text = (signed or about).consent_text(ALICE).decode()
        signature = sshsig.sign(text.encode(), self.keys / key)
        parts = [signature[at : at + 100] for at in range(0, len(signature), 100)]
        public = (self.keys / f"{key}.pub").read_text()
        self.daemon.record(
            "approve",
            key=about.subject,
            version=about.key_version,
            digest=Digest(HashAlgorithm.SHA256, about.digest),
            context=Context(about.repository, about.role),
            details={
                "approval": about.id,
                "asked": about.action,
                "requester": about.requester,
                "expires": about.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "metadata_version": str(about.metadata_version or ""),
                "consent_text": text[:200],
                "consent_text_2": text[200:],
                "consent_signer": sshsig.verify(text.encode(), signature, ALICE, [public]),
            }
            | {f"consent_signature_{n}": part for n, part in enumerate(parts, 1)},
        )

    def signers(self, *keys: str) -> Path:
        file = self.folder / "allowed_signers"
        lines = [f"{ALICE} {(self.keys / f'{key}.pub').read_text()}" for key in keys]
        file.write_text("".join(lines))
        return file

    def verify(self, *options: object) -> int:
        endpoint = ["--endpoint", self.daemon.endpoint]
        export, key = self.folder / "log.jsonl", self.folder / "log.key"
        assert run(["audit", "log-key", "-o", str(key), *endpoint]) == 0
        assert run(["audit", "export", "-o", str(export), *endpoint]) == 0
        words = ["audit", "verify", export, "--log-key", key, *options]
        return int(run([str(word) for word in words]))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("alice", "mallory"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True, timeout=30, stdin=subprocess.DEVNULL)
    return folder


@pytest.fixture
def bench(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with ScriptedDaemon(tmp_path) as daemon:
        yield Bench(tmp_path, daemon, keys)


def test_signed_consents_are_counted_and_verified(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.consent()
    bench.consent(entry=an_approval(id="ap-2"))

    unchecked = bench.verify()
    said = capfd.readouterr().out
    checked = bench.verify("--allowed-signers", bench.signers("alice"))
    said_then = capfd.readouterr().out
    assert bench.verify("--allowed-signers", bench.signers("alice"), "--json") == 0
    found = json.loads(capfd.readouterr().out.partition("\n{")[2].join(["{", ""]))

    assert (unchecked, checked) == (0, 0)
    assert "signed consents not checked (--allowed-signers): 2" in said
    assert "; 2 signed consents verified" in said_then
    assert (found["consents"], found["consents_verified"]) == (2, True)


def test_a_consent_by_a_key_that_is_not_the_persons_is_found(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.consent("mallory")

    assert bench.verify("--allowed-signers", bench.signers("alice")) == 1
    assert "the signed consent in entry 1 does not verify" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"id": "ap-9"}, "approval"),
        ({"digest": bytes(32)}, "digest"),
        ({"subject": "acme/other"}, "key"),
        ({"key_version": 2}, "key_version"),
        ({"metadata_version": 3}, "metadata_version"),
        ({"role": "targets"}, "role"),
        ({"repository": "other"}, "repository"),
        ({"requester": "email:mallory@example.org"}, "requester"),
        ({"action": "destroy"}, "action"),
        ({"expires_at": datetime(2027, 3, 2, tzinfo=UTC)}, "expires"),
    ],
)
def test_a_consent_that_was_given_to_something_else_is_found(
    bench: Bench, capfd: pytest.CaptureFixture[str], change: dict[str, object], word: str
) -> None:
    bench.consent(signed=an_approval(**change))

    assert bench.verify("--allowed-signers", bench.signers("alice")) == 1
    assert f"signed was consent with {word} " in capfd.readouterr().err


def test_a_key_counts_for_the_time_it_was_the_persons(bench: Bench) -> None:
    bench.consent()
    public = (bench.keys / "alice.pub").read_text()
    file = bench.folder / "allowed_signers"

    file.write_text(f'{ALICE} valid-before="20260401Z" {public}')
    then = bench.verify("--allowed-signers", file)
    file.write_text(f'{ALICE} valid-before="20260201Z" {public}')
    too_late = bench.verify("--allowed-signers", file)

    assert (then, too_late) == (0, 1)
