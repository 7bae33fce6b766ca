"""How the daemon is, in one look: for GetStatus, the health service and the metrics."""

from __future__ import annotations

from collections.abc import Sequence, Set

from keyd.audit.log import Log
from keyd.errors import KeydError
from keyd.lookahead import LookAhead
from keyd.model import Clock, Device, Key, Policy, Registry, TokenState, VersionState
from keyd.server.metrics import Gauges
from keyd.server.wire.audit import DueRotation, StatusReport
from keyd.server.wire.keys import freeze_line

SERVING = "SERVING"
DEGRADED = "DEGRADED"
NOT_SIGNING = "NOT_SIGNING"

_SHOWN_DUE = 20
_SHOWN_EXPIRING = 5
_MEASURED_KEYS = 200


class Report:
    """Reads the rooms; never blocks."""

    def __init__(
        self,
        *,
        log: Log,
        registry: Registry,
        device: Device,
        policy: Policy,
        look_ahead: LookAhead,
        clock: Clock,
    ) -> None:
        self._log = log
        self._registry = registry
        self._device = device
        self._policy = policy
        self._look_ahead = look_ahead
        self._clock = clock
        self._started_at = clock.now()
        self._keys: Sequence[Key] = ()
        self._pending: list[str] = []
        self._unbound = 0

    def health(self) -> str:
        """NOT_SIGNING: nobody gets a signature now; DEGRADED: something needs a person."""
        if not self._can_sign():
            return NOT_SIGNING
        return DEGRADED if self._problems() else SERVING

    def status(self) -> StatusReport:
        """Everything a person or a monitor wants to know."""
        now, ahead = self._clock.now(), self._look_ahead
        self._count_keys()
        return StatusReport(
            started_at=self._started_at,
            health=self.health(),
            problems=self._problems(),
            keys=len(self._keys),
            unbound_keys=self._unbound,
            log_size=self._log.size,
            uncheckpointed=self._log.uncheckpointed,
            freezes=[freeze_line(f) for f in self._registry.freezes()],
            policy_sha256=self._policy.hash,
            due=[
                DueRotation(
                    key=due.key.name,
                    version=due.active.number,
                    at=due.at,
                    is_overdue=due.is_overdue(now),
                    note=ahead.preparing.note(due),
                )
                for due in ahead.rotations.ahead(now)[:_SHOWN_DUE]
            ],
            overdue=ahead.rotations.overdue(now),
            expiring=ahead.expiries.soonest[:_SHOWN_EXPIRING],
            expired=ahead.expiries.expired(now),
        )

    def gauges(self) -> Gauges:
        """The same for Prometheus."""
        now, ahead = self._clock.now(), self._look_ahead
        self._count_keys()
        return Gauges(
            health={SERVING: 2, DEGRADED: 1}.get(self.health(), 0),
            log_size=self._log.size,
            uncheckpointed=self._log.uncheckpointed,
            keys=len(self._keys),
            unbound_keys=self._unbound,
            freezes=len(self._registry.freezes()),
            due=[
                (due.key.name, (due.at - now).total_seconds())
                for due in ahead.rotations.all()[:_MEASURED_KEYS]
            ],
            overdue=ahead.rotations.overdue(now),
            expiring=[
                (each.repository, each.role, (each.expires - now).total_seconds())
                for each in ahead.expiries.soonest
            ],
            expired=ahead.expiries.expired(now),
        )

    def healthy(self) -> tuple[bool, str]:
        """For /healthz: whether it signs, and one line that says how it is."""
        health = self.health()
        problems = self._problems()
        return health != NOT_SIGNING, "; ".join([health, *problems])

    def can_sign_on(self, tokens: Set[str]) -> bool:
        """True while every one of these tokens makes signatures that may leave."""
        ready = {t.name for t in self._device.tokens() if t.state is TokenState.READY}
        return tokens <= ready and self._can_sign()

    def _can_sign(self) -> bool:
        if any(not f.key for f in self._registry.freezes()):
            return False
        if not any(t.state is TokenState.READY for t in self._device.tokens()):
            return False
        try:
            self._log.check_signing_allowed(bound=False)
        except KeydError:
            return False
        return True

    def _problems(self) -> list[str]:
        found = self._log.problems()
        found += [
            f"token {t.name} is {t.state}: {t.detail}"
            for t in self._device.tokens()
            if t.state is not TokenState.READY
        ]
        self._count_keys()
        found += self._pending
        found += [freeze_line(f) for f in self._registry.freezes()]
        return found

    def _count_keys(self) -> None:
        """Go through the keys, unless they are those of the last look: health is asked for several
        times a second."""
        keys = self._registry.keys()
        if keys is self._keys:
            return
        self._keys = keys
        self._pending = [
            f"{v.name} is PENDING: it is finished or undone when token {key.token} is ready"
            for key in keys
            for v in key.versions
            if v.state is VersionState.PENDING
        ]
        self._unbound = sum(not key.bindings for key in keys)
