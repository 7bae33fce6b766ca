"""A run over a ceremony that is killed (SIGKILL, by itself) at one boundary between two phases.

    python ceremony_child.py ENDPOINT DIR resume|abort PHASE before|after

``before``: the work of the phase before is done, and the daemon was not told yet; ``after``: it was
told, and nothing else happened. With ``abort`` PHASE is ABORTED.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from keyd.adapters.tufrepo import settings
from keyd.adapters.tufrepo.ceremony import Work, get_open
from keyd.adapters.tufrepo.ceremony_end import abort
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.keyring import KeyRing
from keyd.adapters.tufrepo.repository import Repository
from keyd.client import Client
from keyd.model import Ceremony, Phase


def open_repository(client: Client, path: Path) -> Repository:
    """As keydctl would."""
    folder = Folder(path)
    found = settings.read(folder)
    ring = KeyRing(found, lambda: client, reason="ceremony under test")
    return Repository(folder, found, ring, lambda: datetime.now(UTC))


def open_work(client: Client, path: Path) -> Work:
    """The open ceremony of a folder."""
    repository = open_repository(client, path)
    return Work(repository, client, get_open(client, repository.settings.repository))


class MortalClient(Client):
    """Kills its process around one change of a ceremony."""

    phase = Phase.ABORTED
    when = "before"

    def advance_ceremony(
        self,
        id: str,
        step: int,
        phase: Phase,
        *,
        facts: Mapping[str, str] | None = None,
        draft: bytes | None = None,
    ) -> Ceremony:
        self._die("before", phase)
        answer = super().advance_ceremony(id, step, phase, facts=facts, draft=draft)
        self._die("after", phase)
        return answer

    def abort_ceremony(self, id: str, *, reason: str = "") -> Ceremony:
        self._die("before", Phase.ABORTED)
        answer = super().abort_ceremony(id, reason=reason)
        self._die("after", Phase.ABORTED)
        return answer

    def _die(self, when: str, phase: Phase) -> None:
        if (when, phase) == (self.when, self.phase):
            os.kill(os.getpid(), signal.SIGKILL)


def main(endpoint: str, path: str, what: str, phase: str, when: str) -> None:
    """Run until killed."""
    client = MortalClient(endpoint, keep_checkpoints=False)
    with client:
        client.phase, client.when = Phase(phase), when
        work = open_work(client, Path(path))
        if what == "resume":
            work.resume()
        else:
            abort(work, reason="killed on the way")


if __name__ == "__main__":
    main(*sys.argv[1:])
