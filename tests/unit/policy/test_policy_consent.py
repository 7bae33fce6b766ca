"""Rules that demand consent, limits of content, and keys with which consent is signed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from keyd.errors import ConfigError
from keyd.model import SYSTEM, Action, Context, Principal
from keyd.policy import FilePolicy, GrantPolicy, parse_policy, parse_principal

ALICE = Principal("email:alice@acme.example", "mtls")
BOB = Principal("email:bob@acme.example", "mtls")
CI = Principal("uri:spiffe://acme/ci", "mtls")
SSH_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJwNPF4mhYy3tSsTz3nVpGpYqXmkFhGzUyZpY1nO0RbW alice's card"
)

POLICY = f"""\
[[grant]]
name = "all"
principals = ["email:*"]
actions = ["signer", "approver", "admin"]
keys = ["*"]
tokens = ["*"]

[[approver]]
principal = "email:alice@ACME.example"
ssh_keys = ["{SSH_KEY}"]

[[rule]]
name = "two-for-root"
keys = ["acme/root", "acme/root-?"]
actions = ["sign", "role", "destroy"]
approvals = 2
approvers = ["email:*@acme.example"]
signed = false
expires_h = 1.5
repositories = ["acme"]

[[rule]]
name = "new-runner"
keys = ["acme/*"]
actions = ["signer"]
principals = ["uri:*"]
approvals = 1
roles = ["targets", "team/*"]

[[rule]]
name = "unlock"
tokens = ["root"]
actions = ["unlock"]
approvals = 1
own = true

[[limit]]
name = "short"
repositories = ["acme"]
roles = ["timestamp", "snapshot"]
max_expiry_days = 7

[[limit]]
name = "notary"
dialect = "notary"
max_step = 5

[[limit]]
name = "late"
repositories = ["acm?"]
max_expiry_days = 90
max_step = 10

[[limit]]
name = "team"
repositories = ["acme"]
roles = ["team"]
paths = ["team/*", "shared/*.json"]
"""


NOTHING_SAID = Context()


def demanded(
    policy: GrantPolicy,
    who: Principal,
    action: Action,
    name: str,
    context: Context = NOTHING_SAID,
) -> list[str]:
    return [r.rule for r in policy.requirements(who, action, name, context)]


@pytest.mark.parametrize(
    ("what", "who", "action", "name", "context", "rules"),
    [
        ("the rule's key", ALICE, Action.SIGN, "acme/root", ("acme", "root"), ["two-for-root"]),
        ("a key by glob", ALICE, Action.SIGN, "acme/root-2", ("acme", "root"), ["two-for-root"]),
        ("another key", ALICE, Action.SIGN, "acme/targets", ("acme", "targets"), []),
        ("another action", ALICE, Action.ROTATE, "acme/root", ("acme", "root"), []),
        ("another repository", ALICE, Action.SIGN, "acme/root", ("other", "root"), []),
        ("who says nothing is not let off", ALICE, Action.SIGN, "acme/root", (), ["two-for-root"]),
        ("destroy names no repository", BOB, Action.DESTROY, "acme/root", (), ["two-for-root"]),
        ("a rule for others", ALICE, Action.SIGN, "acme/targets", ("acme", "targets"), []),
        ("a rule for machines", CI, Action.SIGN, "acme/targets", ("x", "targets"), ["new-runner"]),
        ("its delegated roles", CI, Action.SIGN, "acme/x", ("x", "team/a"), ["new-runner"]),
        ("its other roles", CI, Action.SIGN, "acme/x", ("x", "snapshot"), []),
        (
            "all that fit, in the order of the file",
            CI,
            Action.SIGN,
            "acme/root",
            (),
            ["two-for-root", "new-runner"],
        ),
        ("tokens by their names", ALICE, Action.UNLOCK, "root", (), ["unlock"]),
        ("not keys of the same name", ALICE, Action.DESTROY, "root", (), []),
        ("reading waits for nobody", CI, Action.LIST, "acme/targets", (), []),
        ("evidence waits for nobody", CI, Action.ADVANCE, "acme/targets", (), []),
        ("an endless name", ALICE, Action.SIGN, "acme/root" + "x" * 1_000_000, (), []),
    ],
)
def test_rules_demand_consent(
    what: str,
    who: Principal,
    action: Action,
    name: str,
    context: tuple[str, ...],
    rules: list[str],
) -> None:
    policy = parse_policy(POLICY, "policy.toml")

    assert demanded(policy, who, action, name, Context(*context)) == rules, what


def test_a_requirement_says_all_that_its_rule_says() -> None:
    policy = parse_policy(POLICY, "policy.toml")

    (root,) = policy.requirements(ALICE, Action.ROLE, "acme/root", Context())
    (unlock,) = policy.requirements(ALICE, Action.UNLOCK, "root", Context())

    assert (root.needed, root.of, root.own, root.signed, root.expires_s) == (
        2,
        ("email:*@acme.example",),
        False,
        False,
        5_400,
    )
    assert (unlock.needed, unlock.of, unlock.own, unlock.expires_s) == (1, (), True, 86_400)


def test_a_rule_that_demands_consent_allows_nothing() -> None:
    text = POLICY.split("[[rule]]", 1)
    policy = parse_policy("[[rule]]" + text[1], "policy.toml")

    assert not policy.decide(ALICE, Action.SIGN, "acme/root").allowed
    assert demanded(policy, ALICE, Action.SIGN, "acme/root") == ["two-for-root"]


def test_all_keys_at_once_are_covered_by_a_star_only() -> None:
    rule = '[[rule]]\nname = "r"\nactions = ["freeze", "role"]\napprovals = 1\nkeys = ["{}"]\n'

    assert demanded(parse_policy(rule.format("*"), "p"), ALICE, Action.ROLE, "") == ["r"]
    assert demanded(parse_policy(rule.format("acme/*"), "p"), ALICE, Action.ROLE, "") == []


@pytest.mark.parametrize(
    ("who", "counts"),
    [
        (ALICE, True),
        (Principal("email:mallory@evil.example", "mtls"), False),
        (Principal("email:alice@acme.example.evil.example", "mtls"), False),
        (Principal("email:alice@acme.example", "unix", is_group=True), False),
        (SYSTEM, False),
    ],
)
def test_consent_counts_of_the_people_a_rule_names(who: Principal, counts: bool) -> None:
    policy = parse_policy(POLICY, "policy.toml")
    (requirement,) = policy.requirements(ALICE, Action.SIGN, "acme/root", Context())

    assert policy.counts_for(requirement, who) is counts


def test_a_socket_of_a_group_is_nobody_even_where_everybody_counts() -> None:
    policy = parse_policy(POLICY, "policy.toml")
    (anybody,) = policy.requirements(ALICE, Action.UNLOCK, "root", Context())

    assert policy.counts_for(anybody, Principal("socket:alice", "unix"))
    assert not policy.counts_for(anybody, Principal("socket:team", "unix", is_group=True))
    assert not policy.counts_for(anybody, SYSTEM)


@pytest.mark.parametrize(
    ("role", "dialect", "days", "step", "rule"),
    [
        (("acme", "timestamp"), "tuf", 7, 10, "short, late"),
        (("acme", "timestamp"), "notary", 7, 5, "short, notary"),
        (("acme", "root"), "tuf", 90, 10, "late"),
        (("acme", "root"), "notary", 90, 5, "late, notary"),
        (("other", "root"), "tuf", 3660, 100, ""),
        (("other", "targets"), "tuf", 1100, 100, ""),
        (("other", "team/a"), "tuf", 1100, 100, ""),
        (("other", "snapshot"), "tuf", 400, 100, ""),
        (("other", "timestamp"), "tuf", 100, 100, ""),
        (("other", "timestamp"), "", 100, 100, ""),
        (("other", "root"), "notary", 3660, 5, "notary"),
        (("other", "snapshot"), "notary", 1100, 5, "notary"),
        (("other", "targets/releases"), "notary", 1100, 5, "notary"),
        (("other", "timestamp"), "notary", 15, 5, "notary"),
    ],
)
def test_the_first_fitting_limit_decides_each_setting(
    role: tuple[str, str], dialect: str, days: float, step: int, rule: str
) -> None:
    limits = parse_policy(POLICY, "policy.toml").limits(*role, dialect)

    assert (limits.max_expiry_days, limits.max_step, limits.rule) == (days, step, rule)


def test_paths_limit_the_role_they_are_written_for() -> None:
    policy = parse_policy(POLICY, "policy.toml")

    assert policy.limits("acme", "team", "tuf").paths == ("team/*", "shared/*.json")
    assert policy.limits("acme", "targets", "tuf").paths == ()


def test_consent_is_signed_with_the_keys_of_that_person() -> None:
    policy = parse_policy(POLICY, "policy.toml")

    assert policy.approver_keys("email:alice@acme.example") == (SSH_KEY,)
    assert policy.approver_keys("email:bob@acme.example") == ()


RULE = """\
[[approver]]
principal = "email:alice@acme.example"
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJwNPF4mhYy3tSsTz3nVpGpYqXmkFhGzUyZpY1nO0RbW"]

[[rule]]
name = "r"
keys = ["acme/root"]
actions = ["sign"]
approvals = 1
approvers = ["email:alice@acme.example", "email:bob@acme.example"]
"""


RULE_TWICE = '[[approver]]\nprincipal = "email:alice@ACME.example"\n\n[[rule]]'


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("approvals = 1", "approvals = 0", 9, "approvals is a whole number from 1 to 100"),
        ("approvals = 1", "approvals = true", 9, "approvals is a whole number from 1 to 100"),
        ("approvals = 1", 'approvals = "1"', 9, "approvals is a whole number from 1 to 100"),
        ("approvals = 1", "approvals = 101", 9, "approvals is a whole number from 1 to 100"),
        ("approvals = 1", "approvals = 3", 10, "wants 3 people and names 2"),
        ("approvals = 1", "", 5, "approvals is a whole number"),
        ("approvals = 1", "approval = 1", 9, "did you mean 'approvals'"),
        ("approvals = 1", "approvals = 2\nsigned = true", 10, "1 of its approvers have ssh_keys"),
        ("approvals = 1", "approvals = 1\nsigned = 1", 10, "signed is true or false"),
        ("approvals = 1", "approvals = 1\nexpires_h = 0", 10, "expires_h is a number from 0.01"),
        ("approvals = 1", "approvals = 1\nexpires_h = inf", 10, "expires_h is a number from 0.01"),
        ("approvals = 1", 'approvals = 1\ndeny = ["sign"]', 8, "not both"),
        ('["sign"]', '["advance"]', 8, "advance: nobody has to consent to that"),
        ('["sign"]', '["sign", "approve"]', 8, "approve: nobody has to consent to that"),
        ('["sign"]', '["auditor"]', 8, "nothing of auditor can be named here"),
        ('["sign"]', '["sing"]', 8, "did you mean 'sign'"),
        ('["sign"]', '["unlock"]', 7, "none of the actions here concerns keys"),
        ('"email:bob@acme.example"', '"bob"', 10, "needs a type in front"),
        ("ssh-ed25519 AAAA", "ssh-ed25519 BBBB", 3, "is no public key"),
        ("ssh-ed25519 AAAA", "ssh-dss AAAA", 3, "is no public key"),
        ("ssh-ed25519 AAAA", "command=x ssh-ed25519 AAAA", 3, "is no public key"),
        ("ZpY1nO0RbW", "ZpY1nO0RbW\\nmallory ssh-ed25519 AAAA", 3, "is no public key"),
        ("[[rule]]", RULE_TWICE, 6, "exists already, in line 2"),
    ],
)
def test_a_mistake_in_a_consent_rule_is_refused_with_its_line(
    old: str, new: str, line: int, says: str
) -> None:
    assert RULE.count(old) == 1
    parse_policy(RULE, "policy.toml")

    with pytest.raises(ConfigError) as e:
        parse_policy(RULE.replace(old, new), "policy.toml")

    assert says in e.value.message
    assert e.value.facts == {"file": "policy.toml", "line": str(line)}


def test_a_key_without_rules_costs_one_lookup_among_ten_thousand_rules() -> None:
    text = "\n".join(
        f'[[rule]]\nname = "r{i}"\nactions = ["sign"]\napprovals = 1\nkeys = ["acme/k{i}"]'
        for i in range(10_000)
    )
    policy = parse_policy(text, "policy.toml")
    started = time.perf_counter()

    for _ in range(10_000):
        assert policy.requirements(CI, Action.SIGN, "other/key", Context("a", "root")) == ()

    assert time.perf_counter() - started < 1  # some 10 ms


def test_a_policy_file_answers_by_what_is_in_force(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    policy = FilePolicy(file)
    (demand,) = policy.requirements(ALICE, Action.SIGN, "acme/root", Context())
    assert policy.counts_for(demand, BOB)
    assert policy.limits("acme", "root", "tuf").max_expiry_days == 90
    assert policy.approver_keys(ALICE.id)

    file.write_text("")

    assert policy.reload()
    assert policy.requirements(ALICE, Action.SIGN, "acme/root", Context()) == ()
    assert policy.limits("acme", "root", "tuf").max_expiry_days == 3660
    assert policy.approver_keys(ALICE.id) == ()


def test_without_a_word_about_it_nothing_waits_for_anybody() -> None:
    policy = parse_policy("", "policy.toml")

    for action in Action:
        assert policy.requirements(parse_principal("dns:a"), action, "k", Context()) == ()
