"""Keys, tokens and the log over the API: pages, streams, who may see what."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyd.errors import (
    AuditUnavailableError,
    InvalidRequestError,
    KeyNotFoundError,
    PolicyDeniedError,
    RateLimitedError,
    UnknownCallerError,
)
from keyd.model import Principal
from keyd.server.limits import Limits
from keyd.v1 import audit_pb2, keys_pb2, tokens_pb2
from tests.integration.api_daemon import PUBLIC_KEY, a_key, api_daemon, connect, error_of


async def index_of(tail: Any) -> int:
    entry = await tail.read()
    assert isinstance(entry, audit_pb2.Entry)
    return entry.index


async def test_a_key_shows_its_public_key_in_every_form(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        key = await stubs.keys.GetKey(keys_pb2.GetKeyRequest(name="acme/targets"))

    (version,) = key.versions
    tuf = json.loads(version.public_key_tuf)
    assert version.name == "acme/targets/versions/1"
    assert version.public_key == PUBLIC_KEY
    assert version.public_key_pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert tuf["keyid"] == version.keyids["tuf"]
    assert tuf["keytype"] == tuf["scheme"] == "ed25519"
    assert json.loads(version.public_key_notary)["keytype"] == "ed25519"
    assert version.public_key_ssh == f"{version.public_key_ssh.rsplit(' ', 1)[0]} {version.name}"
    assert key.frozen == ("acme/targets: frozen by socket:admin since 2026-03-01T00:00:00Z: leaked")


async def test_pages_of_keys_neither_skip_nor_repeat_while_keys_come_and_go(
    tmp_path: Path,
) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        daemon.keys.held = {f"k{n:02}": a_key(f"k{n:02}") for n in range(0, 20, 2)}
        request = keys_pb2.ListKeysRequest(page_size=3)
        names: list[str] = []
        while True:
            page = await stubs.keys.ListKeys(request)
            names += [key.name for key in page.keys]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
            daemon.keys.held.pop("k04", None)
            daemon.keys.held["k01"] = a_key("k01")
            daemon.keys.held["k11"] = a_key("k11")

    assert names == ["k00", "k02", "k04", "k06", "k08", "k10", "k11", "k12", "k14", "k16", "k18"]


async def test_a_page_stays_within_what_clients_take(tmp_path: Path) -> None:
    async with api_daemon(tmp_path, Limits(max_page_bytes=4000)) as daemon:
        daemon.keys.held = {f"k{n:02}": a_key(f"k{n:02}") for n in range(20)}
        async with connect(await daemon.listen("admin")) as stubs:
            page = await stubs.keys.ListKeys(keys_pb2.ListKeysRequest(page_size=20))

    assert 0 < len(page.keys) < 20
    assert page.ByteSize() < 4500
    assert page.next_page_token


async def test_key_changes_reach_the_domain_with_their_reason(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        await stubs.keys.CreateKey(
            keys_pb2.CreateKeyRequest(name="new", algorithm="ed25519", reason="because")
        )
        await stubs.keys.DisableKeyVersion(
            keys_pb2.KeyVersionRequest(name="new/versions/1", reason="old")
        )
        frozen = await stubs.keys.Freeze(keys_pb2.FreezeRequest(reason="leak"))
        missing = await error_of(stubs.keys.GetKey(keys_pb2.GetKeyRequest(name="other")))
        twice = await error_of(stubs.keys.GetKey(keys_pb2.GetKeyRequest(name="new/versions/1")))

    create, disable = daemon.keys.calls
    assert create[:2] == ("create", "socket:admin")
    assert disable == ("disable", "new", 1, "old")
    assert frozen.freezes == ["all keys: frozen by socket:admin since 2026-03-01T00:00:00Z: leak"]
    assert isinstance(missing, KeyNotFoundError)
    assert isinstance(twice, InvalidRequestError)


async def test_tokens_are_shown_and_unlocked_with_a_pin_that_cannot_be_printed(
    tmp_path: Path,
) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        listed = await stubs.tokens.ListTokens(tokens_pb2.ListTokensRequest())
        token = await stubs.tokens.Unlock(tokens_pb2.UnlockRequest(token="online", pin="123456"))
        objects = await stubs.tokens.ListObjects(tokens_pb2.ListObjectsRequest(token="online"))

    assert [t.name for t in listed.tokens] == ["online"]
    assert token.state == tokens_pb2.TOKEN_STATE_READY
    assert daemon.tokens.pin is not None
    assert daemon.tokens.pin.reveal() == "123456"
    assert "123456" not in repr(daemon.tokens.pin)
    assert objects.objects[0].registered_as == "acme/root/versions/1"
    assert not objects.objects[0].extractable


@pytest.mark.parametrize("descending", [False, True])
async def test_pages_of_entries_are_stable_while_the_log_grows(
    tmp_path: Path, descending: bool
) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        daemon.reads.append(10)
        request = audit_pb2.ListEntriesRequest(page_size=4, descending=descending)
        indices: list[int] = []
        for _ in range(3):
            page = await stubs.audit.ListEntries(request)
            indices += [entry.index for entry in page.entries]
            request.page_token = page.next_page_token
            daemon.reads.append(1)

    assert indices == (list(range(9, -1, -1)) if descending else list(range(12)))


async def test_a_page_of_large_entries_ends_early_and_goes_on(tmp_path: Path) -> None:
    async with api_daemon(tmp_path, Limits(max_page_bytes=2500)) as daemon:
        daemon.reads.append(5, body=bytes(1000))
        async with connect(await daemon.listen("admin")) as stubs:
            first = await stubs.audit.ListEntries(audit_pb2.ListEntriesRequest())
            rest = await stubs.audit.ListEntries(
                audit_pb2.ListEntriesRequest(page_token=first.next_page_token)
            )

    assert [entry.index for entry in first.entries] == [0, 1]
    assert [entry.index for entry in rest.entries] == [2, 3]


async def test_a_tail_sends_what_was_then_what_comes_and_ends_with_the_daemon(
    tmp_path: Path,
) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        daemon.reads.append(600)
        tail = stubs.audit.TailEntries(audit_pb2.TailEntriesRequest(start_index=1))
        async with asyncio.timeout(20):
            old = [await index_of(tail) for _ in range(599)]
            daemon.reads.append(2)
            new = [await index_of(tail) for _ in range(2)]
            loop = asyncio.get_running_loop()
            began = loop.time()
            await daemon.services.drain(daemon.servers, 10)
            end = await tail.read()
            took = loop.time() - began
            code = await tail.code()

    assert old == list(range(1, 600))
    assert new == [600, 601]
    assert end is grpc.aio.EOF
    assert code is grpc.StatusCode.OK
    assert took < 5


async def test_a_tail_of_new_entries_only_starts_at_the_end(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        daemon.reads.append(3)
        tail = stubs.audit.TailEntries(audit_pb2.TailEntriesRequest(start_index=-1))
        reading = asyncio.ensure_future(tail.read())
        await asyncio.sleep(0.2)
        daemon.reads.append(1)
        entry = await asyncio.wait_for(reading, 5)

    assert isinstance(entry, audit_pb2.Entry)
    assert entry.index == 3


async def test_a_tail_ends_when_the_grant_is_taken_away(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("auditor")) as stubs:
        daemon.reads.append(1)
        tail = stubs.audit.TailEntries(audit_pb2.TailEntriesRequest())
        await asyncio.wait_for(tail.read(), 5)
        daemon.policy.no_audit.add("socket:auditor")
        daemon.reads.append(1)
        error = await error_of(tail.read())

    assert isinstance(error, PolicyDeniedError)


async def test_a_tail_ends_when_its_callers_certificate_does(tmp_path: Path) -> None:
    expired = False

    def resolver(context: object) -> Principal:
        if expired:
            raise UnknownCallerError("the certificate has expired")
        return Principal("dns:ci.acme", "mtls")

    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("t", resolver)) as stubs:
        daemon.reads.append(1)
        tail = stubs.audit.TailEntries(audit_pb2.TailEntriesRequest())
        await asyncio.wait_for(tail.read(), 5)
        expired = True

        async def read_on() -> None:
            while True:
                daemon.reads.append(1)
                await tail.read()
                await asyncio.sleep(0.02)

        error = await error_of(read_on())

    assert isinstance(error, UnknownCallerError)


async def test_tails_are_bounded_and_give_their_places_back(tmp_path: Path) -> None:
    limits = Limits(max_streams_per_principal=2)

    async with api_daemon(tmp_path, limits) as daemon:
        daemon.reads.append(1)
        async with connect(await daemon.listen("admin")) as stubs:
            for _ in range(3):
                tails = [stubs.audit.TailEntries(audit_pb2.TailEntriesRequest()) for _ in range(2)]
                for tail in tails:
                    await asyncio.wait_for(tail.read(), 5)
                third = stubs.audit.TailEntries(audit_pb2.TailEntriesRequest())
                error = await error_of(third.read())
                for tail in tails:
                    tail.cancel()
                await asyncio.sleep(0.2)

    assert isinstance(error, RateLimitedError)


async def test_every_read_of_the_log_asks_for_the_grant(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("ci")) as stubs:
        daemon.policy.no_audit.add("socket:ci")
        daemon.reads.append(5)
        refused = [
            await error_of(stubs.audit.ListEntries(audit_pb2.ListEntriesRequest())),
            await error_of(stubs.audit.TailEntries(audit_pb2.TailEntriesRequest()).read()),
            await error_of(stubs.audit.GetCheckpoint(audit_pb2.GetCheckpointRequest())),
            await error_of(stubs.audit.ProveInclusion(audit_pb2.ProveInclusionRequest())),
            await error_of(stubs.audit.ProveConsistency(audit_pb2.ProveConsistencyRequest())),
            # Authorized before validated: nonsense is refused the same way.
            await error_of(stubs.audit.ListEntries(audit_pb2.ListEntriesRequest(page_size=-1))),
        ]

    assert {type(error) for error in refused} == {PolicyDeniedError}


async def test_proofs_and_checkpoints_come_with_the_keys_that_check_them(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        none = await error_of(stubs.audit.GetCheckpoint(audit_pb2.GetCheckpointRequest()))
        daemon.reads.append(4)
        checkpoint = await stubs.audit.GetCheckpoint(audit_pb2.GetCheckpointRequest(fresh=True))
        proof = await stubs.audit.ProveInclusion(audit_pb2.ProveInclusionRequest(index=2))
        consistent = await stubs.audit.ProveConsistency(
            audit_pb2.ProveConsistencyRequest(old_size=1)
        )
        beyond = await error_of(
            stubs.audit.ProveInclusion(audit_pb2.ProveInclusionRequest(index=4))
        )
        verdict = await stubs.audit.ShowCheckpoint(audit_pb2.ShowCheckpointRequest(note="a\n\nb"))

    assert isinstance(none, AuditUnavailableError)
    assert (checkpoint.note, checkpoint.size) == ("fresh", 4)
    assert checkpoint.verifier_keys == daemon.reads.verifier_keys
    assert (proof.entry.index, proof.tree_size, proof.checkpoint.note) == (2, 4, "kept")
    assert (consistent.old_size, consistent.new_size) == (1, 4)
    assert consistent.new_root_hash == b"\2" * 32
    assert isinstance(beyond, InvalidRequestError)
    assert verdict.verdict == "same"


async def test_whoami_needs_no_grant_and_status_shows_strangers_no_names(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("ci")) as stubs:
        full = await stubs.audit.GetStatus(audit_pb2.GetStatusRequest())
        daemon.policy.no_audit.add("socket:ci")
        me = await stubs.audit.WhoAmI(audit_pb2.WhoAmIRequest())
        short = await stubs.audit.GetStatus(audit_pb2.GetStatusRequest())

    assert (me.principal, me.method, me.server_version) == ("socket:ci", "unix", "0.1.0")
    assert me.grants == ["socket:ci may do everything"]
    assert full.problems == ["token online is LOCKED: keydctl token unlock online"]
    assert (full.keys, full.uncheckpointed, full.unbound_keys) == (2, 3, 1)
    assert short.health == full.health == "DEGRADED"
    assert "online" not in str(short)
    assert "acme" not in str(short)
    assert short.keys == 0
