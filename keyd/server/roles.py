"""RoleService."""

from __future__ import annotations

import itertools

from keyd.model import Caller
from keyd.roles import Roles
from keyd.server.limits import Limits
from keyd.server.wire import pages
from keyd.server.wire import roles as wire
from keyd.server.wire.fields import check_reason
from keyd.v1 import roles_pb2 as pb


class RoleServicer:
    """Reads the request, asks the roles' front, writes the roles as they are then."""

    def __init__(self, roles: Roles, limits: Limits) -> None:
        self._roles = roles
        self._limits = limits

    async def list_roles(
        self, caller: Caller, message: pb.ListRolesRequest
    ) -> pb.ListRolesResponse:
        """A page of the roles the caller may see."""
        size = pages.page_size(message.page_size, wire.MAX_LIST_PAGE)
        views = self._roles.list(
            caller,
            wire.repository(message.repository, may_be_empty=True),
            expiring_within_s=wire.within_s(message.expiring_within_s),
            after=wire.place(pages.parse_token(message, message.page_token)),
        )
        found = [wire.role_message(view) for view in itertools.islice(views, size + 1)]
        shown = list(pages.fill_page(found, size, self._limits.max_page_bytes))
        token = ""
        if len(shown) < len(found):
            token = pages.to_token(message, wire.cursor(shown[-1]))
        return pb.ListRolesResponse(roles=shown, next_page_token=token)

    async def get_role(self, caller: Caller, message: pb.GetRoleRequest) -> pb.Role:
        """One role with its bytes."""
        repository, role = wire.repository(message.repository), wire.role(message.role)
        return wire.role_message(await self._roles.get(caller, repository, role))

    async def import_role(
        self, caller: Caller, message: pb.ImportRoleRequest
    ) -> pb.ImportRoleResponse:
        """A published repository."""
        shown = await self._roles.import_(
            caller,
            wire.repository(message.repository),
            message.trusted_root,
            wire.files(message.files),
            said=check_reason(message.reason),
            dry_run=message.dry_run,
        )
        return pb.ImportRoleResponse(
            roles=[wire.role_message(view) for view in shown.roles], notes=shown.notes
        )

    async def advance_role(
        self, caller: Caller, message: pb.AdvanceRoleRequest
    ) -> pb.AdvanceRoleResponse:
        """Signed files."""
        shown = await self._roles.advance(
            caller,
            wire.repository(message.repository),
            wire.files(message.files),
            published=message.published,
            said=check_reason(message.reason),
        )
        return pb.AdvanceRoleResponse(
            roles=[wire.role_message(view) for view in shown.roles], notes=shown.notes
        )

    async def supersede_role(self, caller: Caller, message: pb.ChangeRoleRequest) -> pb.Role:
        """A draft is given up."""
        repository, role = wire.repository(message.repository), wire.role(message.role)
        left = await self._roles.supersede(
            caller,
            repository,
            role,
            wire.digest(message.digest),
            said=check_reason(message.reason),
        )
        return wire.role_message(left) if left else wire.nothing_left(repository, role)

    async def reset_role(
        self, caller: Caller, message: pb.ChangeRoleRequest
    ) -> pb.ResetRoleResponse:
        """A role is forgotten."""
        await self._roles.reset(
            caller,
            wire.repository(message.repository),
            wire.role(message.role),
            wire.digest(message.digest),
            said=check_reason(message.reason),
        )
        return pb.ResetRoleResponse(request_id=caller.request_id)

    async def accept_loss(
        self, caller: Caller, message: pb.AcceptLossRequest
    ) -> pb.AcceptLossResponse:
        """Entries are lost, and a person knows."""
        accepted = await self._roles.accept_loss(caller, said=check_reason(message.reason))
        return pb.AcceptLossResponse(
            loss=accepted.loss, origin=accepted.origin, log_index=accepted.log_index
        )
