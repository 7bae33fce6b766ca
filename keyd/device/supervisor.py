"""One token host process: started, spoken to, watched, ended. Daemon side.

Start hosts from the main thread only: PR_SET_PDEATHSIG follows the thread that spawned them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keyd
from keyd.device import frames
from keyd.device.settings import TokenConfig
from keyd.device.v1 import device_pb2 as pb

_PASSED_ON = (
    "PATH",
    "HOME",
    "SOFTHSM2_CONF",
    "PCSCLITE_CSOCK_NAME",
    "YUBIHSM_PKCS11_CONF",
    "P11NETHSM_CONFIG_FILE",
)
"""The whole environment of a host: what PKCS#11 modules read, and nothing of ours."""

_SLOW_FACTOR = 10
"""A card needs a minute for an RSA key pair that it signs with in a tenth of a second."""

_TOUCHED_S = 30.0
"""A touch is waited for 15 seconds, by the card itself."""

_END_S = 1.0
"""A host whose socket was closed leaves within this time, else it is killed."""


class HostDiedError(Exception):
    """The host ended before it answered; the text says how. ``asked``: the request may have
    reached it."""

    def __init__(self, how: str, *, asked: bool = True) -> None:
        super().__init__(how)
        self.asked = asked


def _environment(config: TokenConfig) -> dict[str, str]:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if config.softhsm_conf is not None:
        environment["SOFTHSM2_CONF"] = str(config.softhsm_conf)
    # The host must be the same keyd as the daemon, wherever that was imported from.
    environment["PYTHONPATH"] = str(Path(keyd.__path__[0]).resolve().parent)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return environment


async def read_frame(stream: asyncio.StreamReader) -> bytes | None:
    """The body of the next frame, or None where the stream ends between or inside frames.

    Raises:
        FrameError: the other end does not speak this wire.
    """
    try:
        head = await stream.readexactly(frames.LENGTH_BYTES)
        return await stream.readexactly(frames.checked_length(head))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def lock_path(run_dir: Path, token: str, place: int) -> Path:
    """The lock that the host in this place of the token holds while it lives."""
    return run_dir / f"token-{token.replace('/', '+')}-{place}.lock"


OnProgress = Callable[[pb.Progress], None]
"""Told what a host says before its answer."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that is with the host, and how long it may stay silent over it."""

    answer: asyncio.Future[pb.Reply]
    sent_at: float
    patience_s: float
    on_progress: OnProgress | None


class HostProcess:
    """A running host. Requests are pipelined; replies come in their order.

    ``ended`` is set once the process is dead and buried; ``how`` says what happened.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        timeout_s: float,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, _Waiting] = {}
        self._next_id = 1
        self._heard_at = self._loop.time()
        self._alarm: asyncio.TimerHandle | None = None
        self._why = ""
        self._at_end: list[Callable[[], None]] = []
        self.how = ""
        self.ended = asyncio.Event()
        self._listening = self._loop.create_task(self._listen())

    @classmethod
    async def start(cls, config: TokenConfig, place: int, run_dir: Path) -> HostProcess:
        """Exec a host; it has not loaded its module yet.

        Raises:
            OSError: no process or no socket to be had.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # never import from the current folder
                    "-m",
                    "keyd.device.host",
                    f"--parent={os.getpid()}",
                    f"--fd={theirs.fileno()}",
                    f"--name={config.name}",
                    f"--module={config.module}",
                    f"--label={config.label or ''}",
                    f"--serial={config.serial or ''}",
                    f"--lock={lock_path(run_dir, config.name, place)}",
                    f"--init-lock={run_dir / f'init-{config.module.name}.lock'}",
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=_environment(config),
                )
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        return cls(process, reader, writer, config.patience_s)

    @property
    def is_open(self) -> bool:
        """True while it takes requests."""
        return not self.ended.is_set() and not self._writer.is_closing()

    def on_end(self, call: Callable[[], None]) -> None:
        """Call this once the process is gone."""
        self._at_end.append(call)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(
        self, request: pb.Request, on_progress: OnProgress | None = None
    ) -> asyncio.Future[pb.Reply]:
        """Send a request (its id is set here). The future gets the reply or HostDiedError."""
        answer: asyncio.Future[pb.Reply] = self._loop.create_future()
        if not self.is_open:
            answer.set_exception(HostDiedError(self.how or "the host is ending", asked=False))
            return answer
        request.id = self._next_id
        self._next_id += 1
        patience_s = self._timeout_s
        if request.generate.algorithm.startswith("rsa-"):
            patience_s *= _SLOW_FACTOR
        made_in_slot = request.yubikey.generate.algorithm
        if made_in_slot:
            # It signs its own certificate, for which a person may have to touch the card.
            patience_s = max(patience_s, _TOUCHED_S)
            patience_s *= _SLOW_FACTOR if made_in_slot.startswith("rsa-") else 1
        self._waiting[request.id] = _Waiting(answer, self._loop.time(), patience_s, on_progress)
        # Not drained: what is in flight is bounded by the callers.
        self._writer.write(frames.pack(request))
        if self._alarm is None:
            self._alarm = self._loop.call_later(self._timeout_s, self._watch)
        return answer

    async def ask(self, request: pb.Request) -> pb.Reply:
        """Send and wait.

        Raises:
            HostDiedError: no answer will come.
        """
        return await self.send(request)

    def kill(self, why: str) -> None:
        """SIGKILL; ``how`` will say why."""
        self._why = self._why or why
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def close(self) -> None:
        """Let the host go in peace, or kill it; on return the process is gone."""
        if not self._writer.is_closing():
            # The host answers what it has read, finds the end and leaves.
            self._writer.write_eof()
        try:
            async with asyncio.timeout(_END_S):
                await self.ended.wait()
        except TimeoutError:
            self.kill("it did not leave when its socket was closed")
            await self.ended.wait()

    def _watch(self) -> None:
        """Kill the host when the module has been silent for too long."""
        self._alarm = None
        if not self._waiting:
            return
        oldest = next(iter(self._waiting.values()))
        left_s = max(self._heard_at, oldest.sent_at) + oldest.patience_s - self._loop.time()
        if left_s <= 0:
            self.kill(f"no answer from the PKCS#11 module for {oldest.patience_s:g} s")
            return
        self._alarm = self._loop.call_later(left_s, self._watch)

    async def _listen(self) -> None:
        try:
            while (body := await read_frame(self._reader)) is not None:
                self._heard_at = self._loop.time()
                self._take(pb.Reply.FromString(body))
        except frames.FrameError as error:
            self._why = self._why or str(error)
        finally:
            await asyncio.shield(self._bury())

    def _take(self, reply: pb.Reply) -> None:
        if reply.WhichOneof("what") == "progress":
            on_progress = self._waiting[reply.id].on_progress
            if on_progress is not None:
                on_progress(reply.progress)
            return
        if reply.id == 0:
            self._why = reply.failure.message
            return
        answer = self._waiting.pop(reply.id).answer
        if not answer.done():
            answer.set_result(reply)

    async def _bury(self) -> None:
        """The socket is at its end, so the process is dead or useless."""
        self._writer.close()
        try:
            # A host that only hung up is given the moment it takes to exit by itself.
            async with asyncio.timeout(0.5):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        code = await self._process.wait()
        if self._alarm is not None:
            self._alarm.cancel()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.how = f"{self._why} ({how})" if self._why else how
        self.ended.set()
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(HostDiedError(self.how))
        self._waiting.clear()
        for call in self._at_end:
            call()
