"""What every model.Device promises, run on the fake and on real SoftHSM hosts."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from keyd.device.pool import DevicePool
from keyd.errors import (
    AlgorithmMismatchError,
    DeadlineError,
    DeviceGoneError,
    InvalidRequestError,
    PinRefusedError,
    TokenLockedError,
    TokenNotFoundError,
    TokenObjectError,
    WrongTokenError,
)
from keyd.model import Device, KeyAlgorithm, Pin, Scheme, SignJob, TokenObject, TokenState
from tests.fakes import FakeDevice, FakePinAttempts
from tests.softhsm import PIN, SoftHsm

TOKEN = "main"
MESSAGE = b"what is signed"
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


@pytest.fixture(params=["fake", pytest.param("softhsm", marks=pytest.mark.softhsm)])
async def device(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Device]:
    if request.param == "fake":
        yield FakeDevice.with_token(TOKEN, pin=PIN)
        return
    hsm = SoftHsm(tmp_path)
    hsm.init_token(TOKEN)
    pool = DevicePool(
        [hsm.config(TOKEN, pin_source="prompt")], FakePinAttempts(), run_dir=hsm.run_dir
    )
    await pool.start()
    try:
        await pool.unlock(TOKEN, Pin(PIN))
        yield pool
    finally:
        await pool.stop()


async def make(
    device: Device, algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256, label: str = "acme/root/1"
) -> TokenObject:
    return await device.generate(TOKEN, algorithm, os.urandom(16), label)


def payload_for(scheme: Scheme, message: bytes = MESSAGE) -> bytes:
    return message if scheme.hash is None else hashlib.new(scheme.hash.value, message).digest()


def job(key: TokenObject, scheme: Scheme | None = None, message: bytes = MESSAGE) -> SignJob:
    assert key.algorithm is not None
    scheme = scheme or key.algorithm.schemes[0]
    return SignJob(
        key.object_id,
        key.public_key,
        key.algorithm,
        scheme,
        payload_for(scheme, message),
        key.serial,
    )


async def sign_one(device: Device, wanted: SignJob) -> bytes:
    (result,) = await device.sign(TOKEN, [wanted])
    assert isinstance(result, bytes), result
    return result


def verify(public_key: bytes, scheme: Scheme, signature: bytes, message: bytes = MESSAGE) -> None:
    """Raises InvalidSignature; ``signature`` as tokens give it."""
    key = serialization.load_der_public_key(public_key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, message)
        return
    assert scheme.hash is not None
    algorithm = HASHES[scheme.hash]
    if isinstance(key, ec.EllipticCurvePublicKey):
        half = len(signature) // 2
        assert half == key.key_size // 8
        r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(algorithm))
        return
    assert isinstance(key, rsa.RSAPublicKey)
    kind: padding.AsymmetricPadding = padding.PKCS1v15()
    if scheme.is_pss:
        # The exact salt length: a verifier with "auto" would accept any.
        kind = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
    key.verify(signature, message, kind, algorithm)


@pytest.mark.parametrize("algorithm", list(KeyAlgorithm))
async def test_every_algorithm_signs_in_all_its_schemes(
    device: Device, algorithm: KeyAlgorithm
) -> None:
    key = await make(device, algorithm)

    assert key.algorithm is algorithm
    for scheme in algorithm.schemes:
        verify(key.public_key, scheme, await sign_one(device, job(key, scheme)))


async def test_a_generated_key_is_sensitive_local_and_cannot_be_extracted(device: Device) -> None:
    object_id = os.urandom(16)

    made = await device.generate(TOKEN, KeyAlgorithm.ECDSA_P256, object_id, "acme/root/7")

    assert (made.object_id, made.label) == (object_id, "acme/root/7")
    assert made.sensitive and made.always_sensitive
    assert made.never_extractable and not made.extractable
    assert made.local
    assert made.serial == device.tokens()[0].serial


async def test_one_pair_is_found_among_others_by_its_id(device: Device) -> None:
    wanted, _ = await make(device), await make(device)

    assert await device.objects(TOKEN, wanted.object_id) == [wanted]
    assert await device.objects(TOKEN, os.urandom(16)) == []


async def test_objects_lists_what_was_generated(device: Device) -> None:
    assert await device.objects(TOKEN) == []
    first = await make(device, KeyAlgorithm.ECDSA_P256, "acme/root/1")
    second = await make(device, KeyAlgorithm.ED25519, "acme/log/1")

    found = await device.objects(TOKEN)

    assert sorted(found, key=lambda key: key.label) == [second, first]


async def test_results_come_in_order_and_one_bad_job_fails_alone(device: Device) -> None:
    key, other = await make(device), await make(device, KeyAlgorithm.ED25519)
    wrong_size = SignJob(
        key.object_id, key.public_key, KeyAlgorithm.ECDSA_P256, Scheme.ECDSA_P256_SHA256, b"short"
    )
    jobs = [
        job(key, message=b"0"),
        job(other, message=b"1"),
        wrong_size,
        job(key, message=b"3"),
        job(other, message=b"4"),
    ]

    results = await device.sign(TOKEN, jobs)

    for at, signer in ((0, key), (1, other), (3, key), (4, other)):
        signature = results[at]
        assert isinstance(signature, bytes)
        verify(signer.public_key, jobs[at].scheme, signature, str(at).encode())
    assert isinstance(results[2], AlgorithmMismatchError)


async def test_signing_nothing_gives_nothing(device: Device) -> None:
    assert await device.sign(TOKEN, []) == []


async def test_jobs_of_a_caller_that_left_are_dropped_before_they_reach_the_token(
    device: Device,
) -> None:
    key = await make(device)

    results = await device.sign(TOKEN, [job(key)] * 3, gone=lambda: True)

    assert [type(result) for result in results] == [DeadlineError] * 3
    verify(key.public_key, Scheme.ECDSA_P256_SHA256, await sign_one(device, job(key)))


async def test_a_job_for_another_public_key_is_refused(device: Device) -> None:
    key, other = await make(device), await make(device)
    swapped = SignJob(
        key.object_id,
        other.public_key,
        KeyAlgorithm.ECDSA_P256,
        Scheme.ECDSA_P256_SHA256,
        payload_for(Scheme.ECDSA_P256_SHA256),
    )
    await sign_one(device, job(key))

    (result,) = await device.sign(TOKEN, [swapped])

    assert isinstance(result, WrongTokenError)


async def test_a_job_for_another_serial_is_refused(device: Device) -> None:
    key = await make(device)
    elsewhere = SignJob(
        key.object_id,
        key.public_key,
        KeyAlgorithm.ECDSA_P256,
        Scheme.ECDSA_P256_SHA256,
        payload_for(Scheme.ECDSA_P256_SHA256),
        serial="0000000000000000",
    )

    (result,) = await device.sign(TOKEN, [elsewhere])

    assert isinstance(result, WrongTokenError)


async def test_a_scheme_of_another_algorithm_is_refused(device: Device) -> None:
    key = await make(device)

    (result,) = await device.sign(TOKEN, [job(key, Scheme.RSA_PSS_SHA256)])

    assert isinstance(result, AlgorithmMismatchError)


async def test_a_key_that_is_not_there_is_told_and_the_token_stays_usable(device: Device) -> None:
    key = await make(device)
    missing = SignJob(
        b"no such object..",
        key.public_key,
        KeyAlgorithm.ECDSA_P256,
        Scheme.ECDSA_P256_SHA256,
        payload_for(Scheme.ECDSA_P256_SHA256),
    )

    (result,) = await device.sign(TOKEN, [missing])

    assert isinstance(result, TokenObjectError)
    assert device.tokens()[0].state is TokenState.READY
    verify(key.public_key, Scheme.ECDSA_P256_SHA256, await sign_one(device, job(key)))


async def test_an_object_id_is_never_used_twice(device: Device) -> None:
    key = await make(device)

    with pytest.raises(TokenObjectError):
        await device.generate(TOKEN, KeyAlgorithm.ECDSA_P256, key.object_id, "acme/root/2")

    assert await device.objects(TOKEN) == [key]


async def test_destroy_takes_the_pair_with_this_id_and_public_key_and_no_other(
    device: Device,
) -> None:
    doomed, kept = await make(device), await make(device)

    with pytest.raises(TokenObjectError):
        await device.destroy(TOKEN, doomed.object_id, kept.public_key)
    assert await device.destroy(TOKEN, doomed.object_id, doomed.public_key)

    assert await device.objects(TOKEN) == [kept]
    assert not await device.destroy(TOKEN, doomed.object_id, doomed.public_key)
    (result,) = await device.sign(TOKEN, [job(doomed)])
    assert isinstance(result, TokenObjectError)


async def test_destroy_without_a_public_key_takes_only_what_keyd_labelled(device: Device) -> None:
    ours = await make(device, label="acme/root/3")
    foreign = await make(device, label="somebody-else")

    assert await device.destroy(TOKEN, ours.object_id, b"")
    with pytest.raises(TokenObjectError):
        await device.destroy(TOKEN, foreign.object_id, b"")

    assert await device.objects(TOKEN) == [foreign]


async def unlock(device: Device, pin: Pin | None) -> bool:
    """As people do it: once more where the error says that the token is being looked for. A host
    that was ended by a lock, or by a wrong PIN, takes its time on a busy machine."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await device.unlock(TOKEN, pin)
            except DeviceGoneError as error:
                assert error.retry_after_s is not None
                await asyncio.sleep(0.05)


async def test_a_locked_token_signs_again_only_after_an_unlock(device: Device) -> None:
    key = await make(device)
    await device.lock(TOKEN)

    with pytest.raises(TokenLockedError) as locked:
        await device.sign(TOKEN, [job(key)])
    with pytest.raises(PinRefusedError):
        await unlock(device, Pin("00000000"))
    with pytest.raises(InvalidRequestError):
        await unlock(device, None)
    with pytest.raises(TokenLockedError):
        await sign_one(device, job(key))
    assert await unlock(device, Pin(PIN)), "it was tried"
    assert not await unlock(device, Pin("00000000")), "there was nothing to try it for"

    assert locked.value.facts["token"] == TOKEN
    assert "keydctl token unlock main" in locked.value.hint
    verify(key.public_key, Scheme.ECDSA_P256_SHA256, await sign_one(device, job(key)))


async def test_an_unknown_token_is_not_found(device: Device) -> None:
    with pytest.raises(TokenNotFoundError):
        await device.sign("other", [])


async def test_status_tells_what_the_token_says_of_itself(device: Device) -> None:
    (status,) = device.tokens()

    assert (status.name, status.state, status.hosts) == (TOKEN, TokenState.READY, 1)
    assert (status.label, status.pin_state, status.detail) == (TOKEN, "ok", "")
    assert len(status.serial) == 16 and status.model and status.manufacturer and status.firmware


async def test_the_fake_can_vanish_in_the_middle_of_a_batch() -> None:
    device = FakeDevice.with_token(TOKEN)
    key = await make(device)
    device.token(TOKEN).gone_after = 1

    results = await device.sign(TOKEN, [job(key)] * 3)

    assert [type(result) for result in results] == [bytes, DeviceGoneError, DeviceGoneError]
    with pytest.raises(DeviceGoneError):
        await device.sign(TOKEN, [job(key)])
