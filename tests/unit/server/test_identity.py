"""Who a certificate is, and when it is nobody any more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyd.errors import UnknownCallerError
from keyd.model import Principal
from keyd.server.identity import CertificateIdentity, SocketIdentity
from keyd.server.tls import DenyList, Trust
from tests.certificates import Issued, an_authority, issue

URI = x509.UniformResourceIdentifier
DNS = x509.DNSName
MAIL = x509.RFC822Name

CA = an_authority()


class Clock:
    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        return self.time


class Call:
    """A connection that shows this certificate."""

    def __init__(self, *chain: Issued, raw: bytes = b"") -> None:
        self._leaf = raw or (chain[0].pem if chain else b"")
        self._chain = b"".join(c.pem for c in chain)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:5000"

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        if not self._leaf:
            return {}
        return {
            "x509_pem_cert": [self._leaf],
            "x509_pem_cert_chain": [self._chain],
            # what grpc believes, which must not matter
            "peer_dns": [b"admin.acme.example"],
            "x509_subject_alternative_name": [b"admin.acme.example"],
        }


class World:
    """An identity whose trust and time the test moves."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.trust = Trust(1, (CA.certificate,))
        self.who = CertificateIdentity(lambda: self.trust, self.clock)

    def change(self, *authorities: Issued, denied: DenyList | None = None) -> None:
        self.trust = Trust(
            self.trust.generation + 1,
            tuple(a.certificate for a in authorities),
            denied or DenyList(),
        )


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("names", "principal"),
    [
        ([URI("spiffe://acme/ci")], "uri:spiffe://acme/ci"),
        ([DNS("a.example"), MAIL("b@c.example"), URI("spiffe://acme/ci")], "uri:spiffe://acme/ci"),
        ([DNS("a.example"), MAIL("Bob@C.Example")], "email:Bob@c.example"),
        ([DNS("Runner1.Acme.Example")], "dns:runner1.acme.example"),
        ([DNS("a.example"), DNS("b.example"), URI("spiffe://acme/ci")], "uri:spiffe://acme/ci"),
    ],
)
def test_the_single_uri_else_mail_else_dns_name_is_the_principal(
    world: World, names: list[x509.GeneralName], principal: str
) -> None:
    client = issue(*names, by=CA)

    found = world.who(Call(client))

    assert found == Principal(
        principal,
        "mtls",
        fingerprint=hashlib.sha256(
            client.certificate.public_bytes(serialization.Encoding.DER)
        ).hexdigest(),
        peer="ipv4:127.0.0.1:5000",
        certificate_not_after=client.certificate.not_valid_after_utc,
    )


@pytest.mark.parametrize(
    ("attack", "names", "says"),
    [
        ("NUL cuts a DNS name", [DNS("runner1.acme\0.evil.example")], "control character"),
        ("NUL in a name that does not count", [URI("x:y"), DNS("a\0b")], "control character"),
        ("newline forges a log line", [URI("spiffe://acme/ci\nadmin")], "control character"),
        ("two URIs", [URI("spiffe://acme/ci"), URI("spiffe://acme/admin")], "ambiguous"),
        ("two mails", [MAIL("a@b.example"), MAIL("c@d.example")], "ambiguous"),
        ("two DNS names", [DNS("a.example"), DNS("b.example")], "ambiguous"),
        ("a wildcard is not one caller", [DNS("*.acme.example")], "not one DNS name"),
        ("an empty URI", [URI("")], "0 characters"),
        ("an endless URI", [URI("x:" + "y" * 1000)], "1002 characters"),
        (
            "an IP address only",
            [x509.IPAddress(__import__("ipaddress").ip_address("::1"))],
            "no URI",
        ),
        (
            "another kind of name",
            [x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), URI("x:y")],
            "kind RegisteredID",
        ),
        ("no names", [], "without a subject alternative name"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_doubtful_names_are_refused(
    world: World, attack: str, names: list[x509.GeneralName], says: str
) -> None:
    with pytest.raises(UnknownCallerError) as e:
        world.who(Call(issue(*names, by=CA, common_name="admin")))

    assert says in e.value.message
    assert "\0" not in e.value.message
    assert "\n" not in e.value.message


def test_no_certificate_is_nobody(world: World) -> None:
    with pytest.raises(UnknownCallerError, match="no client certificate"):
        world.who(Call())


def test_garbage_instead_of_a_certificate_is_nobody(world: World) -> None:
    with pytest.raises(UnknownCallerError, match="cannot be read"):
        world.who(Call(raw=b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))


def test_a_certificate_that_expires_on_an_open_connection_is_refused_from_then_on(
    world: World,
) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
    call = Call(issue(URI("x:y"), by=CA, end=end))
    assert world.who(call).id == "uri:x:y"

    world.clock.time = end + timedelta(seconds=1)

    with pytest.raises(UnknownCallerError, match="expired at"):
        world.who(call)


def test_a_certificate_is_refused_before_its_time(world: World) -> None:
    now = world.clock.time
    client = issue(URI("x:y"), by=CA, start=now + timedelta(hours=1), end=now + timedelta(days=1))

    with pytest.raises(UnknownCallerError, match="not valid before"):
        world.who(Call(client))


def test_an_expired_ca_ends_its_clients(world: World) -> None:
    now = world.clock.time
    authority = issue(ca=True, common_name="short", end=now + timedelta(minutes=1))
    world.change(authority)
    call = Call(issue(URI("x:y"), by=authority))
    assert world.who(call).id == "uri:x:y"

    world.clock.time = now + timedelta(minutes=2)

    with pytest.raises(UnknownCallerError, match="the CA of the client certificate expired"):
        world.who(call)


def test_a_removed_ca_ends_open_connections_and_its_return_heals_them(world: World) -> None:
    call = Call(issue(URI("x:y"), by=CA))
    assert world.who(call).id == "uri:x:y"

    world.change(an_authority("other"))
    with pytest.raises(UnknownCallerError, match="not trusted"):
        world.who(call)

    world.change(an_authority("other"), CA)
    assert world.who(call).id == "uri:x:y"


def test_a_ca_of_the_same_name_with_another_key_is_not_trusted(world: World) -> None:
    call = Call(issue(URI("x:y"), by=CA))

    world.change(an_authority("CA"))

    with pytest.raises(UnknownCallerError, match="not trusted"):
        world.who(call)


def test_denied_certificates_are_refused_on_open_connections(world: World) -> None:
    client = issue(URI("x:y"), by=CA, serial=0xABC)
    der = client.certificate.public_bytes(serialization.Encoding.DER)
    spki = client.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    call = Call(client)
    for denied in (
        DenyList(serials=frozenset({0xABC})),
        DenyList(fingerprints=frozenset({hashlib.sha256(der).hexdigest()})),
        DenyList(fingerprints=frozenset({hashlib.sha256(spki).hexdigest()})),
    ):
        world.change(CA)
        assert world.who(call).id == "uri:x:y"

        world.change(CA, denied=denied)

        with pytest.raises(UnknownCallerError, match="deny-list"):
            world.who(call)


def test_an_intermediate_the_client_sent_along_leads_to_the_ca(world: World) -> None:
    middle = issue(by=CA, ca=True, common_name="middle")
    client = issue(URI("x:y"), by=middle)

    assert world.who(Call(client, middle)).id == "uri:x:y"
    with pytest.raises(UnknownCallerError, match="not trusted"):
        world.who(Call(client))


def test_a_denied_intermediate_ends_its_clients(world: World) -> None:
    middle = issue(by=CA, ca=True, common_name="middle", serial=77)
    world.change(CA, denied=DenyList(serials=frozenset({77})))

    with pytest.raises(UnknownCallerError, match="not trusted"):
        world.who(Call(issue(URI("x:y"), by=middle), middle))


def test_a_client_cannot_sign_certificates_for_others(world: World) -> None:
    client = issue(URI("x:y"), by=CA, common_name="client")
    forged = issue(URI("x:admin"), by=client)

    with pytest.raises(UnknownCallerError, match="not trusted"):
        world.who(Call(forged, client))


def test_a_chain_that_runs_in_circles_ends(world: World) -> None:
    one = issue(ca=True, common_name="one")
    two = issue(by=one, ca=True, common_name="two")
    client = issue(URI("x:y"), by=two)

    with pytest.raises(UnknownCallerError, match="not trusted"):
        world.who(Call(client, two, one, two, one, two, one))


def test_a_server_certificate_is_no_client(world: World) -> None:
    server = issue(URI("x:y"), by=CA, usage=ExtendedKeyUsageOID.SERVER_AUTH)

    with pytest.raises(UnknownCallerError, match="not for client authentication"):
        world.who(Call(server))


def test_many_certificates_do_not_grow_the_memory(world: World) -> None:
    for number in range(5000):
        with pytest.raises(UnknownCallerError):
            world.who(Call(raw=b"%d" % number))

    assert len(world.who._cache) == 4096


def test_a_socket_is_its_declared_principal() -> None:
    who = SocketIdentity("socket:dev", is_group=True)

    assert who(Call()) == Principal("socket:dev", "unix", is_group=True, peer="unix:")
