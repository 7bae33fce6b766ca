"""Doors on real sockets: unix paths, ports, TLS handshakes, and what changes under them."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from keyd.errors import ConfigError, UnknownCallerError
from keyd.pki import Authority, new_request
from keyd.server.listeners import (
    Door,
    TcpListener,
    Transport,
    UnixDoor,
    UnixListener,
    open_door,
)
from keyd.server.tls import TlsFiles, TlsMaterial, parse_deny_list
from tests.certificates import Issued, a_server, an_authority, issue, write_tls

URI = x509.UniformResourceIdentifier
TIMEOUT_S = 10


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class WhoAmI(grpc.GenericRpcHandler):
    """Answers every call with the principal's id, as a servicer behind this door sees it."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def behaviour(_: bytes, context: Any) -> bytes:
            try:
                return self._door.identity(context).id.encode()
            except UnknownCallerError as e:
                return f"refused: {e.message}".encode()

        return grpc.unary_unary_rpc_method_handler(behaviour)


@asynccontextmanager
async def serving(
    listener: UnixListener | TcpListener, clock: Clock | None = None
) -> AsyncIterator[Door]:
    door = open_door(listener, clock or Clock())
    server = grpc.aio.server(options=Transport().options)
    server.add_generic_rpc_handlers((WhoAmI(door),))
    try:
        door.bind(server)
        await server.start()
        door.expose()
        yield door
    finally:
        await server.stop(None)
        door.close()


def channel(door: Door, authority: Issued | None = None, client: Issued | None = None) -> Any:
    if authority is None:
        return grpc.aio.insecure_channel(door.address)
    credentials = grpc.ssl_channel_credentials(
        authority.pem,
        client.key_pem if client else None,
        client.pem if client else None,
    )
    return grpc.aio.secure_channel(
        door.address, credentials, [("grpc.ssl_target_name_override", "localhost")]
    )


async def who(connection: Any) -> str:
    answer: bytes = await connection.unary_unary("/x/WhoAmI")(b"", timeout=TIMEOUT_S)
    return answer.decode()


async def call(door: Door, authority: Issued | None = None, client: Issued | None = None) -> str:
    async with channel(door, authority, client) as connection:
        return await who(connection)


# -- unix sockets -------------------------------------------------------------------------------


async def test_a_socket_stands_for_its_principal(tmp_path: Path) -> None:
    async with (
        serving(UnixListener(tmp_path / "a.sock", "socket:ops")) as ops,
        serving(UnixListener(tmp_path / "b.sock", "socket:ci", 0o660)) as ci,
    ):
        assert await call(ops) == "socket:ops"
        assert await call(ci) == "socket:ci"


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
@pytest.mark.parametrize("umask", [0o022, 0o077])
async def test_a_socket_has_its_mode_whatever_the_umask(
    mode: int, umask: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        async with serving(UnixListener(tmp_path / "k.sock", "socket:x", mode)):
            assert stat.S_IMODE((tmp_path / "k.sock").stat().st_mode) == mode
            assert {p.name for p in tmp_path.iterdir()} == {"k.sock", "k.sock.lock"}
            assert os.umask(umask) == umask
    finally:
        os.umask(before)


async def test_nobody_can_reach_a_socket_before_its_rights_are_set(tmp_path: Path) -> None:
    door = UnixDoor(UnixListener(tmp_path / "k.sock", "socket:x", 0o666))
    server = grpc.aio.server(options=Transport().options)
    try:
        door.bind(server)

        (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())

        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "s").stat().st_mode) & 0o077 == 0
        assert not (tmp_path / "k.sock").exists()
    finally:
        await server.stop(None)
        door.close()
    assert {p.name for p in tmp_path.iterdir()} == {"k.sock.lock"}


async def test_a_second_daemon_on_a_path_is_refused_with_the_pid_of_the_first(
    tmp_path: Path,
) -> None:
    listener = UnixListener(tmp_path / "k.sock", "socket:x")
    async with serving(listener) as door:
        with pytest.raises(ConfigError) as e:
            open_door(listener, Clock())

        assert f"already served by pid {os.getpid()}" in e.value.message
        assert await call(door) == "socket:x"


async def test_a_socket_that_a_killed_daemon_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    script = (
        "import os, sys, asyncio, grpc, pathlib\n"
        "from keyd.server.listeners import *\n"
        "async def main():\n"
        "    door = UnixDoor(UnixListener(pathlib.Path(sys.argv[1]), 'socket:old'))\n"
        "    server = grpc.aio.server(); door.bind(server); await server.start(); door.expose()\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    dead = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert dead.returncode == -9
    assert path.is_socket()

    async with serving(UnixListener(path, "socket:new")) as door:
        assert await call(door) == "socket:new"


async def test_a_stopped_daemon_leaves_no_socket_but_never_removes_anothers(
    tmp_path: Path,
) -> None:
    listener = UnixListener(tmp_path / "k.sock", "socket:x")
    async with serving(listener):
        pass
    assert not listener.path.exists()

    async with serving(listener):
        listener.path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(listener.path))
    other.close()

    assert listener.path.is_socket()


async def test_a_door_can_be_opened_again_after_it_was_closed(tmp_path: Path) -> None:
    listener = UnixListener(tmp_path / "k.sock", "socket:x")
    for _ in range(2):
        async with serving(listener) as door:
            assert await call(door) == "socket:x"


def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "k.sock").write_text("precious")

    with pytest.raises(ConfigError, match="is not a socket"):
        UnixDoor(UnixListener(tmp_path / "k.sock", "socket:x"))

    assert (tmp_path / "k.sock").read_text() == "precious"


def test_a_folder_where_anybody_may_replace_the_socket_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    with pytest.raises(ConfigError, match="others may replace"):
        UnixDoor(UnixListener(tmp_path / "k.sock", "socket:x"))


def test_a_lock_that_is_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "k.sock.lock").symlink_to(tmp_path / "victim")

    with pytest.raises(ConfigError, match="cannot be locked"):
        UnixDoor(UnixListener(tmp_path / "k.sock", "socket:x"))

    assert (tmp_path / "victim").read_text() == "precious"


def test_paths_that_cannot_be_served_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long"):
        UnixDoor(UnixListener(tmp_path / ("k" * 120), "socket:x"))
    with pytest.raises(ConfigError, match="its folder cannot be used"):
        UnixDoor(UnixListener(tmp_path / "none" / "k.sock", "socket:x"))


async def test_an_unknown_group_is_refused_and_nothing_stays_behind(tmp_path: Path) -> None:
    listener = UnixListener(tmp_path / "k.sock", "socket:x", 0o660, "no-such-group")

    with pytest.raises(ConfigError, match="no group 'no-such-group'"):
        async with serving(listener):
            pass

    assert {p.name for p in tmp_path.iterdir()} == {"k.sock.lock"}


async def test_a_socket_is_given_to_its_group(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid())
    tmp_path.chmod(0o750)

    async with serving(UnixListener(tmp_path / "k.sock", "socket:x", 0o660, group.gr_name)):
        found = (tmp_path / "k.sock").stat()

    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (group.gr_gid, 0o660)


# -- TCP ----------------------------------------------------------------------------------------


@dataclass
class Site:
    """A TLS site: a CA, the listener's files, a client."""

    folder: Path
    authority: Issued
    client: Issued
    listener: TcpListener
    clock: Clock

    def replace_ca(self, authority: Issued) -> None:
        """As an administrator does: a new file under the old name."""
        new = self.folder / "ca.new"
        new.write_bytes(authority.pem)
        new.replace(self.listener.files.client_ca)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    authority = an_authority()
    client = issue(URI("spiffe://acme/ci"), by=authority)
    files = write_tls(tmp_path, authority, deny="")
    return Site(tmp_path, authority, client, TcpListener("127.0.0.1", 0, files), Clock())


async def test_a_client_certificate_makes_the_caller(site: Site) -> None:
    async with serving(site.listener) as door:
        assert await call(door, site.authority, site.client) == "uri:spiffe://acme/ci"


async def test_certificates_of_the_small_ca_work_on_both_ends(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority.open(tmp_path / "ca", now)
    server, client = new_request(["dns:localhost"]), new_request(["email:bob@acme.example"])
    files = TlsFiles(*(tmp_path / name for name in ("s.pem", "s.key", "ca.pem")))
    files.certificate.write_bytes(authority.sign_server(server.csr_pem, now))
    files.key.write_bytes(server.key_pem)
    files.key.chmod(0o640)
    files.client_ca.write_bytes(authority.certificate_pem)

    async with serving(TcpListener("127.0.0.1", 0, files)) as door:
        credentials = grpc.ssl_channel_credentials(
            authority.certificate_pem,
            client.key_pem,
            authority.sign_client(client.csr_pem, now),
        )
        options = [("grpc.ssl_target_name_override", "localhost")]
        async with grpc.aio.secure_channel(door.address, credentials, options) as connection:
            assert await who(connection) == "email:bob@acme.example"


async def test_a_nul_in_a_dns_name_does_not_make_an_admin(site: Site) -> None:
    evil = issue(x509.DNSName("admin.acme\0.evil.example"), by=site.authority)

    async with serving(site.listener) as door:
        answer = await call(door, site.authority, evil)

    assert answer.startswith("refused: client certificate: dns name with a control character")


async def test_an_intermediate_that_the_client_sends_is_seen_on_each_call(site: Site) -> None:
    middle = issue(by=site.authority, ca=True, common_name="middle")
    leaf = issue(URI("spiffe://acme/ci"), by=middle)
    credentials = grpc.ssl_channel_credentials(
        site.authority.pem, leaf.key_pem, leaf.pem + middle.pem
    )
    options = [("grpc.ssl_target_name_override", "localhost")]
    async with (
        serving(site.listener) as door,
        grpc.aio.secure_channel(door.address, credentials, options) as connection,
    ):
        assert await who(connection) == "uri:spiffe://acme/ci"

        site.replace_ca(an_authority("next"))

        assert "not trusted" in await who(connection)


@pytest.mark.parametrize("attack", ["none", "self-signed", "expired", "foreign"])
async def test_without_a_good_certificate_there_is_no_connection(attack: str, site: Site) -> None:
    now = datetime.now(UTC)
    client = {
        "none": None,
        "self-signed": issue(URI("spiffe://acme/ci")),
        "expired": issue(
            URI("spiffe://acme/ci"),
            by=site.authority,
            start=now - timedelta(days=2),
            end=now - timedelta(days=1),
        ),
        "foreign": issue(URI("spiffe://acme/ci"), by=an_authority()),
    }[attack]

    async with serving(site.listener) as door:
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await call(door, site.authority, client)

    assert e.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_open_connection_ends_with_its_certificate(site: Site) -> None:
    async with (
        serving(site.listener, site.clock) as door,
        channel(door, site.authority, site.client) as connection,
    ):
        assert await who(connection) == "uri:spiffe://acme/ci"

        site.clock.ahead = timedelta(days=2)

        assert "expired at" in await who(connection)


async def test_an_open_connection_ends_with_its_ca(site: Site) -> None:
    async with (
        serving(site.listener) as door,
        channel(door, site.authority, site.client) as connection,
    ):
        assert await who(connection) == "uri:spiffe://acme/ci"

        site.replace_ca(an_authority("next"))

        assert "not trusted" in await who(connection)


async def test_a_line_in_the_deny_list_counts_from_the_next_call_on(site: Site) -> None:
    deny = site.listener.files.deny_list
    assert deny is not None
    async with (
        serving(site.listener) as door,
        channel(door, site.authority, site.client) as connection,
    ):
        assert await who(connection) == "uri:spiffe://acme/ci"

        deny.write_text(f"serial:{site.client.certificate.serial_number:x} # stolen\n")
        assert "deny-list" in await who(connection)

        deny.write_text("")
        assert await who(connection) == "uri:spiffe://acme/ci"


async def test_certificate_and_ca_are_replaced_without_a_restart(site: Site) -> None:
    following = an_authority("next")
    async with serving(site.listener) as door:
        assert await call(door, site.authority, site.client) == "uri:spiffe://acme/ci"

        server = a_server(following)
        site.listener.files.certificate.write_bytes(server.pem)
        site.listener.files.key.write_bytes(server.key_pem)
        site.replace_ca(following)

        client = issue(URI("spiffe://acme/next"), by=following)
        assert await call(door, following, client) == "uri:spiffe://acme/next"
        with pytest.raises(grpc.aio.AioRpcError):
            await call(door, site.authority, site.client)


async def test_malformed_files_leave_the_old_ones_in_force_and_say_so_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(site.listener) as door:
        site.listener.files.certificate.write_text("half a certi")
        for _ in range(3):
            assert await call(door, site.authority, site.client) == "uri:spiffe://acme/ci"

        kept = [r for r in caplog.records if "kept as they were" in r.getMessage()]
        assert len(kept) == 1
        assert "server.pem" in kept[0].getMessage()


async def test_a_malformed_deny_list_keeps_denying_what_it_denied(site: Site) -> None:
    deny = site.listener.files.deny_list
    assert deny is not None
    deny.write_text(f"serial:{site.client.certificate.serial_number:x}\n")
    async with serving(site.listener) as door:
        deny.write_text("serial:xyz\n")
        assert "deny-list" in await call(door, site.authority, site.client)

        deny.unlink()
        assert "deny-list" in await call(door, site.authority, site.client)


async def test_a_second_daemon_on_a_port_is_refused(site: Site) -> None:
    async with serving(site.listener) as door:
        port = int(door.address.rpartition(":")[2])

        with pytest.raises(ConfigError) as e:
            async with serving(replace(site.listener, port=port)):
                pass

        assert e.value.message == (
            f"cannot listen on 127.0.0.1:{port}: already served by another process"
        )


async def test_an_address_of_another_machine_is_refused(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:0: cannot assign"):
        async with serving(replace(site.listener, host="192.0.2.1")):
            pass


def handshake(address: str, site: Site, most: ssl.TLSVersion) -> str:
    """The TLS version a client that knows nothing newer gets."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    settings.check_hostname = False
    settings.load_verify_locations(cadata=site.authority.pem.decode())
    (site.folder / "client.pem").write_bytes(site.client.pem + site.client.key_pem)
    settings.load_cert_chain(site.folder / "client.pem")
    settings.set_ciphers("DEFAULT:@SECLEVEL=0")
    settings.set_alpn_protocols(["h2"])
    settings.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    settings.maximum_version = most
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as plain,
        settings.wrap_socket(plain) as secured,
    ):
        return str(secured.version())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_tls_1_2_is_the_lowest_version(site: Site) -> None:
    async with serving(site.listener) as door:
        assert (
            await asyncio.to_thread(handshake, door.address, site, ssl.TLSVersion.TLSv1_2)
            == "TLSv1.2"
        )
        assert (
            await asyncio.to_thread(handshake, door.address, site, ssl.TLSVersion.TLSv1_3)
            == "TLSv1.3"
        )
        with pytest.raises(ssl.SSLError, match=r"EOF|ALERT"):  # hung up by the server
            await asyncio.to_thread(handshake, door.address, site, ssl.TLSVersion.TLSv1_1)


async def test_garbage_on_the_port_disturbs_nobody(site: Site) -> None:
    async with serving(site.listener) as door:
        host, _, port = door.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as garbage:
            garbage.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)

            assert await call(door, site.authority, site.client) == "uri:spiffe://acme/ci"


# -- TLS files ----------------------------------------------------------------------------------


def _other_key(files: TlsFiles) -> None:
    files.key.write_bytes(an_authority().key_pem)


def _encrypted_key(files: TlsFiles) -> None:
    files.key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n")


def _leaf_as_ca(files: TlsFiles) -> None:
    files.client_ca.write_bytes(issue(URI("x:y")).pem)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: f.certificate.unlink(), "server.pem: cannot be read: No such file"),
        (lambda f: f.certificate.write_text("x"), "server.pem: no readable PEM certificate"),
        (lambda f: f.client_ca.write_text(""), "ca.pem: no readable PEM certificate"),
        (lambda f: f.key.chmod(0o644), "server.key: a private key that everybody may read"),
        (_other_key, "server.key: not the key of the certificate"),
        (_encrypted_key, "server.key: not an unencrypted PEM private key"),
        (_leaf_as_ca, "is no CA certificate"),
        (lambda f: f.deny_list.write_text("\n# ok\n1234\n"), "deny.txt:3: write serial:HEX"),
    ],
)
def test_unusable_files_stop_the_start(
    spoil: Callable[[TlsFiles], None], says: str, tmp_path: Path
) -> None:
    files = write_tls(tmp_path, an_authority(), deny="")
    spoil(files)

    with pytest.raises(ConfigError) as e:
        TlsMaterial(files)

    assert says in e.value.message
    assert "PRIVATE KEY" not in e.value.message


def test_files_that_fit_together_late_are_found_without_another_change(tmp_path: Path) -> None:
    now = [0.0]
    authority = an_authority()
    files = write_tls(tmp_path, authority)
    material = TlsMaterial(files, monotonic=lambda: now[0])
    server = a_server(authority)

    files.key.write_bytes(server.key_pem)  # its certificate is still the old one
    assert material.trust().generation == 1
    files.certificate.write_bytes(server.pem)

    assert material.trust().generation == 2


def test_files_that_stay_broken_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    files = write_tls(tmp_path, an_authority())
    material = TlsMaterial(files, monotonic=lambda: now[0])
    files.client_ca.write_text("half a certi")

    for _ in range(5):
        now[0] += 10
        assert material.trust().generation == 1

    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "line", ["serial:5E:A1:0B", "serial:0x5ea10b", "serial:5ea10b # lost", "  serial:5EA10B  "]
)
def test_serials_are_read_as_openssl_prints_them(line: str) -> None:
    assert parse_deny_list(line, "deny.txt").serials == {0x5EA10B}


@pytest.mark.parametrize("line", ["sha256:" + "Ab" * 32, "ab" * 32, ":".join(["AB"] * 32)])
def test_fingerprints_are_read_with_and_without_colons(line: str) -> None:
    assert parse_deny_list(line, "deny.txt").fingerprints == {"ab" * 32}


@pytest.mark.parametrize(
    "line", ["12345", "serial:", "serial:xyz", "sha256:abcd", "sha1:" + "a" * 40]
)
def test_a_line_that_is_half_understood_is_refused(line: str) -> None:
    with pytest.raises(ConfigError) as e:
        parse_deny_list(f"# one\n{line}\n", "deny.txt")

    assert e.value.facts["line"] == "2"
