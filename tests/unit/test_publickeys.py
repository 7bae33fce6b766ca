"""Forms of public keys and signatures, compared with the libraries that own them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from securesystemslib.signer._key import SSlibKey

from keyd import publickeys
from keyd.errors import AlgorithmMismatchError, BadSignatureError, InvalidRequestError
from keyd.model import Digest, HashAlgorithm, KeyAlgorithm, Scheme

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
ALL: dict[str, PrivateKey] = {"p256": P256, "p384": P384, "ed25519": ED, "rsa": RSA}


def der_of(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("name", ALL)
def test_the_tuf_key_and_keyid_are_those_of_securesystemslib(name: str) -> None:
    der = der_of(ALL[name])
    theirs = SSlibKey.from_crypto(ALL[name].public_key())

    scheme = Scheme(theirs.scheme)
    ours = publickeys.tuf_key(der, scheme)

    assert ours == {k: v for k, v in theirs.to_dict().items() if k != "keyid"}
    assert publickeys.tuf_keyid(der, scheme) == theirs.keyid


def test_the_notary_key_id_hashes_the_object_with_its_null_private_part() -> None:
    der = der_of(P256)

    text = publickeys.notary_key(der)

    assert text.startswith('{"keytype":"ecdsa","keyval":{"private":null,"public":"')
    assert len(publickeys.notary_keyid(der)) == 64


@pytest.mark.parametrize(
    ("key", "curve_hash", "scheme", "algorithm"),
    [
        (P256, hashes.SHA256(), Scheme.ECDSA_P256_SHA256, KeyAlgorithm.ECDSA_P256),
        (P384, hashes.SHA384(), Scheme.ECDSA_P384_SHA384, KeyAlgorithm.ECDSA_P384),
    ],
)
def test_ecdsa_signatures_survive_both_encodings_and_verify(
    key: ec.EllipticCurvePrivateKey,
    curve_hash: hashes.HashAlgorithm,
    scheme: Scheme,
    algorithm: KeyAlgorithm,
) -> None:
    der = key.sign(b"message", ec.ECDSA(curve_hash))

    raw = publickeys.to_raw(der, algorithm)

    assert publickeys.to_der(raw) == der
    publickeys.verify(der_of(key), scheme, raw, b"message")
    with pytest.raises(BadSignatureError):
        publickeys.verify(der_of(key), scheme, raw, b"other message")
    with pytest.raises(BadSignatureError):
        publickeys.verify(der_of(key), scheme, b"\0" + raw + b"\0", b"message")


@pytest.mark.parametrize("scheme", [s for s in Scheme if s.value.startswith("rsa")])
def test_rsa_verifies_each_scheme_and_refuses_the_others(scheme: Scheme) -> None:
    assert scheme.hash is not None
    hash_ = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[
        scheme.hash.value
    ]
    pad: padding.AsymmetricPadding = padding.PKCS1v15()
    if scheme.is_pss:
        pad = padding.PSS(padding.MGF1(hash_), scheme.hash.size_bytes)
    signature = RSA.sign(b"message", pad, hash_)

    publickeys.verify(der_of(RSA), scheme, signature, Digest.of(scheme.hash, b"message"))

    for other in KeyAlgorithm.RSA_2048.schemes:
        if other is not scheme:
            with pytest.raises(BadSignatureError):
                publickeys.verify(der_of(RSA), other, signature, b"message")


def test_ed25519_refuses_a_digest_with_the_reason() -> None:
    with pytest.raises(AlgorithmMismatchError, match="signs messages"):
        publickeys.verify(
            der_of(ED), Scheme.ED25519, bytes(64), Digest.of(HashAlgorithm.SHA256, b"")
        )


def test_a_scheme_of_another_kind_of_key_is_named_with_those_that_fit() -> None:
    with pytest.raises(AlgorithmMismatchError, match="ecdsa-sha2-nistp256"):
        publickeys.check_scheme(KeyAlgorithm.ECDSA_P256, Scheme.RSA_PSS_SHA256)


@pytest.mark.parametrize("junk", [b"", b"\x30", b"not a key"])
def test_what_is_not_a_public_key_is_refused(junk: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        publickeys.load(junk)


def test_a_curve_keyd_does_not_use_is_named() -> None:
    key = ec.generate_private_key(ec.SECP521R1())

    with pytest.raises(AlgorithmMismatchError, match="secp521r1"):
        publickeys.algorithm_of(der_of(key))


def test_ssh_and_pem_forms_load_in_the_library_that_reads_them() -> None:
    der = der_of(P256)

    line = publickeys.ssh_line(der, "acme/root/versions/1")
    loaded = serialization.load_ssh_public_key(line.encode())

    assert loaded == P256.public_key()
    assert line.endswith(" acme/root/versions/1")
    assert publickeys.load_pem(publickeys.pem(der).encode()) == der
