"""Whoever verifies a log needs neither a database library nor the daemon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sqlalchemy", "pydantic", "pkcs11", "prometheus_client"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import keyd.audit.checkpoint, keyd.audit.entry, keyd.audit.export, keyd.audit.merkle
import keyd.audit.note
assert not any(name.startswith("keyd.store") for name in sys.modules)
"""


def test_verifying_a_log_imports_without_the_servers_packages() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
