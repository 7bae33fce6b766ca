"""What all users of one connection share: where it leads, and what the daemon was shown."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc

from keyd.client import certificates
from keyd.client.checkpoints import KeptCheckpoint
from keyd.client.endpoint import Endpoint
from keyd.errors import PolicyDeniedError

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""10 000 RSA-4096 signatures with their public keys are about 15 MiB."""

SHOW_TIMEOUT_S = 5.0
"""Showing a checkpoint must not hold up a caller."""

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    # A daemon that restarts is back within seconds; grpc's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also how long one attempt may take: a busy daemon is slow to greet, not gone.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def credentials(endpoint: Endpoint) -> grpc.ChannelCredentials | None:
    """TLS credentials from the endpoint's files; None for a unix socket.

    Raises:
        ConfigError: a file is missing or malformed, or key and certificate do not fit.
    """
    if endpoint.tls is None:
        return None
    return grpc.ssl_channel_credentials(*certificates.read(endpoint.tls))


class Link:
    """State of one connection, shared by threads and by copies with another deadline."""

    def __init__(self, endpoint: Endpoint, checkpoints: Path | None) -> None:
        self.endpoint = endpoint
        self.kept = KeptCheckpoint(endpoint.target, checkpoints)
        self.answered = False
        self.lock = threading.Lock()
        self._shown = False

    def check_local(self) -> None:
        """Refuse to send a PIN or PUK over TCP; nothing was sent when this raises.

        Raises:
            PolicyDeniedError: the endpoint is no unix socket.
        """
        if not self.endpoint.target.startswith("unix:"):
            raise PolicyDeniedError(
                f"PIN and PUK travel over unix sockets only, and the daemon is at "
                f"{self.endpoint.target}; nothing was sent",
                hint="run the command on the daemon's machine",
                rule="secrets stay local",
            )

    def note_to_show(self) -> str:
        """The kept checkpoint when the daemon has not seen it yet on this connection, else
        nothing; answers with it only once."""
        with self.lock:
            if self._shown:
                return ""
            self._shown = True
        kept = self.kept.read()
        return kept.note if kept else ""
