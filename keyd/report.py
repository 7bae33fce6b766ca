"""How the daemon is, in one look: for GetStatus, the health service and the metrics."""

from __future__ import annotations

from datetime import datetime

from keyd.audit.log import Log
from keyd.errors import KeydError
from keyd.model import Device, Policy, Registry, TokenState, VersionState
from keyd.server.metrics import Gauges
from keyd.server.wire.audit import StatusReport
from keyd.server.wire.keys import freeze_line

SERVING = "SERVING"
DEGRADED = "DEGRADED"
NOT_SIGNING = "NOT_SIGNING"


class Report:
    """Reads the rooms; never blocks."""

    def __init__(
        self,
        *,
        log: Log,
        registry: Registry,
        device: Device,
        policy: Policy,
        started_at: datetime,
    ) -> None:
        self._log = log
        self._registry = registry
        self._device = device
        self._policy = policy
        self._started_at = started_at

    def health(self) -> str:
        """NOT_SIGNING: nobody gets a signature now; DEGRADED: something needs a person."""
        if not self._can_sign():
            return NOT_SIGNING
        return DEGRADED if self._problems() else SERVING

    def status(self) -> StatusReport:
        """Everything a person or a monitor wants to know."""
        keys = self._registry.keys()
        return StatusReport(
            started_at=self._started_at,
            health=self.health(),
            problems=self._problems(),
            keys=len(keys),
            unbound_keys=self._unbound(),
            log_size=self._log.size,
            uncheckpointed=self._log.uncheckpointed,
            freezes=[freeze_line(f) for f in self._registry.freezes()],
            policy_sha256=self._policy.hash,
        )

    def gauges(self) -> Gauges:
        """The same for Prometheus."""
        return Gauges(
            health={SERVING: 2, DEGRADED: 1}.get(self.health(), 0),
            log_size=self._log.size,
            uncheckpointed=self._log.uncheckpointed,
            keys=len(self._registry.keys()),
            unbound_keys=self._unbound(),
            freezes=len(self._registry.freezes()),
        )

    def healthy(self) -> tuple[bool, str]:
        """For /healthz: whether it signs, and one line that says how it is."""
        health = self.health()
        problems = self._problems()
        return health != NOT_SIGNING, "; ".join([health, *problems])

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
        found += [
            f"{v.name} is PENDING: it is finished or undone when token {key.token} is ready"
            for key in self._registry.keys()  # noqa: SIM118 - a method, not a dict
            for v in key.versions
            if v.state is VersionState.PENDING
        ]
        found += [freeze_line(f) for f in self._registry.freezes()]
        return found

    def _unbound(self) -> int:
        return sum(
            1
            for key in self._registry.keys()  # noqa: SIM118 - a method, not a dict
            if not key.bindings
        )
