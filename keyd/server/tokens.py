"""TokenService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from keyd.errors import InvalidRequestError
from keyd.model import Caller, Slot
from keyd.server.streams import until
from keyd.server.wire import tokens as wire
from keyd.server.wire import yubikeys as yubikey_wire
from keyd.server.wire.fields import check_reason, check_request_id
from keyd.server.wire.keys import check_token
from keyd.tokens import Tokens
from keyd.v1 import tokens_pb2 as pb
from keyd.yubikeys import YubiKeys


class TokenServicer:
    """Reads the request, asks the tokens' front, writes the token as it is then."""

    def __init__(
        self, tokens: Tokens, ended: asyncio.Event, yubikeys: YubiKeys | None = None
    ) -> None:
        """``ended``: set when the daemon drains; watches end then."""
        self._tokens = tokens
        self._ended = ended
        self._found_yubikeys = yubikeys

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

    async def list_yubi_keys(
        self, caller: Caller, message: pb.ListYubiKeysRequest
    ) -> pb.ListYubiKeysResponse:
        """YubiKeys with their slots."""
        token = check_token(message.token) if message.token else ""
        looked = await self._yubikeys.list(caller, token)
        return pb.ListYubiKeysResponse(yubikeys=[yubikey_wire.yubikey_message(y) for y in looked])

    async def list_plugged_in(
        self, caller: Caller, _: pb.ListPluggedInRequest
    ) -> pb.ListPluggedInResponse:
        """YubiKeys that are no tokens yet."""
        seen, problem = await self._yubikeys.not_configured.list(caller)
        return pb.ListPluggedInResponse(
            yubikeys=[yubikey_wire.plugged_in_message(s) for s in seen], problem=problem
        )

    async def init_yubi_key(
        self, caller: Caller, message: pb.InitYubiKeyRequest
    ) -> pb.InitYubiKeyResponse:
        """A new YubiKey gets its secrets."""
        pin, puk = (yubikey_wire.secret(message, field) for field in ("pin", "puk"))
        status, notes = await self._yubikeys.init(
            caller,
            check_token(message.token),
            pin,
            puk,
            factory=message.factory,
            said=check_reason(message.reason),
        )
        return pb.InitYubiKeyResponse(token=wire.token_message(status), notes=notes)

    async def change_pin(self, caller: Caller, message: pb.ChangePinRequest) -> pb.Token:
        """Another PIN."""
        old, new = (yubikey_wire.secret(message, field) for field in ("old_pin", "new_pin"))
        status = await self._yubikeys.change_pin(
            caller,
            check_token(message.token),
            old,
            new,
            spend_last_try=message.spend_last_try,
            said=check_reason(message.reason),
        )
        return wire.token_message(status)

    async def unblock_pin(self, caller: Caller, message: pb.UnblockPinRequest) -> pb.Token:
        """Another PIN, by the PUK."""
        puk, new = (yubikey_wire.secret(message, field) for field in ("puk", "new_pin"))
        status = await self._yubikeys.unblock(
            caller,
            check_token(message.token),
            puk,
            new,
            spend_last_try=message.spend_last_try,
            said=check_reason(message.reason),
        )
        return wire.token_message(status)

    async def attest(self, caller: Caller, message: pb.AttestRequest) -> pb.AttestResponse:
        """What the card proves of a key."""
        attested = await self._yubikeys.attest(
            caller,
            check_token(message.token),
            Slot.parse(message.slot),
            said=check_reason(message.reason),
        )
        return yubikey_wire.attested_message(attested)

    async def write_slot_certificate(
        self, caller: Caller, message: pb.WriteSlotCertificateRequest
    ) -> pb.WriteSlotCertificateResponse:
        """A certificate into a slot."""
        await self._yubikeys.write_certificate(
            caller,
            check_token(message.token),
            Slot.parse(message.slot),
            yubikey_wire.certificate(message),
            said=check_reason(message.reason),
        )
        return pb.WriteSlotCertificateResponse()

    @property
    def _yubikeys(self) -> YubiKeys:
        if self._found_yubikeys is None:
            raise InvalidRequestError("token", "this daemon serves no YubiKeys")
        return self._found_yubikeys
