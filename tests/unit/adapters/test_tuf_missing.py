"""When a role cannot be signed, the error says whose signature is missing, and why."""

from __future__ import annotations

import pytest

from keyd.adapters.tufrepo.keyring import raise_missing
from keyd.adapters.tufrepo.report import Missing
from keyd.errors import DeviceGoneError, PolicyDeniedError, RepositoryError

GONE = DeviceGoneError("token t is gone", hint="plug it in")
DENIED = PolicyDeniedError("denied")


def test_one_reason_for_all_is_the_daemons_own_error() -> None:
    missing = [Missing("k1", "a", "gone", GONE), Missing("k2", "b", "gone", GONE)]

    with pytest.raises(DeviceGoneError) as e:
        raise_missing("snapshot", missing)

    assert e.value is GONE


@pytest.mark.parametrize(
    "second",
    [Missing("k2", "b", "denied", DENIED), Missing("k2", "b", "held by nobody we know")],
    ids=["two reasons", "one without an error"],
)
def test_several_reasons_are_listed_with_the_first_hint(second: Missing) -> None:
    with pytest.raises(RepositoryError) as e:
        raise_missing("snapshot", [Missing("k1", "a", "gone", GONE), second])

    assert e.value.message == f"snapshot cannot be signed: a: gone; b: {second.why}"
    assert e.value.hint == "plug it in"
    assert e.value.facts == {"role": "snapshot", "missing": "k1, k2"}
