"""Published collections of Notary become marks by Notary's rules: the certificate names the GUN."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyd.errors import RuleRefusedError
from keyd.rules.evidence import Evidence, RoleFile, verify_import
from tests.unit.content import notary_made as made

GUN = "registry.example/app"
NOW = datetime(2027, 1, 1, tzinfo=UTC)
ROOT, NEW_ROOT, ONLINE = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))

KeyObject = tuple[str, dict[str, Any]]


def a_file(signed: dict[str, Any], *signers: tuple[ec.EllipticCurvePrivateKey, KeyObject]) -> bytes:
    """The file as notary-server serves it."""
    signatures = [made.signature(private, signed, key[0]) for private, key in signers]
    return json.dumps({"signed": signed, "signatures": signatures}).encode()


def a_root(gun: str = GUN) -> tuple[KeyObject, bytes]:
    key = made.certificate_key(ROOT, gun)
    return key, a_file(made.root(key, made.bare_key(ONLINE)), (ROOT, key))


def imported(root: bytes, *files: RoleFile) -> Evidence:
    return verify_import(GUN, root, files, {}, NOW)


@pytest.mark.parametrize("name", [GUN, "registry.example/*"])
def test_a_collection_is_imported_when_the_certificate_names_its_gun(name: str) -> None:
    _, root = a_root(name)
    targets = a_file(made.targets(version=4), (ONLINE, made.bare_key(ONLINE)))

    evidence = imported(root, RoleFile("targets", targets))

    marks = {c.mark.role: c.mark for c in evidence.changes}
    assert (marks["root"].newest.version, marks["targets"].newest.version) == (1, 4)
    assert {mark.newest.dialect for mark in marks.values()} == {"notary"}


def test_the_root_of_another_collection_is_refused() -> None:
    _, root = a_root("registry.example/other")

    with pytest.raises(RuleRefusedError) as error:
        imported(root)

    assert error.value.facts["rule"] == "wrong-gun"
    assert "registry.example/other" in error.value.message


def test_a_new_root_certificate_counts_when_the_old_key_signed_it_too() -> None:
    old, root = a_root()
    new = made.certificate_key(NEW_ROOT, GUN)
    second = made.root(new, made.bare_key(ONLINE), version=2)
    both = a_file(second, (ROOT, old), (NEW_ROOT, new))
    only_new = a_file(second, (NEW_ROOT, new))

    (change,) = imported(root, RoleFile("root", both)).changes

    assert change.mark.newest.version == 2
    with pytest.raises(RuleRefusedError) as error:
        imported(root, RoleFile("root", only_new))
    assert error.value.facts["rule"] == "evidence-signatures"


def test_a_new_root_whose_certificate_is_for_another_collection_is_refused() -> None:
    old, root = a_root()
    new = made.certificate_key(NEW_ROOT, "registry.example/other")
    second = made.root(new, made.bare_key(ONLINE), version=2)

    with pytest.raises(RuleRefusedError) as error:
        imported(root, RoleFile("root", a_file(second, (ROOT, old), (NEW_ROOT, new))))

    assert error.value.facts["rule"] == "wrong-gun"


def test_a_delegation_counts_by_the_keys_in_targets() -> None:
    _, root = a_root()
    ci = ec.generate_private_key(ec.SECP256R1())
    key = made.bare_key(ci)
    delegations = {
        "keys": dict([key]),
        "roles": [{"name": "targets/ci", "paths": [""], **made.role(key[0])}],
    }
    online = made.bare_key(ONLINE)
    targets = RoleFile("targets", a_file(made.targets(delegations=delegations), (ONLINE, online)))

    evidence = imported(root, targets, RoleFile("targets/ci", a_file(made.targets(), (ci, key))))

    assert [c.mark.role for c in evidence.changes] == ["root", "targets", "targets/ci"]
    with pytest.raises(RuleRefusedError):
        imported(root, targets, RoleFile("targets/ci", a_file(made.targets(), (ONLINE, online))))
