"""Effects on keys, without a database: all of an item or none of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from keyd.errors import (
    ConflictError,
    KeydError,
    KeyExistsError,
    KeyStateError,
    RotationConflictError,
)
from keyd.model import (
    DeleteVersion,
    Effect,
    InsertKey,
    InsertVersion,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Origin,
    Scheme,
    SetActive,
    SetFlag,
    SetKeyFields,
    UpdateVersion,
    VersionState,
)
from keyd.store.plan import Plan
from keyd.store.plan_approvals import ApprovalPlan
from keyd.store.plan_ceremonies import CeremonyPlan
from keyd.store.plan_keys import KeyPlan
from keyd.store.plan_marks import MarkPlan
from keyd.store.registry import Changes

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ENABLED, PENDING, DESTROYED = (
    VersionState.ENABLED,
    VersionState.PENDING,
    VersionState.DESTROYED,
)


def version(
    key: str = "a",
    number: int = 1,
    state: VersionState = ENABLED,
    public_key: bytes = b"",
    object_id: bytes = b"",
) -> KeyVersion:
    return KeyVersion(
        key,
        number,
        state,
        Origin.GENERATED,
        "serial",
        object_id or f"{key}{number}".encode(),
        public_key or (b"" if state is PENDING else f"public {key}{number}".encode()),
        {},
        NOW,
        "me",
    )


def a_key(name: str = "a", *versions: KeyVersion, active: int = 0) -> Key:
    return Key(
        name,
        "main",
        KeyAlgorithm.ED25519,
        Scheme.ED25519,
        NOW,
        "me",
        active_version=active,
        versions=versions,
    )


class Planned(Plan):
    """A plan of nothing but keys."""

    def __init__(self, keys: KeyPlan) -> None:
        super().__init__(keys, MarkPlan({}, NOW), ApprovalPlan({}, NOW), CeremonyPlan({}))
        self._of_keys = keys

    @property
    def changes(self) -> Changes:
        return self._of_keys.changes


def plan_of(*keys: Key) -> Planned:
    versions = [v for key in keys for v in key.versions]
    return Planned(
        KeyPlan(
            {key.name: key for key in keys},
            {v.public_key: (v.key, v.number) for v in versions if v.public_key},
            {
                (v.token_serial, v.object_id): (v.key, v.number)
                for v in versions
                if v.state is not DESTROYED
            },
            NOW,
        )
    )


CONFLICTS: list[tuple[str, list[Effect], type[KeydError]]] = [
    ("a key of that name exists", [InsertKey(a_key("a"))], KeyExistsError),
    ("a version of that number exists", [InsertVersion(version("a", 1))], KeyExistsError),
    ("the key is gone", [InsertVersion(version("gone"))], ConflictError),
    (
        "the public key is registered",
        [InsertVersion(version("a", 3, public_key=b"public b1"))],
        KeyExistsError,
    ),
    (
        "the public key was a destroyed version's",
        [InsertVersion(version("a", 3, public_key=b"public a2"))],
        KeyExistsError,
    ),
    (
        "the token object is another version's",
        [InsertVersion(version("a", 3, object_id=b"b1"))],
        KeyExistsError,
    ),
    (
        "the state is another",
        [UpdateVersion("a", 1, expect=PENDING, state=ENABLED)],
        ConflictError,
    ),
    (
        "the update claims a registered public key",
        [UpdateVersion("a", 1, expect=ENABLED, public_key=b"public b1")],
        KeyExistsError,
    ),
    ("the version is not pending", [DeleteVersion("a", 1)], ConflictError),
    ("another version is active", [SetActive("a", 1, expect=0)], RotationConflictError),
    ("no such version", [SetActive("a", 9, expect=1)], RotationConflictError),
    ("no such key", [SetKeyFields("gone", rotation_period_s=1)], ConflictError),
    (
        "a version without a public key cannot be enabled",
        [UpdateVersion("b", 2, expect=PENDING, state=ENABLED)],
        KeyStateError,
    ),
    (
        "no time for a scheduled destruction",
        [UpdateVersion("a", 1, expect=ENABLED, state=VersionState.DESTROY_SCHEDULED)],
        KeyStateError,
    ),
]


@pytest.mark.parametrize(("name", "effects", "error"), CONFLICTS, ids=[c[0] for c in CONFLICTS])
def test_a_conflict_undoes_the_whole_item(
    name: str, effects: list[Effect], error: type[KeydError]
) -> None:
    plan = plan_of(
        a_key("a", version("a", 1), version("a", 2, DESTROYED), active=1),
        a_key("b", version("b", 1), version("b", 2, PENDING)),
    )

    conflict = plan.apply([InsertKey(a_key("new")), SetFlag("flag", "1"), *effects])

    assert isinstance(conflict, error), name
    assert not plan.changes
    assert plan.apply([InsertKey(a_key("new"))]) is None


def test_an_item_sees_what_the_items_before_it_did() -> None:
    plan = plan_of()

    results = [
        plan.apply([InsertKey(a_key("a")), InsertVersion(version("a")), SetActive("a", 1, 0)]),
        plan.apply([InsertKey(a_key("a"))]),
        plan.apply([InsertKey(a_key("b")), InsertVersion(version("b", public_key=b"public a1"))]),
        plan.apply([SetActive("a", 1, expect=1)]),
    ]

    assert [type(r) for r in results] == [type(None), KeyExistsError, KeyExistsError, type(None)]
    assert set(plan.changes.keys) == {"a"}
    assert plan.changes.keys["a"] == a_key("a", version("a"), active=1)


def test_deleting_the_only_pending_version_removes_its_key() -> None:
    plan = plan_of(a_key("a", version("a", 1, PENDING)))

    assert plan.apply([DeleteVersion("a", 1)]) is None
    assert plan.changes.keys == {"a": None}
    assert plan.apply([InsertKey(a_key("b")), InsertVersion(version("b", object_id=b"a1"))]) is None


def test_a_destroyed_version_frees_its_object_but_never_its_public_key() -> None:
    plan = plan_of(a_key("a", version("a", 1)))

    assert plan.apply([UpdateVersion("a", 1, expect=ENABLED, state=DESTROYED)]) is None
    assert plan.apply([InsertVersion(version("a", 2, object_id=b"a1"))]) is None
    again = plan.apply([InsertVersion(version("a", 3, public_key=b"public a1"))])
    assert isinstance(again, KeyExistsError)


def test_clearing_the_time_of_destruction_goes_with_the_state() -> None:
    scheduled = replace(version("a", 1), state=VersionState.DESTROY_SCHEDULED, destroy_after=NOW)
    plan = plan_of(a_key("a", scheduled))

    conflict = plan.apply(
        [
            UpdateVersion(
                "a",
                1,
                expect=VersionState.DESTROY_SCHEDULED,
                state=VersionState.DISABLED,
                clear_destroy_after=True,
            )
        ]
    )

    changed = plan.changes.keys["a"]
    assert conflict is None
    assert changed is not None
    assert changed.versions[0].destroy_after is None
