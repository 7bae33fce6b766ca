"""A token server as docker's registries and notary-server send their clients to (the token
protocol of the distribution project): Basic login or identity token in, a JWT signed with ES256
out."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from tests.certificates import an_authority, issue
from tests.notary_programs import Certificates

ISSUER = "tokens.example.org"
LEEWAY_S = 60.0
"""For how long notary-server and docker-registry take a token after its end."""

ALL = frozenset({"pull", "push", "*"})


@dataclass(frozen=True)
class Account:
    """``actions``: at most these are given, on every repository. ``refresh``: an identity token
    that stands in for the password, none where empty."""

    password: str = field(repr=False)
    actions: frozenset[str] = ALL
    refresh: str = field(default="", repr=False)


@dataclass(frozen=True)
class Asked:
    """One request that was answered with a token. ``wanted`` and ``given``: actions."""

    user: str
    service: str
    repository: str
    wanted: frozenset[str]
    given: frozenset[str]


class TokenServer:
    """Serves ``/token`` with TLS. ``accounts``: by name; who does not log in gets a token that
    allows nothing. ``lifetime_s``: for how long servers take a token, their leeway included.

    ``asked`` and ``refused`` (names) say what happened, oldest first.
    """

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        folder.mkdir()
        authority = an_authority("tokens")
        self._signer = issue(by=authority, common_name="token signer", usage=None)
        self.bundle = folder / "tokens.crt"
        self.bundle.write_bytes(authority.pem)
        self.accounts: dict[str, Account] = {}
        self.lifetime_s = LEEWAY_S + 300.0
        self.asked: list[Asked] = []
        self.refused: list[str] = []
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.answer(self)

            def do_POST(self) -> None:
                served.refresh(self)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.file("server.crt"), certificates.file("server.key"))
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def realm(self) -> str:
        """Where clients are sent to."""
        return f"https://localhost:{self._server.server_address[1]}/token"

    def options(self, service: str) -> dict[str, str]:
        """What a server has to be configured with that takes these tokens."""
        return {
            "realm": self.realm,
            "service": service,
            "issuer": ISSUER,
            "rootcertbundle": str(self.bundle),
        }

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """One GET."""
        query = parse_qs(urlsplit(request.path).query)
        user, password = _login(request.headers.get("Authorization", ""))
        account = self.accounts.get(user)
        if user and (account is None or account.password != password):
            self.refused.append(user)
            _send(request, 401, {"details": "incorrect username or password"})
            return
        token = self._give(user, query)
        _send(request, 200, {"token": token, "expires_in": max(60, int(self.lifetime_s))})

    def refresh(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """One POST: an identity token for a token (RFC 6749, section 6)."""
        size = int(request.headers.get("Content-Length") or 0)
        form = parse_qs(request.rfile.read(size).decode())
        shown = form.get("refresh_token", [""])[0]
        users = [name for name, each in self.accounts.items() if shown and each.refresh == shown]
        if form.get("grant_type") != ["refresh_token"] or not users:
            self.refused.append("")
            _send(request, 400, {"error": "invalid_grant"})
            return
        _send(request, 200, {"access_token": self._give(users[0], form)})

    def _give(self, user: str, query: Mapping[str, list[str]]) -> str:
        """A token for what was asked, as far as the user may."""
        account = self.accounts.get(user)
        allowed = account.actions if account else frozenset()
        service = query.get("service", [""])[0]
        access: list[dict[str, object]] = []
        for scope in " ".join(query.get("scope", [])).split():
            kind, _, named = scope.partition(":")
            name, _, actions = named.rpartition(":")
            wanted = frozenset(actions.split(","))
            self.asked.append(Asked(user, service, name, wanted, wanted & allowed))
            access.append({"type": kind, "name": name, "actions": sorted(wanted & allowed)})
        return self.token(user, service, access)

    def token(self, user: str, service: str, access: list[dict[str, object]]) -> str:
        """A JWT (RFC 7519) whose header holds the certificate of who signed it (x5c)."""
        now = time.time()
        certificate = self._signer.certificate.public_bytes(Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(certificate).decode()]}
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": service,
            # Whole seconds: what is cut off here, a server cuts off no later.
            "exp": int(now + self.lifetime_s - LEEWAY_S),
            "nbf": int(now - LEEWAY_S),
            "iat": int(now),
            "jti": uuid.uuid4().hex,
            "access": access,
        }
        signed = f"{_part(header)}.{_part(claims)}"
        der = self._signer.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return f"{signed}.{_web(r.to_bytes(32) + s.to_bytes(32))}"

    @contextmanager
    def running(self) -> Iterator[TokenServer]:
        """Serves within the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(10)


def _login(authorization: str) -> tuple[str, str]:
    """Name and password; two empty texts where nobody logged in."""
    kind, _, text = authorization.partition(" ")
    if kind != "Basic":
        return "", ""
    user, _, password = base64.b64decode(text).decode().partition(":")
    return user, password


def _send(
    request: http.server.BaseHTTPRequestHandler, status: int, content: Mapping[str, object]
) -> None:
    body = json.dumps(content).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _part(content: Mapping[str, object]) -> str:
    return _web(json.dumps(content, separators=(",", ":")).encode())


def _web(raw: bytes) -> str:
    """base64 as a JWT has it (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
