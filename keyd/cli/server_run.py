"""Starts the daemon's event loop in a process that leaves no core file."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
from collections.abc import Callable

import uvloop

# Token hosts are exec'd; grpc's own fork handlers would only complain about it on standard error.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from keyd.app import serve  # after the variable: grpc reads it when it is imported
from keyd.config import Config

_PR_SET_DUMPABLE = 4


def run_daemon(
    config: Config, *, dev: bool = False, ready: Callable[[], None] | None = None
) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ConfigError: why the daemon cannot start.
    """
    forbid_core_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, dev=dev, ready=ready))


def forbid_core_files() -> None:
    """Memory may hold a PIN for a moment. The limit passes on to token hosts; a crash handler
    that is piped to ignores it, but not PR_SET_DUMPABLE (core(5))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
