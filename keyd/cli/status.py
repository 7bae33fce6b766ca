"""keydctl status and whoami."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.cli.exits import Exit
from keyd.cli.settings import Command, Settings
from keyd.client.types import DueRotation, ExpiringRole

if TYPE_CHECKING:
    from keyd.client import Client


@click.command(cls=Command)
@click.pass_obj
def status(settings: Settings) -> int:
    """Show how the daemon is, and what is wrong.

    Exit code 0 when it serves, 1 when it does not sign or is degraded.
    """
    with settings.connect() as keyd:
        now = keyd.status()
        endpoint = keyd.endpoint
        verdict = keyd.checkpoint_verdict
        waiting = _waiting(keyd)
    value = {
        "approvals_waiting": waiting,
        "endpoint": endpoint.target,
        "endpoint_source": endpoint.source,
        "health": now.health,
        "problems": list(now.problems),
        "server_version": now.server_version,
        "started_at": output.iso(now.started_at),
        "keys": now.keys,
        "unbound_keys": now.unbound_keys,
        "log_size": now.log_size,
        "uncheckpointed": now.uncheckpointed,
        "freezes": list(now.freezes),
        "due_rotations": [
            {
                "key": d.key,
                "version": d.version,
                "due_at": output.iso(d.at),
                "overdue": d.is_overdue,
                "note": d.note,
            }
            for d in now.due_rotations
        ],
        "overdue_keys": now.overdue_keys,
        "expiring_roles": [
            {
                "repository": e.repository,
                "role": e.role,
                "version": e.version,
                "expires_at": output.iso(e.expires_at),
                "state": e.state,
            }
            for e in now.expiring_roles
        ],
        "expired_roles": now.expired_roles,
        "policy_sha256": now.policy_sha256,
        "checkpoint_verdict": verdict,
    }
    unbound = f", {now.unbound_keys} bound to nothing: they sign anything"
    text = output.fields(
        [
            ("daemon", f"{endpoint.target} ({endpoint.source}), keyd {now.server_version}"),
            ("health", now.health),
            *(("problem", problem) for problem in now.problems),
            ("running since", output.when(now.started_at)),
            ("keys", f"{now.keys}{unbound if now.unbound_keys else ''}"),
            ("log", f"{now.log_size} entries, {now.uncheckpointed} without a checkpoint yet"),
            ("your checkpoint", verdict),
            *(("frozen", freeze) for freeze in now.freezes),
            *(("rotation", _rotation(due)) for due in now.due_rotations),
            ("overdue", f"{now.overdue_keys} keys" if now.overdue_keys else ""),
            *(("expires", _expiry(role)) for role in now.expiring_roles),
            ("expired", f"{now.expired_roles} roles" if now.expired_roles else ""),
            ("waits for you", f"{waiting} approvals: keydctl approvals --waiting" * bool(waiting)),
            ("policy", f"sha256:{now.policy_sha256}" if now.policy_sha256 else ""),
        ]
    )
    settings.answer(value, text)
    return Exit.DONE if now.health == "SERVING" else Exit.FAILED


def _waiting(keyd: Client) -> int:
    """How many approvals wait for the caller's consent; 0 too where that cannot be told."""
    from keyd.errors import KeydError

    try:
        return len(keyd.list_approvals(waits_for_me=True))
    except KeydError:
        return 0  # the daemon's health is what was asked for


def _rotation(due: DueRotation) -> str:
    word = "was due" if due.is_overdue else "is due"
    return f"{due.key} {word} {output.when(due.at)}: {due.note}"


def _expiry(role: ExpiringRole) -> str:
    name = f"{role.repository}:{role.role} v{role.version}"
    return f"{output.when(role.expires_at)}: {name} ({role.state})"


@click.command(cls=Command)
@click.pass_obj
def whoami(settings: Settings) -> None:
    """Show who you are to the daemon, and your grants."""
    with settings.connect() as keyd:
        me = keyd.whoami()
        endpoint = keyd.endpoint
    value = {
        "principal": me.principal,
        "method": me.method,
        "is_group": me.is_group,
        "certificate_sha256": me.certificate_sha256,
        "certificate_not_after": output.iso(me.certificate_not_after),
        "grants": list(me.grants),
        "server_version": me.server_version,
        "endpoint": endpoint.target,
        "endpoint_source": endpoint.source,
    }
    group = " (a socket open to a group: it stands for no single person)" if me.is_group else ""
    text = output.fields(
        [
            ("principal", me.principal + group),
            ("by", me.method),
            ("certificate", f"sha256:{me.certificate_sha256}" if me.certificate_sha256 else ""),
            ("valid until", output.when(me.certificate_not_after)),
            ("daemon", f"{endpoint.target} ({endpoint.source}), keyd {me.server_version}"),
            *(("grant", grant) for grant in me.grants or ("none: everything is refused",)),
        ]
    )
    settings.answer(value, text)
