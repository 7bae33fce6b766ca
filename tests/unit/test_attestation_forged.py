"""Statements that somebody made up, changed or took from elsewhere: none proves anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from keyd import attestation
from keyd.attestation import Trust, verify
from keyd.errors import TokenObjectError
from keyd.model import Slot, SlotStatement
from tests.unit.test_attestation import NOW, SLOT, VECTOR, Card, spki, word
from tests.yubikey.attestation import FORM_FACTOR, SERIAL, Maker, attest
from tests.yubikey.model import Model
from tests.yubikey.model import PinPolicy as CardPin
from tests.yubikey.model import TouchPolicy as CardTouch

Change = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]
POLICIES = CardPin.ONCE, CardTouch.ALWAYS


def raw(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


def add_nothing(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    return builder


def rebuilt(
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    change: Change = add_nothing,
    without: x509.ObjectIdentifier | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> x509.Certificate:
    """The certificate with something else in it, signed by ``key``."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .public_key(certificate.public_key())
        .serial_number(9)
        .not_valid_before(since or certificate.not_valid_before_utc)
        .not_valid_after(until or certificate.not_valid_after_utc)
    )
    for extension in certificate.extensions:
        if extension.oid != without:
            builder = builder.add_extension(extension.value, extension.critical)
    return change(builder).sign(key, hashes.SHA256())


def add(
    extension: x509.ExtensionType, critical: bool, builder: x509.CertificateBuilder
) -> x509.CertificateBuilder:
    return builder.add_extension(extension, critical)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def saying(card: Card, oid: x509.ObjectIdentifier, value: bytes) -> SlotStatement:
    """What the card says, with another value of this extension."""
    extension = x509.UnrecognizedExtension(oid, value)
    statement = rebuilt(
        x509.load_der_x509_certificate(card.said.statement),
        card.attester,
        lambda b: b.add_extension(extension, critical=False),
        without=oid,
    )
    return replace(card.said, statement=der(statement))


def refused(card: Card, said: SlotStatement, trust: Trust | None = None) -> str:
    with pytest.raises(TokenObjectError) as caught:
        verify(said, spki(card.key), "1234567", SLOT, trust or card.trust, NOW)
    return word(caught)


def flips(content: bytes) -> list[bytes]:
    """Each byte changed in one bit, the place of which goes round."""
    return [
        content[:at] + bytes((content[at] ^ (1 << at % 8),)) + content[at + 1 :]
        for at in range(len(content))
    ]


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_flipped_bit_in_any_byte_of_either_certificate_is_refused() -> None:
    card = Card.new()
    verify(card.said, spki(card.key), "1234567", SLOT, card.trust, NOW)
    words = {
        refused(card, said)
        for said in chain(
            (replace(card.said, statement=changed) for changed in flips(card.said.statement)),
            (
                replace(card.said, device_certificate=changed)
                for changed in flips(card.said.device_certificate)
            ),
        )
    }
    assert words <= {"unreadable", "untrusted"}, "nothing of it is believed far enough to compare"


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_flipped_bit_in_a_real_yubikeys_statement_is_refused() -> None:
    statement, device = x509.load_pem_x509_certificates(VECTOR.read_bytes())
    trust, public = Trust.of_files(), attestation.spki(statement)
    said = SlotStatement(der(statement), der(device))
    verify(said, public, "25515003", SLOT, trust, NOW)
    for changed in flips(said.statement)[::3]:
        with pytest.raises(TokenObjectError):
            verify(replace(said, statement=changed), public, "25515003", SLOT, trust, NOW)


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_a_statement_that_is_cut_short_or_too_long_is_refused(size: int) -> None:
    card = Card.new()
    cut = card.said.statement[:size] if size >= 0 else card.said.statement + b"\0"
    assert refused(card, replace(card.said, statement=cut)) == "unreadable"


def test_an_unknown_critical_extension_is_refused_anywhere_and_an_uncritical_one_is_not() -> None:
    card = Card.new()
    strange = raw("1.3.6.1.4.1.99999.1", b"\x05\x00")
    statement = x509.load_der_x509_certificate(card.said.statement)
    for critical in (True, False):
        odd = rebuilt(statement, card.attester, partial(add, strange, critical))
        said = replace(card.said, statement=der(odd))
        if critical:
            assert refused(card, said) == "unreadable"
        else:
            verify(said, spki(card.key), "1234567", SLOT, card.trust, NOW)
    device = rebuilt(
        card.device, card.maker._key, lambda b: b.add_extension(strange, critical=True)
    )
    assert refused(card, replace(card.said, device_certificate=der(device))) == "unreadable"


def test_a_device_certificate_that_is_no_ca_or_not_for_certificates_vouches_for_nothing() -> None:
    card = Card.new()
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    basic = x509.OID_BASIC_CONSTRAINTS
    for device in (
        rebuilt(card.device, card.maker._key, without=basic),
        rebuilt(card.device, card.maker._key, lambda b: b.add_extension(usage, critical=True)),
        rebuilt(
            card.device,
            card.maker._key,
            lambda b: b.add_extension(x509.BasicConstraints(False, None), critical=True),
            without=basic,
        ),
    ):
        said = replace(card.said, device_certificate=der(device))
        assert refused(card, said) == "untrusted"


@pytest.mark.parametrize("which", ["statement", "device"])
@pytest.mark.parametrize(("since", "until"), [(-20, -10), (10, 20)])
def test_each_certificate_has_to_be_valid_now(which: str, since: int, until: int) -> None:
    card = Card.new()
    dates = [NOW + timedelta(days=days) for days in (since, until)]
    if which == "statement":
        odd = rebuilt(
            x509.load_der_x509_certificate(card.said.statement),
            card.attester,
            add_nothing,
            None,
            *dates,
        )
        said = replace(card.said, statement=der(odd))
    else:
        odd = rebuilt(card.device, card.maker._key, add_nothing, None, *dates)
        said = replace(card.said, device_certificate=der(odd))
    assert refused(card, said) == "expired"


def test_a_statement_of_another_card_of_the_same_maker_is_no_use_for_this_one() -> None:
    """Replayed: same slot, same root, all signatures good; another card and another key."""
    card, other = Card.new(), ec.generate_private_key(ec.SECP256R1())
    attester = ec.generate_private_key(ec.SECP256R1())
    model = Model(7654321)
    device = card.maker.certify(model, attester)
    said = SlotStatement(
        attest(model, SLOT.number, other, POLICIES, (attester, device)), der(device)
    )
    assert refused(card, said) == "other-key"
    # The very key, in another card: it was never made there, but the serial tells too.
    copied = attest(model, SLOT.number, card.key, POLICIES, (attester, device))
    assert refused(card, replace(said, statement=copied)) == "other-serial"
    # Of this card, but for the key in another slot.
    moved = attest(Model(1234567), 0x9A, card.key, POLICIES, (card.attester, card.device))
    assert refused(card, replace(card.said, statement=moved)) == "other-slot"


def test_a_chain_that_leads_back_to_itself_ends() -> None:
    card, names = Card.new(), ("upper", "lower")
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in names}

    def cross(subject: str, issuer: str) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(keys[subject].public_key())
            .serial_number(3)
            .not_valid_before(NOW - timedelta(days=9))
            .not_valid_after(NOW + timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(keys[issuer], hashes.SHA256())
        )

    device = (
        x509.CertificateBuilder()
        .subject_name(card.device.subject)
        .issuer_name(cross("lower", "upper").subject)
        .public_key(card.attester.public_key())
        .serial_number(4)
        .not_valid_before(NOW - timedelta(days=9))
        .not_valid_after(NOW + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(keys["lower"], hashes.SHA256())
    )
    circle = Trust([cross("lower", "upper"), cross("upper", "lower")])
    said = replace(card.said, device_certificate=der(device))
    assert refused(card, said, circle) == "untrusted"


@pytest.mark.parametrize(
    ("oid", "value", "shown"),
    [
        (FORM_FACTOR, b"\x83", "Keychain (USB-C), FIPS"),
        (FORM_FACTOR, b"\x04\x01\x03", "Keychain (USB-C)"),
        (FORM_FACTOR, b"\x0f", "unknown (15)"),
        (x509.ObjectIdentifier("1.3.6.1.4.1.41482.3.10"), b"\x01", "Keychain (USB-A), FIPS"),
        (x509.ObjectIdentifier("1.3.6.1.4.1.41482.3.11"), b"\x01", "Keychain (USB-A), CSPN"),
    ],
)
def test_form_factor_and_certifications_are_told(
    oid: x509.ObjectIdentifier, value: bytes, shown: str
) -> None:
    card = Card.new()
    said = saying(card, oid, value)
    assert verify(said, spki(card.key), "1234567", SLOT, card.trust, NOW).form_factor == shown


@pytest.mark.parametrize("value", [b"\x02\x03\x80\x00\x01", b"\x02\x02\x01", b"\x04\x01\x05"])
def test_a_serial_that_is_no_positive_integer_is_refused(value: bytes) -> None:
    card = Card.new()
    assert refused(card, saying(card, SERIAL, value)) == "unreadable"


def test_a_root_of_the_same_name_with_another_key_vouches_for_nothing() -> None:
    card, impostor = Card.new(), Maker()
    assert impostor.root.subject == card.maker.root.subject
    assert refused(card, card.said, Trust([impostor.root])) == "untrusted"
    both = Trust([impostor.root, card.maker.root])
    assert verify(card.said, spki(card.key), "1234567", Slot.parse("9c"), both, NOW).chain[-1] == (
        der(card.maker.root)
    )
