"""Bound keys on a real database: what was signed stays signed, whatever became of the daemon."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keyd import content
from keyd.approvals import Approvals
from keyd.audit.checkpointer import Checkpointer, CheckpointSettings
from keyd.audit.log import Log, LogSettings
from keyd.enrolment import Enrolment
from keyd.errors import ApprovalNeededError, KeydError, RuleRefusedError, VersionTakenError
from keyd.gate import Gate
from keyd.keyfields import NewKey
from keyd.keys import Keys
from keyd.markbook import MarkBook
from keyd.model import Binding, KeyAlgorithm, MarkState, Signed
from keyd.policy import parse_policy
from keyd.signing import Signing
from keyd.store.store import Store, open_store
from tests.bound_keys import REPOSITORY, ask, root, snapshot, targets
from tests.domain import ADMIN
from tests.fakes import FakeClock, FakeDevice
from tests.fakes_consent import verify_fake_consent

POLICY = """
[[grant]]
name = "admins"
principals = ["socket:admin"]
actions = ["admin", "signer"]
keys = ["*"]
tokens = ["*"]
"""
KEY = "acme/online"


@dataclass
class Running:
    store: Store
    signing: Signing
    keys: Keys

    async def sign(self, role: str, *payloads: bytes) -> list[Signed | KeydError]:
        return await self.signing.sign_batch(ADMIN, [ask(KEY, p, role) for p in payloads])


@dataclass
class Place:
    """A state folder and a token, on which daemons come and go."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    device: FakeDevice = field(default_factory=FakeDevice.with_token)

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[Running]:
        store = open_store(self.folder / "state", clock=self.clock)
        log = Log(
            store,
            self.clock,
            Checkpointer(
                store,
                self.clock,
                CheckpointSettings("keyd.example/log", self.folder / "checkpoint", 60.0, 1000),
                elapsed_s=asyncio.get_running_loop().time,
                signers=[],
            ),
            LogSettings(),
            elapsed_s=lambda: 0.0,
        )
        await log.start()
        policy = parse_policy(POLICY, "policy.toml")
        gate = Gate(policy, log, store.registry)
        approvals = Approvals(
            gate=gate,
            policy=policy,
            approvals=store.approvals,
            audit=log,
            clock=self.clock,
            check_clock=log.check_clock,
            new_id=lambda: "the-approval",
            verify_signature=verify_fake_consent,
        )
        with ThreadPoolExecutor(1) as workers:
            signing = Signing(
                gate=gate,
                registry=store.registry,
                device=self.device,
                audit=log,
                signatures=store,
                marks=MarkBook(store.marks, workers=workers),
                approvals=approvals,
                clock=self.clock,
                read_content=content.read,
                workers=workers,
            )
            keys = Keys(
                gate=gate,
                registry=store.registry,
                device=self.device,
                audit=log,
                clock=self.clock,
                enrolment=Enrolment(
                    device=self.device, audit=log, registry=store.registry, clock=self.clock
                ),
                approvals=approvals,
                check_clock=log.check_clock,
                destroy_wait_s=7 * 86_400,
            )
            try:
                yield Running(store, signing, keys)
            finally:
                await log.stop(checkpoint_timeout_s=0.1)
                store.close()


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    """With one key that is bound to every role of one repository."""
    made = Place(tmp_path)
    async with made.daemon() as daemon:
        bindings = frozenset({Binding(REPOSITORY, "*")})
        await daemon.keys.create(
            ADMIN, NewKey(KEY, "main", KeyAlgorithm.ECDSA_P256, bindings=bindings)
        )
    return made


async def test_after_a_restart_other_bytes_are_refused_and_the_same_given_again(
    place: Place,
) -> None:
    async with place.daemon() as daemon:
        (first,) = await daemon.sign("targets", targets(5, "one"))
        assert isinstance(first, Signed)

    async with place.daemon() as daemon:
        other, again, following = await daemon.sign(
            "targets", targets(5, "other"), targets(5, "one"), targets(6)
        )

    assert isinstance(other, VersionTakenError)
    assert other.facts["signed_digest"] == hashlib.sha256(targets(5, "one")).hexdigest()
    assert isinstance(again, Signed)
    assert (again.signature, again.log_index) == (first.signature, first.log_index)
    assert isinstance(following, Signed)


async def test_after_a_restart_content_is_compared_with_what_was_complete(place: Place) -> None:
    async with place.daemon() as daemon:
        await daemon.sign("snapshot", snapshot(5, targets=9))

    async with place.daemon() as daemon:
        back, onward = await daemon.sign(
            "snapshot", snapshot(6, targets=8), snapshot(6, targets=10)
        )

    assert isinstance(back, ApprovalNeededError)
    assert isinstance(onward, Signed)


async def test_after_a_restart_the_thresholds_of_the_last_root_hold(place: Place) -> None:
    async with place.daemon() as daemon:
        key = daemon.store.registry.find(KEY)
        assert key is not None
        version = key.versions[0]
        await daemon.sign("root", root(1, version))

    async with place.daemon() as daemon:
        far, near = await daemon.sign("root", root(3, version), root(2, version))
        await daemon.sign("targets", targets(1))
        mark = daemon.store.marks.find_mark(REPOSITORY, "targets")

    assert isinstance(far, RuleRefusedError)
    assert isinstance(near, Signed)
    assert mark is not None
    assert mark.state is MarkState.COMPLETE
    assert mark.needs[0].signers == {version.fingerprint}


async def test_of_many_at_once_with_different_bytes_one_is_signed(place: Place) -> None:
    async with place.daemon() as daemon:
        results = await asyncio.gather(
            *(daemon.sign("targets", targets(5, f"file-{n}")) for n in range(20))
        )
        contents = await daemon.store.marks.load_contents(REPOSITORY, "targets")

    flat = [result for (result,) in results]
    signed = [n for n, result in enumerate(flat) if isinstance(result, Signed)]
    assert len(signed) == 1
    assert contents.complete == targets(5, f"file-{signed[0]}")
    assert all(isinstance(r, Signed | VersionTakenError) for r in flat)
