"""The rooms of the domain that callers come to, built over the core of one daemon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from keyd import content, sshsig
from keyd.approvals import Approvals, new_approval_id
from keyd.attestation import Trust
from keyd.audit.log import Log
from keyd.ceremonies import Ceremonies
from keyd.due import Rotations
from keyd.enrolment import Enrolment
from keyd.expiring import Expiries
from keyd.gate import Gate
from keyd.keys import Keys
from keyd.lookahead import LookAhead
from keyd.markbook import MarkBook
from keyd.model import (
    Action,
    Caller,
    Clock,
    Device,
    Effect,
    EntryFilter,
    Outcome,
    Policy,
    YubiKeyDevice,
)
from keyd.notaryplaces import Place, Places
from keyd.notarysigner import NotarySigner
from keyd.openings import Openings
from keyd.preparing import Preparing
from keyd.roles import AcceptedLoss, AcceptLoss, Roles
from keyd.signing import Signing
from keyd.slots import InSlots
from keyd.store.store import Store
from keyd.tokens import Tokens
from keyd.yubikeys import YubiKeys


@dataclass(frozen=True, slots=True)
class Core:
    """What every room works with."""

    store: Store
    log: Log
    policy: Policy
    gate: Gate
    device: Device
    enrolment: Enrolment
    clock: Clock
    yubikeys: YubiKeyDevice
    trust: Trust


@dataclass(frozen=True, slots=True)
class Rooms:
    """One of each."""

    signing: Signing
    keys: Keys
    tokens: Tokens
    yubikeys: YubiKeys
    approvals: Approvals
    ceremonies: Ceremonies
    roles: Roles


def build_rooms(core: Core, workers: Executor, *, destroy_wait_s: int) -> Rooms:
    """Make them. ``workers``: threads that read, judge and check what is large or many.
    ``destroy_wait_s``: how long a key version waits before a person may destroy it."""
    gate, log, clock, registry = core.gate, core.log, core.clock, core.store.registry
    approvals = Approvals(
        gate=gate,
        policy=core.policy,
        approvals=core.store.approvals,
        audit=log,
        clock=clock,
        check_clock=log.check_clock,
        new_id=new_approval_id,
        verify_signature=sshsig.verify,
    )
    slots = InSlots(
        device=core.device,
        yubikeys=core.yubikeys,
        registry=registry,
        trust=core.trust,
        clock=clock,
    )
    return Rooms(
        signing=Signing(
            gate=gate,
            registry=registry,
            device=core.device,
            audit=log,
            signatures=core.store,
            marks=MarkBook(core.store.marks, workers=workers),
            approvals=approvals,
            clock=clock,
            read_content=content.read,
            workers=workers,
        ),
        keys=Keys(
            gate=gate,
            registry=registry,
            device=core.device,
            audit=log,
            clock=clock,
            enrolment=core.enrolment,
            approvals=approvals,
            check_clock=log.check_clock,
            destroy_wait_s=destroy_wait_s,
            slots=slots,
        ),
        tokens=Tokens(
            gate=gate, device=core.device, audit=log, registry=registry, approvals=approvals
        ),
        yubikeys=YubiKeys(
            gate=gate,
            device=core.device,
            yubikeys=core.yubikeys,
            slots=slots,
            audit=log,
            registry=registry,
            approvals=approvals,
        ),
        approvals=approvals,
        ceremonies=Ceremonies(
            gate=gate,
            registry=registry,
            ceremonies=core.store.ceremonies,
            approvals=approvals,
            audit=log,
            clock=clock,
            new_id=new_approval_id,
        ),
        roles=Roles(
            gate=gate,
            registry=registry,
            marks=core.store.marks,
            approvals=approvals,
            audit=log,
            clock=clock,
            lost=log.describe_loss,
            accept_loss=_accepting(log),
        ),
    )


def build_look_ahead(core: Core, *, ahead_s: float, prepare: bool) -> LookAhead:
    """What looks at rotations and expiries. ``ahead_s``: how long ahead rotations are told at
    most; ``prepare``: also prepare them."""
    gate, log, clock, registry = core.gate, core.log, core.clock, core.store.registry
    openings = Openings(
        gate=gate,
        registry=registry,
        marks=core.store.marks,
        ceremonies=core.store.ceremonies,
        audit=log,
        clock=clock,
        new_id=new_approval_id,
    )
    return LookAhead(
        registry=registry,
        rotations=Rotations(registry, ahead_s=ahead_s),
        expiries=Expiries(core.store.marks),
        preparing=Preparing(
            enabled=prepare,
            gate=gate,
            registry=registry,
            device=core.device,
            enrolment=core.enrolment,
            openings=openings,
            clock=clock,
        ),
        audit=log,
        clock=clock,
        check_clock=log.check_clock,
        get_flag=core.store.get_flag,
    )


def build_notary_signer(
    core: Core, rooms: Rooms, places: Sequence[Place], *, elapsed_s: Callable[[], float]
) -> NotarySigner:
    """What a notary-server comes to. ``elapsed_s``: a clock that only goes forward."""

    async def has_signed(name: str) -> bool:
        wanted = EntryFilter(key=name, action=Action.SIGN, outcome=Outcome.ALLOWED)
        return bool((await core.store.list_entries(wanted, page_size=1)).entries)

    return NotarySigner(
        gate=core.gate,
        registry=core.store.registry,
        marks=core.store.marks,
        keys=rooms.keys,
        signing=rooms.signing,
        places=Places(places, elapsed_s=elapsed_s),
        has_signed=has_signed,
    )


def _accepting(log: Log) -> AcceptLoss:
    async def accept(caller: Caller, said: str, effects: tuple[Effect, ...]) -> AcceptedLoss:
        loss = log.loss
        receipt = await log.accept_checkpoint(caller, said, effects)
        origin = log.checkpointer.origin
        if receipt is None:
            return AcceptedLoss("", origin, -1)
        return AcceptedLoss(loss, origin, receipt.index)

    return accept
