"""Root certificates of one's own CA, for readers that pin it: keydctl trust reads a collection
where the real notary does, and refuses it where that does."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keyd.model import Binding, KeyAlgorithm
from tests.trust_stage import Person, Stage, a_stage

pytestmark = pytest.mark.softhsm
ROOT_KEY = "ours/root"
NUMBERS = itertools.count(1)
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
CODE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH])
ANY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def usage(signs_certificates: bool) -> x509.KeyUsage:
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    others = dict.fromkeys((*names, "crl_sign", "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=True, key_cert_sign=signs_certificates, **others)


@dataclass
class Authority:
    """A CA, and the chain up to it: its own certificate, and those of the CAs above but the first,
    which readers pin."""

    key: ec.EllipticCurvePrivateKey
    chain: list[x509.Certificate]


def issue(
    public: ec.EllipticCurvePublicKey,
    name: str,
    by: Authority | None,
    key: ec.EllipticCurvePrivateKey | None,
    *extensions: x509.ExtensionType,
    ca: bool = False,
    length: int | None = None,
) -> x509.Certificate:
    """``key``: signs, where nobody else issues it."""
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.chain[0].subject if by else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=90))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=length), critical=True)
    )
    for extension in extensions:
        critical = isinstance(extension, x509.KeyUsage | x509.UnrecognizedExtension)
        made = made.add_extension(extension, critical=critical)
    signer = by.key if by else key
    assert signer is not None
    return made.sign(signer, hashes.SHA256())


def authority(
    name: str,
    *extensions: x509.ExtensionType,
    by: Authority | None = None,
    length: int | None = None,
) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    made = issue(key.public_key(), name, by, key, *extensions, ca=True, length=length)
    return Authority(key, [made, *(by.chain if by else [])])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with a_stage(tmp_path_factory.mktemp("p")) as running:
        with running.sandbox.admin() as keyd:
            bindings = [Binding(f"{running.registry.host}/*", "root")]
            keyd.create_key(ROOT_KEY, KeyAlgorithm.ECDSA_P256, bindings=bindings)
        yield running


@pytest.fixture(scope="module")
def alice(stage: Stage) -> Person:
    return stage.person()


def public_key(stage: Stage) -> ec.EllipticCurvePublicKey:
    with stage.sandbox.admin() as keyd:
        loaded = serialization.load_der_public_key(keyd.get_key(ROOT_KEY).versions[0].public_key)
    assert isinstance(loaded, ec.EllipticCurvePublicKey)
    return loaded


def publish(stage: Stage, alice: Person, chain: Sequence[x509.Certificate]) -> str:
    """A collection with this chain, and the target v1."""
    gun = str(chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    file = alice.folder / "chain.pem"
    file.write_bytes(pem)
    alice("init", gun, "--rootkey", ROOT_KEY, "--rootcert", file)
    alice("addhash", gun, "v1", "3", "--sha256", "ab" * 32, "-p")
    return gun


def verdicts(stage: Stage, alice: Person, gun: str, pinned: bytes) -> tuple[bool, bool]:
    """Whether the real notary reads it, and whether keydctl does, where this CA is pinned."""
    reader = stage.sandbox.client(f"reader{next(NUMBERS)}")
    ca = reader.folder / "pinned.crt"
    ca.write_bytes(pinned)
    config = json.loads(reader.config.read_text())
    pinning = {"disable_tofu": True, "ca": {gun.rpartition("/")[0]: str(ca)}}
    reader.config.write_text(json.dumps({**config, "trust_pinning": pinning}))
    folder = reader.folder / "ours"
    code, output = reader.run("list", gun)
    ours = alice.run("trust", "-c", str(reader.config), "-d", str(folder), "list", gun)
    assert ("v1" in output) == (code == 0), output
    assert (b"v1" in ours.stdout) == (ours.returncode == 0), ours.stderr
    assert ours.returncode == 0 or b"not the pinned one" in ours.stderr, ours.stderr
    return code == 0, ours.returncode == 0


Made = tuple[Authority, list[x509.ExtensionType]]
"""Who issues the root certificate, and what it says."""


def straight(*extensions: x509.ExtensionType) -> Callable[[], Made]:
    return lambda: (authority("our CA"), list(extensions))


def below(*extensions: x509.ExtensionType) -> Callable[[], Made]:
    """Through a CA that says this."""
    return lambda: (authority("between", *extensions, by=authority("our CA")), [])


def of(*extensions: x509.ExtensionType, length: int | None = None) -> Callable[[], Made]:
    """Through a CA, from a pinned one that says this."""
    return lambda: (
        authority("between", by=authority("our CA", *extensions, length=length)),
        [],
    )


CASES: dict[str, tuple[Callable[[], Made], bool]] = {
    "nothing said": (straight(), True),
    "serverAuth": (straight(SERVER), True),
    "codeSigning": (straight(CODE), False),
    "both": (straight(BOTH), True),
    "any usage": (straight(ANY), True),
    "unknown and critical": (straight(UNKNOWN), False),
    "a CA between": (below(usage(signs_certificates=True)), True),
    "a CA between for codeSigning": (below(CODE), False),
    "a CA between that may not issue": (below(usage(signs_certificates=False)), False),
    "a pinned CA for codeSigning": (of(CODE), False),
    "a pinned CA that may not issue": (of(usage(signs_certificates=False)), False),
    "a pinned CA with none below it": (of(length=0), False),
    "a pinned CA with one below it": (of(length=1), True),
}


@pytest.mark.parametrize(("made", "is_read"), CASES.values(), ids=CASES)
def test_notary_and_keydctl_are_of_one_mind_over_a_chain_to_the_pinned_ca(
    stage: Stage, alice: Person, made: Callable[[], Made], is_read: bool
) -> None:
    issuer, extensions = made()
    gun = stage.gun()
    leaf = issue(public_key(stage), gun, issuer, None, *extensions)

    publish(stage, alice, [leaf, *issuer.chain[:-1]])

    pinned = issuer.chain[-1].public_bytes(serialization.Encoding.PEM)
    assert verdicts(stage, alice, gun, pinned) == (is_read, is_read)


def test_the_root_of_a_csr_is_read_by_who_pins_its_ca_and_by_nobody_who_pins_another(
    stage: Stage, alice: Person
) -> None:
    gun, ours = stage.gun(), authority("our CA")
    alice("certificate", ROOT_KEY, "--gun", gun, "--csr", "-o", alice.folder / "root.csr")
    request = x509.load_pem_x509_csr((alice.folder / "root.csr").read_bytes())
    public = request.public_key()
    assert request.is_signature_valid and isinstance(public, ec.EllipticCurvePublicKey)

    publish(stage, alice, [issue(public, gun, ours, None), *ours.chain])

    own = ours.chain[0].public_bytes(serialization.Encoding.PEM)
    assert verdicts(stage, alice, gun, own) == (True, True)
    another = stage.sandbox.certificates.ca.read_bytes()
    assert verdicts(stage, alice, gun, another) == (False, False)
