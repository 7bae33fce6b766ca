"""One thing that a caller wants done and people may have to consent to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyd.consententries import requirement_line
from keyd.consents import BUILT_IN
from keyd.model import Action, BoundTo, Caller, Context, Requirement
from keyd.rules import Grave

NO_CONTEXT = Context()


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a caller wants done, with everything consent to it is bound to.

    ``content``: the payload, or canonical JSON of the parameters; empty where ``digest`` is all
    there is. ``digest``: SHA-256 of ``content``, or that digest. ``grave``: what keyd's own rules
    want people to see. ``previous``: the last complete version of the same role. ``summary`` and
    ``said``: for people, bound to nothing.
    """

    caller: Caller
    action: Action
    subject: str
    content: bytes
    digest: bytes
    summary: str
    key_version: int = 0
    context: Context = NO_CONTEXT
    metadata_version: int = 0
    grave: tuple[Grave, ...] = ()
    previous: bytes = b""
    said: str = ""


def bound_to(operation: Operation) -> BoundTo:
    """What an approval has to be bound to, to be for this operation."""
    return (
        operation.caller.principal.id,
        operation.action.value,
        operation.subject,
        operation.key_version,
        operation.context.repository,
        operation.context.role,
        operation.digest,
    )


def objections(operation: Operation) -> tuple[str, ...]:
    """What keyd's own rules want people to see, a line each."""
    return tuple(f"{BUILT_IN}{grave.text}" for grave in operation.grave)


def grave_words(operation: Operation) -> str:
    """The words of rules/grave.py for that, sorted, with spaces between."""
    return " ".join(sorted({grave.rule for grave in operation.grave}))


def why(operation: Operation, demanded: Sequence[Requirement]) -> tuple[str, ...]:
    """One line for each thing that makes consent necessary; empty when nothing does."""
    rules = [requirement_line(r) for r in demanded if not r.rule.startswith(BUILT_IN)]
    return (*rules, *objections(operation)) if demanded else ()


def summary_of(action: Action, name: str, parameters: Mapping[str, object]) -> str:
    """An operation that is no signature, in a line."""
    said = [f"{key} {value}" for key, value in parameters.items() if value not in ("", None)]
    return f"{action} {name}".strip() + (f": {', '.join(said)}" if said else "")
