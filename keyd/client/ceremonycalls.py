"""The calls of CeremonyService: arguments in, a :class:`Call` out. Nothing here talks to anybody.

The docstrings are those of the methods of Client and AsyncClient. All of them raise KeydError
subclasses: what the daemon refused, ServerGoneError, DeadlineError.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import Message

from keyd.client import rolewire
from keyd.client.call import Call, call
from keyd.model import Ceremony, Phase
from keyd.v1 import ceremonies_pb2


def start_ceremony(repository: str, plan: str, *, reason: str = "") -> Call[Ceremony]:
    """Begin a change of a root; a repository has at most one that is open.

    ``plan``: what shall change, as canonical JSON.
    """
    request = ceremonies_pb2.StartCeremonyRequest(repository=repository, plan=plan, reason=reason)
    return _ceremony("StartCeremony", request)


def get_ceremony(id: str) -> Call[Ceremony]:
    """One ceremony.

    Raises:
        CeremonyNotFoundError: no such ceremony, or not the caller's to see.
    """
    request = ceremonies_pb2.GetCeremonyRequest(id=id)
    return _ceremony("GetCeremony", request, repeatable=True)


def list_ceremonies(repository: str = "", *, open: bool = False) -> Call[list[Ceremony]]:
    """The ceremonies the caller may see, newest first. ``open``: only those still under way."""
    return call(
        "CeremonyService/ListCeremonies",
        ceremonies_pb2.ListCeremoniesRequest(repository=repository, open=open),
        ceremonies_pb2.ListCeremoniesResponse,
        lambda m: [rolewire.ceremony(c) for c in m.ceremonies],
        repeatable=True,
    )


def advance_ceremony(
    id: str,
    step: int,
    phase: Phase,
    *,
    facts: Mapping[str, str] | None = None,
    draft: bytes | None = None,
) -> Call[Ceremony]:
    """Finish a phase: set the one that is next, and what the phase left behind.

    ``step``: as the caller saw it. ``facts`` are added; an empty text removes one. ``draft``:
    replaces the bytes to sign; None leaves them.

    Raises:
        ConflictError: somebody else went on in the meantime.
    """
    request = ceremonies_pb2.AdvanceCeremonyRequest(
        id=id,
        step=step,
        phase=rolewire.phase(phase),
        facts=dict(facts or {}),
        draft=draft or b"",
        set_draft=draft is not None,
    )
    return _ceremony("AdvanceCeremony", request)


def abort_ceremony(id: str, *, reason: str = "") -> Call[Ceremony]:
    """End it without a change of the published root."""
    request = ceremonies_pb2.AbortCeremonyRequest(id=id, reason=reason)
    return _ceremony("AbortCeremony", request)


def _ceremony(method: str, request: Message, *, repeatable: bool = False) -> Call[Ceremony]:
    return call(
        f"CeremonyService/{method}",
        request,
        ceremonies_pb2.Ceremony,
        rolewire.ceremony,
        repeatable=repeatable,
    )
