"""Stands between keydctl and the two it talks to, notary-server and keyd, and sees every call.

Before and after each one somebody may act: kill keydctl, kill a server, or nothing. A call that
was stopped before never leaves; the answer of one that was stopped after never arrives.
"""

from __future__ import annotations

import http.client
import http.server
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.notary_programs import Sandbox

_TIMEOUT_S = 60.0
_CALLS_AT_ONCE = 16


@dataclass(frozen=True)
class Moment:
    """``when``: ``before`` a call leaves, ``sending`` (half of an upload is there), ``storing``
    (all of it is, and no answer yet) or ``after`` (answered, and the answer is held back).
    ``what``: ``POST timestamp.key``, ``POST `` for an upload, ``Sign`` for a call of keyd."""

    number: int
    when: str
    what: str


Act = Callable[[Moment], bool]
"""Does something at a moment; True where the call ends there."""


class _Quiet(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Those who were killed hang up; nobody has to hear of it."""


class Gate(grpc.GenericRpcHandler):
    """One way in for both servers of a sandbox. ``seen``: what passed since :meth:`watch`."""

    def __init__(self, sandbox: Sandbox, socket: Path) -> None:
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self._act: Act | None = None
        self.seen: list[Moment] = []
        gate = self

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S

            def do_GET(self) -> None:
                gate._forward(self)

            def do_POST(self) -> None:
                gate._forward(self)

            def do_DELETE(self) -> None:
                gate._forward(self)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        tls = sandbox.certificates
        self._trusting = ssl.create_default_context(cafile=str(tls.ca))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.file("server.crt"), tls.file("server.key"))
        self._web = _Quiet(("127.0.0.1", 0), Handler)
        self._web.socket = context.wrap_socket(
            self._web.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._web.serve_forever, daemon=True)
        self.endpoint = f"unix:{socket}"
        self._channel: grpc.Channel | None = None
        self._keyd = grpc.server(ThreadPoolExecutor(_CALLS_AT_ONCE), handlers=[self])
        self._keyd.add_insecure_port(self.endpoint)

    @property
    def url(self) -> str:
        """In place of notary-server's."""
        return f"https://localhost:{self._web.server_address[1]}"

    def __enter__(self) -> Gate:
        self._thread.start()
        self._keyd.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._keyd.stop(None).wait(_TIMEOUT_S)
        if self._channel is not None:
            self._channel.close()
        self._web.shutdown()
        self._web.server_close()
        self._thread.join(_TIMEOUT_S)

    @contextmanager
    def watch(self, act: Act | None = None) -> Iterator[list[Moment]]:
        """Act in this block; the moments that came, counted from 0."""
        with self._lock:
            self._act, self.seen = act, []
        try:
            yield self.seen
        finally:
            with self._lock:
                self._act = None

    def _stops(self, when: str, what: str) -> bool:
        with self._lock:
            moment = Moment(len(self.seen), when, what)
            self.seen.append(moment)
            act = self._act
        return act is not None and act(moment)

    # ------------------------------------------------------------------ notary-server

    def _forward(self, asked: http.server.BaseHTTPRequestHandler) -> None:
        asked.close_connection = True
        what = f"{asked.command} {asked.path.rpartition('/_trust/tuf/')[2]}"
        body = asked.rfile.read(int(asked.headers.get("Content-Length", "0")))
        if self._stops("before", what):
            return
        there = http.client.HTTPSConnection(
            "localhost", self._sandbox.server_port, context=self._trusting, timeout=_TIMEOUT_S
        )
        try:
            there.putrequest(asked.command, asked.path, skip_host=True, skip_accept_encoding=True)
            for name, value in asked.headers.items():
                there.putheader(name, value)
            there.endheaders()
            half = len(body) // 2
            there.send(body[:half])
            if body and self._stops("sending", what):
                return
            there.send(body[half:])
            if body and self._stops("storing", what):
                return
            answer = there.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            return  # keydctl sees what it would see without us: a connection that breaks
        finally:
            there.close()
        if self._stops("after", what):
            return
        asked.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date"):
                asked.send_header(name, value)
        asked.send_header("Content-Length", str(len(content)))
        asked.end_headers()
        asked.wfile.write(content)

    # ------------------------------------------------------------------ keyd

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Every method of keyd, as bytes."""
        method = str(handler_call_details.method)

        def pass_on(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            what = method.rpartition("/")[2]
            if self._stops("before", what):
                context.abort(grpc.StatusCode.UNAVAILABLE, "stopped")
            answers, error = self._ask(method, requests, context)
            if self._stops("after", what):
                context.abort(grpc.StatusCode.UNAVAILABLE, "stopped")
            if error is not None:
                context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
                context.abort(error.code(), error.details() or "")
            yield from answers

        return grpc.stream_stream_rpc_method_handler(pass_on)

    def _ask(
        self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> tuple[list[bytes], Any]:
        with self._lock:
            if self._channel is None:
                self._channel = grpc.insecure_channel(
                    f"unix:{self._sandbox.folder}/run/keyd.sock",
                    options=(("grpc.max_reconnect_backoff_ms", 100),),
                )
            channel = self._channel
        given = tuple(
            (key, value)
            for key, value in context.invocation_metadata()
            if not key.startswith(("grpc-", "user-agent", ":"))
        )
        call: Any = channel.stream_stream(method)
        try:
            return list(call(requests, timeout=_TIMEOUT_S, metadata=given)), None
        except grpc.RpcError as e:
            return [], e
