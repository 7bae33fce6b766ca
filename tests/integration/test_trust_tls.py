"""Whom keydctl trust believes, what it shows of itself, and through which proxy it asks."""

from __future__ import annotations

import http.server
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyd.adapters.notary import settings
from keyd.adapters.notary.settings import TlsFiles
from keyd.adapters.notary.web import Web
from keyd.errors import ConfigError, ServerGoneError
from tests.certificates import Issued, a_server, an_authority, issue


@contextmanager
def serving(folder: Path, by: Issued, client_ca: Issued | None = None) -> Iterator[str]:
    """A server with a certificate of ``by``; it demands one of ``client_ca``'s where that is given.
    Its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that are refused are what is tested."""

    issued = a_server(by)
    for name, content in (("s.crt", issued.pem), ("s.key", issued.key_pem)):
        (folder / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "s.crt", folder / "s.key")
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca.pem.decode())
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class Proxy:
    """Refuses everything, and knows what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                proxy.asked.append(self.rfile.readline().decode().rpartition(" ")[0])
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for that."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    found = Proxy()
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", found.url)
    monkeypatch.setenv("HTTP_PROXY", found.url)
    try:
        yield found
    finally:
        found.stop()


def write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def docker_tls(home: Path, url: str) -> Path:
    return home / ".docker" / "tls" / url.removeprefix("https://")


def test_cas_of_dockers_folder_are_believed_beside_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, private = an_authority("system"), an_authority("private")
    monkeypatch.setenv("SSL_CERT_FILE", str(write(tmp_path / "system.pem", systems.pem)))
    for number, authority in enumerate((systems, private)):
        with serving(tmp_path, authority) as url:
            write(docker_tls(tmp_path, url) / "ca.crt", private.pem)

            tls = settings.load({}, home=tmp_path).tls_for(url)

            assert Web(url, tls).ask("GET", "/v2/").status == 200, number


def test_a_ca_that_a_person_names_is_believed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, named = an_authority("system"), an_authority("named")
    monkeypatch.setenv("SSL_CERT_FILE", str(write(tmp_path / "system.pem", systems.pem)))
    with serving(tmp_path, systems) as url:
        write(docker_tls(tmp_path, url) / "ca.crt", systems.pem)
        ca = write(tmp_path / "named.pem", named.pem)

        tls = settings.load({}, home=tmp_path, ca=ca).tls_for(url)

        with pytest.raises(ServerGoneError, match="its certificate is not trusted") as error:
            Web(url, tls).ask("GET", "/v2/")
    assert error.value.hint == "give the CA that issued it: --tlscacert FILE"


def test_a_ca_that_is_missing_is_wanted_where_it_is_looked_for(tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    with serving(tmp_path, an_authority("private")) as url:
        found = settings.load({"DOCKER_CONFIG": str(moved)}, home=tmp_path)
        with pytest.raises(ServerGoneError, match="its certificate is not trusted") as error:
            Web(url, found.tls_for(url)).ask("GET", "/v2/")

    wanted = moved / "tls" / url.removeprefix("https://") / "ca.crt"
    assert error.value.hint.endswith(f"--tlscacert FILE, or as {wanted}")


def test_dockers_client_certificate_is_shown_to_who_demands_one(tmp_path: Path) -> None:
    authority, people = an_authority(), an_authority("people")
    mine = issue(by=people)
    with serving(tmp_path, authority, client_ca=people) as url:
        folder = docker_tls(tmp_path, url)
        write(folder / "ca.crt", authority.pem)
        with pytest.raises(ServerGoneError):
            Web(url, settings.load({}, home=tmp_path).tls_for(url)).ask("GET", "/v2/")
        write(folder / "me.cert", mine.pem)
        write(folder / "me.key", mine.key_pem)

        tls = settings.load({}, home=tmp_path).tls_for(url)

        assert Web(url, tls).ask("GET", "/v2/").status == 200


def test_a_client_certificate_without_its_key_is_told(tmp_path: Path) -> None:
    folder = docker_tls(tmp_path, "https://localhost:5000")
    write(folder / "me.cert", issue().pem)

    tls = settings.load({}, home=tmp_path).tls_for("https://localhost:5000")

    with pytest.raises(ConfigError, match=r"me\.key"):
        Web("https://localhost:5000", tls)


def test_other_machines_are_asked_through_the_proxy_of_the_environment(proxy: Proxy) -> None:
    with pytest.raises(ServerGoneError):
        Web("https://registry.invalid", TlsFiles()).ask("GET", "/v2/")

    assert proxy.asked == ["CONNECT registry.invalid:443"]


def test_hosts_of_no_proxy_are_asked_without(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org,registry.invalid")

    with pytest.raises(ServerGoneError):
        Web("https://registry.invalid", TlsFiles()).ask("GET", "/v2/")

    assert proxy.asked == []


def test_this_machine_is_never_asked_through_a_proxy(proxy: Proxy, tmp_path: Path) -> None:
    authority = an_authority()
    with serving(tmp_path, authority) as url:
        ca = write(tmp_path / "ca.pem", authority.pem)

        assert Web(url, TlsFiles((ca,))).ask("GET", "/v2/").status == 200

    assert proxy.asked == []
