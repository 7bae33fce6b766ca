"""keydctl yubikey list, attest and certificate: cards that are no tokens yet, and certificates that
belong to another key."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keyd.model import KeyAlgorithm, Pin, Slot
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.model import FIRMWARE_5_7, FormFactor, Model
from tests.yubikey.site import PIN, PUK, Site, a_site

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]


@pytest.fixture
def site(bench: Bench, key: EmulatedKey, ykcs11: Path) -> Iterator[Site]:
    with a_site(bench, ykcs11, key) as started:
        yield started


def test_a_yubikey_that_is_plugged_in_and_no_token_is_shown_with_what_makes_it_one(
    site: Site, bench: Bench, ykcs11: Path
) -> None:
    (only,) = site.do("yubikey", "list")
    assert only["token"] == "yubi"
    other = bench.add(Model(7654321, FIRMWARE_5_7, FormFactor.USB_C_NANO), slot=1)

    known, new = site.do("yubikey", "list")

    assert (known["token"], known["serial"]) == ("yubi", str(site.key.serial))
    assert (new["token"], new["serial"], new["firmware"]) == ("", "7654321", "5.7.1")
    assert (new["form_factor"], new["reader"]) == ("Nano (USB-C)", bench.readers[1])
    (token,) = tomllib.loads(new["configuration"])["token"]
    assert token == {
        "name": "yubikey-7654321",
        "module": str(ykcs11),
        "serial": "7654321",
        "pin": "prompt",
    }
    listed = site.run("yubikey", "list")
    assert "not configured: YubiKey 7654321" in listed.stdout, listed.stderr
    assert '    serial = "7654321"' in listed.stdout
    assert other.state.pins_offered == 0
    assert len(site.do("yubikey", "list", "yubi")) == 1, "named is the one that was asked for"

    # What it says is what works.
    config = site.folder / "d/keyd.toml"
    config.write_text(f"{config.read_text()}\n{new['configuration']}")
    site.daemon.stop()
    site.daemon.start()
    assert [y["token"] for y in site.do("yubikey", "list")] == ["yubi", "yubikey-7654321"]

    bench.kill_pcscd()
    done = site.run("yubikey", "list")
    assert "pcscd does not answer on the daemon's machine (" in done.stderr
    assert "start pcscd, or see what it says: journalctl -u pcscd" in done.stderr
    assert "0x8" not in done.stderr


def a_certificate(public: ec.EllipticCurvePublicKey, comment: str = "") -> x509.Certificate:
    """For this key, by somebody's CA."""
    authority = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "release")]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a CA")]))
        .public_key(public)
        .serial_number(77)
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
    )
    if comment:
        extension = x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), comment.encode()
        )
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(authority, hashes.SHA256())


def test_a_certificate_for_the_slots_own_key_is_put_there_and_others_are_refused(
    site: Site,
) -> None:
    slot = Slot.parse("9c")
    with site.client() as keyd:
        keyd.init_yubikey("yubi", Pin(PIN), Pin(PUK), factory=True)
        keyd.unlock("yubi", Pin(PIN))
        keyd.create_key("acme/root", KeyAlgorithm.ECDSA_P256, token="yubi", slot=slot)
    show = ("yubikey", "certificate", "yubi", "9c")
    own = x509.load_pem_x509_certificate(site.do(*show)["certificate"].encode())
    assert own.subject.rfc4514_string() == "O=keyd,CN=acme/root/1"
    public = own.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)

    file = site.folder / "certificate"
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    for content, code, why in (
        (a_certificate(stranger).public_bytes(pem), 1, "not for the key in slot 9c"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 2, "no certificate"),
        (b"", 2, "no certificate"),
        (a_certificate(public, "x" * 4000).public_bytes(der), 2, "3052"),
    ):
        file.write_bytes(content)
        done = site.run(*show, "--write", file)
        assert (done.returncode, why in done.stderr) == (code, True), done.stderr
    assert x509.load_pem_x509_certificate(site.do(*show)["certificate"].encode()) == own

    # While it is locked nothing is written: that takes the PIN.
    good = a_certificate(public)
    file.write_bytes(good.public_bytes(pem))
    site.do("token", "lock", "yubi")
    assert "unlock" in json.dumps(site.do(*show, "--write", file, code=3))
    site.unlock()

    written = site.do(*show, "--write", file, "--reason", "from our CA")

    assert x509.load_pem_x509_certificate(written["certificate"].encode()) == good
    assert "certificate put into slot 9c" in site.entries("--action", "provision")
    assert site.run(*show).stdout == good.public_bytes(pem).decode()
    (tmp := site.folder / "file").write_text("content")
    site.do("sign", "--key", "acme/root", "--encoding", "der", tmp)

    # attest, with its file, is the last command of the group.
    chain = site.folder / "chain.pem"
    proven = site.do("yubikey", "attest", "yubi", "9c", "--out", chain)
    assert len(x509.load_pem_x509_certificates(chain.read_bytes())) == len(proven["chain"]) == 3
