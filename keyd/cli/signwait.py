"""keydctl sign --wait: stay until people have consented, and tell who is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.cli.durations import duration
from keyd.cli.settings import Command

if TYPE_CHECKING:
    from keyd.client import Approval, Client, Signature
    from keyd.errors import ApprovalNeededError

FOREVER = "until it expires"

_MOST_APPROVALS = 3
"""Approvals one command waits for, one after the other: more means that somebody changes the rules
meanwhile, or that none is ever enough."""

_AGAIN_S = 1.0


class WaitingCommand(Command):
    """A command whose --wait may stand alone: click would take FILE for its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give a bare --wait its value."""
        options, dashes, rest = _until_dashes(args)
        options = [f"--wait={FOREVER}" if word == "--wait" else word for word in options]
        return super().parse_args(ctx, [*options, *dashes, *rest])


def _until_dashes(args: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    at = args.index("--") if "--" in args else len(args)
    return list(args[:at]), list(args[at : at + 1]), list(args[at + 1 :])


def wait_time(text: str) -> float:
    """Seconds of 10m or 2h; endless for as long as the approval lives.

    Raises:
        click.BadParameter: no duration.
    """
    return float("inf") if text == FOREVER else float(duration(text))


def advise(error: ApprovalNeededError) -> None:
    """Say how to come back, where people have to consent and nobody waits."""
    if approval := error.facts.get("approval"):
        error.hint = (
            f"have it approved: keydctl approve {approval}; then run this same command again "
            "(or run it with --wait)"
        )


def sign_when_approved(
    keyd: Client, ask: Callable[[], Signature], error: ApprovalNeededError, wait_s: float
) -> Signature:
    """Wait for consent, then ask again; ``ask`` has to be the very same request.

    Raises:
        ApprovalNeededError: not in ``wait_s`` seconds; the approval stays open.
        ApprovalStateError: somebody said no, or it was withdrawn or has expired.
        KeydError: whatever the daemon answers to the request otherwise.
    """
    from keyd.errors import ApprovalNeededError

    until = time.monotonic() + wait_s
    for _ in range(_MOST_APPROVALS):
        approval_id = error.facts.get("approval", "")
        if not approval_id:
            break
        try:
            _wait(keyd, approval_id, until, error)
        except KeyboardInterrupt:
            output.note(
                f"approval {approval_id} stays open: run the same command again, or take it back "
                f"with keydctl approvals revoke {approval_id}"
            )
            raise
        try:
            return ask()
        except ApprovalNeededError as e:
            error = e
    advise(error)
    raise error


def _wait(keyd: Client, approval_id: str, until: float, error: ApprovalNeededError) -> None:
    """Until it is approved, or used by the very same request of another process."""
    from keyd.errors import DeadlineError, ServerGoneError
    from keyd.model import ApprovalState

    said = ""
    output.note(f"{error.message}")
    output.note(f"waiting for approval {approval_id}; people consent with:")
    output.note(f"  keydctl approve {approval_id}")
    while True:
        left_s = until - time.monotonic()
        if left_s <= 0:
            advise(error)
            raise error
        timeout_s = left_s if left_s < float("inf") else None
        try:
            for a in _changes(keyd, approval_id, timeout_s):
                said = _tell(a, said)
                if a.state in (ApprovalState.APPROVED, ApprovalState.USED):
                    return
                if not a.state.is_open:
                    raise _ended(a)
        except DeadlineError:
            continue
        except ServerGoneError as e:
            # Approvals outlive the daemon's restart; whoever waits for people can wait for it too.
            output.note(f"{e.message}; asking again")
        time.sleep(max(0.0, min(_AGAIN_S, until - time.monotonic())))


def _changes(keyd: Client, approval_id: str, timeout_s: float | None) -> Iterator[Approval]:
    """Each change as it comes; how it stands now, where the daemon streams to too many already."""
    from keyd.errors import RateLimitedError

    try:
        yield from keyd.watch_approvals(approval_id, timeout_s=timeout_s)
    except RateLimitedError:
        yield keyd.get_approval(approval_id)


def _tell(a: Approval, said: str) -> str:
    from keyd.cli import approvalshapes

    missing = approvalshapes.missing(a)
    text = approvalshapes.told(a) + (f"; missing: {missing}" if missing else "")
    if text != said:
        output.note(text)
    return text


def _ended(a: Approval) -> Exception:
    from keyd.errors import ApprovalStateError

    return ApprovalStateError(
        f"approval {a.id} is {a.state.value}; nothing was signed",
        hint=f"who said so, and why, is in the log: keydctl approvals show {a.id}; the same "
        "command asks for consent anew",
        approval=a.id,
        state=a.state.value,
    )
