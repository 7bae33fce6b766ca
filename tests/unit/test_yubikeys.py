"""Who may touch a YubiKey, and what is refused before one is reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.attestation import Trust
from keyd.client import Client, Endpoint, Tls
from keyd.errors import ConfigError, InvalidRequestError, PolicyDeniedError, TokenObjectError
from keyd.model import (
    SLOTS,
    Action,
    Caller,
    Context,
    KeyDemand,
    MadeInSlot,
    Pin,
    PluggedIn,
    Principal,
    Slot,
    SlotContent,
    SlotOrder,
    SlotStatement,
    YubiKey,
    check_secret,
)
from keyd.policy import parse_policy
from keyd.slots import InSlots
from keyd.yubikeys import YubiKeys
from tests.domain import ADMIN, STRANGER, Domain, a_domain
from tests.fakes import FakeToken

PIN, PUK = Pin("73910462"), Pin("58203971")
REMOTE = Caller(Principal("socket:admin", "mtls"), "req-remote")


class UntouchedYubiKeys:
    """model.YubiKeyDevice whose one YubiKey is looked at and nothing else."""

    def __init__(self) -> None:
        self.content: tuple[SlotContent, ...] = ()
        self.looked_around = 0
        self.factory = frozenset({"pin", "puk", "management-key"})

    async def look(self, token: str) -> YubiKey:
        return YubiKey(
            "1234567", "5.4.3", "", 3, 3, 3, 3, self.factory, "TDES", False, self.content
        )

    async def plugged_in(self) -> tuple[list[PluggedIn], str]:
        self.looked_around += 1
        return [PluggedIn("7654321", "5.7.1", "Nano", "reader", "/libykcs11.so")], "one is silent"

    async def init(self, token: str, pin: Pin, puk: Pin) -> tuple[str, ...]:
        raise AssertionError("it was reached")

    async def change_pin(self, token: str, old: Pin, new: Pin) -> None:
        raise AssertionError("it was reached")

    async def unblock(self, token: str, puk: Pin, new: Pin) -> None:
        raise AssertionError("it was reached")

    async def generate(self, token: str, order: SlotOrder) -> MadeInSlot:
        raise AssertionError("it was reached")

    async def attest(self, token: str, slot: Slot) -> SlotStatement:
        raise AssertionError("it was reached")

    async def write_certificate(self, token: str, slot: Slot, certificate: bytes) -> None:
        raise AssertionError("it was reached")


class Office:
    """The domain with a YubiKey that must not be reached."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.card = UntouchedYubiKeys()
        slots = InSlots(
            device=domain.device,
            yubikeys=self.card,
            registry=domain.audit,
            trust=Trust([]),
            clock=domain.clock,
        )
        self.yubikeys = YubiKeys(
            gate=domain.gate,
            device=domain.device,
            yubikeys=self.card,
            slots=slots,
            audit=domain.audit,
            registry=domain.audit,
            approvals=domain.approvals,
        )


@pytest.fixture
def office() -> Iterator[Office]:
    with a_domain() as domain:
        token: FakeToken = domain.token
        token.model = "YubiKey YK5"
        yield Office(domain)


async def test_a_pin_or_puk_that_came_over_tcp_is_refused_and_the_refusal_logged(
    office: Office,
) -> None:
    for call in (
        office.yubikeys.init(REMOTE, "main", PIN, PUK, factory=True),
        office.yubikeys.change_pin(REMOTE, "main", PIN, PUK),
        office.yubikeys.unblock(REMOTE, "main", PUK, PIN),
    ):
        with pytest.raises(PolicyDeniedError, match="unix sockets only"):
            await call
    assert office.domain.actions() == ["provision refused"] * 3


async def test_a_stranger_learns_nothing_of_a_token(office: Office) -> None:
    for call in (
        office.yubikeys.init(STRANGER, "main", PIN, PUK, factory=True),
        office.yubikeys.attest(STRANGER, "main", SLOTS[0]),
        office.yubikeys.write_certificate(STRANGER, "main", SLOTS[0], b""),
    ):
        with pytest.raises(PolicyDeniedError, match="denied, or no such name"):
            await call
    assert list(await office.yubikeys.list(STRANGER)) == []


async def test_a_yubikey_that_is_no_token_is_shown_to_those_who_may_see_the_token_it_would_be(
    office: Office,
) -> None:
    seen, problem = await office.yubikeys.not_configured.list(ADMIN)
    assert [(s.token, s.yubikey.serial) for s in seen] == [("yubikey-7654321", "7654321")]
    assert problem == "one is silent"

    assert await office.yubikeys.not_configured.list(STRANGER) == ((), "")
    assert office.card.looked_around == 1, "a stranger makes nobody look"


async def test_factory_secrets_are_not_tried_unless_somebody_says_so(office: Office) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await office.yubikeys.init(ADMIN, "main", PIN, PUK, factory=False)
    assert "--factory" in refused.value.hint


async def test_a_yubikey_in_use_is_not_set_up_anew(office: Office) -> None:
    office.card.factory = frozenset({"puk"})
    with pytest.raises(TokenObjectError, match="not the factory's") as refused:
        await office.yubikeys.init(ADMIN, "main", PIN, PUK, factory=True)
    assert "keydctl key adopt" in refused.value.hint
    office.card.content = (SlotContent(Slot.parse("9c"), "rsa-2048"),)
    with pytest.raises(TokenObjectError, match=r"holds keys, in 9c \(rsa-2048\)"):
        await office.yubikeys.init(ADMIN, "main", PIN, PUK, factory=True)


async def test_a_new_pin_that_is_the_old_one_is_refused_and_nothing_is_tried(
    office: Office,
) -> None:
    with pytest.raises(InvalidRequestError, match="the PIN as it is") as refused:
        await office.yubikeys.change_pin(ADMIN, "main", PIN, PIN)
    assert "with another new PIN" in refused.value.hint


async def test_a_token_that_is_no_yubikey_is_named_once_with_where_to_see_what_it_is(
    office: Office,
) -> None:
    office.domain.token.model = "SoftHSM v2"

    (looked,) = await office.yubikeys.list(ADMIN, "main")

    assert looked.problem == "main is no YubiKey: it says SoftHSM v2; keydctl token list"


async def test_a_puk_that_is_the_pin_is_refused(office: Office) -> None:
    with pytest.raises(InvalidRequestError, match="must not be the PIN"):
        await office.yubikeys.init(ADMIN, "main", PIN, PIN, factory=True)


@pytest.mark.parametrize(
    "weak",
    [
        "123456",
        "12345678",
        "111111",
        "12121212",
        "23456789",
        "87654321",
        "password",
        "short",
        "123456789",
        "",
        "73910\n46",
    ],
)
def test_a_weak_secret_is_refused_without_being_quoted(weak: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_secret("pin", Pin(weak))
    assert not weak or weak not in str(refused.value)


def test_random_digits_and_letters_are_taken() -> None:
    for good in ("739104", "58203971", "g7Kp2x"):
        check_secret("pin", Pin(good))


def test_every_slot_has_an_object_id_of_its_own_as_libykcs11_numbers_them() -> None:
    known = {"9a": 1, "9c": 2, "9d": 3, "9e": 4, "82": 5, "95": 24}
    assert {name: Slot.parse(name).object_id[0] for name in known} == known
    assert [Slot.of_object(s.object_id) for s in SLOTS] == list(SLOTS)
    assert Slot.of_object(b"\x19") is None  # F9, the attestation key
    assert Slot.parse("0x9C") == Slot.parse("9c")
    with pytest.raises(InvalidRequestError, match="no slot for keys"):
        Slot.parse("f9")


def test_a_client_sends_no_secret_over_tcp(tmp_path: Path) -> None:
    tls = Tls(tmp_path / "ca", tmp_path / "cert", tmp_path / "key")
    with Client(Endpoint("dns:localhost:1", "a test", tls), keep_checkpoints=False) as keyd:
        for call in (
            lambda: keyd.init_yubikey("main", PIN, PUK, factory=True),
            lambda: keyd.change_pin("main", PIN, PUK),
            lambda: keyd.unblock_pin("main", PUK, PIN),
        ):
            with pytest.raises(PolicyDeniedError, match="nothing was sent"):
                call()


def demands(text: str, name: str = "acme/root", context: Context | None = None) -> list[KeyDemand]:
    policy = parse_policy(text, "policy.toml")
    found = policy.demands(ADMIN.principal, Action.SIGN, name, context or Context())
    return list(found)


RULE = """
[[rule]]
name = "hardware"
keys = ["acme/*"]
actions = ["sign"]
origin = "attested"
touch = true
roles = ["root"]
"""


def test_a_rule_demands_an_attested_key_for_what_it_names() -> None:
    assert demands(RULE, context=Context("acme", "root")) == [KeyDemand("hardware", True, True)]
    assert demands(RULE) == [KeyDemand("hardware", True, True)]  # says nothing: not let off
    assert demands(RULE, context=Context("acme", "targets")) == []
    assert demands(RULE, "other/root") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('origin = "attested"', 'origin = "generated"'), "unknown origin 'generated'"),
        (('actions = ["sign"]', 'actions = ["rotate"]'), "is about signing"),
        (("touch = true\n", "approvals = 1\n"), "unknown setting 'approvals'"),
        (('origin = "attested"\ntouch = true', "touch = false"), "demands nothing"),
    ],
)
def test_a_demand_that_cannot_be_meant_stops_the_policy(change: tuple[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_policy(RULE.replace(*change), "policy.toml")
    assert said in refused.value.message
