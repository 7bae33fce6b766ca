"""CeremonyService."""

from __future__ import annotations

from keyd.ceremonies import Ceremonies
from keyd.model import Caller
from keyd.server.limits import Limits
from keyd.server.wire import ceremonies as wire
from keyd.server.wire import pages
from keyd.server.wire.fields import check_reason
from keyd.v1 import ceremonies_pb2 as pb


class CeremonyServicer:
    """Reads the request, asks the ceremonies' front, writes the ceremony as it is then."""

    def __init__(self, ceremonies: Ceremonies, limits: Limits) -> None:
        self._ceremonies = ceremonies
        self._limits = limits

    async def start_ceremony(self, caller: Caller, message: pb.StartCeremonyRequest) -> pb.Ceremony:
        """Begin one."""
        ceremony = await self._ceremonies.start(
            caller,
            wire.repository(message.repository),
            message.plan,
            said=check_reason(message.reason),
        )
        return wire.ceremony_message(ceremony)

    async def get_ceremony(self, caller: Caller, message: pb.GetCeremonyRequest) -> pb.Ceremony:
        """One ceremony."""
        return wire.ceremony_message(self._ceremonies.get(caller, wire.ceremony_id(message.id)))

    async def list_ceremonies(
        self, caller: Caller, message: pb.ListCeremoniesRequest
    ) -> pb.ListCeremoniesResponse:
        """The ceremonies the caller may see, newest first; fewer when the answer would grow too
        large."""
        found = self._ceremonies.list(
            caller, wire.repository(message.repository), only_open=message.open
        )
        messages = (wire.ceremony_message(ceremony) for ceremony in found)
        shown = pages.fill_page(messages, len(found), self._limits.max_page_bytes)
        return pb.ListCeremoniesResponse(ceremonies=shown)

    async def advance_ceremony(
        self, caller: Caller, message: pb.AdvanceCeremonyRequest
    ) -> pb.Ceremony:
        """Finish a phase."""
        asked = wire.advance(message)
        ceremony = await self._ceremonies.advance(
            caller,
            asked.id,
            step=asked.step,
            phase=asked.phase,
            facts=asked.facts,
            draft=asked.draft,
        )
        return wire.ceremony_message(ceremony)

    async def abort_ceremony(self, caller: Caller, message: pb.AbortCeremonyRequest) -> pb.Ceremony:
        """End it."""
        said = check_reason(message.reason)
        ceremony = await self._ceremonies.abort(caller, wire.ceremony_id(message.id), said=said)
        return wire.ceremony_message(ceremony)
