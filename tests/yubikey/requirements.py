"""What the bench needs on this machine; where it is missing tests skip, and in CI they fail."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from tests.yubikey.pcscd import DRIVER, PCSCD

YKCS11 = next(
    (
        path
        for folder in ("x86_64-linux-gnu", "aarch64-linux-gnu", ".")
        if (path := Path("/usr/lib") / folder / "libykcs11.so.2").exists()
    ),
    None,
)


def missing() -> list[str]:
    """What has to be installed, by Debian's and PyPI's names."""
    found = {
        "pcscd": PCSCD.exists(),
        "vsmartcard-vpcd": DRIVER.exists(),
        "ykcs11": YKCS11 is not None,
        "util-linux": shutil.which("setpriv") is not None,
        "yubikey-manager": importlib.util.find_spec("ykman") is not None,
        "python-pkcs11": importlib.util.find_spec("pkcs11") is not None,
    }
    return [name for name, there in found.items() if not there]


def require() -> Path:
    """Path of libykcs11. Skips the test where something is missing, unless KEYD_TESTS_REQUIRE
    lists ``yubikey`` or CI is set: then it fails."""
    absent = missing()
    if YKCS11 is not None and not absent:
        return YKCS11
    why = f"the YubiKey bench needs {', '.join(absent)}"
    required = "yubikey" in os.environ.get("KEYD_TESTS_REQUIRE", "").split(",")
    if required or os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
