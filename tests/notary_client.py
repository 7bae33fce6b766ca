"""The program ``notary`` as people run it, and openssl for its delegations."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from pathlib import Path

PASSPHRASE = "correct horse battery"  # of the client's own key files
_RUN_S = 40.0
_END_S = 15.0


class NotaryClient:
    """The program with one trust directory, for a server and the CA that it is believed by.
    ``login``: USER:PASSWORD, if any. It is kept away from card readers."""

    def __init__(self, url: str, ca: Path, folder: Path, login: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.config = folder / "config.json"
        self.config.write_text(
            json.dumps(
                {
                    "trust_dir": str(folder / "trust"),
                    "remote_server": {"url": url, "root_ca": str(ca)},
                }
            )
        )
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PCSCLITE_CSOCK_NAME": "/nonexistent",
            **{
                f"NOTARY_{role}_PASSPHRASE": PASSPHRASE
                for role in ("ROOT", "TARGETS", "SNAPSHOT", "DELEGATION")
            },
            **({"NOTARY_AUTH": base64.b64encode(login.encode()).decode()} if login else {}),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command."""
        return subprocess.Popen(
            ["notary", "-c", str(self.config), *arguments],
            env=self._env,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, stdin: str = "", timeout_s: float = _RUN_S) -> tuple[int, str]:
        """Run a command; exit code, and all it printed."""
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(stdin, timeout=timeout_s)
        finally:
            process.kill()
            process.wait(_END_S)
        return process.returncode, output

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Run a command that has to work."""
        code, output = self.run(*arguments, stdin=stdin)
        assert code == 0, f"notary {' '.join(arguments)}:\n{output}"
        return output

    def fails(self, *arguments: str, stdin: str = "") -> str:
        """Run a command that has to fail."""
        code, output = self.run(*arguments, stdin=stdin)
        assert code != 0, f"notary {' '.join(arguments)} worked:\n{output}"
        return output

    def file(self, name: str, text: str) -> str:
        """A file to publish."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def targets(self, gun: str, *arguments: str) -> dict[str, str]:
        """What is listed: name -> role."""
        rows = self("list", gun, *arguments).splitlines()
        found = (
            re.split(r"\s{2,}", row.strip()) for row in rows if re.search(r"[0-9a-f]{64}", row)
        )
        return {row[0]: row[3] for row in found}


def openssl(*arguments: str, folder: Path) -> None:
    """Run openssl, as the classic guides do for delegations."""
    subprocess.run(
        ["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=_RUN_S
    )
