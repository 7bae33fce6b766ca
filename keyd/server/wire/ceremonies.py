"""keyd.v1.CeremonyService: messages <-> nouns. Plan, draft and moves are checked by the domain."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.errors import InvalidRequestError
from keyd.model import MAX_NAME_CHARS, Ceremony, Phase
from keyd.server.wire.fields import check_range, check_text, to_timestamp
from keyd.v1 import ceremonies_pb2 as pb

MAX_ID_CHARS = 64
MAX_STEP = 2**31 - 1

_PHASES_OUT = {p: pb.CeremonyPhase.Value(f"CEREMONY_PHASE_{p}") for p in Phase}
_PHASES = {theirs: ours for ours, theirs in _PHASES_OUT.items()}


@dataclass(frozen=True, slots=True)
class Advance:
    """A phase that is finished. ``draft`` None: the one there is stays."""

    id: str
    step: int
    phase: Phase
    facts: dict[str, str]
    draft: bytes | None


def ceremony_id(value: str) -> str:
    """The id of a ceremony; not empty."""
    if not value:
        raise InvalidRequestError("id", "which ceremony?", hint="keydctl tuf ceremony status DIR")
    return check_text("id", value, MAX_ID_CHARS)


def repository(value: str) -> str:
    """A repository's name, or empty for all."""
    return check_text("repository", value, MAX_NAME_CHARS)


def advance(message: pb.AdvanceCeremonyRequest) -> Advance:
    """What AdvanceCeremony asks for."""
    phase = _PHASES.get(message.phase)
    if phase is None:
        raise InvalidRequestError("phase", "which phase is next?")
    return Advance(
        id=ceremony_id(message.id),
        step=check_range("step", message.step, 1, MAX_STEP),
        phase=phase,
        facts=dict(message.facts),
        draft=message.draft if message.set_draft else None,
    )


def ceremony_message(ceremony: Ceremony) -> pb.Ceremony:
    """A ceremony as it stands."""
    return pb.Ceremony(
        id=ceremony.id,
        repository=ceremony.repository,
        phase=_PHASES_OUT[ceremony.phase],
        plan=ceremony.plan,
        started_by=ceremony.started_by,
        started_at=to_timestamp(ceremony.started_at),
        changed_at=to_timestamp(ceremony.changed_at),
        reason=ceremony.said,
        draft=ceremony.draft,
        facts=dict(ceremony.facts),
        step=ceremony.step,
    )
