"""One open store of each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.store.store import Store
from tests.contract.databases import DATABASES, Factory
from tests.fakes import FakeClock


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> Factory:
    return DATABASES[request.param]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(database: Factory, tmp_path: Path, clock: FakeClock) -> Iterator[Store]:
    opened = database(tmp_path / "state", clock)
    try:
        yield opened
    finally:
        opened.close()
