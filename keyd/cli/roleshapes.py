"""What keydctl role answers, as text and as JSON with stable keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from keyd.cli import output

if TYPE_CHECKING:
    from keyd.client import Role, ShownFiles


def role_json(role: Role) -> dict[str, object]:
    """How far a role has come."""
    return {
        "repository": role.repository,
        "role": role.role,
        "version": role.version,
        "state": role.state.value,
        "sha256": role.digest.hex(),
        "dialect": role.dialect,
        "expires": output.iso(role.expires),
        "signed_at": output.iso(role.signed_at),
        "signers": [{"identity": s.identity, "key_version": s.key_version} for s in role.signers],
        "missing": role.missing,
        "reissued": role.reissued,
        "complete_version": role.complete_version,
        "complete_sha256": role.complete_digest.hex(),
        "complete_expires": output.iso(role.complete_expires),
        "complete_published": role.complete_published,
        "keys": list(role.keys),
    }


def roles_text(roles: Sequence[Role], now: datetime) -> str:
    """One line for each role."""
    if not roles:
        return "no roles"
    rows = [
        (
            r.repository,
            r.role,
            r.version,
            r.state.value + (f" (lacks {r.missing})" if r.missing else ""),
            r.complete_version or "",
            output.when(r.expires),
            left(r.expires, now),
        )
        for r in roles
    ]
    headers = ("REPOSITORY", "ROLE", "VERSION", "STATE", "COMPLETE", "EXPIRES", "LEFT")
    return output.table(headers, rows)


def shown_text(done: ShownFiles, now: datetime) -> str:
    """What files changed, then the notes on them."""
    changed = roles_text(done.roles, now) if done.roles else "nothing new"
    return "\n".join([changed, *(f"note: {note}" for note in done.notes)])


def role_text(role: Role, now: datetime) -> str:
    """One role with everything that is known of it."""
    return output.fields(
        [
            ("repository", role.repository),
            ("role", role.role),
            ("version", role.version),
            ("state", role.state.value),
            ("sha256", role.digest.hex()),
            ("dialect", role.dialect),
            ("expires", f"{output.when(role.expires)} ({left(role.expires, now)})"),
            ("signed", output.when(role.signed_at)),
            *(
                ("signer", s.key_version or f"{s.identity[:16]} (no key here)")
                for s in role.signers
            ),
            ("missing signatures", role.missing or ""),
            ("reissued", role.reissued or ""),
            ("complete version", _complete(role)),
            ("complete sha256", role.complete_digest.hex()),
            ("complete expires", output.when(role.complete_expires)),
            *(("key", key) for key in role.keys),
        ]
    )


def _complete(role: Role) -> str:
    seen = ", which was published" if role.complete_published else ""
    return f"{role.complete_version}{seen}" if role.complete_version else "none"


def left(expires: datetime, now: datetime) -> str:
    """How long something still lives."""
    seconds = (expires - now).total_seconds()
    if seconds <= 0:
        return "EXPIRED"
    return f"{seconds / 86_400:.0f}d" if seconds >= 86_400 else f"{seconds / 3600:.0f}h"
