"""/metrics and /healthz over plain HTTP, on loopback only.

Small on purpose: GET and HEAD, one request a connection, nothing read from the caller but the first
line. It has no authentication, so it refuses to listen where others could reach it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType

from keyd.errors import ConfigError
from keyd.server.metrics import CONTENT_TYPE, Metrics

log = logging.getLogger(__name__)

_MAX_HEAD_BYTES = 8192
_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 32
_TEXT = "text/plain; charset=utf-8"


class Pages:
    """The HTTP listener; a context manager that ends it and its connections."""

    def __init__(self, metrics: Metrics, healthy: Callable[[], tuple[bool, str]]) -> None:
        """``healthy``: whether the daemon serves, and a line that says how it is."""
        self._metrics = metrics
        self._healthy = healthy
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self, host: str, port: int) -> int:
        """Listen on a loopback address; port 0 chooses one. Answers the port.

        Raises:
            ConfigError: not a loopback address, or the port is taken.
        """
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ConfigError(
                f"metrics listener: {host} is not a loopback address",
                hint="metrics have no authentication; listen on 127.0.0.1 or ::1 and let a proxy "
                "that authenticates reach out",
                host=host,
            )
        try:
            self._server = await asyncio.start_server(
                self._serve, host, port, limit=_MAX_HEAD_BYTES, reuse_port=False
            )
        except OSError as e:
            raise ConfigError(
                f"metrics listener: cannot listen on {host} port {port}: {e.strerror or e}",
                hint="another daemon may serve there already; choose another port",
                host=host,
                port=port,
            ) from e
        taken: int = self._server.sockets[0].getsockname()[1]
        return taken

    async def stop(self) -> None:
        """End the listener."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Pages:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= _MAX_CONNECTIONS:
                async with asyncio.timeout(_TIMEOUT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._respond(head))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("http connection dropped")
        finally:
            self._connections -= 1
            writer.close()

    def _respond(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, _TEXT, b"not HTTP/1\n")
        method, path = words[0], words[1].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"GET only\n")
        if path == b"/metrics":
            response = _response(HTTPStatus.OK, CONTENT_TYPE, self._metrics.page())
        elif path == b"/healthz":
            healthy, line = self._healthy()
            code = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
            response = _response(code, _TEXT, f"{line}\n".encode())
        else:
            response = _response(HTTPStatus.NOT_FOUND, _TEXT, b"/metrics or /healthz\n")
        return response.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n" if method == b"HEAD" else response


def _response(code: HTTPStatus, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {code.value} {code.phrase}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    return head.encode() + body
