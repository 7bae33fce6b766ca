"""What `keyd-server doctor` says of keys, log and clock. Pure: state in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from keyd.audit.checkpoint import verify_checkpoint
from keyd.audit.clock_guard import suspect_at_start
from keyd.audit.group_commit import CLOCK_SUSPECT
from keyd.audit.standing import LOSS, RESTORED, Loss
from keyd.cli.server_doctor_findings import Area, Finding
from keyd.cli.server_doctor_state import State, living_versions
from keyd.content.documents import Dialect, Root
from keyd.errors import LogProofError

_SHOWN = 5
_LATE = timedelta(minutes=1)
"""So long after its entries a checkpoint is missing; sooner it may be on its way."""


def check_clock(state: State, now: datetime, *, runs: bool) -> Finding:
    """Does the clock fit the log? ``runs``: the daemon does, and a log that did not grow for days
    is no wonder; one that is stopped will ask at its start."""
    behind = state.last_time is not None and now < state.last_time
    suspect = state.flags.get(CLOCK_SUSPECT, "")
    if not suspect and (behind or not runs):
        suspect = suspect_at_start(now, state.last_time)
    if not suspect:
        return Finding(Area.CLOCK, f"{now:%F %T} UTC, not before the newest entry")
    return Finding(
        Area.CLOCK,
        suspect,
        "what waits for its time, as destructions do, stands still until a person has looked",
        "compare `date -u` with another clock, set it right if need be (timedatectl), then with "
        "the daemon stopped: keyd-server clock accept",
    )


def check_checkpoints(
    state: State, outside: str | None, now: datetime, *, interval_s: float
) -> Iterator[Finding]:
    """Is the log signed, and is it as long as it once was? ``outside``: the note in the checkpoint
    file, read before the state, None where there is none."""
    loss = _loss(state, outside)
    if loss:
        yield Finding(
            Area.CHECKPOINTS,
            loss,
            "bound keys sign nothing until a person has accepted that entries are lost",
            "find out what is missing (docs/operations.md, Restore), then with the daemon "
            'stopped: keyd-server checkpoint accept --reason "..."',
        )
    if state.size == 0:
        yield Finding(Area.CHECKPOINTS, "the log is empty")
        return
    if not state.log_keys:
        yield Finding(
            Area.CHECKPOINTS,
            "there is no log key yet",
            "without checkpoints nobody can see whether the log was cut",
            "make the token under [log] ready: keydctl token list, keydctl token unlock NAME",
        )
        return
    newest = state.newest_checkpoint
    covered = newest.size if newest else 0
    waiting = state.size - covered
    late = timedelta(seconds=interval_s) + _LATE
    if waiting > 0 and state.last_time is not None and now - state.last_time > late:
        yield Finding(
            Area.CHECKPOINTS,
            f"{waiting} entries have no checkpoint, the newest since {state.last_time:%F %H:%M}",
            "entries without one can be cut off unseen; at too many of them signing stops",
            "start the daemon, and make the token under [log] ready: keydctl token list",
        )
    if newest is not None and outside is None:
        yield Finding(
            Area.CHECKPOINTS,
            "the checkpoint file is not there, or this user may not read it",
            "it is what shows that an old copy of the state was put back",
            "see that the service's user can write the folder of checkpoint_file; the daemon "
            "writes the file with the next checkpoint: keydctl audit checkpoint --fresh",
        )
    elif not loss and waiting <= 0:
        yield Finding(Area.CHECKPOINTS, f"all {state.size} entries are covered")


def _loss(state: State, outside: str | None) -> str:
    """Why entries are, or may be, lost without anybody having accepted it."""
    known = Loss.read(state.flags.get(LOSS))
    if known is not None and not known.accepted:
        return known.why
    if RESTORED in state.flags:
        return "the database was restored from a backup and may lack the newest entries"
    if outside is None or not state.log_keys:
        return ""
    try:
        kept = verify_checkpoint(outside, state.log_keys)
    except LogProofError:
        return "the checkpoint file is not of this log"
    newest = state.newest_checkpoint
    if newest is None or kept.origin != newest.origin:
        return ""  # of before a loss that was accepted: the daemon compares at its start
    if kept.size > state.size:
        return f"the checkpoint file covers {kept.size} entries, the log has {state.size}"
    if kept.size == newest.size and kept.root_hash != newest.root_hash:
        return f"the checkpoint file does not fit the first {kept.size} entries of the log"
    return ""


def check_unbound(state: State) -> Finding:
    """Keys that are bound to nothing sign anything."""
    unbound = [key.name for key in state.keys if not key.bindings and living_versions(key)]
    if not unbound:
        return Finding(Area.UNBOUND_KEYS, f"all {len(state.keys)} keys are bound")
    more = f" and {len(unbound) - _SHOWN} more" if len(unbound) > _SHOWN else ""
    return Finding(
        Area.UNBOUND_KEYS,
        f"bound to nothing: {', '.join(unbound[:_SHOWN])}{more}",
        "such a key signs anything: an old version, another role's metadata, a bare digest",
        f"keydctl key update {unbound[0]} --bind REPOSITORY:ROLE",
    )


def check_roots(state: State) -> Iterator[Finding]:
    """Roots that one key, or one token, holds."""
    holders = {
        version.fingerprint: version.token_serial
        for key in state.keys
        for version in key.versions
        if version.public_key
    }
    wrong = False
    for repository, root in sorted(state.roots.items()):
        # Notary's roots know no other threshold than one.
        problem = "" if root.dialect is Dialect.NOTARY else _weakness(root, holders)
        if problem:
            wrong = True
            yield Finding(
                Area.SINGLE_KEY_ROOTS,
                f"{repository}: {problem}",
                "one thing that is stolen gives the repository away, or one that is lost leaves "
                "a root that nobody can change",
                "add holders on tokens of their own, and let two of them sign: "
                "keydctl tuf ceremony start DIR --add-key root=KEY --threshold root=2",
            )
    for repository in state.unreadable:
        wrong = True
        yield Finding(
            Area.SINGLE_KEY_ROOTS,
            f"{repository}: what is stored of its root cannot be read",
            "the daemon cannot tell who may sign it",
            f"show what is published: keydctl role import {repository}",
        )
    if not wrong:
        what = f"none among {len(state.roots)}" if state.roots else "no root is known yet"
        yield Finding(Area.SINGLE_KEY_ROOTS, what)


def _weakness(root: Root, holders: Mapping[str, str]) -> str:
    """Why one thing that is lost or stolen is enough; empty when it is not."""
    role = root.roles["root"]
    keys = {root.keys[keyid].identity for keyid in role.keyids if keyid in root.keys}
    if len(keys) <= 1:
        return "its root has a single key"
    if role.threshold <= 1:
        return f"any one of the {len(keys)} keys of its root signs alone (threshold 1)"
    tokens = [holders.get(key, f"elsewhere {key}") for key in keys]
    for serial in sorted(set(tokens)):
        there = tokens.count(serial)
        if there == len(keys):
            return f"all {there} keys of its root are on one token ({serial})"
        if there >= role.threshold:
            return f"{there} keys of its root are on one token ({serial}), enough to sign it"
        if len(keys) - there < role.threshold:
            return f"without one token ({serial}) too few keys are left to sign its root"
    return ""


def check_pin_attempts(attempts: Mapping[str, str]) -> Iterator[Finding]:
    """PINs from files and credentials that were tried once, and not accepted. ``attempts``: serial
    of the token -> PIN source."""
    for serial, source in sorted(attempts.items()):
        yield Finding(
            Area.PIN,
            f"the PIN of token {serial} ({source}) was tried once and not accepted",
            "it is not tried again by itself: a few wrong ones block a token for good",
            "correct the PIN where it comes from, then: keydctl token unlock NAME --configured",
        )
