"""Starts the daemon's event loop in a process that leaves no core file."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import pwd
import resource
from collections.abc import Callable
from pathlib import Path

import uvloop

# Token hosts are exec'd, and grpc's own fork handlers are of no use to them. Now and then a child
# dies of them all the same (SIGSEGV, grpcio 1.85.1 under uvloop): the keeper starts a host again.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from keyd.app import serve  # after the variable: grpc reads it when it is imported
from keyd.config import Config
from keyd.errors import ConfigError

_PR_SET_DUMPABLE = 4
_M_ARENA_MAX = -8
_ARENAS = 2
"""Heaps of the C library (mallopt(3)). It would make one for nearly every thread, and what a large
batch left in each is never given back."""

_COLLECT_AFTER = 50_000
"""Objects after which Python looks for cycles. A batch makes ten for each item, none of them in a
cycle; the default of 700 spends a quarter of the daemon's time on looking."""


def run_daemon(
    config: Config, *, dev: bool = False, ready: Callable[[], None] | None = None
) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ConfigError: why the daemon cannot start.
    """
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # where this was loaded in another environment
    refuse_another_user(config.server.state_dir)
    forbid_core_files()
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
    gc.set_threshold(_COLLECT_AFTER, 20, 20)

    def started() -> None:
        # What is here now stays to the end: no collection looks at it again.
        gc.collect()
        gc.freeze()
        if ready is not None:
            ready()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, dev=dev, ready=started))


def refuse_another_user(state_dir: Path) -> None:
    """Root may use the service's state folder, but what it makes there the service cannot open.

    Raises:
        ConfigError: the folder is there and not this user's.
    """
    try:
        owner = state_dir.stat().st_uid
    except OSError:
        return  # the daemon makes it, or says why it cannot
    if owner != os.geteuid():
        raise ConfigError(
            f"the state folder {state_dir} belongs to {_user(owner)}, and this is "
            f"{_user(os.geteuid())}",
            hint=f"systemctl start keyd-server, or: runuser -u {_user(owner)} -- keyd-server run",
            file=state_dir,
        )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def forbid_core_files() -> None:
    """Memory may hold a PIN for a moment. The limit passes on to token hosts; a crash handler
    that is piped to ignores it, but not PR_SET_DUMPABLE (core(5))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
