"""What the daemon does by itself for a rotation that is due, when it is configured to.

    generate    the new version on the token, staged, as KeyService.RotateKey makes it
    draft       root N+1 of each TUF repository whose last complete root names the old version
    open        the ceremony that waits for the holders of root                     (openings.py)

Nothing is signed, activated or published, and nothing is disabled or destroyed: people do that. It
never makes a thing twice, as what is there says that it was made: a version above the active one,
in whatever state, or a ceremony with the same plan.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from keyd.content.documents import TOP_LEVEL_ROLES
from keyd.due import Due
from keyd.enrolment import Enrolment
from keyd.errors import KeydError
from keyd.gate import Gate
from keyd.model import (
    SYSTEM,
    Action,
    Clock,
    Context,
    Device,
    KeyVersion,
    Mark,
    Origin,
    Registry,
    TokenState,
    VersionState,
)
from keyd.openings import CALLER, Openings, serving

log = logging.getLogger("keyd.rotation")

_LONGEST_PAUSE = 64
"""Calls between two tries of what failed, at most; each failure doubles it."""

_MAX_NOTE_CHARS = 1_000


@dataclass(slots=True)
class _Failed:
    """``why``: what people are told until the next try, which comes after ``pause`` calls."""

    why: str
    pause: int
    passed: int = 0


class Preparing:
    """Prepares rotations; one call at a time."""

    def __init__(
        self,
        *,
        enabled: bool,
        gate: Gate,
        registry: Registry,
        device: Device,
        enrolment: Enrolment,
        openings: Openings,
        clock: Clock,
    ) -> None:
        """``enabled``: else it only says what people may do."""
        self._enabled = enabled
        self._gate = gate
        self._registry = registry
        self._device = device
        self._enrolment = enrolment
        self._openings = openings
        self._clock = clock
        self._notes: dict[str, str] = {}
        self._failures: dict[str, _Failed] = {}

    def note(self, due: Due) -> str:
        """How far a rotation is prepared, what stands against that, and what people do next."""
        return self._notes.get(due.key.name) or _advice(due)

    async def prepare(self, due: Sequence[Due]) -> None:
        """Do what can be done for these now, and note the rest. What failed is noted too, and
        tried again later, ever more rarely."""
        if not self._enabled:
            return
        notes: dict[str, str] = {}
        for each in due:
            if each.staged is None:
                notes[each.key.name] = await self._generate(each)
        staged = [each for each in map(self._as_it_is_now, due) if each.staged is not None]
        for mark in self._openings.roots(staged):
            for name, note in (await self._open(mark, staged)).items():
                before = notes.get(name, "")
                told = f"{before}; {note}" if before else note
                notes[name] = told if len(told) <= _MAX_NOTE_CHARS else before
        self._notes = notes

    def _as_it_is_now(self, due: Due) -> Due:
        key = self._registry.find(due.key.name)
        return due if key is None else Due(key, due.active, due.at, due.tell_at)

    async def _generate(self, due: Due) -> str:
        """Make the successor, or say why that is not done."""
        name, there = due.key.name, due.successor
        if there is not None and there.state is VersionState.PENDING:
            return f"{there.name} is being generated"
        if there is not None:
            return (
                f"not prepared: {there.name} is {there.state}, somebody decided against it; enable "
                f"it (keydctl key enable {name} {there.number}) or make another one: "
                f"keydctl key rotate {name}"
            )
        against = self._against(due) or self._waits(name)
        if against:
            return against
        try:
            await self._enrolment.generate(
                CALLER,
                Action.ROTATE,
                due.key,
                self._pending(due),
                said=f"its rotation is due at {due.at:%F %T}Z; prepared, as keyd.toml says",
            )
        except KeydError as e:
            return self._failed(name, e)
        self._failures.pop(name, None)
        return ""

    def _pending(self, due: Due) -> KeyVersion:
        token = next(t for t in self._device.tokens() if t.name == due.key.token)
        return KeyVersion(
            key=due.key.name,
            number=due.active.number + 1,
            state=VersionState.PENDING,
            origin=Origin.GENERATED,
            token_serial=token.serial,
            object_id=secrets.token_bytes(16),
            public_key=b"",
            keyids={},
            created_at=self._clock.now(),
            created_by=SYSTEM.id,
        )

    def _against(self, due: Due) -> str:
        """Why no version is made now, in words for people; empty for nothing."""
        key = due.key
        freeze = self._registry.freeze_on(key.name)
        if freeze is not None:
            frozen = f"{freeze.key} is" if freeze.key else "all keys are"
            return f"not prepared, since {frozen} frozen"
        demanded = self._gate.requirements(CALLER, Action.ROTATE, key.name, Context())
        if demanded:
            return (
                f"not prepared, since rule {demanded[0].rule} asks for people's consent; begin it "
                f"with: keydctl key rotate {key.name}"
            )
        token = next((t for t in self._device.tokens() if t.name == key.token), None)
        if token is not None and token.is_yubikey:
            return (
                f"not prepared, since a key on YubiKey {token.name} is made with a person at it: "
                f"keydctl key rotate {key.name}"
            )
        if token is None or token.state is not TokenState.READY:
            state = "not configured" if token is None else token.state
            return f"prepared as soon as token {key.token} is ready: it is {state}"
        return ""

    async def _open(self, mark: Mark, staged: Sequence[Due]) -> dict[str, str]:
        """Have the ceremony of one repository opened; what to tell of each key it is about."""
        what = f"root of {mark.repository}"
        concerned = serving(staged, mark.repository)
        note = self._waits(what)
        if not note:
            try:
                concerned = await self._openings.concerned(mark, staged)
                note = await self._openings.open(mark, concerned) if concerned else ""
                self._failures.pop(what, None)
            except KeydError as e:
                note = self._failed(what, e)
        told = f"{mark.repository}: {note}"
        return {
            due.key.name: f"version {due.staged.number} is staged; {told}"
            for due in concerned
            if note and due.staged is not None
        }

    # ------------------------------------------------------------------------------- what failed

    def _waits(self, what: str) -> str:
        """Why it failed, as long as it is not tried again; else empty."""
        failed = self._failures.get(what)
        if failed is None:
            return ""
        failed.passed += 1
        return failed.why if failed.passed <= failed.pause else ""

    def _failed(self, what: str, error: KeydError) -> str:
        before = self._failures.get(what)
        why = f"not prepared, tried again later: {error.message}"
        pause = min(2 * before.pause, _LONGEST_PAUSE) if before else 1
        self._failures[what] = _Failed(why, pause)
        log.warning("a rotation is not prepared", extra={"rotation": what, "why": error.message})
        return why


def _advice(due: Due) -> str:
    """What people do for a rotation of this key."""
    name, staged = due.key.name, due.staged
    made = f"version {staged.number} is staged; " if staged else ""
    roles = sorted({binding.role for binding in due.key.bindings})
    if not roles and staged:
        return f"{made}put it to use: keydctl key activate {name} {staged.number}"
    if not roles:
        return f"rotate it: keydctl key rotate {name}"
    top_level = [role for role in roles if role in TOP_LEVEL_ROLES]
    if top_level or any(set("*?[") & set(role) for role in roles):
        role = top_level[0] if top_level else "ROLE"
        return f"{made}rotate it: keydctl tuf ceremony start DIR --rotate {role}={name}"
    return (
        f"{made}rotate it where it is delegated to: keydctl tuf rotate DIR {roles[0]} --key {name}"
    )
