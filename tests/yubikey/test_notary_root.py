"""A root key that notary put on a YubiKey: made in software, backed up on disk, imported into slot
9c with a certificate CN=root. Real notary made it, real notary-server and notary see what comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyd import publickeys
from keyd.adapters.notary import oldkeys
from tests.e2e.daemon_process import DaemonProcess
from tests.notary_client import PASSPHRASE, NotaryClient
from tests.notary_programs import Sandbox, running
from tests.trust_stage import TRUST_POLICY, Person, Stage
from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FACTORY_PIN, SIGNATURE_SLOT, Model
from tests.yubikey.worker import Worker

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(180)]

GUNS = [f"localhost:5000/team/app{n}" for n in range(4)]
_TOKEN = """
[[token]]
name = "yubi"
module = "{module}"
serial = "{serial}"
pin = "file:{pin}"
"""


@dataclass(frozen=True)
class Place:
    """Collections whose root key is on the YubiKey, and nowhere else any more."""

    stage: Stage
    owner: NotaryClient
    key: EmulatedKey
    key_id: str

    def alice(self, *words: str | Path, code: int = 0) -> Any:
        """keydctl trust by somebody who administers keyd, with the owner's trust directory."""
        person = self.stage.person()
        return person(*words, "-d", self.owner.folder / "trust", code=code)

    @property
    def ctl(self) -> Person:
        return self.stage.person()

    def adopted(self) -> str:
        """The key, registered."""
        shown = self.ctl.run("key", "show", "legacy/root", "--json")
        if shown.returncode:
            words = ("legacy/root", "--token", "yubi", "--slot", "9c")
            done = self.ctl.run("key", "adopt", *words)
            assert done.returncode == 0, done.stderr
        return "legacy/root"


@pytest.fixture(scope="module")
def place(ykcs11: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("y")
    pin = folder / "yubi-pin"
    pin.touch(mode=0o600)
    pin.write_text(FACTORY_PIN)
    with Bench.start() as bench, Worker(bench.environment) as worker:
        key = bench.add(Model(1234567))
        token = _TOKEN.format(module=ykcs11, serial=key.serial, pin=pin)
        sandbox = Sandbox(folder, policy=TRUST_POLICY, settings=token)
        config = ("--config", str(sandbox.folder / "keyd.toml"))
        sandbox.keyd = DaemonProcess(
            sandbox.folder / "daemon", *config, command=("run",), env=bench.environment
        )
        owner = sandbox.client("owner")
        owner("key", "generate", "ecdsa")
        backup = _put_on(key, worker, owner)
        with running(sandbox):
            for gun in GUNS:
                owner("init", gun, "-p")
                owner("add", gun, "v1", owner.file("v1", "one"), "-p")
            backup.path.unlink()
            stage = Stage(sandbox)
            stage.registry.start()
            try:
                yield Place(stage, owner, key, backup.key_id)
            finally:
                stage.registry.stop()


def _put_on(key: EmulatedKey, worker: Worker, owner: NotaryClient) -> oldkeys.KeyFile:
    """The owner's root key, on the YubiKey as notary lays it out: the backup that is left."""
    (file,) = (f for f in oldkeys.find(owner.folder / "trust") if f.role == "root")
    private = oldkeys.unlock(file, PASSPHRASE)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    order = (key.serial, FACTORY_MANAGEMENT_KEY, SIGNATURE_SLOT)
    spki = worker.call(by_yubikit.import_p256, *order, private.private_numbers().private_value)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=3650))
        .sign(private, hashes.SHA256())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    worker.call(by_yubikit.put_certificate, *order, der)
    assert publickeys.notary_keyid(spki) == file.key_id
    return file


def test_a_root_key_on_a_yubikey_is_found_and_has_to_be_registered_to_sign(place: Place) -> None:
    gun = GUNS[0]

    planned = place.alice("migrate", gun, "--dry-run", code=1)
    refused = place.alice("migrate", gun, code=1)["error"]
    shown = place.ctl.run(
        "trust", "migrate", gun, "--dry-run", "-d", str(place.owner.folder / "trust")
    )

    (root,) = (key for key in planned["keys"] if key["role"] == "root")
    assert (root["where"], root["token"], root["key_version"]) == ("yubikey", "yubi", "")
    assert root["key_id"] == place.key_id
    assert b"YubiKey (yubi, not registered)" in shown.stdout
    assert b"keydctl key adopt NAME --token yubi --object-id 02" in shown.stderr
    assert "keydctl key adopt NAME --token yubi --object-id 02" in refused["hint"]
    assert place.stage.sandbox.version(gun, "root") == 1
    made = {each["role"] for each in place.alice("key", "list", gun)}
    assert made == {"timestamp"}  # no key was made for nothing


def test_it_signs_the_way_to_a_key_made_on_a_token_and_clients_follow(place: Place) -> None:
    gun, reader = GUNS[1], place.stage.sandbox.client("reader")
    assert set(reader.targets(gun)) == {"v1"}
    place.adopted()
    before = place.key.state.signatures

    done = place.alice("migrate", gun, "--token", "online")

    assert place.key.state.signatures > before
    assert done["published"]["root"] == 2
    assert done["imported"] == []
    root = next(k for k in place.alice("migrate", gun, "--dry-run")["keys"] if k["role"] == "root")
    assert root["where"] == "daemon"
    assert root["key_id"] != place.key_id
    assert set(reader.targets(gun)) == set(place.stage.listed(gun)) == {"v1"}
    for file in done["destroy"]:
        Path(file).unlink()
    assert [f for f in oldkeys.find(place.owner.folder / "trust") if f.gun == gun] == []


def test_it_is_no_new_root_key_without_saying_so(place: Place) -> None:
    gun = GUNS[2]

    refused = place.alice("migrate", gun, "--rootkey", place.adopted(), code=1)["error"]

    assert "not made by keyd" in refused["message"]
    assert "--accept-imported" in refused["hint"]
    assert place.stage.sandbox.version(gun, "root") == 1


def test_it_stays_where_that_is_accepted_and_is_marked(place: Place) -> None:
    gun, name = GUNS[3], place.adopted()
    reader = place.stage.sandbox.client("trusting")
    reader.targets(gun)

    assert place.alice("migrate", gun, "--dry-run", "--accept-imported")["moves"] == [
        "targets",
        "snapshot",
    ]
    done = place.alice("migrate", gun, "--accept-imported", "--token", "online")

    assert done["imported"] == [name]
    root = next(k for k in place.alice("migrate", gun, "--dry-run")["keys"] if k["role"] == "root")
    assert (root["where"], root["key_id"]) == ("yubikey", place.key_id)
    assert set(reader.targets(gun)) == set(place.stage.listed(gun)) == {"v1"}
    place.alice(
        "key", "rotate", gun, "targets", "--token", "online"
    )  # it goes on signing, on its YubiKey
    assert set(reader.targets(gun)) == {"v1"}

    (shown,) = json.loads(place.ctl.run("key", "show", name, "--json").stdout)["versions"]
    assert shown["origin"] == "adopted-unproven"
    assert b"imported=notary" in place.ctl.run("key", "show", name).stdout
    listed = place.ctl.run("key", "list").stdout.decode()
    assert any(name in line and "imported: notary" in line for line in listed.splitlines())
    entries = place.ctl.run("audit", "list", "--key", name, "--action", "bind", "--json")
    assert b"imported" in entries.stdout
