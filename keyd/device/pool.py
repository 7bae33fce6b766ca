"""All configured tokens: model.Device over token host processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from keyd.device.events import KnownKeys, OnSigned, TokenEvent
from keyd.device.keeper import TokenKeeper
from keyd.device.settings import TokenConfig
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import ConfigError, KeydError, TokenNotFoundError
from keyd.model import (
    KeyAlgorithm,
    Pin,
    PinAttempts,
    SignJob,
    TokenObject,
    TokenStatus,
    never_gone,
)

_FIRST_LOOK_S = 5.0
"""start() waits this long for the first state of the tokens; a module that hangs does not hold
up the daemon."""


class DevicePool:
    """Implements model.Device. Make, start and stop it on the main thread's event loop.

    ``attempts``: the durable memory of automatic logins. ``run_dir``: an existing folder for lock
    files, one per daemon, writable by nobody else. ``on_event`` and ``on_signed`` are called on
    the event loop and must not block or raise. ``known_keys``: what should lie on a YubiKey; one
    that holds something else is offered no PIN without a person.
    """

    def __init__(
        self,
        tokens: Sequence[TokenConfig],
        attempts: PinAttempts,
        *,
        run_dir: Path,
        on_event: Callable[[TokenEvent], None] | None = None,
        on_signed: OnSigned | None = None,
        known_keys: KnownKeys | None = None,
    ) -> None:
        def no_event(_: TokenEvent) -> None:
            """Nobody listens."""

        def not_measured(*_: object) -> None:
            """Nobody measures."""

        def nothing_known(_: str) -> Mapping[bytes, bytes]:
            """Nobody keeps a registry."""
            return {}

        self._keepers: dict[str, TokenKeeper] = {}
        for config in tokens:
            if config.name in self._keepers:
                raise ConfigError(f"token {config.name} is configured twice", token=config.name)
            self._keepers[config.name] = TokenKeeper(
                config,
                attempts,
                run_dir,
                on_event or no_event,
                on_signed or not_measured,
                known_keys or nothing_known,
            )

    async def start(self) -> None:
        """Start the hosts; return when each token is READY or its state says why not, at the
        latest after five seconds."""
        for keeper in self._keepers.values():
            keeper.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_S):
                for keeper in self._keepers.values():
                    await keeper.settled()

    async def stop(self) -> None:
        """End all hosts; on return no process is left."""
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()))

    # -- model.Device --------------------------------------------------------------------

    def tokens(self) -> list[TokenStatus]:
        """See model.Device."""
        return [keeper.status() for keeper in self._keepers.values()]

    async def sign(
        self, token: str, jobs: Sequence[SignJob], gone: Callable[[], bool] = never_gone
    ) -> list[bytes | KeydError]:
        """See model.Device."""
        return await self.keeper(token).sign(jobs, gone)

    async def generate(
        self, token: str, algorithm: KeyAlgorithm, object_id: bytes, label: str
    ) -> TokenObject:
        """See model.Device."""
        keeper = self.keeper(token)
        order = pb.Generate(algorithm=algorithm.value, object_id=object_id, label=label)
        reply = await keeper.ask(pb.Request(generate=order))
        return _token_object(reply.generated.key, keeper.status().serial)

    async def check(self, token: str) -> None:
        """See model.Device."""
        await self.keeper(token).check()

    async def objects(self, token: str, object_id: bytes = b"") -> list[TokenObject]:
        """See model.Device."""
        keeper = self.keeper(token)
        if not object_id and keeper.config.is_yubikey and keeper.status().hosts:
            # libykcs11 tells what lay there when it connected, not what ykman put there since.
            await keeper.refresh()
        reply = await keeper.ask(pb.Request(objects=pb.Objects(object_id=object_id)))
        serial = keeper.status().serial
        return [_token_object(key, serial) for key in reply.object_list.keys]

    async def destroy(self, token: str, object_id: bytes, public_key: bytes) -> bool:
        """See model.Device."""
        doomed = pb.Destroy(object_id=object_id, public_key=public_key)
        reply = await self.keeper(token).ask(pb.Request(destroy=doomed))
        return reply.destroyed.found

    async def unlock(self, token: str, pin: Pin | None, *, spend_last_try: bool = False) -> bool:
        """See model.Device."""
        return await self.keeper(token).unlock(pin, spend_last_try=spend_last_try)

    async def lock(self, token: str) -> None:
        """See model.Device."""
        await self.keeper(token).lock()

    def keeper(self, token: str) -> TokenKeeper:
        """Who keeps the token; raises TokenNotFoundError."""
        try:
            return self._keepers[token]
        except KeyError:
            raise TokenNotFoundError(f"no token {token!r} is configured", token=token) from None


def _token_object(key: pb.KeyObject, serial: str) -> TokenObject:
    return TokenObject(
        object_id=key.object_id,
        label=key.label,
        algorithm=KeyAlgorithm(key.algorithm) if key.algorithm else None,
        public_key=key.public_key,
        sensitive=key.sensitive,
        extractable=key.extractable,
        always_sensitive=key.always_sensitive,
        never_extractable=key.never_extractable,
        local=key.local,
        serial=serial,
    )
