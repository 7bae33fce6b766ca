"""The calls of TokenService: arguments in, a :class:`Call` out. Nothing here talks to anybody.

The docstrings are those of the methods of Client and AsyncClient. All of them raise KeydError
subclasses: what the daemon refused, ServerGoneError, DeadlineError.
"""

from __future__ import annotations

from dataclasses import replace

from keyd.client import types, wire
from keyd.client.call import Call, call
from keyd.model import Pin, TokenStatus
from keyd.v1 import tokens_pb2


def list_tokens() -> Call[list[TokenStatus]]:
    """The tokens the caller may see, in the order of the daemon's configuration."""
    return call(
        "TokenService/ListTokens",
        tokens_pb2.ListTokensRequest(),
        tokens_pb2.ListTokensResponse,
        lambda m: [wire.token(t) for t in m.tokens],
        repeatable=True,
    )


def watch_tokens(
    token: str = "", *, for_request_id: str = "", timeout_s: float | None = None
) -> Call[TokenStatus]:
    """The tokens the caller may see, or that one: now, and each again whenever it changes.

    ``for_request_id``: only those that blink for the caller's own request of this id, or make it
    wait; that needs no grant. ``timeout_s``: end after so long with a DeadlineError; None: the
    caller ends it.
    """
    watching = call(
        "TokenService/WatchTokens",
        tokens_pb2.WatchTokensRequest(token=token, for_request_id=for_request_id),
        tokens_pb2.Token,
        wire.token,
    )
    return replace(watching, stream_s=timeout_s)


def unlock(
    token: str, pin: Pin | None = None, *, spend_last_try: bool = False
) -> Call[TokenStatus]:
    """Log in with a person's PIN; None uses the configured source once more. Never repeated."""
    request = tokens_pb2.UnlockRequest(
        token=token, pin=pin.reveal() if pin else "", spend_last_try=spend_last_try
    )
    return call("TokenService/Unlock", request, tokens_pb2.Token, wire.token)


def lock(token: str, *, reason: str = "") -> Call[TokenStatus]:
    """Log out: the token stays LOCKED until somebody unlocks it."""
    request = tokens_pb2.LockRequest(token=token, reason=reason)
    return call("TokenService/Lock", request, tokens_pb2.Token, wire.token)


def list_objects(token: str) -> Call[list[types.TokenObject]]:
    """The key pairs on a token, registered or not."""
    request = tokens_pb2.ListObjectsRequest(token=token)
    return call(
        "TokenService/ListObjects",
        request,
        tokens_pb2.ListObjectsResponse,
        lambda m: [wire.token_object(o) for o in m.objects],
        repeatable=True,
    )
