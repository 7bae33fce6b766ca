"""Tells systemd how the daemon is: the sd_notify protocol, sd_notify(3), without a library.

Outside a ``Type=notify`` unit NOTIFY_SOCKET is unset and every call does nothing.
"""

from __future__ import annotations

import os
import socket

READY = "READY=1"
RELOADING = "RELOADING=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def notify(*lines: str) -> bool:
    """Send assignments such as ``READY`` or ``"STATUS=2 tokens ready"`` in one datagram.

    False when nobody listens; a supervisor that went away is no reason to stop signing.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # the abstract namespace, unix(7)
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True


def watchdog_interval_s() -> float | None:
    """Seconds between two ``WATCHDOG`` messages: half of WATCHDOG_USEC, as sd_watchdog_enabled(3)
    advises; None where this process is not watched."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2_000_000 if text.isdigit() and int(text) > 0 else None
