"""The YubiKey a test works with: an emulated one, or one that is really plugged in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from tests.yubikey.bench import EmulatedKey
from tests.yubikey.touch import Person


class Target(Protocol):
    """What tests that run on both need of a YubiKey."""

    @property
    def serial(self) -> int:
        """As printed on it."""

    @property
    def environment(self) -> dict[str, str]:
        """For programs that shall meet it."""

    @property
    def is_real(self) -> bool:
        """True for hardware: the maker's root is Yubico's, and touches need a person."""

    def expect_touch(self) -> None:
        """The next command wants a touch and shall get it."""


class EmulatedTarget:
    """On a bench."""

    is_real = False

    def __init__(self, key: EmulatedKey, environment: dict[str, str]) -> None:
        self._key = key
        self.serial = key.serial
        self.environment = environment

    def expect_touch(self) -> None:
        """See Target."""
        self._key.person(Person.TOUCHES, after_s=0.05)


class PluggedInTarget:
    """In this machine, by the system's pcscd."""

    is_real = True

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.environment = {
            name: os.environ[name] for name in ("PCSCLITE_CSOCK_NAME",) if name in os.environ
        }

    def expect_touch(self) -> None:
        """See Target."""
        # pytest holds standard output back until the test is over.
        Path("/dev/tty").write_text(f"\n>>> touch YubiKey {self.serial} when it blinks\n")
