"""TokenService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from keyd.model import Caller
from keyd.server.streams import until
from keyd.server.wire import tokens as wire
from keyd.server.wire.fields import check_reason, check_request_id
from keyd.server.wire.keys import check_token
from keyd.tokens import Tokens
from keyd.v1 import tokens_pb2 as pb


class TokenServicer:
    """Reads the request, asks the tokens' front, writes the token as it is then."""

    def __init__(self, tokens: Tokens, ended: asyncio.Event) -> None:
        """``ended``: set when the daemon drains; watches end then."""
        self._tokens = tokens
        self._ended = ended

    async def list_tokens(
        self,
        caller: Caller,
        message: pb.ListTokensRequest,  # noqa: ARG002 - it has no fields
    ) -> pb.ListTokensResponse:
        """The tokens the caller may see."""
        return pb.ListTokensResponse(
            tokens=[wire.token_message(t) for t in self._tokens.list(caller)]
        )

    async def watch_tokens(
        self, caller: Caller, message: pb.WatchTokensRequest
    ) -> AsyncIterator[pb.Token]:
        """Tokens now and whenever they change, until the caller leaves or the daemon drains."""
        token = check_token(message.token) if message.token else ""
        asked = check_request_id(message.for_request_id)
        async with aclosing(
            until(self._ended, self._tokens.watch(caller, token, asked))
        ) as changes:
            async for status in changes:
                yield wire.token_message(status)

    async def unlock(self, caller: Caller, message: pb.UnlockRequest) -> pb.Token:
        """Log in."""
        pin = wire.pin(message)
        token = check_token(message.token)
        status = await self._tokens.unlock(
            caller, token, pin, spend_last_try=message.spend_last_try
        )
        return wire.token_message(status)

    async def lock(self, caller: Caller, message: pb.LockRequest) -> pb.Token:
        """Log out."""
        token = check_token(message.token)
        return wire.token_message(
            await self._tokens.lock(caller, token, said=check_reason(message.reason))
        )

    async def list_objects(
        self, caller: Caller, message: pb.ListObjectsRequest
    ) -> pb.ListObjectsResponse:
        """Key pairs on a token."""
        found = await self._tokens.objects(caller, check_token(message.token))
        return pb.ListObjectsResponse(objects=[wire.object_message(o, n) for o, n in found])
