"""The yubikit library on a YubiKey: identity, secrets, keys with policies, attestation, metadata.

The tests with ``target`` run on hardware too.
"""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from tests.yubikey import attestation, by_yubikit
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.hardware import Target
from tests.yubikey.model import (
    FACTORY_MANAGEMENT_KEY,
    FACTORY_PIN,
    FACTORY_PUK,
    FIRMWARE_5_7,
    FormFactor,
    Model,
)
from tests.yubikey.worker import Worker, WorkerError

PIN = "31415926"
PUK = "27182818"
MANAGEMENT_KEY = bytes(range(24))
ALWAYS, RETIRED = 0x9C, 0x82


def verify(spki: bytes, signature: bytes, message: bytes) -> None:
    """Raises unless the signature is good."""
    public = serialization.load_der_public_key(spki)
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    else:
        assert isinstance(public, ed25519.Ed25519PublicKey)
        public.verify(signature, message)


def extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes:
    """The raw value of one of Yubico's extensions."""
    value = certificate.extensions.get_extension_for_oid(oid).value
    assert isinstance(value, x509.UnrecognizedExtension)
    return value.value


def test_a_yubikey_tells_its_serial_firmware_and_form_factor(
    target: Target, program: Worker
) -> None:
    found = program.call(by_yubikit.look, target.serial)
    assert found.serial == target.serial
    if not target.is_real:
        assert (found.firmware, found.form_factor) == ("5.4.3", "Keychain (USB-A)")


def test_two_yubikeys_in_two_slots_are_told_apart(bench: Bench, worker: Worker) -> None:
    bench.add(Model(1111111), slot=0)
    bench.add(Model(2222222, FIRMWARE_5_7, FormFactor.USB_C_NANO), slot=1)
    listed = worker.call(by_yubikit.listed_by_ykman)
    assert [(one.serial, one.firmware, one.form_factor) for one in listed] == [
        (1111111, "5.4.3", "Keychain (USB-A)"),
        (2222222, "5.7.1", "Nano (USB-C)"),
    ]


def test_new_secrets_count_and_the_factory_ones_do_not(target: Target, program: Worker) -> None:
    serial = target.serial
    cipher = program.call(by_yubikit.management_cipher, serial)
    program.call(
        by_yubikit.set_secrets,
        serial,
        (FACTORY_PIN, PIN),
        (FACTORY_PUK, PUK),
        (FACTORY_MANAGEMENT_KEY, MANAGEMENT_KEY),
        cipher,
    )
    assert program.call(by_yubikit.offer_pin, serial, FACTORY_PIN) == 2
    assert program.call(by_yubikit.offer_pin, serial, PIN) is None
    with pytest.raises(WorkerError, match="6982"):
        program.call(
            by_yubikit.generate, serial, FACTORY_MANAGEMENT_KEY, RETIRED, "ECCP256", "ONCE", "NEVER"
        )
    program.call(by_yubikit.generate, serial, MANAGEMENT_KEY, RETIRED, "ECCP256", "ONCE", "NEVER")


def test_three_wrong_pins_block_it_and_the_puk_unblocks_it(target: Target, program: Worker) -> None:
    serial = target.serial
    tries = [program.call(by_yubikit.offer_pin, serial, "999999") for _ in range(4)]
    assert tries == [2, 1, 0, 0]
    assert program.call(by_yubikit.offer_pin, serial, FACTORY_PIN) == 0
    assert program.call(by_yubikit.unblock, serial, "99999999", PIN) == 2
    assert program.call(by_yubikit.unblock, serial, FACTORY_PUK, PIN) is None
    assert program.call(by_yubikit.offer_pin, serial, PIN) is None


def test_a_blocked_puk_leaves_only_the_factory_reset(bench: Bench, worker: Worker) -> None:
    key = bench.add(Model(1234567))
    key.tries_left(pin=0, puk=1)
    assert worker.call(by_yubikit.unblock, key.serial, "99999999", PIN) == 0
    assert worker.call(by_yubikit.unblock, key.serial, FACTORY_PUK, PIN) == 0
    worker.call(by_yubikit.reset, key.serial)
    assert worker.call(by_yubikit.is_factory_fresh, key.serial)


@pytest.mark.parametrize(
    ("slot", "kind", "pin", "touch"),
    [
        (0x9A, "ECCP256", "ONCE", "NEVER"),
        (ALWAYS, "ECCP384", "ALWAYS", "ALWAYS"),
        (0x9E, "ECCP256", "NEVER", "CACHED"),
        (RETIRED, "RSA2048", "ONCE", "ALWAYS"),
    ],
)
def test_a_generated_key_has_its_policies_and_an_attestation_that_proves_them(
    target: Target,
    program: Worker,
    request: pytest.FixtureRequest,
    slot: int,
    kind: str,
    pin: str,
    touch: str,
) -> None:
    serial = target.serial
    made = program.call(by_yubikit.generate, serial, FACTORY_MANAGEMENT_KEY, slot, kind, pin, touch)
    facts = program.call(by_yubikit.metadata, serial, slot)
    assert facts == by_yubikit.SlotFacts(kind, pin, touch, True, made)

    statement_der, device_der = program.call(by_yubikit.attestation, serial, slot)
    statement = x509.load_der_x509_certificate(statement_der)
    device = x509.load_der_x509_certificate(device_der)
    statement.verify_directly_issued_by(device)
    if not target.is_real:
        device.verify_directly_issued_by(request.getfixturevalue("bench").attestation_root)
    spki = statement.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert spki == made
    numbers = {"NEVER": 1, "ONCE": 2, "ALWAYS": 3}, {"NEVER": 1, "ALWAYS": 2, "CACHED": 3}
    assert extension(statement, attestation.POLICIES) == bytes((numbers[0][pin], numbers[1][touch]))
    firmware = program.call(by_yubikit.look, serial).firmware
    assert ".".join(map(str, extension(statement, attestation.FIRMWARE))) == firmware
    tagged = extension(statement, attestation.SERIAL)
    assert (tagged[0], int.from_bytes(tagged[2:], "big")) == (2, serial)
    assert statement.subject.rfc4514_string() == f"CN=YubiKey PIV Attestation {slot:x}"


def test_another_makers_root_does_not_verify_the_chain(bench: Bench, worker: Worker) -> None:
    key = bench.add(Model(1234567))
    worker.call(
        by_yubikit.generate, key.serial, FACTORY_MANAGEMENT_KEY, RETIRED, "ECCP256", "ONCE", "NEVER"
    )
    _, device = worker.call(by_yubikit.attestation, key.serial, RETIRED)
    with Bench.start() as other, pytest.raises(Exception, match=r"^$") as refused:
        x509.load_der_x509_certificate(device).verify_directly_issued_by(other.attestation_root)
    assert type(refused.value).__name__ == "InvalidSignature"


def test_an_imported_key_signs_but_is_not_attested(target: Target, program: Worker) -> None:
    serial = target.serial
    spki = program.call(by_yubikit.import_p256, serial, FACTORY_MANAGEMENT_KEY, RETIRED, 12345)
    assert not program.call(by_yubikit.metadata, serial, RETIRED).generated
    with pytest.raises(WorkerError, match="APDU error"):
        program.call(by_yubikit.attestation, serial, RETIRED)
    verify(spki, program.call(by_yubikit.sign, serial, RETIRED, "ECCP256", FACTORY_PIN, b"m"), b"m")


@pytest.mark.parametrize("kind", ["ECCP256", "ECCP384", "RSA2048", "RSA3072", "RSA4096", "ED25519"])
def test_firmware_5_7_makes_and_uses_every_kind_of_key(
    bench: Bench, worker: Worker, kind: str
) -> None:
    key = bench.add(Model(1234567, FIRMWARE_5_7))
    spki = worker.call(
        by_yubikit.generate, key.serial, FACTORY_MANAGEMENT_KEY, RETIRED, kind, "ONCE", "NEVER"
    )
    signature = worker.call(by_yubikit.sign, key.serial, RETIRED, kind, FACTORY_PIN, b"message")
    verify(spki, signature, b"message")
    statement, device = worker.call(by_yubikit.attestation, key.serial, RETIRED)
    x509.load_der_x509_certificate(device).verify_directly_issued_by(bench.attestation_root)
    x509.load_der_x509_certificate(statement).verify_directly_issued_by(
        x509.load_der_x509_certificate(device)
    )


def test_firmware_5_7_has_an_aes_management_key_and_moves_and_deletes_keys(
    bench: Bench, worker: Worker
) -> None:
    serial = bench.add(Model(1234567, FIRMWARE_5_7)).serial
    assert worker.call(by_yubikit.management_cipher, serial) == "AES192"
    worker.call(
        by_yubikit.generate, serial, FACTORY_MANAGEMENT_KEY, 0x9A, "ECCP256", "ONCE", "NEVER"
    )
    before = worker.call(by_yubikit.metadata, serial, 0x9A)
    worker.call(by_yubikit.move, serial, FACTORY_MANAGEMENT_KEY, 0x9A, RETIRED)
    assert worker.call(by_yubikit.metadata, serial, RETIRED) == before
    worker.call(by_yubikit.delete, serial, FACTORY_MANAGEMENT_KEY, RETIRED)
    with pytest.raises(WorkerError, match="6a88"):
        worker.call(by_yubikit.metadata, serial, RETIRED)


def test_firmware_5_4_refuses_what_came_with_5_7(key: EmulatedKey, worker: Worker) -> None:
    assert worker.call(by_yubikit.management_cipher, key.serial) == "TDES"
    with pytest.raises(WorkerError, match="requires YubiKey 5"):
        worker.call(
            by_yubikit.generate,
            key.serial,
            FACTORY_MANAGEMENT_KEY,
            RETIRED,
            "ED25519",
            "ONCE",
            "NEVER",
        )


def test_a_large_object_is_written_and_read_in_parts(target: Target, program: Worker) -> None:
    data = bytes(range(256)) * 10
    read = program.call(
        by_yubikit.write_and_read, target.serial, FACTORY_MANAGEMENT_KEY, 0x5FC10D, data
    )
    assert read == data


def test_the_tries_of_pin_and_puk_can_be_set(target: Target, program: Worker) -> None:
    program.call(by_yubikit.set_tries, target.serial, FACTORY_MANAGEMENT_KEY, FACTORY_PIN, (5, 4))
    assert program.call(by_yubikit.offer_pin, target.serial, "999999") == 4
    assert program.call(by_yubikit.unblock, target.serial, "99999999", PIN) == 3


def test_a_factory_reset_leaves_the_attestation_key(target: Target, program: Worker) -> None:
    serial = target.serial
    order = (serial, FACTORY_MANAGEMENT_KEY, RETIRED, "ECCP256", "ONCE", "NEVER")
    program.call(by_yubikit.generate, *order)
    before = program.call(by_yubikit.attestation, serial, RETIRED)[1]
    program.call(by_yubikit.reset, serial)
    assert program.call(by_yubikit.is_factory_fresh, serial)
    program.call(by_yubikit.generate, *order)
    assert program.call(by_yubikit.attestation, serial, RETIRED)[1] == before
