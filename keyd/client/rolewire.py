"""Roles and ceremonies as they come over the wire -> the client's types, and back."""

from __future__ import annotations

from collections.abc import Iterable

from keyd.client import types, wire
from keyd.model import Ceremony, MarkState, Phase
from keyd.v1 import ceremonies_pb2, roles_pb2


def role(message: roles_pb2.Role) -> types.Role:
    """How far one role has come."""
    return types.Role(
        repository=message.repository,
        role=message.role,
        version=message.version,
        state=MarkState(wire.enum_name(roles_pb2.RoleState.Name, message.state, "ROLE_STATE_")),
        digest=message.digest,
        dialect=message.dialect,
        expires=wire.time(message.expires),
        signed_at=wire.time(message.signed_at),
        signers=tuple(types.RoleSigner(s.identity, s.key_version) for s in message.signers),
        missing=message.missing,
        reissued=message.reissued,
        complete_version=message.complete_version,
        complete_digest=message.complete_digest,
        complete_expires=wire.time(message.complete_expires)
        if message.HasField("complete_expires")
        else None,
        complete_published=message.complete_published,
        content=message.content,
        complete_content=message.complete_content,
        keys=tuple(message.keys),
    )


def shown(
    message: roles_pb2.ImportRoleResponse | roles_pb2.AdvanceRoleResponse,
) -> types.ShownFiles:
    """What became of files."""
    return types.ShownFiles(tuple(map(role, message.roles)), tuple(message.notes))


def files(given: Iterable[types.RoleFile]) -> list[roles_pb2.RoleFile]:
    """Metadata files in the order given."""
    return [roles_pb2.RoleFile(role=f.role, content=f.content) for f in given]


def ceremony(message: ceremonies_pb2.Ceremony) -> Ceremony:
    """Where a change of a root stands."""
    return Ceremony(
        id=message.id,
        repository=message.repository,
        plan=message.plan,
        phase=Phase(
            wire.enum_name(ceremonies_pb2.CeremonyPhase.Name, message.phase, "CEREMONY_PHASE_")
        ),
        started_by=message.started_by,
        started_at=wire.time(message.started_at),
        changed_at=wire.time(message.changed_at),
        said=message.reason,
        draft=message.draft,
        facts=dict(message.facts),
        step=message.step,
    )


def phase(wanted: Phase) -> ceremonies_pb2.CeremonyPhase.ValueType:
    """A phase for the wire."""
    return ceremonies_pb2.CeremonyPhase.Value(f"CEREMONY_PHASE_{wanted.value}")
