"""Debian's libykcs11 through python-pkcs11 on a YubiKey: what keyd's token host stands on.

The figures and codes here are what tests/yubikey exists to keep true; see docs/yubikey-bench.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from tests.yubikey import by_pkcs11, by_yubikit
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.hardware import Target
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FACTORY_PIN, FIRMWARE_5_7, Model
from tests.yubikey.touch import Person
from tests.yubikey.worker import Worker, WorkerError

SLOT, KEY_ID = 0x82, 5
"""The first retired slot and libykcs11's CKA_ID for it."""
DIGEST = hashlib.sha256(b"message").digest()
COUNT_LOW, FINAL_TRY, LOCKED = 0x10000, 0x20000, 0x40000


def make(
    worker: Worker, serial: int, kind: str = "ECCP256", touch: str = "NEVER", slot: int = SLOT
) -> bytes:
    """A key with the PIN once, made by yubikit: its public half."""
    return worker.call(
        by_yubikit.generate, serial, FACTORY_MANAGEMENT_KEY, slot, kind, "ONCE", touch
    )


def open_session(worker: Worker, module: Path, serial: int) -> None:
    """libykcs11 loaded and logged in."""
    worker.call(by_pkcs11.load, module)
    worker.call(by_pkcs11.log_in, str(serial), FACTORY_PIN)


def check(spki: bytes, raw: bytes, digest: bytes = DIGEST) -> None:
    """Raises unless r||s is a signature of the digest."""
    public = serialization.load_der_public_key(spki)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    half = len(raw) // 2
    der = utils.encode_dss_signature(
        int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
    )
    public.verify(der, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


def eventually(holds: Callable[[], bool], within_s: float = 3.0) -> None:
    """Try until it holds; what the worker raises meanwhile counts as not yet."""
    until = time.monotonic() + within_s
    while True:
        with contextlib.suppress(WorkerError):
            if holds():
                return
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.02)


def test_p256_p384_and_rsa_sign(target: Target, program: Worker, ykcs11: Path) -> None:
    kinds = {KEY_ID: "ECCP256", KEY_ID + 1: "ECCP384", KEY_ID + 2: "RSA2048"}
    keys = {
        key_id: make(program, target.serial, kind, slot=SLOT + key_id - KEY_ID)
        for key_id, kind in kinds.items()
    }
    open_session(program, ykcs11, target.serial)
    assert set(kinds) <= set(program.call(by_pkcs11.key_ids))
    check(keys[KEY_ID], program.call(by_pkcs11.sign, KEY_ID, DIGEST))
    check(keys[KEY_ID + 1], program.call(by_pkcs11.sign, KEY_ID + 1, DIGEST))
    info = bytes.fromhex("3031300d060960864801650304020105000420") + DIGEST
    signature = program.call(by_pkcs11.sign, KEY_ID + 2, info, "RSA_PKCS")
    public = serialization.load_der_public_key(keys[KEY_ID + 2])
    assert isinstance(public, rsa.RSAPublicKey)
    public.verify(signature, DIGEST, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))


def test_the_security_officer_makes_keys_with_default_policies_only(
    target: Target, program: Worker, ykcs11: Path
) -> None:
    program.call(by_pkcs11.load, ykcs11)
    if program.call(by_yubikit.management_cipher, target.serial) != "TDES":
        pytest.skip("libykcs11 2.2.0 knows no AES management key")
    program.call(by_pkcs11.generate_as_officer, str(target.serial), FACTORY_MANAGEMENT_KEY, KEY_ID)
    facts = program.call(by_yubikit.metadata, target.serial, SLOT)
    assert (facts.kind, facts.pin, facts.touch, facts.generated) == (
        "ECCP256",
        "ONCE",
        "NEVER",
        True,
    )


def test_an_aes_management_key_is_refused_as_a_wrong_pin(
    bench: Bench, worker: Worker, ykcs11: Path
) -> None:
    key = bench.add(Model(1234567, FIRMWARE_5_7))
    worker.call(by_pkcs11.load, ykcs11)
    with pytest.raises(WorkerError, match=r"^PinIncorrect"):
        worker.call(by_pkcs11.generate_as_officer, "1234567", FACTORY_MANAGEMENT_KEY, KEY_ID)
    assert key.state.pin_tries == 3


def test_wrong_pins_count_down_and_the_flags_tell(
    target: Target, program: Worker, ykcs11: Path
) -> None:
    program.call(by_pkcs11.load, ykcs11)
    seen = []
    for _ in range(3):
        with pytest.raises(WorkerError) as refused:
            program.call(by_pkcs11.log_in, str(target.serial), "999999")
        program.call(by_pkcs11.reload)
        seen.append((refused.value.kind, program.call(by_pkcs11.flags) & 0x70000))
    assert seen == [
        ("PinIncorrect", COUNT_LOW),
        ("PinIncorrect", FINAL_TRY),
        ("PinLocked", LOCKED),
    ]


def test_a_key_that_wants_the_pin_each_time_gets_it(
    target: Target, program: Worker, ykcs11: Path
) -> None:
    order = (target.serial, FACTORY_MANAGEMENT_KEY, 0x9C, "ECCP256", "ALWAYS", "NEVER")
    spki = program.call(by_yubikit.generate, *order)
    open_session(program, ykcs11, target.serial)
    for _ in range(2):
        check(spki, program.call(by_pkcs11.sign, 2, DIGEST, pin=FACTORY_PIN))


def test_a_touch_lets_the_signature_out(target: Target, program: Worker, ykcs11: Path) -> None:
    spki = make(program, target.serial, touch="ALWAYS")
    open_session(program, ykcs11, target.serial)
    target.expect_touch()
    check(spki, program.call(by_pkcs11.sign, KEY_ID, DIGEST))


def test_a_late_touch_is_waited_for(key: EmulatedKey, worker: Worker, ykcs11: Path) -> None:
    spki = make(worker, key.serial, touch="ALWAYS")
    open_session(worker, ykcs11, key.serial)
    result = worker.begin(by_pkcs11.sign, KEY_ID, DIGEST)
    key.wait_for_blinking()
    with pytest.raises(TimeoutError):
        result(0.3)
    assert key.touch()
    check(spki, result(5))
    assert key.state.touches == 1


def test_a_cached_touch_counts_until_it_is_old(
    key: EmulatedKey, worker: Worker, ykcs11: Path
) -> None:
    make(worker, key.serial, touch="CACHED")
    open_session(worker, ykcs11, key.serial)
    key.person(Person.TOUCHES)
    for _ in range(3):
        worker.call(by_pkcs11.sign, KEY_ID, DIGEST)
    assert key.state.touch_requests == 1
    key.age_touch(16.0)
    worker.call(by_pkcs11.sign, KEY_ID, DIGEST)
    assert key.state.touch_requests == 2


@pytest.mark.parametrize(
    ("does", "raised"), [(Person.REFUSES, "DeviceError"), (Person.SLEEPS, "UserNotLoggedIn")]
)
def test_a_touch_that_does_not_come_is_an_error_and_the_next_one_signs(
    key: EmulatedKey, worker: Worker, ykcs11: Path, does: Person, raised: str
) -> None:
    make(worker, key.serial, touch="ALWAYS")
    open_session(worker, ykcs11, key.serial)
    key.person(does, window_s=0.3)
    with pytest.raises(WorkerError) as refused:
        worker.call(by_pkcs11.sign, KEY_ID, DIGEST)
    assert refused.value.kind == raised
    key.person(Person.TOUCHES)
    eventually(lambda: bool(worker.call(by_pkcs11.sign, KEY_ID, DIGEST)))


def test_a_key_pulled_while_it_blinks_fails_the_call_at_once(
    key: EmulatedKey, worker: Worker, ykcs11: Path
) -> None:
    make(worker, key.serial, touch="ALWAYS")
    open_session(worker, ykcs11, key.serial)
    result = worker.begin(by_pkcs11.sign, KEY_ID, DIGEST)
    key.wait_for_blinking()
    key.remove()
    with pytest.raises(WorkerError, match=r"^DeviceError"):
        # It blinks for 15 s.
        result(5)
    eventually(lambda: worker.call(by_pkcs11.serials) == [])


def test_a_key_pulled_and_back_signs_after_the_module_starts_anew(
    key: EmulatedKey, worker: Worker, ykcs11: Path
) -> None:
    spki = make(worker, key.serial)
    open_session(worker, ykcs11, key.serial)
    key.latency(command_s=0.0, key_s=0.5)
    result = worker.begin(by_pkcs11.sign, KEY_ID, DIGEST)
    time.sleep(0.1)
    key.remove()
    with pytest.raises(WorkerError, match=r"^DeviceError"):
        result(5)
    key.insert()
    worker.call(by_pkcs11.reload)
    worker.call(by_pkcs11.log_in, str(key.serial), FACTORY_PIN)
    check(spki, worker.call(by_pkcs11.sign, KEY_ID, DIGEST))


def test_another_key_in_the_same_reader_is_not_taken_for_the_first(
    bench: Bench, key: EmulatedKey, worker: Worker, ykcs11: Path
) -> None:
    make(worker, key.serial)
    open_session(worker, ykcs11, key.serial)
    other = bench.add(Model(7654321), slot=None)
    key.swap_for(other)
    with pytest.raises(WorkerError):
        worker.call(by_pkcs11.sign, KEY_ID, DIGEST)
    assert other.state.signatures == 0

    def told_apart() -> bool:
        # Read while pcscd still powers the other card up, the serial is "0".
        worker.call(by_pkcs11.reload)
        return worker.call(by_pkcs11.serials) == ["7654321"]

    eventually(told_apart)


def test_pcscd_dies_and_comes_back(
    bench: Bench, key: EmulatedKey, worker: Worker, ykcs11: Path
) -> None:
    spki = make(worker, key.serial)
    open_session(worker, ykcs11, key.serial)
    bench.kill_pcscd()
    with pytest.raises(WorkerError, match=r"^DeviceError"):
        worker.call(by_pkcs11.sign, KEY_ID, DIGEST)
    bench.start_pcscd()
    worker.call(by_pkcs11.reload)
    eventually(lambda: worker.call(by_pkcs11.log_in, str(key.serial), FACTORY_PIN) is None)
    check(spki, worker.call(by_pkcs11.sign, KEY_ID, DIGEST))


def test_yubikit_and_libykcs11_take_turns(
    bench: Bench, key: EmulatedKey, worker: Worker, ykcs11: Path
) -> None:
    spki = make(worker, key.serial)
    open_session(worker, ykcs11, key.serial)
    with Worker(bench.environment) as other:
        for _ in range(3):
            assert other.call(by_yubikit.metadata, key.serial, SLOT).public_key == spki
            check(spki, worker.call(by_pkcs11.sign, KEY_ID, DIGEST))


def test_a_reset_by_another_program_leaves_no_key_to_sign_with(
    key: EmulatedKey, worker: Worker, ykcs11: Path
) -> None:
    make(worker, key.serial)
    open_session(worker, ykcs11, key.serial)
    key.factory_reset()
    with pytest.raises(WorkerError):
        worker.call(by_pkcs11.sign, KEY_ID, DIGEST)
    assert key.state.signatures == 0


def test_a_signature_takes_as_long_as_the_card_does(
    key: EmulatedKey, worker: Worker, ykcs11: Path
) -> None:
    make(worker, key.serial)
    open_session(worker, ykcs11, key.serial)
    worker.call(by_pkcs11.sign, KEY_ID, DIGEST)
    key.latency(command_s=0.003, key_s=0.06)
    started = time.monotonic()
    worker.call(by_pkcs11.sign, KEY_ID, DIGEST)
    assert time.monotonic() - started > 0.06
