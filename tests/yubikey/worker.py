"""A program of its own that calls functions for a test: libpcsclite reads its environment once per
process, and no test process may load a PKCS#11 module.

``python -m tests.yubikey.worker`` reads pickled (function, arguments) and writes pickled results,
each behind four bytes of length. Functions are module-level; what they keep between calls, such
as a session, lives in their module.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, ParamSpec, Self, TypeVar

from tests.yubikey.warm import Fork

P = ParamSpec("P")
T = TypeVar("T")

_LENGTH_BYTES = 4


class WorkerError(Exception):
    """The function raised: the name of the error's class, and its text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Worker:
    """One such program. A context manager: it is killed at the end if it has not left."""

    def __init__(self, environment: dict[str, str]) -> None:
        its_input, our_output = os.pipe()
        our_input, its_output = os.pipe()
        self._orders, self._results = os.fdopen(our_output, "wb"), os.fdopen(our_input, "rb")
        try:
            env = {**os.environ, **environment}
            self._process = Fork("worker", (), env, (its_input, its_output, 2))
        finally:
            os.close(its_input)
            os.close(its_output)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait(10)
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
        self._results.close()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it there and wait, at most 30 s.

        Raises:
            WorkerError: it raised.
            TimeoutError: it did not return.
        """
        return self.begin(function, *args, **kwargs)(30.0)

    def begin(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[float], T]:
        """Begin to call it there; the returned function waits so many seconds for the result."""
        _write(self._orders, (function, args, kwargs))

        def result(within_s: float) -> T:
            kind, value = self._read(time.monotonic() + within_s)
            if kind:
                raise WorkerError(kind, value)
            made: T = value
            return made

        return result

    def _read(self, until: float) -> tuple[str, Any]:
        head = self._read_exactly(_LENGTH_BYTES, until)
        body = self._read_exactly(int.from_bytes(head, "big"), until)
        kind, value = pickle.loads(body)
        return kind, value

    def _read_exactly(self, size: int, until: float) -> bytes:
        descriptor = self._results.fileno()
        read = b""
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while len(read) < size:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise TimeoutError("the worker does not answer")
                part = os.read(descriptor, size - len(read))
                if not part:
                    raise WorkerError("Ended", f"exit code {self._process.wait(10)}")
                read += part
        return read


def _write(stream: IO[bytes], value: object) -> None:
    body = pickle.dumps(value)
    stream.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
    stream.flush()


def main() -> int:
    """Be that program."""
    # Results go out by a descriptor that nothing else writes to.
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while head := sys.stdin.buffer.read(_LENGTH_BYTES):
        function, args, kwargs = pickle.loads(sys.stdin.buffer.read(int.from_bytes(head, "big")))
        try:
            answer = ("", function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (the test is told)
            answer = (type(error).__name__, str(error))
        _write(results, answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
