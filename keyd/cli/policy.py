"""keydctl policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.cli.exits import Exit
from keyd.cli.settings import Group, Settings

if TYPE_CHECKING:
    from keyd.model import Limits, Requirement

_DEFAULT = Path("/etc/keyd-server/policy.toml")


@click.group(cls=Group)
def policy() -> None:
    """Ask a policy file what it would decide; no daemon is asked."""


@policy.command()
@click.argument("who")
@click.argument("action")
@click.argument("key")
@click.argument("file", required=False)
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path),
    default=_DEFAULT,
    show_default=True,
    help="The policy to ask.",
)
@click.option("--context", metavar="REPO:ROLE", help="What the signature is for.")
@click.pass_obj
def test(
    settings: Settings,
    who: str,
    action: str,
    key: str,
    file: str | None,
    policy_file: Path,
    context: str | None,
) -> int:
    """Say whether WHO may do ACTION on KEY, and by which rule. With FILE: sign this content.

    Also whose consent it needs, and, where FILE or --context says for which role a signature is,
    what metadata of that role may say.

    WHO is a principal, as socket:NAME, uri:..., email:... or dns:...; KEY is a key's name, or a
    token's for token actions. Exit code 0 when it is allowed, 1 when it is not.
    """
    from keyd import content
    from keyd.cli.sign import parse_context, read_file
    from keyd.model import Action, Context
    from keyd.policy import FilePolicy, parse_principal
    from keyd.toml_source import nearest

    if action not in list(Action):
        raise click.UsageError(f"unknown action {action!r}{nearest(action, list(Action))}")
    principal = parse_principal(who)
    asked = FilePolicy(policy_file)
    statement = content.read(read_file(file)) if file else None
    claimed = parse_context(context)
    decision = asked.decide(principal, Action(action), key, statement=statement, context=claimed)
    # A file that can be recognised says its role itself; delegated targets cannot.
    role = claimed.role or (statement.kind if statement and statement.dialect else "")
    demanded = asked.requirements(principal, Action(action), key, Context(claimed.repository, role))
    limits = None
    if role and action == Action.SIGN:
        limits = asked.limits(claimed.repository, role, statement.dialect if statement else "")
    grants = asked.grants_of(principal)
    value = {
        "allowed": decision.allowed,
        "rule": decision.rule,
        "principal": principal.id,
        "action": action,
        "key": key,
        "content": (statement.summary or statement.kind) if statement else "",
        "approvals": [_requirement_json(r) for r in demanded],
        "limits": _limits_json(limits) if limits else None,
        "grants": grants,
        "policy_sha256": asked.hash,
    }
    text = output.fields(
        [
            ("decision", "allowed" if decision.allowed else "denied"),
            ("by", decision.rule),
            ("content", value["content"]),
            *(("approval", _requirement_text(r)) for r in demanded if decision.allowed),
            ("limits", _limits_text(role, limits) if limits else ""),
            *(("grant", grant) for grant in grants or ("none for this principal",)),
            ("policy", f"{policy_file} sha256:{asked.hash}"),
        ]
    )
    settings.answer(value, text)
    return Exit.DONE if decision.allowed else Exit.FAILED


def _requirement_json(requirement: Requirement) -> dict[str, object]:
    return {
        "rule": requirement.rule,
        "needed": requirement.needed,
        "of": list(requirement.of),
        "own": requirement.own,
        "signed": requirement.signed,
        "expires_s": requirement.expires_s,
    }


def _requirement_text(requirement: Requirement) -> str:
    who = ", ".join(requirement.of) or "everybody who may approve"
    hours = f"{requirement.expires_s / 3600:g}"
    extra = ["one's own counts"] if requirement.own else []
    extra += ["signed with a key of their own"] if requirement.signed else []
    said = f"; {', '.join(extra)}" if extra else ""
    return f"{requirement.needed} of {who}, within {hours} h, by rule {requirement.rule}{said}"


def _limits_json(limits: Limits) -> dict[str, object]:
    return {
        "max_expiry_days": limits.max_expiry_days,
        "max_step": limits.max_step,
        "paths": list(limits.paths),
        "rule": limits.rule,
    }


def _limits_text(role: str, limits: Limits) -> str:
    told = f"{role} may expire in up to {limits.max_expiry_days:g} days"
    if role != "root":
        told += f" and go up by up to {limits.max_step} versions"
    if limits.paths:
        told += f", for {', '.join(limits.paths)}"
    return f"{told} ({f'limit {limits.rule}' if limits.rule else 'defaults'})"
