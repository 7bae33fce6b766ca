"""policy.toml: what is refused, and where the message points."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyd.errors import ConfigError, InvalidRequestError
from keyd.model import Action, Context
from keyd.policy import FilePolicy, parse_policy, parse_principal, starter_policy

GOOD = """\
[[grant]]
name = "ci"
principals = ["dns:ci.acme.example"]
actions = ["signer"]
keys = ["acme/*"]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("actions", "actoins", 4, "unknown setting 'actoins' in [[grant]]; did you mean 'actions'"),
        ('"signer"', '"singer"', 4, "unknown action 'singer'; did you mean 'signer'"),
        ('"signer"', '"sign",\n  "lisst"', 5, "unknown action 'lisst'; did you mean 'list'"),
        ('"dns:ci.acme.example"', '"*"', 3, "needs a type in front"),
        ('"dns:ci.acme.example"', '"u*:x"', 3, "needs a type in front"),
        ('"dns:ci.acme.example"', '"system:keyd"', 3, "needs a type in front"),
        ('"dns:ci.acme.example"', '"dns:"', 3, "needs 1 to 512 characters"),
        ('"dns:ci.acme.example"', '"dns:ci\\u0000.evil"', 3, "printable ASCII"),
        ('["dns:ci.acme.example"]', "[]", 3, "needs principals as a list that is not empty"),
        ('["dns:ci.acme.example"]', '"dns:x"', 3, "needs principals as a list"),
        ('"dns:ci.acme.example"', "1", 3, "text in quotes"),
        ('keys = ["acme/*"]', "", 1, "grant 'ci' names no keys for advance, ceremony, list, sign"),
        ('["acme/*"]', '["acme/{root,targets}"]', 5, "fits no name"),
        ('["acme/*"]', '["Acme/*"]', 5, "fits no name"),
        ('["acme/*"]', '["acme/*"]\ntokens = ["*"]', 6, "none of the actions here concerns tokens"),
        ('["acme/*"]', '["acme/*"]\nremote_unlock = true', 6, "needs the action unlock"),
        ('["acme/*"]', '["acme/*"]\nkinds = ["rot"]', 6, "unknown kind 'rot'; did you mean 'root'"),
        ('["acme/*"]', '["acme/*"]\nmax_per_minute = 3', 6, "unknown setting 'max_per_minute'"),
        ('"signer"', '"list"\n]\nkinds = [ "root"', 6, "kinds restricts sign"),
        ('name = "ci"', "", 1, "every grant needs a name"),
        ('name = "ci"', 'name = "ci\\nevil"', 2, "every grant needs a name"),
        ("[[grant]]", "[grant]", 1, "[[grant]]"),
        ("[[grant]]", "[[grnat]]", 1, "unknown setting 'grnat' in policy.toml; did you mean 'gr"),
        ('["signer"]', '["signer"', 5, "not valid TOML"),
        ("acme/*", 'acme/*"]\nkeys = ["x', 6, "not valid TOML"),
        (GOOD, GOOD + "\n" + GOOD, 8, "'grant ci' exists already, in line 2"),
        (GOOD, GOOD + '[[rule]]\nname = "r"\ndeny = ["sign"]\n', 6, "rule 'r' names no keys"),
        (GOOD, GOOD + '[[rule]]\nname = "r"\nkeys = ["*"]\n', 6, "rule 'r' needs deny"),
        (GOOD, GOOD + '[[rule]]\nname = "r"\napprovals = 2\n', 6, "needs actions as a list"),
        (GOOD, GOOD + '[[rule]]\nname = "r"\ndeny = ["sign"]\napprovals = 2\n', 9, "not both"),
        (GOOD, GOOD + '[[limit]]\nname = "l"\nmax_step = 0\n', 8, "whole number from 1 to"),
        (GOOD, GOOD + '[[limit]]\nname = "l"\nmax_step = 1.5\n', 8, "whole number from 1 to"),
        (GOOD, GOOD + '[[limit]]\nname = "l"\nmax_step = true\n', 8, "whole number from 1 to"),
        (GOOD, GOOD + '[[limit]]\nname = "l"\nmax_expiry_days = nan\n', 8, "a number from 0.01"),
        (GOOD, GOOD + '[[limit]]\nname = "l"\nmax_expiry_day = 1\n', 8, "did you mean 'max_exp"),
        (GOOD, GOOD + '[[limit]]\nname = "l"\nroles = ["root"]\n', 7, "limit 'l' needs max_exp"),
        (GOOD, GOOD + '[[limit]]\nname = "l"\ndialect = "tug"\nmax_step = 1', 8, "mean 'tuf'"),
        (GOOD, GOOD + '[[limit]]\nname = "l"\npaths = ["a b"]\n', 8, "no spaces"),
        (GOOD, GOOD + '[[approver]]\nprincipal = "email:*@x"\n', 7, "has to be one person"),
        (GOOD, GOOD + '[[approver]]\nprincipal = "email:a@x"\n', 6, "needs ssh_keys as a list"),
    ],
)
def test_a_mistake_is_refused_with_its_line(old: str, new: str, line: int, says: str) -> None:
    assert GOOD.count(old) == 1

    with pytest.raises(ConfigError) as e:
        parse_policy(GOOD.replace(old, new), "policy.toml")

    assert says in e.value.message
    assert e.value.facts == {"file": "policy.toml", "line": str(line)}
    assert e.value.message.startswith(f"policy.toml:{line}: ")


def test_an_unknown_setting_is_answered_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError) as e:
        parse_policy(GOOD + "x = 1\n", "policy.toml")

    assert "principals, actions, keys" in e.value.hint


def test_the_hash_is_of_the_text() -> None:
    assert parse_policy(GOOD, "p").hash == parse_policy(GOOD, "q").hash
    assert parse_policy(GOOD, "p").hash != parse_policy(GOOD + "#", "p").hash


def test_dns_names_and_mail_domains_are_compared_in_lower_case() -> None:
    policy = parse_policy(GOOD.replace("dns:ci", "email:Bob@CI"), "p")

    assert policy.decide(
        parse_principal("email:Bob@ci.acme.example"), Action.SIGN, "acme/root"
    ).allowed


def test_the_starter_makes_the_caller_admin_and_signer() -> None:
    policy = parse_policy(starter_policy("socket:system"), "policy.toml")
    caller = parse_principal("socket:system")

    assert policy.decide(caller, Action.CREATE, "acme/root").allowed
    assert policy.decide(caller, Action.SIGN, "acme/root").allowed
    assert policy.decide(caller, Action.UNLOCK, "online").allowed
    assert policy.grants_of(parse_principal("socket:other")) == []


def test_the_examples_in_the_starter_parse_when_their_comment_sign_is_taken_away() -> None:
    caller = parse_principal("socket:system")
    text = starter_policy("socket:system")
    lines = [
        line.removeprefix("# ")
        if line.startswith(
            (
                "# [[",
                "# name",
                "# prin",
                "# act",
                "# keys =",
                "# tok",
                "# kinds",
                "# repo",
                "# deny",
                "# approv",
                "# expires_h",
                "# max",
            )
        )
        else line
        for line in text.splitlines()
        if not line.startswith(("# principals:", "# actions:"))
    ]

    policy = parse_policy("\n".join(lines), "policy.toml")

    assert [g.name for g in policy.grants] == [
        "admins",
        "signers",
        "release-ci",
        "approvers",
        "auditors",
    ]
    assert [r.name for r in policy.rules] == ["keep-root"]
    demanded = policy.requirements(caller, Action.SIGN, "acme/root", Context("acme", "root"))
    assert [(r.rule, r.needed, r.expires_s) for r in demanded] == [("two-for-root", 1, 86_400)]
    assert policy.limits("acme", "timestamp", "tuf").max_expiry_days == 7


def test_a_starter_is_not_written_for_an_untyped_caller() -> None:
    with pytest.raises(InvalidRequestError):
        starter_policy('x"]\nactions = ["admin')


def test_a_reload_that_does_not_parse_keeps_the_policy_in_force(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(GOOD)
    policy = FilePolicy(file)
    caller = parse_principal("dns:ci.acme.example")
    before = policy.hash

    file.write_text(GOOD.replace("signer", "singer"))
    with pytest.raises(ConfigError) as e:
        policy.reload()

    assert e.value.facts["line"] == "4"
    assert policy.hash == before
    assert policy.decide(caller, Action.SIGN, "acme/root").allowed


def test_a_reload_takes_effect_at_once(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(GOOD)
    policy = FilePolicy(file)
    caller = parse_principal("dns:ci.acme.example")
    assert policy.decide(caller, Action.SIGN, "acme/root").allowed

    file.write_text("")

    assert policy.reload()
    assert not policy.decide(caller, Action.SIGN, "acme/root").allowed
    assert not policy.reload()


def test_a_policy_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        FilePolicy(tmp_path / "policy.toml")
    (tmp_path / "policy.toml").write_bytes(b"# ok\n# \xff\n")
    with pytest.raises(ConfigError, match=r"policy\.toml:2: not UTF-8"):
        FilePolicy(tmp_path / "policy.toml")
