"""A daemon's look ahead over a tests.domain, and what it looks at."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from keyd.content import parse_document
from keyd.due import Rotations
from keyd.expiring import Expiries
from keyd.lookahead import LookAhead
from keyd.model import (
    Binding,
    Ceremony,
    EntryDraft,
    Key,
    KeyAlgorithm,
    Mark,
    MarkContents,
    Marked,
    MarkState,
    Outcome,
    PutCeremony,
    PutMark,
    VersionState,
)
from keyd.openings import Openings
from keyd.preparing import Preparing
from tests.bound_keys import ask, root
from tests.domain import ADMIN, Domain

DAY_S = 86_400
MONTH = timedelta(days=30)
NEARLY_DUE = timedelta(days=28)
"""After which a key with a period of a month is told and prepared."""

_MINUTE = timedelta(minutes=1)


@dataclass
class Ahead:
    """A daemon's look ahead over a domain; ``restarted`` has forgotten what is not durable."""

    domain: Domain
    prepare: bool = True
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        domain = self.domain
        parts: dict[str, Any] = {
            "gate": domain.gate,
            "registry": domain.audit,
            "clock": domain.clock,
        }
        openings = Openings(
            marks=domain.audit,
            ceremonies=domain.audit,
            audit=domain.audit,
            new_id=self._new_id,
            **parts,
        )
        self.look_ahead = LookAhead(
            registry=domain.audit,
            rotations=Rotations(domain.audit, ahead_s=14 * DAY_S),
            expiries=Expiries(domain.audit),
            preparing=Preparing(
                enabled=self.prepare,
                device=domain.device,
                enrolment=domain.enrolment,
                openings=openings,
                **parts,
            ),
            audit=domain.audit,
            clock=domain.clock,
            check_clock=domain.approvals._check_clock,
            get_flag=domain.audit.get_flag,
        )

    def _new_id(self) -> str:
        self.ids.append(f"c{len(self.domain.audit.ceremonies()) + 1}")
        return self.ids[-1]

    def restarted(self) -> Ahead:
        return Ahead(self.domain, self.prepare)

    async def look(self, *, times: int = 1) -> None:
        for _ in range(times):
            self.domain.clock.advance(_MINUTE)
            await self.look_ahead.once()

    @property
    def alerts(self) -> list[EntryDraft]:
        return [d for d in self.domain.audit.drafts if d.action == "rotation-due"]

    def note(self, key: str) -> str:
        rotations = self.look_ahead.rotations.all()
        return self.look_ahead.preparing.note(next(d for d in rotations if d.key.name == key))


async def a_key(
    domain: Domain, name: str, *bindings: str, period: timedelta = MONTH, repository: str = "acme"
) -> Key:
    """A key with a period, bound to these roles."""
    bound = [Binding(repository, role) for role in bindings]
    key = await domain.a_key(name, KeyAlgorithm.ECDSA_P256, *bound)
    seconds = int(period.total_seconds())
    return await domain.keys.update(ADMIN, key.name, rotation_period_s=seconds)


async def a_repository(domain: Domain) -> bytes:
    """Root 1, complete: acme/root holds root, acme/online (due every month) the others."""
    holder = await a_key(domain, "acme/root", "root", period=timedelta(0))
    online = await a_key(domain, "acme/online", "targets", "snapshot", "timestamp")
    payload = root(1, holder.versions[0], online=online.versions[0])
    await domain.signing.sign(ADMIN, ask("acme/root", payload, "root"))
    return payload


def the_key(domain: Domain, name: str) -> Key:
    key = domain.audit.find(name)
    assert key is not None
    return key


def states(domain: Domain, name: str) -> list[VersionState]:
    return [version.state for version in the_key(domain, name).versions]


async def put_ceremony(domain: Domain, ceremony: Ceremony) -> None:
    entry = EntryDraft("ceremony-advance", Outcome.ALLOWED, ADMIN)
    await domain.audit.record(entry, (PutCeremony(ceremony),))


async def put_root(domain: Domain, repository: str, payload: bytes) -> None:
    document = parse_document(payload)
    marked = Marked(
        document.version,
        hashlib.sha256(payload).digest(),
        "root",
        document.dialect,
        document.expires,
    )
    mark = Mark(
        repository,
        "root",
        marked,
        MarkState.PUBLISHED,
        domain.clock.now(),
        complete=marked,
    )
    entry = EntryDraft("role-import", Outcome.ALLOWED, ADMIN)
    await domain.audit.record(entry, (PutMark(mark, MarkContents(payload, payload), None),))
