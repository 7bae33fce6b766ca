"""Where keys are made, and how many."""

from __future__ import annotations

import pytest

from keyd.errors import DeviceGoneError, InvalidRequestError, RateLimitedError
from keyd.notaryplaces import Place, Places


class Seconds:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def spend(places: Places, who: str, gun: str, count: int = 1) -> None:
    """Make keys."""
    for _ in range(count):
        with places.allowance(who, gun):
            pass


def test_the_first_place_that_fits_decides() -> None:
    places = Places(
        [
            Place(("docker.io/acme/*",), "acme"),
            Place(("docker.io/*", "registry.example.org/*"), "rest"),
        ],
        elapsed_s=Seconds(),
    )

    assert places.find("docker.io/acme/app").token == "acme"
    assert places.find("registry.example.org/x").token == "rest"
    assert places.tokens == {"acme", "rest"}
    with pytest.raises(InvalidRequestError, match="no keys are made for"):
        places.find("gcr.io/x")


def test_nobody_fills_a_token_by_asking() -> None:
    clock = Seconds()
    places = Places([Place(("*",), "main", keys_per_hour=60, keys_at_once=3)], elapsed_s=clock)
    spend(places, "dns:a", "x", 3)

    with pytest.raises(RateLimitedError) as e:
        spend(places, "dns:a", "y")

    assert e.value.retry_after_s == 60
    spend(places, "dns:b", "y", 3)
    clock.now = 61
    spend(places, "dns:a", "y")
    with pytest.raises(RateLimitedError):
        spend(places, "dns:a", "y")
    clock.now = 1e6
    spend(places, "dns:a", "y", 3)
    with pytest.raises(RateLimitedError):
        spend(places, "dns:a", "y")


def test_each_pattern_of_collections_has_its_own_allowance() -> None:
    places = Places(
        [Place(("a/*",), "main", keys_at_once=2), Place(("*",), "main", keys_at_once=2)],
        elapsed_s=Seconds(),
    )
    spend(places, "dns:a", "a/1", 2)

    spend(places, "dns:a", "b/1", 2)
    with pytest.raises(RateLimitedError):
        spend(places, "dns:a", "a/2")


def test_a_key_that_was_not_made_is_not_counted() -> None:
    places = Places([Place(("*",), "main", keys_at_once=2)], elapsed_s=Seconds())
    for _ in range(5):
        with pytest.raises(DeviceGoneError), places.allowance("dns:a", "x"):
            raise DeviceGoneError("gone")

    spend(places, "dns:a", "x", 2)
