"""policy.toml -> GrantPolicy; every complaint names file, line and the nearest valid name."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping

from keyd import toml_source
from keyd.errors import ConfigError, InvalidRequestError
from keyd.model import Action
from keyd.policy.consents import DEFAULT_EXPIRES_S, WITHOUT_CONSENT, ConsentRule
from keyd.policy.demands import DEMANDING, DemandRule
from keyd.policy.limits import Limit
from keyd.policy.patterns import is_glob, matches_any
from keyd.policy.principals import check_principal
from keyd.policy.rules import CONTENT_ACTIONS, KINDS, Grant, GrantPolicy, Rule
from keyd.policy.table import Table, check_settings, one_of, printable
from keyd.toml_source import Source

MAX_POLICY_BYTES = 16 * 1024 * 1024
"""Larger policies are refused unread: some 100 000 grants."""

_GRANT_SETTINGS = (
    "name",
    "principals",
    "actions",
    "keys",
    "tokens",
    "kinds",
    "repositories",
    "roles",
    "remote_unlock",
)
_DENY_SETTINGS = ("name", "deny", "principals", "keys", "tokens")
_CONSENT_SETTINGS = (
    "name",
    "actions",
    "approvals",
    "principals",
    "keys",
    "tokens",
    "approvers",
    "own",
    "signed",
    "expires_h",
    "repositories",
    "roles",
)
_DEMAND_SETTINGS = (
    "name",
    "actions",
    "principals",
    "keys",
    "origin",
    "touch",
    "repositories",
    "roles",
)
_LIMIT_SETTINGS = (
    "name",
    "repositories",
    "roles",
    "dialect",
    "max_expiry_days",
    "max_step",
    "paths",
)
_SSH_KEY_TYPES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)
_NO_CONSENT = dict.fromkeys(WITHOUT_CONSENT, "nobody has to consent to that")


def parse_policy(text: str, file: str) -> GrantPolicy:
    """Parse a policy. ``file``: its name in errors.

    Raises:
        ConfigError: facts ``file`` and ``line``; nothing of a wrong policy is ever in force.
    """
    if len(text) > MAX_POLICY_BYTES:
        raise ConfigError(f"{file}: larger than {MAX_POLICY_BYTES} bytes", file=file)
    source = toml_source.parse(text, file)
    kinds = ("grant", "rule", "limit", "approver")
    check_settings(source, (), source.data, kinds, "policy.toml")
    names: dict[str, int | None] = {}
    grants = tuple(_grant(table) for table in _tables(source, "grant", names))
    approvers = dict(_approver(table) for table in _tables(source, "approver", names))
    rules = [_rule(table, approvers) for table in _tables(source, "rule", names)]
    limits = [_limit(table) for table in _tables(source, "limit", names)]
    return GrantPolicy(
        grants,
        tuple(r for r in rules if isinstance(r, Rule)),
        hashlib.sha256(text.encode()).hexdigest(),
        consents=[r for r in rules if isinstance(r, ConsentRule)],
        demands=[r for r in rules if isinstance(r, DemandRule)],
        limits=limits,
        approvers=approvers,
    )


def _tables(source: Source, what: str, names: dict[str, int | None]) -> Iterator[Table]:
    tables = source.data.get(what, [])
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise source.error((what,), f"write each {what} under a line of its own: [[{what}]]")
    for position, table in enumerate(tables):
        yield Table(source, what, position, table, names)


def _grant(table: Table) -> Grant:
    """Every grant needs a name, principals, actions and something to act on."""
    table.allow(_GRANT_SETTINGS)
    name = table.name()
    actions = table.actions("actions")
    remote_unlock = table.flag("remote_unlock")
    if remote_unlock and Action.UNLOCK not in actions:
        raise table.error("remote_unlock", "remote_unlock needs the action unlock")
    principals = table.list("principals", check_principal)
    keys, tokens = table.names_of(actions)
    grant = Grant(
        name=name,
        principals=principals,
        actions=actions,
        keys=keys,
        tokens=tokens,
        kinds=table.list("kinds", one_of(KINDS, "kind"), required=False),
        repositories=table.list("repositories", printable, required=False),
        roles=table.list("roles", printable, required=False),
        remote_unlock=remote_unlock,
    )
    for setting, restricted in (
        ("kinds", frozenset({Action.SIGN})),
        ("repositories", CONTENT_ACTIONS),
        ("roles", CONTENT_ACTIONS),
    ):
        if setting in table and not actions & restricted:
            raise table.error(
                setting,
                f"{setting} restricts {' and '.join(sorted(restricted, reverse=True))}, which "
                f"{name!r} does not allow",
            )
    return grant


def _rule(
    table: Table, approvers: Mapping[str, tuple[str, ...]]
) -> Rule | ConsentRule | DemandRule:
    """A rule either denies, or demands consent, or demands something of the key."""
    if "origin" in table or "touch" in table:
        return _demand_rule(table)
    demands = [s for s in ("actions", "approvals") if s in table]
    if "deny" in table and demands:
        raise table.error(demands[0], "a rule has deny, or actions and approvals, not both")
    if demands:
        return _consent_rule(table, approvers)
    table.allow((*_DENY_SETTINGS, *(_CONSENT_SETTINGS if "deny" not in table else ())))
    name = table.name()
    if "deny" not in table:
        raise table.error(
            "deny", f"rule {name!r} needs deny = [...], or actions = [...] with approvals = N"
        )
    deny = table.actions("deny")
    principals = table.list("principals", check_principal, required=False)
    keys, tokens = table.names_of(deny)
    return Rule(name, deny, principals, keys, tokens)


def _demand_rule(table: Table) -> DemandRule:
    table.allow(_DEMAND_SETTINGS)
    name = table.name()
    others = {
        a: "a rule with origin or touch is about signing" for a in Action if a not in DEMANDING
    }
    actions = table.actions("actions", others)
    touch = table.flag("touch")
    if "origin" in table:
        table.text("origin", one_of(("attested",), "origin"))
    elif not touch:
        raise table.error("touch", f'rule {name!r} demands nothing: origin = "attested", touch')
    return DemandRule(
        name=name,
        actions=actions,
        keys=table.names_of(actions)[0],
        # Nothing but an attestation tells whether a key wants a touch.
        attested=True,
        touch=touch,
        principals=table.list("principals", check_principal, required=False),
        repositories=table.list("repositories", printable, required=False),
        roles=table.list("roles", printable, required=False),
    )


def _consent_rule(table: Table, approver_keys: Mapping[str, tuple[str, ...]]) -> ConsentRule:
    table.allow(_CONSENT_SETTINGS)
    name = table.name()
    actions = table.actions("actions", _NO_CONSENT)
    if Action.FREEZE not in table.list("actions", str):
        # Whoever stops signing in an emergency waits for nobody, unless the rule names just that.
        actions -= {Action.FREEZE}
    needed = int(table.number("approvals", 1, 100, whole=True))
    approvers = table.list("approvers", check_principal, required=False)
    signed = table.flag("signed")
    keys, tokens = table.names_of(actions)
    if approvers and not any(map(is_glob, approvers)) and len(approvers) < needed:
        raise table.error(
            "approvers", f"rule {name!r} wants {needed} people and names {len(approvers)}"
        )
    able = [who for who in approver_keys if not approvers or matches_any(approvers, who)]
    if signed and len(able) < needed:
        raise table.error(
            "signed",
            f"rule {name!r} wants {needed} signed consents; {len(able)} of its approvers have "
            "ssh_keys in an [[approver]]",
        )
    return ConsentRule(
        name=name,
        actions=actions,
        approvals=needed,
        principals=table.list("principals", check_principal, required=False),
        keys=keys,
        tokens=tokens,
        approvers=approvers,
        own=table.flag("own"),
        signed=signed,
        expires_s=round(table.number("expires_h", 0.01, 8_784) * 3600)
        if "expires_h" in table
        else DEFAULT_EXPIRES_S,
        repositories=table.list("repositories", printable, required=False),
        roles=table.list("roles", printable, required=False),
    )


def _limit(table: Table) -> Limit:
    table.allow(_LIMIT_SETTINGS)
    name = table.name()
    if not any(s in table for s in ("max_expiry_days", "max_step", "paths")):
        raise table.error("name", f"limit {name!r} needs max_expiry_days, max_step or paths")
    return Limit(
        name=name,
        repositories=table.list("repositories", printable, required=False) or ("*",),
        roles=table.list("roles", printable, required=False) or ("*",),
        dialect=table.text("dialect", one_of(("tuf", "notary"), "dialect"))
        if "dialect" in table
        else "",
        max_expiry_days=table.number("max_expiry_days", 0.01, 36_600)
        if "max_expiry_days" in table
        else None,
        max_step=int(table.number("max_step", 1, 1_000_000_000, whole=True))
        if "max_step" in table
        else None,
        paths=table.list("paths", printable, required=False),
    )


def _approver(table: Table) -> tuple[str, tuple[str, ...]]:
    table.allow(("principal", "ssh_keys"))
    principal = table.text("principal", _person)
    table.claim("principal", f"approver {principal}")
    return principal, table.list("ssh_keys", _ssh_key)


def _person(text: str) -> str:
    principal = check_principal(text)
    if is_glob(principal):
        raise InvalidRequestError("principal", f"{text[:80]!r} has to be one person, no pattern")
    return principal


def _ssh_key(line: str) -> str:
    """A line of OpenSSH: type, base64, comment; no options, no certificate."""
    kind, _, rest = line.partition(" ")
    blob = rest.split(" ", 1)[0]
    try:
        raw = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    spoken = len(kind).to_bytes(4, "big") + kind.encode(errors="replace")
    if (
        kind not in _SSH_KEY_TYPES
        or not raw.startswith(spoken)
        or len(raw) <= len(spoken)
        or len(line) > 8_192
        or not line.isprintable()
    ):
        raise InvalidRequestError(
            "ssh_keys",
            f"{line[:40]!r} is no public key as in id_ed25519.pub: TYPE BASE64 [COMMENT], with "
            f"TYPE one of {', '.join(_SSH_KEY_TYPES)}",
        )
    return line
