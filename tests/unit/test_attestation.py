"""Attestations: a real one under Yubico's root, and all the ways a statement proves nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyd import attestation
from keyd.attestation import SHIPPED, Trust, verify
from keyd.errors import ConfigError, PolicyDeniedError, TokenObjectError
from keyd.model import (
    Attestation,
    KeyDemand,
    KeyVersion,
    Origin,
    PinPolicy,
    Slot,
    SlotStatement,
    TouchPolicy,
    VersionState,
)
from keyd.proving import check_demands
from tests.yubikey.attestation import Maker, attest
from tests.yubikey.model import FIRMWARE_5_4, FIRMWARE_5_7, Model
from tests.yubikey.model import PinPolicy as CardPin
from tests.yubikey.model import TouchPolicy as CardTouch

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SLOT = Slot.parse("9c")
VECTOR = Path(__file__).parents[1] / "vectors" / "yubikey_attestation_5_4_3.pem"


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Card:
    """An emulated card's key, statement and maker."""

    maker: Maker
    key: ec.EllipticCurvePrivateKey
    said: SlotStatement
    device: x509.Certificate
    attester: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, firmware: tuple[int, int, int] = FIRMWARE_5_4) -> Card:
        maker, model = Maker(), Model(1234567, firmware)
        key, attester = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        device = maker.certify(model, attester)
        policies = CardPin.ONCE, CardTouch.ALWAYS
        said = attest(model, SLOT.number, key, policies, (attester, device))
        der = device.public_bytes(Encoding.DER)
        return cls(maker, key, SlotStatement(said, der), device, attester)

    @property
    def trust(self) -> Trust:
        return Trust([self.maker.root])


def word(refused: pytest.ExceptionInfo[TokenObjectError]) -> str:
    return refused.value.facts["attestation"]


def test_a_real_yubikeys_statement_leads_to_yubicos_shipped_root() -> None:
    statement, device = x509.load_pem_x509_certificates(VECTOR.read_bytes())
    public = statement.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    said = SlotStatement(statement.public_bytes(Encoding.DER), device.public_bytes(Encoding.DER))

    proven = verify(said, public, "25515003", SLOT, Trust.of_files(), NOW)

    assert (proven.firmware, proven.form_factor) == ("5.4.3", "Keychain (USB-C), FIPS")
    assert (proven.pin, proven.touch) == (PinPolicy.ALWAYS, TouchPolicy.NEVER)
    assert proven.fingerprints[-1] == (
        "63ece914e54dd87915f34033c85af4c0696ba1512f8add66ced738331207b546"
    )
    assert Attestation.from_json(proven.to_json()) == proven


def test_the_shipped_certificates_are_those_of_the_table_and_lead_to_its_roots() -> None:
    table = (SHIPPED / "README.md").read_text()
    told = dict(re.findall(r"\| (Yubico [\w ]+) \| ([0-9a-f]{64}) \|", table))
    trust = Trust.of_files()
    found = {
        str(c.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value): c.fingerprint(
            hashes.SHA256()
        ).hex()
        for c in (*trust.roots, *trust.between)
    }
    assert found == told
    assert len(trust.roots) == 2
    for certificate in (*trust.roots, *trust.between):
        above = [c for c in (*trust.roots, *trust.between) if c.subject == certificate.issuer]
        certificate.verify_directly_issued_by(above[0])


@pytest.mark.parametrize("firmware", [FIRMWARE_5_4, FIRMWARE_5_7])
def test_a_statement_tells_serial_firmware_and_policies(firmware: tuple[int, int, int]) -> None:
    card = Card.new(firmware)
    proven = verify(card.said, spki(card.key), "1234567", SLOT, card.trust, NOW)
    assert (proven.serial, proven.slot) == ("1234567", "9c")
    assert proven.firmware == ".".join(map(str, firmware))
    assert (proven.pin, proven.touch) == (PinPolicy.ONCE, TouchPolicy.ALWAYS)
    assert len(proven.chain) == 3


def test_an_intermediate_that_is_not_on_the_card_is_found_among_the_trusted_files() -> None:
    card, upper = Card.new(), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another root")])
    builder = (
        x509.CertificateBuilder()
        .issuer_name(name)
        .serial_number(7)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2050, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    root = builder.subject_name(name).public_key(upper.public_key()).sign(upper, hashes.SHA256())
    cross = builder.subject_name(card.maker.root.subject).public_key(card.maker.root.public_key())
    between = cross.sign(upper, hashes.SHA256())

    proven = verify(card.said, spki(card.key), "1234567", SLOT, Trust([root, between]), NOW)

    assert len(proven.chain) == 4


def test_another_makers_root_does_not_vouch_for_it() -> None:
    card = Card.new()
    with pytest.raises(TokenObjectError) as refused:
        verify(card.said, spki(card.key), "1234567", SLOT, Trust([Maker().root]), NOW)
    assert word(refused) == "untrusted"
    assert "attestation_roots" in refused.value.hint


def test_the_benchs_root_is_not_among_the_shipped_ones() -> None:
    card = Card.new()
    with pytest.raises(TokenObjectError) as refused:
        verify(card.said, spki(card.key), "1234567", SLOT, Trust.of_files(), NOW)
    assert word(refused) == "untrusted"


def test_a_statement_that_another_card_signed_is_refused() -> None:
    card, other = Card.new(), Card.new()
    forged = replace(card.said, statement=other.said.statement)
    with pytest.raises(TokenObjectError) as refused:
        verify(forged, spki(other.key), "1234567", SLOT, card.trust, NOW)
    assert word(refused) == "untrusted"


def test_a_key_that_a_card_signed_in_a_slot_cannot_vouch_for_another_key() -> None:
    """Whoever has an attested key must not be able to make statements with it."""
    card, loose = Card.new(), ec.generate_private_key(ec.SECP256R1())
    slot_certificate = x509.load_der_x509_certificate(card.said.statement)
    policies = CardPin.ONCE, CardTouch.ALWAYS
    forged = attest(Model(1234567), SLOT.number, loose, policies, (card.key, slot_certificate))
    trust = Trust([card.maker.root, card.device])
    with pytest.raises(TokenObjectError) as refused:
        verify(SlotStatement(forged, card.said.statement), spki(loose), "1234567", SLOT, trust, NOW)
    assert word(refused) == "untrusted"


def test_a_statement_counts_for_its_own_key_card_and_slot_only() -> None:
    card = Card.new()
    stranger = spki(ec.generate_private_key(ec.SECP256R1()))
    for public, serial, slot, why in (
        (stranger, "1234567", SLOT, "other-key"),
        (spki(card.key), "7654321", SLOT, "other-serial"),
        (spki(card.key), "1234567", Slot.parse("9a"), "other-slot"),
    ):
        with pytest.raises(TokenObjectError) as refused:
            verify(card.said, public, serial, slot, card.trust, NOW)
        assert word(refused) == why


@pytest.mark.parametrize(
    "when", [datetime(2000, 1, 1, tzinfo=UTC), datetime(2060, 1, 1, tzinfo=UTC)]
)
def test_a_chain_counts_within_its_dates(when: datetime) -> None:
    card = Card.new()
    with pytest.raises(TokenObjectError) as refused:
        verify(card.said, spki(card.key), "1234567", SLOT, card.trust, when)
    assert word(refused) == "expired"


@pytest.mark.parametrize("oid", [attestation._FIRMWARE, attestation._SERIAL, attestation._POLICIES])
@pytest.mark.parametrize("value", [b"", b"\x00" * 9, None])
def test_a_statement_with_odd_extensions_proves_nothing(
    oid: x509.ObjectIdentifier, value: bytes | None
) -> None:
    card = Card.new()
    statement = x509.load_der_x509_certificate(card.said.statement)
    builder = (
        x509.CertificateBuilder()
        .subject_name(statement.subject)
        .issuer_name(statement.issuer)
        .public_key(card.key.public_key())
        .serial_number(9)
        .not_valid_before(statement.not_valid_before_utc)
        .not_valid_after(statement.not_valid_after_utc)
    )
    for extension in statement.extensions:
        changed = extension.value
        if extension.oid == oid:
            if value is None:
                continue
            changed = x509.UnrecognizedExtension(oid, value)
        builder = builder.add_extension(changed, critical=False)
    odd = builder.sign(card.attester, hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(TokenObjectError) as refused:
        verify(replace(card.said, statement=odd), spki(card.key), "1234567", SLOT, card.trust, NOW)
    assert word(refused) == "unreadable"


def test_bytes_that_are_no_certificate_prove_nothing() -> None:
    card = Card.new()
    with pytest.raises(TokenObjectError) as refused:
        verify(replace(card.said, statement=b"\0"), b"", "1234567", SLOT, card.trust, NOW)
    assert word(refused) == "unreadable"


def test_a_file_of_roots_that_holds_none_stops_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"roots\.pem: no PEM certificates"):
        Trust.of_files(tmp_path / "roots.pem")
    with pytest.raises(ConfigError, match="cannot be read"):
        Trust.of_files(tmp_path / "missing.pem")


def a_version(proven: Attestation | None) -> KeyVersion:
    origin = Origin.ATTESTED if proven else Origin.GENERATED
    return KeyVersion(
        "acme/root",
        1,
        VersionState.ENABLED,
        origin,
        "1234567",
        b"\x02",
        b"key",
        {},
        NOW,
        "socket:admin",
        attestation=proven,
    )


@pytest.mark.parametrize(
    ("touch", "demand", "said", "way_out"),
    [
        (
            None,
            KeyDemand("hardware"),
            "acme/root/versions/1 is generated",
            "keydctl key rotate acme/root",
        ),
        (
            None,
            KeyDemand("hardware", touch=True),
            "acme/root/versions/1 is generated",
            "keydctl key create NAME --token TOKEN --slot 9c --touch always",
        ),
        (
            TouchPolicy.NEVER,
            KeyDemand("hardware", touch=True),
            "signs without a touch",
            "keydctl key create NAME --token TOKEN --slot 9c --touch always",
        ),
    ],
)
def test_a_key_that_is_not_what_the_rule_demands_is_refused_with_a_way_out(
    touch: TouchPolicy | None, demand: KeyDemand, said: str, way_out: str
) -> None:
    proven = (
        Attestation("9c", "1234567", "5.4.3", "", PinPolicy.ONCE, touch, (b"",)) if touch else None
    )
    with pytest.raises(PolicyDeniedError) as refused:
        check_demands(a_version(proven), [demand])
    assert said in refused.value.message
    assert way_out in refused.value.hint
    assert refused.value.facts["rule"] == "rule hardware"


@pytest.mark.parametrize("touch", [TouchPolicy.ALWAYS, TouchPolicy.CACHED])
def test_an_attested_key_with_touch_meets_the_rule(touch: TouchPolicy) -> None:
    proven = Attestation("9c", "1234567", "5.4.3", "", PinPolicy.ONCE, touch, (b"",))
    check_demands(a_version(proven), [KeyDemand("hardware", touch=True)])
