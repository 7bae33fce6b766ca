"""KeyService."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from keyd.keys import Keys
from keyd.model import Caller, Clock, Key
from keyd.server.limits import Limits
from keyd.server.wire import keys as wire
from keyd.server.wire import pages
from keyd.server.wire.fields import check_reason
from keyd.v1 import keys_pb2 as pb


class KeyServicer:
    """Reads the request, asks the registry's front, writes the key as it is then."""

    def __init__(self, keys: Keys, clock: Clock, limits: Limits) -> None:
        self._keys = keys
        self._clock = clock
        self._limits = limits

    async def create_key(self, caller: Caller, message: pb.CreateKeyRequest) -> pb.Key:
        """Version 1 of a new key."""
        return self._answer(await self._keys.create(caller, wire.new_key(message)))

    async def list_keys(self, caller: Caller, message: pb.ListKeysRequest) -> pb.ListKeysResponse:
        """A page of the keys the caller may see; what was shown before is never shown again."""
        size = pages.page_size(message.page_size, wire.MAX_LIST_PAGE)
        after = pages.parse_token(message, message.page_token)
        wanted = self._keys.list(caller, wire.key_filter(message))
        left = [key for key in wanted if after is None or key.name > after]
        shown = list(
            pages.fill_page((self._answer(key) for key in left), size, self._limits.max_page_bytes)
        )
        more = len(shown) < len(left)
        return pb.ListKeysResponse(
            keys=shown, next_page_token=pages.to_token(message, shown[-1].name) if more else ""
        )

    async def get_key(self, caller: Caller, message: pb.GetKeyRequest) -> pb.Key:
        """One key."""
        return self._answer(self._keys.get(caller, wire.key_name(message.name)))

    async def rotate_key(self, caller: Caller, message: pb.RotateKeyRequest) -> pb.Key:
        """A new version."""
        key = await self._keys.rotate(
            caller,
            wire.key_name(message.name),
            at_once=message.at_once,
            expected_newest=wire.expected_newest(message),
            said=check_reason(message.reason),
        )
        return self._answer(key)

    async def activate_key_version(
        self, caller: Caller, message: pb.ActivateKeyVersionRequest
    ) -> pb.Key:
        """The version signs by default."""
        change = wire.version_change(message)
        return self._answer(
            await self._keys.activate(caller, change.name, change.number, said=change.said)
        )

    async def enable_key_version(self, caller: Caller, message: pb.KeyVersionRequest) -> pb.Key:
        """DISABLED -> ENABLED."""
        return await self._change(caller, message, self._keys.enable)

    async def disable_key_version(self, caller: Caller, message: pb.KeyVersionRequest) -> pb.Key:
        """ENABLED -> DISABLED."""
        return await self._change(caller, message, self._keys.disable)

    async def schedule_destroy(self, caller: Caller, message: pb.ScheduleDestroyRequest) -> pb.Key:
        """The waiting time starts."""
        change = wire.version_change(message)
        key = await self._keys.schedule_destroy(
            caller, change.name, change.number, wait_s=wire.wait_s(message), said=change.said
        )
        return self._answer(key)

    async def cancel_destroy(self, caller: Caller, message: pb.KeyVersionRequest) -> pb.Key:
        """DESTROY_SCHEDULED -> DISABLED."""
        return await self._change(caller, message, self._keys.cancel_destroy)

    async def destroy(self, caller: Caller, message: pb.KeyVersionRequest) -> pb.Key:
        """Gone from the token."""
        return await self._change(caller, message, self._keys.destroy)

    async def adopt_key(self, caller: Caller, message: pb.AdoptKeyRequest) -> pb.AdoptKeyResponse:
        """Key pairs that lie on a token already."""
        wire.check_adoption(message)
        if message.all_labelled:
            adopted, skipped = await self._keys.adopt_labelled(
                caller, message.token, said=message.reason
            )
            return pb.AdoptKeyResponse(keys=[self._answer(k) for k in adopted], skipped=skipped)
        key = await self._keys.adopt(
            caller,
            message.token,
            message.name,
            message.object_id,
            bindings=wire.bindings(message.bindings),
            said=message.reason,
        )
        return pb.AdoptKeyResponse(keys=[self._answer(key)])

    async def update_key(self, caller: Caller, message: pb.UpdateKeyRequest) -> pb.Key:
        """Bindings, labels or rotation period replaced."""
        key = await self._keys.update(
            caller,
            wire.key_name(message.name),
            bindings=wire.bindings(message.bindings) if message.set_bindings else None,
            labels=dict(message.labels) if message.set_labels else None,
            rotation_period_s=message.rotation_period_s if message.set_rotation_period else None,
            said=check_reason(message.reason),
        )
        return self._answer(key)

    async def freeze(self, caller: Caller, message: pb.FreezeRequest) -> pb.FreezeResponse:
        """Signing stops."""
        key = wire.key_name(message.key) if message.key else ""
        freezes = await self._keys.freeze(caller, key, said=check_reason(message.reason))
        return pb.FreezeResponse(freezes=[wire.freeze_line(f) for f in freezes])

    async def unfreeze(self, caller: Caller, message: pb.FreezeRequest) -> pb.FreezeResponse:
        """Signing goes on."""
        key = wire.key_name(message.key) if message.key else ""
        freezes = await self._keys.unfreeze(caller, key, said=check_reason(message.reason))
        return pb.FreezeResponse(freezes=[wire.freeze_line(f) for f in freezes])

    async def _change(
        self,
        caller: Caller,
        message: pb.KeyVersionRequest,
        change: Callable[..., Awaitable[Key]],
    ) -> pb.Key:
        asked = wire.version_change(message)
        return self._answer(await change(caller, asked.name, asked.number, said=asked.said))

    def _answer(self, key: Key) -> pb.Key:
        return wire.key_message(key, self._keys.frozen(key.name), self._clock.now())
