"""NotarySigner over fakes: whose key, when a new one, and what a publisher is told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from keyd.errors import (
    ApprovalNeededError,
    DeviceGoneError,
    InvalidRequestError,
    KeyStateError,
    PolicyDeniedError,
    RuleRefusedError,
)
from keyd.gunnames import MADE_FOR
from keyd.keyfields import NewKey
from keyd.model import (
    Binding,
    Caller,
    KeyAlgorithm,
    Outcome,
    Principal,
    TokenState,
)
from keyd.notaryplaces import Place, Places
from keyd.notarysigner import NotarySigner
from keyd.policy import parse_policy
from tests.domain import ADMIN, STRANGER, Domain, a_domain

SERVER = Caller(Principal("dns:notary-server", "mtls"), "req-notary")
GUN = "docker.io/acme/app"
P256 = KeyAlgorithm.ECDSA_P256

POLICY = """
[[grant]]
name = "admins"
principals = ["socket:admin"]
actions = ["admin", "signer", "auditor"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "notary-server"
principals = ["dns:notary-server"]
actions = ["create", "sign", "list"]
keys = ["notary/docker.io/*"]
"""


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain(parse_policy(POLICY, "policy.toml")) as made:
        yield made


@pytest.fixture
def signer(domain: Domain) -> NotarySigner:
    async def has_signed(name: str) -> bool:
        return any(
            d.key == name and d.action == "sign" and d.outcome is Outcome.ALLOWED
            for d in domain.audit.drafts
        )

    return NotarySigner(
        gate=domain.gate,
        registry=domain.audit,
        marks=domain.audit,
        keys=domain.keys,
        signing=domain.signing,
        places=Places([Place(("*",), "main", keys_at_once=50)], elapsed_s=lambda: 0.0),
        has_signed=has_signed,
    )


def snapshot(domain: Domain, version: int, *roles: str, word: str = "") -> bytes:
    """A Snapshot that speaks of root, targets and other roles."""
    digest = hashlib.sha256(word.encode()).digest()

    meta = {"hashes": {"sha256": base64.b64encode(digest).decode()}, "length": 10}
    content = {
        "_type": "Snapshot",
        "expires": (domain.clock.now() + timedelta(days=10)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "meta": dict.fromkeys(("root", "targets", *roles), meta),
        "version": version,
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


async def keyid(signer: NotarySigner, role: str = "snapshot", gun: str = GUN) -> str:
    """Of a key that has signed nothing."""
    return (await signer.create(SERVER, gun, role, P256)).version.keyids["notary"]


async def test_two_who_ask_at_once_get_one_key(domain: Domain, signer: NotarySigner) -> None:
    made = await asyncio.gather(*(signer.create(SERVER, GUN, "timestamp", P256) for _ in range(8)))

    assert {m.key.name for m in made} == {f"notary/{GUN}/timestamp"}
    assert len(domain.token.keys) == 1
    assert signer._making == {}


async def test_a_key_is_bound_and_labelled_and_the_log_names_the_server(
    domain: Domain, signer: NotarySigner
) -> None:
    made = await signer.create(SERVER, GUN, "timestamp", P256)

    assert made.key.bindings == {Binding(GUN, "timestamp")}
    assert made.key.labels == {"gun": GUN, "role": "timestamp", "made-for": "notary-server"}
    assert made.key.created_by == "dns:notary-server"
    assert domain.actions() == ["create allowed", "create allowed"]


async def test_a_caller_that_leaves_finds_its_key_finished(
    domain: Domain, signer: NotarySigner
) -> None:
    asked = asyncio.create_task(signer.create(SERVER, GUN, "timestamp", P256))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked

    again = await signer.create(SERVER, GUN, "timestamp", P256)

    assert again.key.name == f"notary/{GUN}/timestamp"
    assert len(domain.token.keys) == 1
    await signer.drain()


async def test_a_key_of_a_person_is_never_handed_to_the_server(
    domain: Domain, signer: NotarySigner
) -> None:
    name = f"notary/{GUN}/snapshot"
    await domain.keys.create(
        ADMIN, NewKey(name, "main", P256, bindings=frozenset({Binding(GUN, "snapshot")}))
    )

    made = await signer.create(SERVER, GUN, "snapshot", P256)

    assert made.key.name == f"{name}.2"
    assert made.key.labels[MADE_FOR] == "notary-server"


async def test_a_stopped_or_frozen_key_is_not_handed_out(
    domain: Domain, signer: NotarySigner
) -> None:
    first = await signer.create(SERVER, GUN, "timestamp", P256)
    await domain.keys.schedule_destroy(ADMIN, first.key.name, 1)
    second = await signer.create(SERVER, GUN, "timestamp", P256)
    await domain.keys.freeze(ADMIN, second.key.name, said="looking")

    third = await signer.create(SERVER, GUN, "timestamp", P256)

    assert [m.key.name.rpartition("/")[2] for m in (first, second, third)] == [
        "timestamp",
        "timestamp.2",
        "timestamp.3",
    ]


async def test_a_reset_does_not_make_a_used_key_look_new(
    domain: Domain, signer: NotarySigner
) -> None:
    used = await keyid(signer)
    await signer.sign(SERVER, used, snapshot(domain, 5))
    mark = domain.audit.find_mark(GUN, "snapshot")
    assert mark is not None
    await domain.roles.reset(ADMIN, GUN, "snapshot", mark.newest.digest, said="restored")

    assert await keyid(signer) != used


async def test_keys_are_made_only_where_the_policy_lets_the_caller(
    domain: Domain, signer: NotarySigner
) -> None:
    for caller, gun in ((STRANGER, GUN), (SERVER, "registry.example.org/acme")):
        with pytest.raises(PolicyDeniedError):
            await signer.create(caller, gun, "timestamp", P256)
    with pytest.raises(InvalidRequestError, match="makes keys for snapshot and timestamp"):
        await signer.create(SERVER, GUN, "targets", P256)

    assert domain.token.keys == {}
    assert "create refused" in domain.actions()


async def test_unknown_and_forbidden_keys_look_the_same(signer: NotarySigner) -> None:
    known, unknown = await keyid(signer), "0" * 64
    told = []
    for asked in (known, unknown):
        with pytest.raises(PolicyDeniedError) as e:
            await signer.get(STRANGER, asked)
        with pytest.raises(PolicyDeniedError) as f:
            await signer.sign(STRANGER, asked, b"{}")
        told.append((e.value.message + f.value.message).replace(asked, "ID"))

    assert told[0] == told[1]


async def test_keys_of_people_are_not_served_to_a_notary_server(
    domain: Domain, signer: NotarySigner
) -> None:
    root = NewKey(f"notary/{GUN}/root", "main", P256, bindings=frozenset({Binding(GUN, "root")}))
    key = await domain.keys.create(ADMIN, root)
    assert key.active is not None

    with pytest.raises(PolicyDeniedError):
        await signer.get(ADMIN, key.active.keyids["notary"])


async def test_deletion_is_refused_and_logged(domain: Domain, signer: NotarySigner) -> None:
    error = await signer.refuse_deletion(SERVER, await keyid(signer))

    assert isinstance(error, KeyStateError)
    assert domain.actions()[-1] == "destroy refused"
    assert len(domain.token.keys) == 1


async def test_a_publisher_that_fell_behind_is_told_to_publish_again(
    domain: Domain, signer: NotarySigner
) -> None:
    used = await keyid(signer)
    await signer.sign(SERVER, used, snapshot(domain, 5))

    with pytest.raises(RuleRefusedError) as e:
        await signer.sign(SERVER, used, snapshot(domain, 4))

    assert "publish again" in e.value.hint
    assert f"keydctl role reset {GUN} snapshot" in e.value.hint
    assert e.value.facts["rule"] == "version-lower"


async def test_publishers_at_once_may_each_lack_what_the_other_adds(
    domain: Domain, signer: NotarySigner
) -> None:
    used = await keyid(signer)
    await signer.sign(SERVER, used, snapshot(domain, 1))
    _, first = await signer.sign(SERVER, used, snapshot(domain, 2, "targets/a"))
    _, second = await signer.sign(SERVER, used, snapshot(domain, 2, "targets/b"))
    # Which of the two was stored, nobody says.
    _, third = await signer.sign(SERVER, used, snapshot(domain, 3, "targets/a", "targets/c"))

    assert [s.reissued for _, s in ((0, first), (0, second), (0, third))] == [False, True, False]


async def test_a_snapshot_that_loses_a_role_for_no_such_reason_needs_people(
    domain: Domain, signer: NotarySigner
) -> None:
    used = await keyid(signer)
    await signer.sign(SERVER, used, snapshot(domain, 2, "targets/a"))

    with pytest.raises(ApprovalNeededError):
        await signer.sign(SERVER, used, snapshot(domain, 3))


async def test_a_token_that_is_gone_costs_no_allowance_and_leaves_no_name(
    domain: Domain, signer: NotarySigner
) -> None:
    domain.token.state = TokenState.ABSENT
    for _ in range(60):
        with pytest.raises(DeviceGoneError):
            await signer.create(SERVER, GUN, "timestamp", P256)
    domain.token.state = TokenState.READY

    made = await signer.create(SERVER, GUN, "timestamp", P256)

    assert made.key.name == f"notary/{GUN}/timestamp"
