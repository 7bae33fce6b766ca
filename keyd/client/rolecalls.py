"""The calls of RoleService: arguments in, a :class:`Call` out. Nothing here talks to anybody.

The docstrings are those of the methods of Client and AsyncClient. All of them raise KeydError
subclasses: what the daemon refused, ServerGoneError, DeadlineError.
"""

from __future__ import annotations

from collections.abc import Iterable

from keyd.client import rolewire, types
from keyd.client.call import Call, Page, Pages, call
from keyd.v1 import roles_pb2


def list_roles(
    repository: str = "", expiring_within_s: int = 0, *, page_size: int = 0
) -> Pages[types.Role]:
    """The roles of keys the caller may see, by repository and role, without their bytes; asks for
    a page (100 roles) when it is needed.

    ``expiring_within_s``: only those whose newest or complete version expires so soon; 0: all.
    """

    def page(token: str) -> Call[Page[types.Role]]:
        return call(
            "RoleService/ListRoles",
            roles_pb2.ListRolesRequest(
                repository=repository,
                expiring_within_s=expiring_within_s,
                page_size=page_size,
                page_token=token,
            ),
            roles_pb2.ListRolesResponse,
            lambda m: Page([rolewire.role(r) for r in m.roles], m.next_page_token),
            repeatable=True,
        )

    return page


def get_role(repository: str, role: str) -> Call[types.Role]:
    """One role with the bytes signed last and completed last.

    Raises:
        RoleNotFoundError: nothing of it was signed or shown, or it is not the caller's to see.
    """
    return call(
        "RoleService/GetRole",
        roles_pb2.GetRoleRequest(repository=repository, role=role),
        roles_pb2.Role,
        rolewire.role,
        repeatable=True,
    )


def import_role(
    repository: str,
    trusted_root: bytes,
    files: Iterable[types.RoleFile],
    *,
    reason: str,
    dry_run: bool = False,
) -> Call[types.ShownFiles]:
    """Take over a published repository, from the metadata file of the root the caller trusts.

    ``files``: the roots that follow it, targets, delegated targets, snapshot and timestamp.
    """
    request = roles_pb2.ImportRoleRequest(
        repository=repository,
        trusted_root=trusted_root,
        files=rolewire.files(files),
        reason=reason,
        dry_run=dry_run,
    )
    return call(
        "RoleService/ImportRole",
        request,
        roles_pb2.ImportRoleResponse,
        rolewire.shown,
    )


def advance_role(
    repository: str,
    files: Iterable[types.RoleFile],
    *,
    published: bool = False,
    reason: str = "",
) -> Call[types.ShownFiles]:
    """Move marks forward by signed files: roots in order first, then what they delegate to.

    ``published``: the files are what clients get.
    """
    request = roles_pb2.AdvanceRoleRequest(
        repository=repository, files=rolewire.files(files), published=published, reason=reason
    )
    return call(
        "RoleService/AdvanceRole",
        request,
        roles_pb2.AdvanceRoleResponse,
        rolewire.shown,
    )


def supersede_role(
    repository: str, role: str, digest: bytes, *, reason: str
) -> Call[types.Role | None]:
    """Give up a version that was signed but is not published: other bytes may take its place.

    ``digest``: SHA-256 (32 bytes) of the signed bytes that are meant, as in Role.digest. Answers
    with the role as it is then, None when nothing of it is known any more.
    """
    request = _change(repository, role, digest, reason)
    return call(
        "RoleService/SupersedeRole",
        request,
        roles_pb2.Role,
        lambda m: rolewire.role(m) if m.version else None,
    )


def reset_role(repository: str, role: str, digest: bytes, *, reason: str) -> Call[None]:
    """Forget the mark of a role. ``digest``: as for :meth:`supersede_role`."""
    request = _change(repository, role, digest, reason)
    return call("RoleService/ResetRole", request, roles_pb2.ResetRoleResponse, lambda _: None)


def accept_loss(*, reason: str) -> Call[types.AcceptedLoss]:
    """Accept that entries of the log are lost: bound keys sign again, under a new origin."""
    return call(
        "RoleService/AcceptLoss",
        roles_pb2.AcceptLossRequest(reason=reason),
        roles_pb2.AcceptLossResponse,
        lambda m: types.AcceptedLoss(m.loss, m.origin, m.log_index),
    )


def _change(repository: str, role: str, digest: bytes, reason: str) -> roles_pb2.ChangeRoleRequest:
    return roles_pb2.ChangeRoleRequest(
        repository=repository, role=role, digest=digest, reason=reason
    )
