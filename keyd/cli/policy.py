"""keydctl policy."""

from __future__ import annotations

from pathlib import Path

import click

from keyd.cli import output
from keyd.cli.exits import Exit
from keyd.cli.settings import Group, Settings

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

    WHO is a principal, as socket:NAME, uri:..., email:... or dns:...; KEY is a key's name, or a
    token's for token actions. Exit code 0 when it is allowed, 1 when it is not.
    """
    from keyd import content
    from keyd.cli.sign import parse_context, read_file
    from keyd.model import Action
    from keyd.policy import FilePolicy, parse_principal
    from keyd.toml_source import nearest

    if action not in list(Action):
        raise click.UsageError(f"unknown action {action!r}{nearest(action, list(Action))}")
    principal = parse_principal(who)
    asked = FilePolicy(policy_file)
    statement = content.read(read_file(file)) if file else None
    decision = asked.decide(
        principal, Action(action), key, statement=statement, context=parse_context(context)
    )
    grants = asked.grants_of(principal)
    value = {
        "allowed": decision.allowed,
        "rule": decision.rule,
        "principal": principal.id,
        "action": action,
        "key": key,
        "content": (statement.summary or statement.kind) if statement else "",
        "grants": grants,
        "policy_sha256": asked.hash,
    }
    text = output.fields(
        [
            ("decision", "allowed" if decision.allowed else "denied"),
            ("by", decision.rule),
            ("content", value["content"]),
            *(("grant", grant) for grant in grants or ("none for this principal",)),
            ("policy", f"{policy_file} sha256:{asked.hash}"),
        ]
    )
    settings.answer(value, text)
    return Exit.DONE if decision.allowed else Exit.FAILED
