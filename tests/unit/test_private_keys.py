"""The search for private keys finds each form that a key can be left lying in, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, pkcs12

from tests.certificates import an_authority
from tests.private_keys import Found, private_keys

ISSUED = an_authority()
EC = ISSUED.key
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
CLEAR = serialization.NoEncryption()
SEALED = serialization.BestAvailableEncryption(b"correct horse battery")
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def der(key: Key, how: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.DER, how, CLEAR)


def pem(
    key: Key,
    how: PrivateFormat = PrivateFormat.PKCS8,
    seal: serialization.KeySerializationEncryption = CLEAR,
) -> bytes:
    return key.private_bytes(Encoding.PEM, how, seal)


def bare(text: bytes) -> bytes:
    """PEM without its first and last line."""
    return b"\n".join(text.splitlines()[1:-1])


def jwk() -> dict[str, str]:
    def web(number: int) -> str:
        return base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()

    numbers = EC.private_numbers()
    point = numbers.public_numbers
    private = web(numbers.private_value)
    return {"kty": "EC", "crv": "P-256", "x": web(point.x), "y": web(point.y), "d": private}


def p12() -> bytes:
    return pkcs12.serialize_key_and_certificates(b"me", EC, ISSUED.certificate, None, SEALED)


PLANTED: dict[str, tuple[str, bytes]] = {
    "PEM of PKCS#8": ("PEM", pem(EC)),
    "PEM of SEC1": ("PEM", pem(EC, PrivateFormat.TraditionalOpenSSL)),
    "PEM of PKCS#1": ("PEM", pem(RSA, PrivateFormat.TraditionalOpenSSL)),
    "PEM, encrypted": ("PEM", pem(EC, seal=SEALED)),
    "PEM in a JSON text": ("PEM", json.dumps({"key": pem(EC).decode()}).encode()),
    "OpenSSH": ("PEM", pem(ED25519, PrivateFormat.OpenSSH)),
    "OpenSSH without its first line": (
        "base64 OpenSSH",
        bare(pem(ED25519, PrivateFormat.OpenSSH)),
    ),
    "PuTTY": ("PuTTY", b"PuTTY-User-Key-File-3: ssh-ed25519\n"),
    "DER of PKCS#8, P-256": ("DER", der(EC)),
    "DER of PKCS#8, RSA": ("DER", der(RSA)),
    "DER of PKCS#8, Ed25519": ("DER", der(ED25519)),
    "DER of SEC1": ("DER", der(EC, PrivateFormat.TraditionalOpenSSL)),
    "DER of PKCS#1": ("DER", der(RSA, PrivateFormat.TraditionalOpenSSL)),
    "DER, encrypted": (
        "encrypted PKCS#8",
        EC.private_bytes(Encoding.DER, PrivateFormat.PKCS8, SEALED),
    ),
    "PKCS#12": ("PKCS#12", p12()),
    "JWK": ("JWK", json.dumps(jwk()).encode()),
    "JWK, its members sorted": ("JWK", json.dumps(jwk(), sort_keys=True, indent=1).encode()),
    "JWK in a text": ("JWK", json.dumps({"key": json.dumps(jwk())}).encode()),
    "JWK in base64": ("base64 JWK", base64.b64encode(json.dumps(jwk()).encode())),
    "base64 of DER": ("base64 DER", base64.b64encode(der(EC))),
    "base64 of DER in lines": ("base64 DER", bare(pem(EC))),
    "base64 of DER in a JSON text": (
        "base64 DER",
        json.dumps({"private": base64.encodebytes(der(EC)).decode()}).encode(),
    ),
    "base64 for URLs": ("base64 DER", base64.urlsafe_b64encode(der(RSA)).rstrip(b"=")),
    "base64 of PEM": ("base64 PEM", base64.b64encode(pem(EC))),
    "base64 of base64": ("base64 base64 DER", base64.b64encode(base64.b64encode(der(EC)))),
    "hex of DER": ("hex DER", der(EC).hex().encode()),
    "hex with colons": ("hex DER", der(EC).hex(":").encode()),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize(
    "placed",
    [
        pytest.param(lambda key: key, id="alone"),
        pytest.param(lambda key: b"\x00abc\x30\x82" * 9 + key + b"\xff more" * 9, id="inside"),
        pytest.param(lambda key: b'"x":"' + key + b'"}', id="quoted"),
    ],
)
def test_a_key_is_found_in_each_form(
    tmp_path: Path, name: str, placed: Callable[[bytes], bytes]
) -> None:
    form, key = PLANTED[name]
    file = tmp_path / "deep" / "down"
    file.parent.mkdir()
    file.write_bytes(placed(key))

    assert Found(file, form) in private_keys(tmp_path)


@pytest.mark.parametrize("before", [b"a", b"ab", b"abc", b"abcd"])
def test_letters_before_the_encoding_do_not_hide_it(tmp_path: Path, before: bytes) -> None:
    (tmp_path / "x").write_bytes(before + base64.b64encode(der(EC)))
    (tmp_path / "y").write_bytes(before + der(EC).hex().encode())

    assert [f.form for f in private_keys(tmp_path)] == ["base64 DER", "hex DER"]


def test_what_is_public_is_not_taken_for_a_key(tmp_path: Path) -> None:
    spki = EC.public_key().public_bytes(
        Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    public = {name: value for name, value in jwk().items() if name != "d"}
    certificate = ISSUED.certificate.public_bytes(Encoding.DER)
    contents = [
        spki,
        certificate,
        ISSUED.pem,
        base64.b64encode(ISSUED.pem),
        spki.hex().encode(),
        json.dumps(public).encode(),
        json.dumps({"public": base64.b64encode(certificate).decode(), "private": None}).encode(),
        hashlib.sha512(b"").hexdigest().encode() * 4,
        os.urandom(1 << 20),
        b"a word about a PRIVATE KEY is none",
        b"",
    ]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)

    assert private_keys(tmp_path) == []


def test_only_what_is_named_is_passed_over(tmp_path: Path) -> None:
    for name in ("tls/server.key", "tls.copy/server.key", "state/log"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(pem(EC))

    left = private_keys(tmp_path, apart_from=[tmp_path / "tls", tmp_path / "state" / "log"])

    assert {found.file for found in left} == {tmp_path / "tls.copy" / "server.key"}


def test_a_folder_that_is_not_there_is_not_taken_for_a_clean_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        private_keys(tmp_path, tmp_path / "none")


def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for folder in (outside, inside):
        folder.mkdir()
    (outside / "key").write_bytes(pem(EC))
    (inside / "key").symlink_to(outside / "key")
    (inside / "folder").symlink_to(outside)

    assert private_keys(inside) == []
