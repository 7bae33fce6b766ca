"""The hand-written DER against `cryptography`, which writes and reads the same shapes."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from hypothesis import given
from hypothesis import strategies as st

from keyd.device import encoding
from keyd.model import HashAlgorithm, KeyAlgorithm, Scheme

CURVES: dict[KeyAlgorithm, ec.EllipticCurve] = {
    KeyAlgorithm.ECDSA_P256: ec.SECP256R1(),
    KeyAlgorithm.ECDSA_P384: ec.SECP384R1(),
}


def spki(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("algorithm", list(CURVES))
@pytest.mark.parametrize("wrapped", [True, False], ids=["octet-string", "bare"])
def test_a_point_becomes_the_public_key_openssl_writes(
    algorithm: KeyAlgorithm, wrapped: bool
) -> None:
    public = ec.generate_private_key(CURVES[algorithm]).public_key()
    point = public.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    attribute = bytes((4, len(point))) + point if wrapped else point

    assert encoding.ec_public_key(algorithm, attribute) == spki(public)


@pytest.mark.parametrize("wrapped", [True, False], ids=["octet-string", "bare"])
def test_an_edwards_point_becomes_the_public_key_openssl_writes(wrapped: bool) -> None:
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    point = public.public_bytes_raw()
    attribute = b"\x04\x20" + point if wrapped else point

    assert encoding.ec_public_key(KeyAlgorithm.ED25519, attribute) == spki(public)


@pytest.mark.parametrize(
    "point",
    [b"", b"\x04", b"\x04\x41" + b"\x04" * 64, b"\x04\x41" + b"\x02" * 65, b"\x02" + bytes(64)],
    ids=["empty", "tag only", "cut", "compressed inside", "compressed bare"],
)
def test_a_point_that_does_not_fit_the_curve_is_refused(point: bytes) -> None:
    with pytest.raises(ValueError):
        encoding.ec_public_key(KeyAlgorithm.ECDSA_P256, point)


def test_bytes_after_a_point_are_refused() -> None:
    with pytest.raises(ValueError):
        encoding.ec_public_key(KeyAlgorithm.ECDSA_P256, b"\x04\x41\x04" + bytes(64) + b"more")


def test_a_modulus_becomes_the_public_key_openssl_writes() -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    modulus = public.public_numbers().n.to_bytes(256, "big")

    assert encoding.rsa_public_key(modulus, b"\1\0\1") == spki(public)
    # Some modules pad with a zero byte, as DER integers are.
    assert encoding.rsa_public_key(b"\0" + modulus, b"\0\1\0\1") == spki(public)


def test_both_spellings_of_the_edwards_curve_are_known_and_other_curves_are_not() -> None:
    assert encoding.ec_algorithm(b"\x13\x0cedwards25519") is KeyAlgorithm.ED25519
    assert encoding.ec_algorithm(bytes.fromhex("06032b6570")) is KeyAlgorithm.ED25519
    assert encoding.ec_algorithm(bytes.fromhex("06052b8104000a")) is None


@pytest.mark.parametrize(
    ("curve", "algorithm"),
    [("prime256v1", KeyAlgorithm.ECDSA_P256), ("secp384r1", KeyAlgorithm.ECDSA_P384)],
)
def test_a_curve_that_is_spelled_out_is_known_and_one_with_another_generator_is_not(
    curve: str, algorithm: KeyAlgorithm
) -> None:
    words = ("-name", curve, "-param_enc", "explicit", "-outform", "DER")
    params = subprocess.run(["openssl", "ecparam", *words], capture_output=True, check=True).stdout
    assert len(params) > 200

    assert encoding.ec_algorithm(params) is algorithm
    for at in (12, len(params) // 2, len(params) - 60):
        other = params[:at] + bytes([params[at] ^ 1]) + params[at + 1 :]
        assert encoding.ec_algorithm(other) is None


@pytest.mark.parametrize("algorithm", list(CURVES))
@given(data=st.data())
def test_a_signature_survives_both_encodings(algorithm: KeyAlgorithm, data: st.DataObject) -> None:
    size = encoding.COORDINATE_BYTES[algorithm]
    # Small numbers have leading zeros in r||s, large ones a leading zero in DER.
    numbers = st.one_of(
        st.integers(1, 2 ** (8 * size) - 1), st.integers(1, 300), st.just(2 ** (8 * size) - 1)
    )
    r, s = data.draw(numbers), data.draw(numbers)
    raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")

    der = encoding.ecdsa_to_der(raw)

    assert der == utils.encode_dss_signature(r, s)
    assert encoding.ecdsa_to_raw(der, algorithm) == raw


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x06\x02\x01\x01\x02\x01",
        b"\x30\x06\x02\x01\x01\x02\x01\x01more",
        b"\x30\x09\x02\x01\x01\x02\x01\x01\x02\x01\x01",
        b"\x30\x06\x02\x01\x00\x02\x01\x01",
        b"\x30\x06\x02\x01\xff\x02\x01\x01",
        b"\x30\x81\x06\x02\x01\x01\x02\x01\x01",
        b"\x30\x26\x02\x21\x01" + bytes(32) + b"\x02\x01\x01",
    ],
    ids=[
        "empty",
        "cut",
        "bytes after",
        "three numbers",
        "zero",
        "negative",
        "long length",
        "too large",
    ],
)
def test_bytes_that_are_no_signature_are_refused(der: bytes) -> None:
    with pytest.raises(ValueError):
        encoding.ecdsa_to_raw(der, KeyAlgorithm.ECDSA_P256)


def test_halves_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError):
        encoding.ecdsa_to_der(bytes(63))


@pytest.mark.parametrize(
    ("algorithm", "openssl"),
    [
        (HashAlgorithm.SHA256, hashes.SHA256()),
        (HashAlgorithm.SHA384, hashes.SHA384()),
        (HashAlgorithm.SHA512, hashes.SHA512()),
    ],
)
def test_digest_info_is_what_pkcs1_signs(
    algorithm: HashAlgorithm, openssl: hashes.HashAlgorithm
) -> None:
    private = rsa.generate_private_key(65537, 2048)
    signature = private.sign(b"message", padding.PKCS1v15(), openssl)
    numbers = private.public_key().public_numbers()
    padded = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n).to_bytes(256, "big")

    signed = encoding.digest_info(algorithm, hashlib.new(algorithm.value, b"message").digest())

    assert padded.endswith(b"\xff\x00" + signed)


def test_pss_uses_one_hash_and_a_salt_of_its_length() -> None:
    assert encoding.pss_parameters(Scheme.RSA_PSS_SHA384) == encoding.PssParameters(
        "SHA384", "SHA384", 48
    )
