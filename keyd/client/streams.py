"""What a daemon streams, and who ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import grpc

from keyd.errors import KeydError

T = TypeVar("T")


class Wire(Protocol):
    """The messages of one grpc stream."""

    def __next__(self) -> bytes: ...

    def cancel(self) -> object:
        """End it; whoever waits for its next message is told."""


class Stream(Iterator[T]):
    """The answers of one streaming call, which begins when the first one is asked for.

    Iterating raises KeydError subclasses.
    """

    def __init__(
        self,
        begin: Callable[[], Wire],
        decode: Callable[[bytes], T],
        failure: Callable[[grpc.RpcError], KeydError],
    ) -> None:
        """``failure``: what an error of grpc is called."""
        self._begin = begin
        self._decode = decode
        self._failure = failure
        self._lock = threading.Lock()
        self._wire: Wire | None = None
        self._is_closed = False

    def __next__(self) -> T:
        with self._lock:
            if self._is_closed:
                raise StopIteration
            if self._wire is None:
                self._wire = self._begin()
            wire = self._wire
        try:
            return self._decode(next(wire))
        except grpc.RpcError as e:
            if self._is_closed:
                raise StopIteration from None
            raise self._failure(e) from e

    def close(self) -> None:
        """End it, from any thread: whoever waits for the next answer finds that there is none."""
        with self._lock:
            self._is_closed = True
            if self._wire is not None:
                self._wire.cancel()
