"""Consent to changes of roles: what the rules on the keys of all roles at once demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from keyd.approvals import Approvals
from keyd.model import Action, Caller, Context, Effect, Mark
from keyd.rolegrants import RoleGrants
from keyd.rules.refusal import of


class RoleConsents:
    """Asks people about roles."""

    def __init__(self, grants: RoleGrants, approvals: Approvals) -> None:
        self._grants = grants
        self._approvals = approvals

    async def consent(
        self,
        caller: Caller,
        repository: str,
        roles: Iterable[str],
        parameters: Mapping[str, object],
        *,
        said: str,
        summary: str,
    ) -> tuple[Effect, ...]:
        """The effects that use up the consent which the rules on any of the roles' keys demand.

        Raises:
            ApprovalNeededError: people have to consent first.
        """
        used: list[Effect] = []
        for key, context in self._grants.who_demands(caller, Action.ROLE, repository, roles):
            used += await self._approvals.consent_to(
                caller,
                Action.ROLE,
                key.name,
                parameters,
                said=said,
                context=context,
                summary=summary,
            )
        return tuple(used)

    async def consent_to_end(
        self, caller: Caller, operation: str, mark: Mark, *, said: str
    ) -> tuple[Effect, ...]:
        """Consent to giving up what a mark says: ``operation`` is supersede or reset."""
        digest = f"sha256:{mark.newest.digest.hex()}"
        parameters: dict[str, object] = {
            "operation": operation,
            "repository": mark.repository,
            "role": mark.role,
            "version": mark.newest.version,
            "digest": digest,
        }
        what = of(Context(mark.repository, mark.role))
        summary = f"{operation} {what}, v{mark.newest.version}, which is {mark.state}"
        return await self.consent(
            caller, mark.repository, [mark.role], parameters, said=said, summary=summary
        )
