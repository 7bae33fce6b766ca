"""TokenService."""

from __future__ import annotations

from keyd.model import Caller
from keyd.server.wire import tokens as wire
from keyd.server.wire.fields import check_reason
from keyd.server.wire.keys import check_token
from keyd.tokens import Tokens
from keyd.v1 import tokens_pb2 as pb


class TokenServicer:
    """Reads the request, asks the tokens' front, writes the token as it is then."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def list_tokens(
        self,
        caller: Caller,
        message: pb.ListTokensRequest,  # noqa: ARG002 - it has no fields
    ) -> pb.ListTokensResponse:
        """The tokens the caller may see."""
        return pb.ListTokensResponse(
            tokens=[wire.token_message(t) for t in self._tokens.list(caller)]
        )

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
