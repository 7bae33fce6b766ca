"""The rules in Notary's dialect, which names the collection and has no versions in snapshots."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyd.errors import RuleRefusedError
from keyd.model import Limits
from tests.unit.content import notary_made as made
from tests.unit.rules.ledger import ALICE, NOW, Ledger, root, targets

GUN = "registry/app"
HOLDER, ONLINE = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
LIMITS = Limits(max_expiry_days=3660)


def a_root(common_name: str = GUN, **changes: Any) -> bytes:
    key = made.certificate_key(HOLDER, common_name)
    return made.canonical(made.root(key, made.bare_key(ONLINE), **changes))


def judged(ledger: Ledger, role: str, payload: bytes, *, online: bool = True) -> Any:
    return ledger.judge(role, payload, made.spki(ONLINE if online else HOLDER), limits=LIMITS)


def refused(ledger: Ledger, role: str, payload: bytes, *, online: bool = True) -> RuleRefusedError:
    with pytest.raises(RuleRefusedError) as e:
        judged(ledger, role, payload, online=online)
    return e.value


@pytest.mark.parametrize("common_name", [GUN, "registry/*"])
def test_a_root_for_the_collection_is_signed(common_name: str) -> None:
    verdict = judged(Ledger(GUN), "root", a_root(common_name), online=False)

    assert verdict.effect.marked.dialect == "notary"
    assert f"its root certificates are for {common_name}" in verdict.checks


@pytest.mark.parametrize(
    "common_name",
    ["registry/app2", "registry/ap", "registry", "*", "/*", "registry*", "reg/*", "registry/app/*"],
)
def test_a_root_for_another_collection_is_refused(common_name: str) -> None:
    error = refused(Ledger(GUN), "root", a_root(common_name), online=False)

    assert error.facts["rule"] == "wrong-gun"
    assert GUN in error.hint


def test_one_certificate_for_another_collection_among_the_right_ones_is_refused() -> None:
    right = made.certificate_key(HOLDER, GUN)
    wrong = made.certificate_key(HOLDER, "registry/other")
    signed = made.root(right, made.bare_key(ONLINE))
    signed["keys"][wrong[0]] = wrong[1]
    signed["roles"]["root"]["keyids"].append(wrong[0])

    error = refused(Ledger(GUN), "root", made.canonical(signed), online=False)

    assert error.facts["rule"] == "wrong-gun"
    assert '"registry/other"' in error.message
    assert f'"{GUN}"' not in error.message


def test_a_new_certificate_over_the_same_key_drops_nobody() -> None:
    ledger = Ledger(GUN)
    ledger.record(judged(ledger, "root", a_root(), online=False))

    verdict = judged(ledger, "root", a_root(version=2), online=False)

    assert verdict.grave == ()


def test_a_certificate_for_more_collections_than_before_needs_consent() -> None:
    ledger = Ledger(GUN)
    ledger.record(judged(ledger, "root", a_root(), online=False))

    verdict = judged(ledger, "root", a_root("registry/*", version=2), online=False)

    assert [(g.rule, g.text) for g in verdict.grave] == [
        ("gun-changed", "the collections go from registry/app to registry/*")
    ]


def test_a_snapshot_has_no_versions_to_lower_but_roles_to_lose() -> None:
    ledger = Ledger(GUN)
    ledger.record(judged(ledger, "snapshot", made.canonical(made.snapshot("root", "targets"))))

    forward = made.snapshot("root", "targets", "targets/new") | {"version": 2}
    lost = made.snapshot("targets") | {"version": 2}

    assert judged(ledger, "snapshot", made.canonical(forward)).grave == ()
    assert [g.rule for g in judged(ledger, "snapshot", made.canonical(lost)).grave] == ["role-lost"]


def test_the_dialects_are_not_mixed_within_a_role_or_a_repository() -> None:
    ledger = Ledger(GUN)
    ledger.record(judged(ledger, "root", a_root(), online=False))
    other = Ledger(GUN)
    other.sign("targets", targets(1))

    for error in (
        refused(ledger, "targets", made.canonical(tuf_targets())),
        refused(other, "targets", made.canonical(made.targets(version=2))),
    ):
        assert error.facts["rule"] == "wrong-dialect"
        assert "keydctl role reset registry/app targets" in error.hint


def tuf_targets() -> dict[str, Any]:
    return targets(1).to_dict()


def test_a_tuf_root_after_a_notary_root_is_refused() -> None:
    ledger = Ledger(GUN)
    ledger.record(judged(ledger, "root", a_root(), online=False))

    with pytest.raises(RuleRefusedError) as e:
        ledger.judge("root", root(2, ALICE), ALICE)

    assert e.value.facts["rule"] == "wrong-dialect"


def test_a_server_that_signs_other_snapshots_of_one_version_is_let() -> None:
    ledger = Ledger(GUN)
    ledger.record(judged(ledger, "snapshot", made.canonical(made.snapshot("targets"))))
    again = made.snapshot("targets")
    again["expires"] = (NOW + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%S.123456789Z")

    assert judged(ledger, "snapshot", made.canonical(again)).reissue


def test_a_delegated_role_is_signed_as_targets() -> None:
    payload = made.canonical(made.targets())

    assert judged(Ledger(GUN), "targets/releases", payload).effect.role == "targets/releases"
    assert refused(Ledger(GUN), "snapshot", payload).facts["rule"] == "wrong-role"
