"""HTTP to trust servers and registries: TLS with own CAs, their tokens, bounded answers.

Plain http is taken for loopback only, and proxies are those of the environment. What a server asks
for by a 401 is answered once: a Bearer challenge by a token of its realm, a Basic one by the login.
"""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, NoReturn
from urllib.parse import urlencode, urljoin, urlsplit

from keyd.adapters.notary import answers
from keyd.adapters.notary.answers import Answer
from keyd.adapters.notary.credentials import Login
from keyd.adapters.notary.settings import TlsFiles
from keyd.errors import ConfigError, PolicyDeniedError, RepositoryError, ServerGoneError

TIMEOUT_S = 60.0
"""How long a host may say nothing."""

_TOKEN = re.compile(r"[!-~]+")
_CHALLENGE = re.compile(r'([a-zA-Z]+)="([^"]*)"')
_CLIENT = "keydctl"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are not followed: who is asked was named by a person, and has logins."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """None: the answer itself is handed out."""
        del req, fp, code, msg, headers, newurl


class _Proxies(urllib.request.ProxyHandler):
    """Those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY; this very machine is asked without any."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> object:
        """None: the request goes on without a proxy."""
        if is_loopback(req.full_url):
            return None
        return super().proxy_open(req, proxy, type)


class Web:
    """Asks one host. ``login``: called when the host asks who we are. ``advice``: how to log in,
    for people whom the host refuses; by default docker's command for this host."""

    def __init__(
        self,
        base_url: str,
        tls: TlsFiles,
        login: Callable[[], Login | None] = lambda: None,
        advice: str = "",
    ) -> None:
        """Nothing is opened yet.

        Raises:
            ConfigError: no http(s) URL, http to another machine, or TLS files that cannot be read.
        """
        self.base_url = base_url
        check_url(base_url)
        self._login = login
        self._advice = advice or f"docker login {urlsplit(base_url).netloc}"
        self._folder = tls.folder
        self._authorization: dict[str, str] = {}
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect(), _Proxies()]
        if base_url.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=_context(tls)))
        self._opener = urllib.request.build_opener(*handlers)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        scope: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """Ask, and once more with a token where the host wants one.

        ``scope``: what the token is for, where the challenge does not say.

        Raises:
            ServerGoneError: no answer.
            PolicyDeniedError: the host refuses who we are.
        """
        url = urljoin(self.base_url + "/", path.lstrip("/"))
        given = dict(headers or {})
        known = self._authorization.get(scope)
        if known:
            given["Authorization"] = known
        answer = self._send(method, url, body, given, timeout_s)
        if 300 <= answer.status < 400:
            raise RepositoryError(
                f"{urlsplit(url).netloc} answered {answer.status}: it leads to "
                f"{answer.headers.get('location', 'another place')[:200]}, and nothing is followed "
                "there",
                hint="give the server's own address: -s URL, or its host in the image's name",
                server=urlsplit(url).netloc,
            )
        if answer.status != 401:
            return answer
        login = self._login()
        authorization = self._answer_challenge(_challenge_of(answer), scope, login)
        if not authorization:
            self._refuse(url, "wants a login" + _for(_challenge_of(answer), scope))
        given["Authorization"] = authorization
        answer = self._send(method, url, body, given, timeout_s)
        if answer.status == 401:
            self._explain(url, authorization, _challenge_of(answer), scope, login)
        self._authorization[scope] = authorization
        return answer

    def _send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> Answer:
        request = urllib.request.Request(url, data=body, method=method)  # noqa: S310 - checked
        request.add_header("User-Agent", _CLIENT)
        for name, value in headers.items():
            request.add_unredirected_header(name, value)
        host = urlsplit(url).netloc
        try:
            try:
                with self._opener.open(request, timeout=timeout_s) as response:
                    return answers.read(response.status, response.headers, response)
            except urllib.error.HTTPError as e:
                with e:
                    return answers.read(e.code, e.headers, e)
        except urllib.error.URLError as e:
            raise _gone(host, e.reason, self._folder) from e
        except (OSError, HTTPException) as e:
            raise _gone(host, e, self._folder) from e

    def _answer_challenge(self, challenge: str, scope: str, login: Login | None) -> str:
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            return login.basic if login and login.password else ""
        if kind.lower() != "bearer":
            return ""
        facts = dict(_CHALLENGE.findall(rest))
        try:
            realm = urljoin(self.base_url, facts.get("realm", ""))
        except ValueError as e:
            raise RepositoryError(f"{self.base_url} names no place that gives tokens: {e}") from e
        check_url(realm)
        wanted = facts.get("scope") or scope
        query = {"service": facts.get("service", ""), "scope": wanted}
        headers = {}
        if login and login.identity_token:
            form = {
                **query,
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "refresh_token": login.identity_token,
            }
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            answer = self._send("POST", realm, urlencode(form).encode(), headers, TIMEOUT_S)
        else:
            if login and login.password:
                headers["Authorization"] = login.basic
                query["account"] = login.user
            separator = "&" if urlsplit(realm).query else "?"
            url = f"{realm}{separator}{urlencode(query)}"
            answer = self._send("GET", url, None, headers, TIMEOUT_S)
        if answer.status in (400, 401, 403) and login:  # RFC 6749 says 400 of a refresh token
            self._refuse(realm, f"does not take {_of(login)}")
        if answer.status in (401, 403):
            self._refuse(realm, "wants a login" + _for(challenge, scope))
        if answer.status != 200:
            raise ServerGoneError(
                f"{urlsplit(realm).netloc} gives no token: it answered {answer.status}",
                hint="ask whoever runs it, or try again; nothing was changed",
                server=urlsplit(realm).netloc,
            )
        try:
            found = json.loads(answer.body)
            token = found.get("token") or found["access_token"]
        except (ValueError, KeyError, AttributeError, RecursionError) as e:
            raise RepositoryError(f"{realm} answered with something that is no token") from e
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RepositoryError(f"{realm} answered with a token that fits into no header")
        return f"Bearer {token}"

    def _explain(
        self, url: str, authorization: str, challenge: str, scope: str, login: Login | None
    ) -> NoReturn:
        """Why a host refuses what it asked for."""
        if authorization.startswith("Basic "):
            self._refuse(url, f"does not take {_of(login)}")
        if 'error="invalid_token"' in challenge:
            raise PolicyDeniedError(
                f"{urlsplit(url).netloc} does not believe the token that it sent for",
                hint="whoever runs it has to look: who issues its tokens, and which certificate "
                "they are signed with; and at the clocks",
                server=urlsplit(url).netloc,
            )
        if login is None:
            self._refuse(url, "wants a login" + _for(challenge, scope))
        self._refuse(url, f"gives {_of(login)} no right" + _for(challenge, scope), is_known=True)

    def _refuse(self, url: str, why: str, *, is_known: bool = False) -> NoReturn:
        host = urlsplit(url).netloc
        begin = "ask whoever runs it for that right, or log in as" if is_known else "log in as"
        raise PolicyDeniedError(
            f"{host} {why}",
            hint=f"{begin} somebody who may: {self._advice}",
            server=host,
        )


def _challenge_of(answer: Answer) -> str:
    return answer.headers.get("www-authenticate", "")


def _of(login: Login | None) -> str:
    return f"the login of {login.user}" if login and login.user else "the login"


def _for(challenge: str, scope: str) -> str:
    """What was asked for: ``repository:NAME:ACTIONS`` as a part of a sentence."""
    wanted = dict(_CHALLENGE.findall(challenge)).get("scope") or scope
    _, _, named = wanted.partition(":")
    name, _, actions = named.rpartition(":")
    # Sorted: notary-server names them in another order each time.
    told = " and ".join(sorted(actions.replace("*", "administer").split(",")))
    return f" to {told} {name}" if name else ""


def check_url(url: str) -> None:
    """Refuse a URL that is not https, nor http to this very machine.

    Raises:
        ConfigError: with what to write instead.
    """
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an address, a port that is none
        is_url = False
    if not is_url or not url.isprintable() or " " in url:
        raise ConfigError(f"{url!r} is no URL of a server", hint="write https://HOST:PORT")
    if parts.username or parts.password:
        raise ConfigError("a URL holds no login", hint="use docker login")
    if parts.scheme == "http" and not is_loopback(url):
        raise ConfigError(
            f"{url}: without TLS only this very machine is asked (localhost)",
            hint="write https://, and give the server's CA with --tlscacert",
        )


def is_loopback(url: str) -> bool:
    """True for localhost and the addresses of the loopback interface."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _context(tls: TlsFiles) -> ssl.SSLContext:
    try:
        is_system_asked = tls.is_system_believed or not tls.ca
        context = ssl.create_default_context(cafile=None if is_system_asked else str(tls.ca[0]))
        for ca in tls.ca:
            context.load_verify_locations(str(ca))
        if tls.certificate and tls.key:
            context.load_cert_chain(str(tls.certificate), str(tls.key))
    except (OSError, ssl.SSLError) as e:
        names = ", ".join(str(f) for f in (*tls.ca, tls.certificate, tls.key) if f)
        raise ConfigError(f"TLS files that cannot be used ({names}): {e}") from e
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _gone(host: str, reason: object, folder: Path | None) -> ServerGoneError:
    """``folder``: where docker's CAs are looked for, None where they are not."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        place = f", or as {folder / 'ca.crt'}" if folder else ""
        return ServerGoneError(
            f"{host}: its certificate is not trusted ({reason.verify_message})",
            hint=f"give the CA that issued it: --tlscacert FILE{place}",
            server=host,
            certificate="untrusted",
        )
    return ServerGoneError(
        f"{host} does not answer: {reason}",
        hint="check that it runs and that the address is right; nothing was changed",
        server=host,
    )
