"""Keys of the roles that a notary-server signs by itself: made when it asks, found by Notary's key
id, and asked for signatures like all other keys.

What notary-server wants to know is who signs, never who publishes: the log names notary-server,
and the collection's name comes from the key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from keyd import gunnames
from keyd.errors import (
    InvalidRequestError,
    KeyStateError,
    PolicyDeniedError,
    RuleRefusedError,
)
from keyd.gate import Gate
from keyd.gunnames import GunName
from keyd.keyfields import NewKey
from keyd.keys import Keys
from keyd.model import (
    ONLINE_ROLES,
    Action,
    Binding,
    Caller,
    Context,
    Encoding,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Marks,
    Registry,
    Signed,
    SignRequest,
    VersionState,
)
from keyd.notaryplaces import Places
from keyd.rules.refusal import command
from keyd.signing import Signing
from keyd.unbroken import Unbroken

HasSigned = Callable[[str], Awaitable[bool]]
"""True when the log has a signature by a key of that name."""

_FORM = "notary"


@dataclass(frozen=True, slots=True)
class NotaryKey:
    """A key pair as notary-server knows it: by ``version.keyids["notary"]``."""

    key: Key
    version: KeyVersion
    name: GunName


class NotarySigner:
    """What notary-server is offered."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        marks: Marks,
        keys: Keys,
        signing: Signing,
        places: Places,
        has_signed: HasSigned,
    ) -> None:
        self._gate = gate
        self._registry = registry
        self._marks = marks
        self._keys = keys
        self._signing = signing
        self._places = places
        self._has_signed = has_signed
        self._unbroken = Unbroken()
        self._making: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}
        self._names: dict[str, tuple[str, int]] = {}
        self._indexed: Sequence[Key] = ()

    async def drain(self) -> None:
        """Wait until what callers left behind is finished."""
        await self._unbroken.drain()

    # ------------------------------------------------------------------------------- create

    async def create(
        self, caller: Caller, gun: str, role: str, algorithm: KeyAlgorithm
    ) -> NotaryKey:
        """A key for the role that has signed nothing yet: one that was made before, else a new
        one. A caller that leaves does not stop it.

        Raises:
            InvalidRequestError: a GUN or role that no keys are made for.
            RateLimitedError: too many new keys.
        """
        first = gunnames.key_name(gun, role)
        await self._gate.authorize(caller, Action.CREATE, first)
        if role not in ONLINE_ROLES:
            raise InvalidRequestError(
                "role",
                f"keyd makes keys for {' and '.join(ONLINE_ROLES)} when notary-server asks, not "
                f"for {role}",
                hint="the other roles are signed by people, with: keydctl sign",
            )
        self._places.find(gun)
        return await self._unbroken.run(self._create(caller, gun, role, algorithm))

    async def _create(
        self, caller: Caller, gun: str, role: str, algorithm: KeyAlgorithm
    ) -> NotaryKey:
        async with self._turn(gun, role):
            unused = await self._find_unused(caller, gun, role, algorithm)
            return unused or await self._make(caller, gun, role, algorithm)

    @asynccontextmanager
    async def _turn(self, gun: str, role: str) -> AsyncIterator[None]:
        """One after another, so that the second of two finds the first one's key."""
        where = (gun, role)
        lock, waiting = self._making.get(where, (asyncio.Lock(), 0))
        self._making[where] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._making.pop(where)
            if waiting > 1:
                self._making[where] = lock, waiting - 1

    async def _find_unused(
        self, caller: Caller, gun: str, role: str, algorithm: KeyAlgorithm
    ) -> NotaryKey | None:
        made = list(self._made(gun, role))
        for number, key in reversed(made):
            version = key.active
            if (
                key.algorithm is not algorithm
                or not gunnames.is_made_for_server(key)
                or version is None
                or version.state is not VersionState.ENABLED
                or self._registry.freeze_on(key.name) is not None
                or Binding(gun, role) not in key.bindings
                or not self._gate.may(caller, Action.CREATE, key.name)
            ):
                continue
            kept = gunnames.history_of(key.name, gun, role)
            mark = self._marks.find_mark(kept, role)
            if mark is not None and version.fingerprint in mark.signers:
                continue
            # A mark can be reset; the log forgets nothing.
            if not await self._has_signed(key.name):
                return NotaryKey(key, version, GunName(gun, role, number))
        return None

    async def _make(
        self, caller: Caller, gun: str, role: str, algorithm: KeyAlgorithm
    ) -> NotaryKey:
        number = sum(1 for _ in self._made(gun, role)) + 1
        with self._places.allowance(caller.principal.id, gun):
            key = await self._keys.create(
                caller,
                NewKey(
                    name=gunnames.key_name(gun, role, number),
                    token=self._places.find(gun).token,
                    algorithm=algorithm,
                    bindings=frozenset({Binding(gun, role)}),
                    labels={"gun": gun, gunnames.MADE_FOR: gunnames.SERVER, "role": role},
                ),
            )
        version = key.active
        assert version is not None, "a first version is active"
        self._names[version.keyids[_FORM]] = key.name, version.number
        return NotaryKey(key, version, GunName(gun, role, number))

    def _made(self, gun: str, role: str) -> Iterator[tuple[int, Key]]:
        """The keys of a role by their numbers, whatever became of them."""
        number = 1
        while key := self._registry.find(gunnames.key_name(gun, role, number)):
            yield number, key
            number += 1

    # ------------------------------------------------------------------------------- use

    async def get(self, caller: Caller, keyid: str) -> NotaryKey:
        """The key of a Notary key id, for a caller who may see it.

        Raises:
            PolicyDeniedError: the caller may not see it, or there is none.
        """
        found = self._find(keyid)
        if found is None or not self._gate.may(caller, Action.LIST, found.key.name):
            raise await self._unknown(caller, Action.LIST, keyid)
        return found

    async def sign(self, caller: Caller, keyid: str, content: bytes) -> tuple[NotaryKey, Signed]:
        """Sign a whole Timestamp or Snapshot with the key of a Notary key id; see
        :meth:`keyd.signing.Signing.sign` for the errors."""
        found = self._find(keyid)
        if found is None or self._gate.is_stranger(caller, Action.SIGN, found.key.name):
            raise await self._unknown(caller, Action.SIGN, keyid)
        request = SignRequest(
            key=found.key.name,
            message=content,
            expected_public_key=found.version.public_key,
            encoding=Encoding.RAW,
        )
        try:
            return found, await self._signing.sign(caller, request)
        except RuleRefusedError as e:
            raise _for_publishers(e) from e

    async def refuse_deletion(
        self, caller: Caller, keyid: str
    ) -> KeyStateError | PolicyDeniedError:
        """The error for whoever wants a key deleted, which is in the log then."""
        found = self._find(keyid)
        if found is None or not self._gate.may(caller, Action.LIST, found.key.name):
            return await self._unknown(caller, Action.DESTROY, keyid)
        error = KeyStateError(
            f"{found.key.name}: keys are not deleted by request of a notary-server",
            hint="people list unused keys with keydctl notary gc, and have them destroyed after "
            "a waiting time",
            version=found.version.name,
            state=found.version.state,
        )
        await self._gate.refuse(caller, Action.DESTROY, found.key.name, error)
        return error

    async def _unknown(self, caller: Caller, action: Action, keyid: str) -> PolicyDeniedError:
        """Unknown and forbidden look the same."""
        error = PolicyDeniedError(
            f"key {keyid[:64]}: denied, or no such key for {caller.principal.id}",
            hint="if this keyd took the place of another signer, whose keys it does not have, "
            "rotate the collection's snapshot and timestamp keys: notary key rotate GUN ROLE -r",
            action=action,
            rule="no grant",
        )
        await self._gate.refuse(caller, action, "", error)
        return error

    def _find(self, keyid: str) -> NotaryKey | None:
        """By an index that is made anew when keys have changed and an id is not in it. A key that
        people made is theirs: a snapshot key that they took back signs nothing for the server."""
        at = self._names.get(keyid)
        if at is None and (keys := self._registry.keys()) is not self._indexed:
            self._indexed = keys
            self._names = {
                version.keyids[_FORM]: (key.name, version.number)
                for key in keys
                if gunnames.is_made_for_server(key)
                for version in key.versions
                if _FORM in version.keyids
            }
            at = self._names.get(keyid)
        key = self._registry.find(at[0]) if at else None
        version = key.find_version(at[1]) if key and at else None
        name = gunnames.find_gun_name(key.name) if key else None
        if key is None or version is None or name is None or name.role not in ONLINE_ROLES:
            return None
        return NotaryKey(key, version, name)


def _for_publishers(error: RuleRefusedError) -> RuleRefusedError:
    """A server that signs a lower version either lost a race, which its store would refuse as well,
    or was put back to an older state. Who reads this chose no version."""
    if error.facts.get("rule") != "version-lower":
        return error
    context = Context(error.facts["repository"], error.facts["role"])
    changed = RuleRefusedError(
        error.message,
        hint="if others publish at the same time, publish again; if notary-server was put back to "
        f"an older state, its administrator lets it go on with: {command('reset', context)}",
    )
    changed.facts = error.facts
    return changed
