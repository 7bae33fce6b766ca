"""The polkit rule that lets the daemon's user reach pcscd, read as polkit would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
RULE = SYSTEMD / "50-keyd-server.rules"
ACTIONS = {"org.debian.pcsc-lite.access_pcsc", "org.debian.pcsc-lite.access_card"}
"""What pcscd asks polkit about: to speak to it, and to open a card (pcsc-lite, src/auth.c)."""

_SHAPE = re.compile(
    r"polkit\.addRule\(function \(action, subject\) \{"
    r"if \(\((?P<actions>action\.id == \"[^\"]+\"(?: \|\| action\.id == \"[^\"]+\")*)\) && "
    r"subject\.user == \"(?P<user>[^\"]+)\"\) \{"
    r"return polkit\.Result\.(?P<result>[A-Z_]+);"
    r"\}\}\);"
)


def parse(text: str) -> tuple[set[str], str, str]:
    """The actions, the user and the result of the one rule in it.

    Raises:
        ValueError: anything else stands there.
    """
    code = " ".join(re.sub(r"//[^\n]*", "", text).split())
    code = re.sub(r"(?<=[{;}]) (?=\S)", "", code)
    found = _SHAPE.fullmatch(code)
    if found is None:
        raise ValueError(f"not one plain rule: {code}")
    return set(re.findall(r'"([^"]+)"', found["actions"])), found["user"], found["result"]


def test_the_service_user_and_nobody_else_may_list_readers_and_open_cards() -> None:
    unit = (SYSTEMD / "keyd-server.service").read_text()
    sysusers = (SYSTEMD / "keyd-server.sysusers.conf").read_text()

    actions, user, result = parse(RULE.read_text())

    assert (actions, result) == (ACTIONS, "YES")
    assert f"\nUser={user}\n" in unit
    assert re.search(rf"^u!?\s+{user}\s", sysusers, re.MULTILINE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("&&", "||"),
        ("subject.user ==", "subject.user !="),
        ("});", "}"),
        ('"keyd-server"', '"keyd-server" || true'),
    ],
)
def test_a_rule_that_says_more_or_is_broken_would_be_found(old: str, new: str) -> None:
    text = RULE.read_text()
    assert old in text

    with pytest.raises(ValueError, match="not one plain rule"):
        parse(text.replace(old, new))


def test_the_unit_lets_the_daemon_reach_pcscds_socket() -> None:
    unit = (SYSTEMD / "keyd-server.service").read_text()
    (families,) = re.findall(r"^RestrictAddressFamilies=(.*)$", unit, re.MULTILINE)

    assert "AF_UNIX" in families.split()
    assert re.search(r"^After=.*\bpcscd\.socket\b", unit, re.MULTILINE)
