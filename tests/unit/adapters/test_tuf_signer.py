"""KeydSigner as securesystemslib and python-tuf see it; the client is a fake with real keys."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding as KeyEncoding
from cryptography.hazmat.primitives.serialization import PublicFormat
from securesystemslib.exceptions import KeyMismatchError as SslibMismatchError
from securesystemslib.signer import Key, Signer, SigstoreKey, SSlibKey
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Timestamp

from keyd.adapters import registration
from keyd.adapters.tuf import KeydSigner, public_key_der, tuf_key
from keyd.adapters.uri import KeydUri
from keyd.client import Client, Signature
from keyd.errors import FrozenError, KeyMismatchError
from keyd.model import Context, Digest, Encoding, HashAlgorithm, Scheme

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def der_of(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(KeyEncoding.DER, PublicFormat.SubjectPublicKeyInfo)


class FakeClient(Client):
    """Signs as the daemon would, and remembers what it was asked."""

    def __init__(self, *keys: PrivateKey) -> None:
        self.keys = {der_of(key): key for key in keys}
        self.asked: list[dict[str, Any]] = []
        self.frozen = False

    def sign(self, key: str, message: bytes | None = None, **asked: Any) -> Signature:
        self.asked.append({"key": key, "message": message, **asked})
        if self.frozen:
            raise FrozenError("frozen by a person")
        wanted = asked["expected_public_key"]
        if wanted not in self.keys:
            raise KeyMismatchError("no version holds it")
        assert message is not None
        held, scheme = self.keys[wanted], asked["scheme"]
        if isinstance(held, ed25519.Ed25519PrivateKey):
            signature = held.sign(message)
        elif isinstance(held, ec.EllipticCurvePrivateKey):
            signature = held.sign(message, ec.ECDSA(hash_of(scheme)))
        else:
            signature = held.sign(message, padding_of(scheme), hash_of(scheme))
        return Signature(
            f"{key}/versions/1",
            signature,
            asked["encoding"],
            scheme,
            "",
            Digest.of(scheme.hash or HashAlgorithm.SHA256, message),
            wanted,
            7,
        )


def hash_of(scheme: Scheme) -> hashes.HashAlgorithm:
    assert scheme.hash is not None
    known = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
    return known[scheme.hash.value]


def padding_of(scheme: Scheme) -> padding.PSS | padding.PKCS1v15:
    if not scheme.is_pss:
        return padding.PKCS1v15()
    assert scheme.hash is not None
    return padding.PSS(padding.MGF1(hash_of(scheme)), scheme.hash.size_bytes)


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CASES: list[tuple[Scheme, PrivateKey]] = [
    (Scheme.ECDSA_P256_SHA256, ec.generate_private_key(ec.SECP256R1())),
    (Scheme.ECDSA_P384_SHA384, ec.generate_private_key(ec.SECP384R1())),
    (Scheme.ED25519, ed25519.Ed25519PrivateKey.generate()),
    *((scheme, RSA) for scheme in Scheme if scheme.value.startswith("rsa")),
]


@pytest.mark.parametrize(("scheme", "key"), CASES, ids=[s.value for s, _ in CASES])
def test_what_keyd_signs_securesystemslib_verifies(scheme: Scheme, key: PrivateKey) -> None:
    client = FakeClient(key)
    public = tuf_key(der_of(key), scheme)
    signer = KeydSigner(KeydUri("acme/k"), public, client=client)

    signature = signer.sign(b"payload")

    public.verify_signature(signature, b"payload")
    assert signature.keyid == public.keyid
    assert client.asked[0]["expected_public_key"] == der_of(key)
    wanted = Encoding.DER if scheme.value.startswith("ecdsa") else Encoding.RAW
    assert client.asked[0]["encoding"] is wanted


def test_the_keyid_that_was_given_is_in_the_signature_not_a_computed_one() -> None:
    """tuf-on-ci hashes its own fields into keyids; metadata knows only those."""
    _, key = CASES[0]
    computed = tuf_key(der_of(key), Scheme.ECDSA_P256_SHA256)
    given = SSlibKey("0ddba11", computed.keytype, computed.scheme, computed.keyval, {"x-a": 1})

    signature = KeydSigner(KeydUri("acme/k"), given, client=FakeClient(key)).sign(b"payload")

    assert signature.keyid == "0ddba11"
    given.verify_signature(signature, b"payload")


def test_the_legacy_keytype_of_ecdsa_works() -> None:
    _, key = CASES[0]
    modern = tuf_key(der_of(key), Scheme.ECDSA_P256_SHA256)
    legacy = SSlibKey(modern.keyid, modern.scheme, modern.scheme, modern.keyval)

    signature = KeydSigner(KeydUri("acme/k"), legacy, client=FakeClient(key)).sign(b"payload")

    with pytest.deprecated_call():
        legacy.verify_signature(signature, b"payload")


def test_context_version_and_reason_go_to_the_daemon() -> None:
    _, key = CASES[0]
    client = FakeClient(key)
    public = tuf_key(der_of(key), Scheme.ECDSA_P256_SHA256)
    uri = KeydUri.parse("keyd:acme/k?repository=acme&role=targets&version=3")

    KeydSigner(uri, public, reason="release 1.2", client=client).sign(b"payload")

    (asked,) = client.asked
    assert asked["key"] == "acme/k/versions/3"
    assert asked["context"] == Context("acme", "targets")
    assert asked["reason"] == "release 1.2"


def test_a_key_behind_which_another_key_stands_is_a_mismatch_and_a_value_error() -> None:
    public = tuf_key(der_of(CASES[0][1]), Scheme.ECDSA_P256_SHA256)
    other = FakeClient(ec.generate_private_key(ec.SECP256R1()))

    with pytest.raises(SslibMismatchError) as e:
        KeydSigner(KeydUri("acme/k"), public, client=other).sign(b"payload")

    assert isinstance(e.value, ValueError)
    assert isinstance(e.value.__cause__, KeyMismatchError)


def test_python_tuf_says_why_it_could_not_sign() -> None:
    _, key = CASES[0]
    client = FakeClient(key)
    client.frozen = True
    public = tuf_key(der_of(key), Scheme.ECDSA_P256_SHA256)
    metadata = Metadata(Timestamp())

    with pytest.raises(UnsignedMetadataError) as e:
        metadata.sign(KeydSigner(KeydUri("acme/k"), public, client=client))

    assert isinstance(e.value.__cause__, FrozenError)
    assert metadata.signatures == {}


def test_a_key_that_is_no_sslibkey_is_refused() -> None:
    foreign = SigstoreKey("a", "sigstore-oidc", "Fulcio", {"identity": "i", "issuer": "j"})

    with pytest.raises(ValueError, match="SSlibKey"):
        KeydSigner.from_priv_key_uri("keyd:acme/k", foreign)


def test_a_scheme_no_token_has_is_refused_before_anything_is_asked() -> None:
    public = tuf_key(der_of(CASES[0][1]), Scheme.ECDSA_P256_SHA256)
    post_quantum = SSlibKey("a", "ml-dsa", "ml-dsa-44/1", public.keyval)

    with pytest.raises(ValueError, match="ml-dsa-44/1"):
        KeydSigner.from_priv_key_uri("keyd:acme/k", post_quantum)


@pytest.mark.parametrize(
    ("keytype", "scheme", "text"),
    [
        ("ecdsa", "ecdsa-sha2-nistp256", "no pem"),
        ("ed25519", "ed25519", "abc"),
        ("ed25519", "ed25519", "00"),
    ],
)
def test_a_public_part_that_cannot_be_read_is_refused(keytype: str, scheme: str, text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        public_key_der(SSlibKey("a", keytype, scheme, {"public": text}))


def test_making_a_signer_connects_to_nothing() -> None:
    public = tuf_key(der_of(CASES[0][1]), Scheme.ECDSA_P256_SHA256)

    signer = KeydSigner.from_priv_key_uri("keyd:acme/k?endpoint=unix:/nowhere/k.sock", public)

    assert signer.public_key is public


def test_signer_from_priv_key_uri_finds_it_once_it_is_installed() -> None:
    registration.install()
    public: Key = tuf_key(der_of(CASES[0][1]), Scheme.ECDSA_P256_SHA256)

    assert type(Signer.from_priv_key_uri("keyd:acme/k", public)) is KeydSigner
