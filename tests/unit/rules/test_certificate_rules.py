"""X.509 under a key that is bound: its own key, its own name, no power over others."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyd.content import parse
from keyd.errors import RuleRefusedError
from keyd.model import Context
from keyd.rules import Asked, History, Verdict, judge
from tests.unit.content.notary_made import spki
from tests.unit.rules.ledger import LIMITS, NOW, a_key, a_version

OWN, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
GUN = "registry/app"


def named(common_name: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    return x509.Name(attributes)


def certificate(
    common_name: str = GUN,
    *,
    issuer: str | None = None,
    of: ec.EllipticCurvePrivateKey = OWN,
    ca: bool = False,
    alternative: str = "",
    until: datetime = NOW + timedelta(days=3650),
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(common_name))
        .issuer_name(named(common_name if issuer is None else issuer))
        .public_key(of.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=9999))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if alternative:
        names = x509.SubjectAlternativeName([x509.DNSName(alternative)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(of, hashes.SHA256()).tbs_certificate_bytes


def request(common_name: str = GUN, *, of: ec.EllipticCurvePrivateKey = OWN) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(named(common_name))
    return builder.sign(of, hashes.SHA256()).tbs_certrequest_bytes


def judged(payload: bytes, context: Context | None = None, *bindings: tuple[str, str]) -> Verdict:
    asked = Asked(
        payload=payload,
        content=parse(payload),
        key=a_key(*(bindings or [(GUN, "root")])),
        version=a_version(spki(OWN)),
        context=context or Context(GUN, "root"),
        is_root_key_here=lambda _: False,
    )
    return judge(asked, History(), LIMITS, NOW)


@pytest.mark.parametrize(
    "payload", [certificate(), request(), certificate("root"), request("root")]
)
def test_its_own_certificate_passes_and_leaves_no_mark(payload: bytes) -> None:
    verdict = judged(payload)

    assert verdict.effect is None
    assert verdict.grave == ()
    assert verdict.checks[0] == "for the public key of acme/key/versions/1 itself"


@pytest.mark.parametrize(
    ("payload", "rule"),
    [
        (certificate(of=OTHER), "certificate-key"),
        (request(of=OTHER), "certificate-key"),
        (certificate("registry/other"), "certificate-name"),
        (certificate("registry/*"), "certificate-name"),
        (request("targets"), "certificate-name"),
        (certificate(""), "certificate-name"),
        (certificate(alternative="bank.example"), "certificate-name"),
        (certificate(ca=True), "certificate-ca"),
        (certificate(issuer="Some CA"), "certificate-issuer"),
        (certificate(until=NOW), "expired"),
    ],
    ids=[
        "certify a stranger's key",
        "request for a stranger's key",
        "certify another collection",
        "certify all collections",
        "request the name of another role",
        "certify nobody",
        "certify a web site besides",
        "become a CA",
        "pose as somebody's CA",
        "certify the past",
    ],
)
def test_anything_else_is_refused_for_its_reason(payload: bytes, rule: str) -> None:
    with pytest.raises(RuleRefusedError) as e:
        judged(payload)

    assert e.value.facts["rule"] == rule
    assert e.value.hint


def test_a_key_of_many_collections_certifies_the_one_it_signs_for() -> None:
    bindings = [("registry/*", "root")]

    assert judged(certificate(), Context(GUN, "root"), *bindings).checks
    assert judged(certificate("registry/*"), Context(GUN, "root"), *bindings).checks
    with pytest.raises(RuleRefusedError) as e:
        judged(certificate("registry/b"), Context(GUN, "root"), *bindings)
    assert e.value.facts["rule"] == "certificate-name"


def test_without_a_claim_any_name_it_is_bound_to_will_do() -> None:
    bindings = [("registry/*", "root"), ("acme/app", "targets")]

    for name in ("registry/x", "acme/app", "targets"):
        assert judged(certificate(name), Context(), *bindings).checks
    with pytest.raises(RuleRefusedError):
        judged(certificate("acme/other"), Context(), *bindings)


def test_a_name_may_lie_among_the_alternative_ones_too() -> None:
    assert judged(certificate(alternative=GUN)).checks


def test_a_name_of_an_attackers_choice_is_shown_safely() -> None:
    with pytest.raises(RuleRefusedError) as e:
        judged(request("registry/\x1b[2Japp"))

    assert e.value.message.isprintable()
