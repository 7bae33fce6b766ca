"""Key files of notary and docker, as they were written over the years."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from keyd import publickeys
from keyd.adapters.notary import oldkeys
from keyd.content import der
from keyd.errors import RepositoryError

KEY = ec.derive_private_key(7, ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
)
KEY_ID = publickeys.notary_keyid(SPKI)
PASSPHRASE = "correct horse battery"
OCTETS = 0x04


def pkcs8() -> bytes:
    return KEY.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def as_notary_writes(passphrase: str = PASSPHRASE) -> bytes:
    """PKCS#8 version 1 inside PBES2 with HMAC-SHA-1, as notary's library has it."""
    info = pkcs8()
    version_1 = der.wrap(der.SEQUENCE, der.wrap(der.INTEGER, b"\1"), _after_version(info))
    salt, iv = b"\2" * 8, b"\3" * 16
    derived = PBKDF2HMAC(hashes.SHA1(), 32, salt, 2048).derive(passphrase.encode())
    padder = padding.PKCS7(128).padder()
    padded = padder.update(version_1) + padder.finalize()
    encryptor = Cipher(algorithms.AES(derived), modes.CBC(iv)).encryptor()
    facts = der.wrap(
        der.SEQUENCE, der.wrap(OCTETS, salt), der.wrap(der.INTEGER, (2048).to_bytes(2, "big"))
    )
    function = der.wrap(der.SEQUENCE, bytes.fromhex("06092a864886f70d01050c"), facts)
    cipher = der.wrap(der.SEQUENCE, bytes.fromhex("060960864801650304012a"), der.wrap(OCTETS, iv))
    algorithm = der.wrap(
        der.SEQUENCE,
        bytes.fromhex("06092a864886f70d01050d"),
        der.wrap(der.SEQUENCE, function, cipher),
    )
    encrypted = encryptor.update(padded) + encryptor.finalize()
    return der.wrap(der.SEQUENCE, algorithm, der.wrap(OCTETS, encrypted))


def _after_version(info: bytes) -> bytes:
    whole = der.element(info, 0, len(info))
    version = der.element(info, whole.body, whole.end)
    return info[version.end : whole.end]


def pem(title: str, body: bytes, headers: str) -> bytes:
    import base64

    text = base64.encodebytes(body).decode()
    return f"-----BEGIN {title}-----\n{headers}\n{text}-----END {title}-----\n".encode()


def a_file(folder: Path, content: bytes, name: str = f"private/{KEY_ID}.key") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_todays_files_are_read_with_their_role_and_collection(tmp_path: Path) -> None:
    headers = "gun: localhost:5000/app\nrole: targets\n"
    a_file(tmp_path, pem("ENCRYPTED PRIVATE KEY", as_notary_writes(), headers))

    (found,) = oldkeys.find(tmp_path)

    assert (found.role, found.gun, found.key_id) == ("targets", "localhost:5000/app", KEY_ID)
    assert found.is_encrypted
    key = oldkeys.unlock(found, PASSPHRASE)
    signature = oldkeys.sign(key, "id", b"payload")
    assert (signature.method, len(signature.value)) == ("ecdsa", 64)
    assert PASSPHRASE not in repr(found)


def test_files_of_older_versions_are_read(tmp_path: Path) -> None:
    plain = KEY.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(PASSPHRASE.encode()),
    )
    a_file(tmp_path, plain, f"private/root_keys/{KEY_ID}.key")
    a_file(tmp_path, plain, f"private/tuf_keys/localhost/app/{KEY_ID}_snapshot.key")

    root, snapshot = oldkeys.find(tmp_path)

    assert (root.role, root.gun) == ("root", "")
    assert (snapshot.role, snapshot.gun) == ("snapshot", "localhost/app")
    assert oldkeys.unlock(root, PASSPHRASE)
    assert oldkeys.unlock(snapshot, PASSPHRASE)


def test_files_without_a_passphrase_are_read(tmp_path: Path) -> None:
    a_file(tmp_path, pem("PRIVATE KEY", pkcs8(), "role: root\n"))

    (found,) = oldkeys.find(tmp_path)

    assert not found.is_encrypted
    assert oldkeys.unlock(found, "")


@pytest.mark.parametrize("passphrase", ["wrong", ""])
def test_a_wrong_passphrase_is_told(tmp_path: Path, passphrase: str) -> None:
    a_file(tmp_path, pem("ENCRYPTED PRIVATE KEY", as_notary_writes(), "role: root\n"))
    (found,) = oldkeys.find(tmp_path)

    with pytest.raises(RepositoryError, match="cannot be decrypted"):
        oldkeys.unlock(found, passphrase)


@pytest.mark.parametrize(
    "body", [b"", b"\x30\x00", b"\x30\x80", bytes(50), as_notary_writes()[:90]]
)
def test_broken_files_are_told(tmp_path: Path, body: bytes) -> None:
    a_file(tmp_path, pem("ENCRYPTED PRIVATE KEY", body, "role: root\n"))
    (found,) = oldkeys.find(tmp_path)

    with pytest.raises(RepositoryError, match="cannot be decrypted"):
        oldkeys.unlock(found, PASSPHRASE)


def test_a_key_under_another_keys_name_is_not_used(tmp_path: Path) -> None:
    content = pem("ENCRYPTED PRIVATE KEY", as_notary_writes(), "role: root\n")
    a_file(tmp_path, content, f"private/{'ab' * 32}.key")
    (found,) = oldkeys.find(tmp_path)

    with pytest.raises(RepositoryError, match="not the one that it is named for"):
        oldkeys.unlock(found, PASSPHRASE)


def test_a_folder_without_keys_has_none(tmp_path: Path) -> None:
    assert oldkeys.find(tmp_path) == []
