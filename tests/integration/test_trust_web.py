"""HTTP of keydctl trust: tokens of registries, servers that are gone, and what is never sent."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from email.message import Message
from urllib.parse import parse_qs, urlsplit

import pytest

from keyd.adapters.notary import answers, registry
from keyd.adapters.notary.credentials import Login
from keyd.adapters.notary.names import Image
from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.settings import TlsFiles
from keyd.adapters.notary.web import Web
from keyd.errors import ConfigError, PolicyDeniedError, RepositoryError, ServerGoneError

LOGIN = Login("alice", "secret")


class Server:
    """Wants a token of its own realm. ``challenge``: what it answers to those without one;
    ``believed``: a token that it wants in place of the one it gives; ``token_answer``: what it
    sends in place of that; ``missing_bytes``: how many it promises of an answer and keeps."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.token = "t0"
        self.token_status = 200
        self.token_answer = b""
        self.missing_bytes = 0
        self.believed = ""
        self.status, self.answer = 200, b"{}"
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.serve(self)

            do_POST = do_GET  # noqa: N815 - the name is http.server's

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self._server.server_address[1]}"
        self.challenge = f'Bearer realm="{self.url}/token",service="notary-server"'
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def serve(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """One call."""
        size = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(size).decode()
        authorization = request.headers.get("Authorization", "")
        self.asked.append((request.path, authorization, body))
        status, answer = self.status, self.answer
        if request.path.startswith("/token"):
            allowed = authorization == LOGIN.basic or "refresh_token=refresh" in body
            status = self.token_status if allowed else 401
            answer = self.token_answer or json.dumps({"token": self.token}).encode()
        elif request.path.startswith("/elsewhere"):
            status = 307
        elif authorization not in (f"Bearer {self.believed or self.token}", LOGIN.basic):
            status = 401
        request.send_response(status)
        if status == 401:
            request.send_header("Www-Authenticate", self.challenge)
        if status == 307:
            request.send_header("Location", "http://127.0.0.1:1/stolen")
        if self.missing_bytes:
            request.send_header("Content-Length", str(len(answer) + self.missing_bytes))
        request.end_headers()
        request.wfile.write(answer)

    def stop(self) -> None:
        """End, and wait for that."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    try:
        yield found
    finally:
        found.stop()


def web(server: Server, login: Login | None = LOGIN) -> Web:
    return Web(server.url, TlsFiles(), lambda: login)


def test_a_challenge_is_answered_by_a_token_of_its_realm_and_kept(server: Server) -> None:
    asking = web(server)

    assert asking.ask("GET", "/v2/", scope="repository:g:pull").status == 200
    assert asking.ask("GET", "/v2/", scope="repository:g:pull").status == 200

    paths = [path for path, _, _ in server.asked]
    assert len(paths) == 4  # refused, token, asked again, asked with the token that is known
    query = parse_qs(urlsplit(paths[1]).query)
    assert query == {
        "service": ["notary-server"],
        "scope": ["repository:g:pull"],
        "account": ["alice"],
    }


def test_an_identity_token_stands_in_for_a_password(server: Server) -> None:
    assert web(server, Login("", "", "refresh")).ask("GET", "/v2/", scope="s").status == 200

    assert "grant_type=refresh_token" in server.asked[1][2]


def test_basic_challenges_are_answered(server: Server) -> None:
    server.challenge = 'Basic realm="x"'

    assert web(server).ask("GET", "/v2/").status == 200


def test_nobody_without_a_login_is_told_how_to_log_in(server: Server) -> None:
    with pytest.raises(PolicyDeniedError) as error:
        web(server, None).ask("GET", "/v2/")

    assert "docker login" in error.value.hint


def test_a_token_that_is_not_enough_is_a_refusal(server: Server) -> None:
    server.token = "changes"
    asking = web(server)
    asking.ask("GET", "/v2/", scope="s")
    server.challenge = "Negotiate"
    server.token = "other"

    with pytest.raises(PolicyDeniedError):
        asking.ask("GET", "/v2/", scope="s")


def test_a_token_that_is_not_believed_is_told_apart_from_a_login_that_may_not(
    server: Server,
) -> None:
    asking = web(server)
    server.challenge += ',scope="repository:g:push,pull"'
    server.believed = "another"

    with pytest.raises(PolicyDeniedError, match="the login of alice no right to pull and push g"):
        asking.ask("POST", "/v2/")
    server.challenge += ',error="invalid_token"'
    with pytest.raises(PolicyDeniedError, match="does not believe the token") as error:
        asking.ask("POST", "/v2/")

    assert "clocks" in error.value.hint


def test_a_token_server_that_fails_is_no_refusal(server: Server) -> None:
    server.token_status = 503

    with pytest.raises(ServerGoneError, match="503"):
        web(server).ask("GET", "/v2/", scope="s")


def test_a_login_is_not_sent_to_a_realm_without_tls(server: Server) -> None:
    server.challenge = 'Bearer realm="http://registry.example.org/token",service="s"'

    with pytest.raises(ConfigError, match="without TLS"):
        web(server).ask("GET", "/v2/")


@pytest.mark.parametrize(
    "answer",
    [
        b'{"token":"a\\r\\nHost: elsewhere"}',
        '{"token":"\u20ac"}'.encode(),
        b'{"token":null,"access_token":null}',
        b'{"token":{"a":1}}',
        b"[" * 100_000,
        b"[]",
        b"nothing",
    ],
    ids=["line", "letter", "none", "object", "deep", "list", "text"],
)
def test_what_is_no_token_is_not_sent(server: Server, answer: bytes) -> None:
    server.token_answer = answer

    with pytest.raises(RepositoryError, match="token"):
        web(server).ask("GET", "/v2/", scope="s")

    assert len(server.asked) == 2


def test_a_realm_that_is_no_url_is_refused(server: Server) -> None:
    server.challenge = 'Bearer realm="https://[::1/token"'

    with pytest.raises(RepositoryError, match="names no place that gives tokens"):
        web(server).ask("GET", "/v2/")


@pytest.mark.parametrize(
    "url",
    [
        "https://[::1",
        "https://localhost:99999",
        "https://localhost:port",
        "https://local host",
        "https://localhost\n",
        "ftp://localhost",
        "https://",
    ],
)
def test_what_is_no_url_is_said_before_anybody_is_asked(url: str) -> None:
    with pytest.raises(ConfigError, match="is no URL of a server"):
        Web(url, TlsFiles())


def test_redirects_are_not_followed(server: Server) -> None:
    with pytest.raises(RepositoryError, match=r"leads to http://127\.0\.0\.1:1/stolen") as error:
        web(server).ask("GET", "/elsewhere")

    assert "own address" in error.value.hint
    assert len(server.asked) == 1


def test_half_an_answer_is_none(server: Server) -> None:
    """A manifest that was cut off would be signed by the digest of its beginning."""
    server.challenge, server.missing_bytes = 'Basic realm="x"', 1

    with pytest.raises(ServerGoneError, match="does not answer"):
        web(server).ask("GET", "/v2/")


def test_a_page_in_place_of_a_manifest_is_not_signed(server: Server) -> None:
    server.challenge, server.answer = 'Basic realm="x"', b"<html>Please log in</html>"

    with pytest.raises(RepositoryError, match="is no manifest"):
        registry.find_manifest(web(server), Image("registry.example.org", "app", "1.0"))


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    class Dripping:
        def read1(self, n: int, /) -> bytes:
            """One byte, and another one, for ever."""
            return b" "

    with pytest.raises(TimeoutError, match="not there after"):
        answers.read(200, Message(), Dripping(), max_s=0.01)


def test_an_error_that_is_nested_without_end_is_shown_as_text(server: Server) -> None:
    server.challenge = 'Basic realm="x"'
    server.status, server.answer = 400, b'{"errors":' + b"[" * 100_000

    with pytest.raises(RepositoryError, match="refused it") as error:
        NotaryServer(web(server), "localhost/app").find("root")

    assert len(error.value.message) < 400


def test_an_endless_answer_is_cut(server: Server) -> None:
    server.answer = bytes(17 * 1024 * 1024)

    with pytest.raises(RepositoryError, match="more than"):
        web(server).ask("GET", "/v2/", scope="s")


def test_a_server_that_is_gone_is_named() -> None:
    with pytest.raises(ServerGoneError) as error:
        Web("http://localhost:1", TlsFiles()).ask("GET", "/v2/")

    assert error.value.facts["server"] == "localhost:1"
