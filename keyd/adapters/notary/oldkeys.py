"""The key files of notary and docker, which a migration gives up.

TRUST/private/ID.key, PEM with ``role`` and ``gun`` in front of the base64; older versions kept
them in root_keys/ and tuf_keys/GUN/. Inside is PKCS#8 version 1 encrypted by PBES2 (RFC 8018),
which is taken apart here: cryptography refuses the version. A decrypted key stays in this process
and is never written or sent.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from keyd import publickeys
from keyd.content import der
from keyd.content.documents import Root
from keyd.content.envelope import FileSignature, parse
from keyd.errors import KeydError, RepositoryError
from keyd.model import KeyAlgorithm

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_MAX_FILE_BYTES = 64 * 1024
_MAX_ITERATIONS = 10_000_000
_PEM = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----\r?\n(.*?)-----END \1-----", re.DOTALL)
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMACS: dict[bytes, hashes.HashAlgorithm] = {
    b"": hashes.SHA1(),  # noqa: S303 - what the files were made with
    bytes.fromhex("06082a864886f70d0207"): hashes.SHA1(),  # noqa: S303
    bytes.fromhex("06082a864886f70d0209"): hashes.SHA256(),
    bytes.fromhex("06082a864886f70d020b"): hashes.SHA512(),
}
_KEY_BYTES = {
    bytes.fromhex("060960864801650304012a"): 32,
    bytes.fromhex("0609608648016503040116"): 24,
    bytes.fromhex("0609608648016503040102"): 16,
}


@dataclass(frozen=True, slots=True)
class KeyFile:
    """``key_id``: Notary's canonical id. ``role`` and ``gun``: as the file says; a root key has no
    collection."""

    path: Path
    key_id: str
    role: str
    gun: str
    pem: bytes = field(repr=False)

    @property
    def is_encrypted(self) -> bool:
        """True where a passphrase is needed."""
        return b"ENCRYPTED" in self.pem


def find(trust_dir: Path) -> list[KeyFile]:
    """All key files of a trust directory, by role and path."""
    folder = trust_dir / "private"
    found = []
    for path in sorted(folder.rglob("*.key")) if folder.is_dir() else ():
        pem = path.read_bytes()[:_MAX_FILE_BYTES]
        if not _PEM.search(pem):
            continue
        headers = dict(re.findall(r"^(role|gun): *(\S+)\s*$", pem.decode(errors="replace"), re.M))
        key_id, _, suffix = path.stem.partition("_")
        role = headers.get("role") or suffix or ("root" if "root_keys" in path.parts else "")
        gun = headers.get("gun", "")
        if not gun and "tuf_keys" in path.parts:
            gun = path.parent.relative_to(folder / "tuf_keys").as_posix()
        found.append(KeyFile(path, key_id, role, gun, pem))
    return sorted(found, key=lambda f: (f.role != "root", f.role, str(f.path)))


def unlock(file: KeyFile, passphrase: str) -> PrivateKey:
    """The private key in a file; it has to be the one that the file is named for.

    Raises:
        RepositoryError: a wrong passphrase, or not a key file of notary.
    """
    wrong = RepositoryError(
        f"{file.path}: it cannot be decrypted",
        hint="check the passphrase; what openssl pkcs8 -in FILE reads is what is expected",
        file=file.path,
    )
    try:
        key = _load(file.pem, passphrase)
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, TypeError, KeydError, UnsupportedAlgorithm, binascii.Error) as e:
        raise wrong from e
    if publickeys.notary_keyid(spki) != file.key_id:
        raise RepositoryError(
            f"{file.path}: the key in it is not the one that it is named for", file=file.path
        )
    return key


def sign(key: PrivateKey, keyid: str, payload: bytes) -> FileSignature:
    """Sign metadata as notary does. ``keyid``: what the root calls the key."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(payload, ec.ECDSA(hashes.SHA256()))
        raw = publickeys.to_raw(signature, KeyAlgorithm.ECDSA_P256)
        return FileSignature(keyid, "ecdsa", raw)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return FileSignature(keyid, "eddsa", key.sign(payload))
    pss = rsa_padding.PSS(mgf=rsa_padding.MGF1(hashes.SHA256()), salt_length=32)
    return FileSignature(keyid, "rsapss", key.sign(payload, pss, hashes.SHA256()))


def other_users(trust_dir: Path, gun: str, key_id: str) -> list[str]:
    """The other collections seen in a trust directory whose root has this key."""
    folder, users = trust_dir / "tuf", []
    for file in sorted(folder.rglob("metadata/root.json")) if folder.is_dir() else ():
        other = file.parent.parent.relative_to(folder).as_posix()
        try:
            root = parse(file.read_bytes()).document
        except KeydError:
            continue
        if other != gun and isinstance(root, Root) and key_id in _ids(root):
            users.append(other)
    return users


def _ids(root: Root) -> Iterable[str]:
    return (root.keys[k].canonical_id for k in root.roles["root"].keyids if k in root.keys)


def _load(pem: bytes, passphrase: str) -> PrivateKey:
    match = _PEM.search(pem)
    if match is None:
        raise ValueError("no PEM")
    lines = [line for line in match[2].splitlines() if line.strip()]
    if match[1] == b"ENCRYPTED PRIVATE KEY":
        body = base64.b64decode(b"".join(line for line in lines if b":" not in line))
        loaded = serialization.load_der_private_key(
            _version_0(_decrypt(body, passphrase.encode())), None
        )
    else:
        own = [line for line in lines if not re.match(rb"(role|gun|path): ", line)]
        head = own.index(next(line for line in own if b":" not in line))
        # The headers of RFC 1421 end with an empty line.
        body = b"\n".join([*own[:head], *([b""] if head else []), *own[head:]])
        text = b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (match[1], body, match[1])
        secret = passphrase.encode() if b"ENCRYPTED" in text else None
        loaded = serialization.load_pem_private_key(text, secret)
    if not isinstance(loaded, PrivateKey):
        raise ValueError("a kind of key that Notary does not have")
    return loaded


def _decrypt(body: bytes, passphrase: bytes) -> bytes:
    """EncryptedPrivateKeyInfo (RFC 5958) -> PrivateKeyInfo."""
    algorithm, encrypted = _parts(body)
    kind, parameters = _parts(algorithm)
    if kind != _PBES2:
        raise ValueError("not PBES2")
    derivation, scheme = _parts(parameters)
    function, facts = _parts(derivation)
    salt, count, *more = _parts(facts)
    cipher, iv = _parts(scheme)
    prf = next((_parts(each)[0] for each in more if each[0] == der.SEQUENCE), b"")
    iterations = int.from_bytes(_content(count), "big")
    if function != _PBKDF2 or cipher not in _KEY_BYTES or prf not in _HMACS:
        raise ValueError("another kind of encryption")
    if not 0 < iterations <= _MAX_ITERATIONS:
        raise ValueError("too many iterations")
    derived = PBKDF2HMAC(_HMACS[prf], _KEY_BYTES[cipher], _content(salt), iterations)
    key = derived.derive(passphrase)
    decryptor = Cipher(algorithms.AES(key), modes.CBC(_content(iv))).decryptor()
    padded = decryptor.update(_content(encrypted)) + decryptor.finalize()
    unpadder = padding.PKCS7(128).unpadder()
    return unpadder.update(padded) + unpadder.finalize()


def _version_0(info: bytes) -> bytes:
    """PrivateKeyInfo as version 0: its algorithm and key, without what may follow."""
    _, algorithm, key, *_ = _parts(info)
    return der.wrap(der.SEQUENCE, der.wrap(der.INTEGER, b"\0"), algorithm, key)


def _parts(value: bytes) -> list[bytes]:
    """The elements inside a SEQUENCE, each with tag and length."""
    whole = der.element(value, 0, len(value))
    if whole.tag != der.SEQUENCE:
        raise ValueError("not a SEQUENCE")
    found, at = [], whole.body
    while at < whole.end:
        inner = der.element(value, at, whole.end)
        found.append(value[at : inner.end])
        at = inner.end
    return found


def _content(element: bytes) -> bytes:
    found = der.element(element, 0, len(element))
    return element[found.body : found.end]
