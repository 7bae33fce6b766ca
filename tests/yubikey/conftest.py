"""Benches and YubiKeys for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.desk import Desk
from tests.yubikey.hardware import EmulatedTarget, PluggedInTarget, Target
from tests.yubikey.model import Model
from tests.yubikey.requirements import require
from tests.yubikey.worker import Worker


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--hardware SERIAL``; known when this folder is named on the command line."""
    parser.addoption(
        "--hardware",
        type=int,
        metavar="SERIAL",
        help="run the tests marked hardware on this plugged-in YubiKey. Its PIV applet must be "
        "as at the factory, and is reset at the end of each test.",
    )


@pytest.fixture(scope="session")
def ykcs11() -> Path:
    """Path of libykcs11."""
    return require()


@pytest.fixture
def bench(ykcs11: Path) -> Iterator[Bench]:
    """A bench without YubiKeys."""
    with Bench.start() as started:
        yield started


@pytest.fixture
def worker(bench: Bench) -> Iterator[Worker]:
    """A program that meets the bench."""
    with Worker(bench.environment) as started:
        yield started


@pytest.fixture
def key(bench: Bench, worker: Worker) -> EmulatedKey:
    """A YubiKey 5.4.3, plugged in while the worker starts."""
    return bench.add(Model(1234567))


@pytest.fixture(params=["emulated", pytest.param("real", marks=pytest.mark.hardware)])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A YubiKey with an untouched PIV applet: emulated, and with ``--hardware`` a real one."""
    if request.param == "emulated":
        bench = request.getfixturevalue("bench")
        yield EmulatedTarget(bench.add(Model(1234567)), bench.environment)
        return
    serial = request.config.getoption("--hardware", None)
    if serial is None:
        pytest.skip("no YubiKey named: pytest tests/yubikey -m hardware --hardware SERIAL")
    real = PluggedInTarget(serial)
    with Worker(real.environment) as looking:
        if not looking.call(by_yubikit.is_factory_fresh, serial):
            pytest.exit(
                f"YubiKey {serial} holds keys or has a changed PIN, PUK or management key: "
                "these tests would destroy them. Take another one, or: ykman piv reset"
            )
        try:
            yield real
        finally:
            looking.call(by_yubikit.reset, serial)


@pytest.fixture
def program(target: Target) -> Iterator[Worker]:
    """A program that meets the target."""
    with Worker(target.environment) as started:
        yield started


@pytest.fixture
def desk(
    bench: Bench,
    key: EmulatedKey,
    worker: Worker,
    ykcs11: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    """The YubiKey of this bench, for the token hosts of this process."""
    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    return Desk(key, worker, ykcs11, tmp_path)
