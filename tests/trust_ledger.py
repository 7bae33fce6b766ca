"""What must be true of a collection after any fault: nobody signed a version twice in two ways,
what is served is what was signed, and no number was ever served with other bytes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any

from keyd.content import envelope
from tests.notary_programs import PRINCIPAL
from tests.trust_stage import Stage


class Ledger:
    """Looks at one collection from outside: keyd's log, and what notary-server serves. ``older``:
    versions up to this one may have been signed before keyd had the keys."""

    def __init__(self, stage: Stage, gun: str, older: int = 0) -> None:
        self._stage, self.gun, self._older = stage, gun, older
        self._served: dict[str, bytes] = {}

    def signatures(self) -> list[dict[str, Any]]:
        """The log's entries about signatures that were made, oldest first."""
        entries: list[dict[str, Any]] = self._stage.sandbox.entries()
        return [
            entry
            for entry in entries
            if "statement" in entry
            and entry["outcome"] == "allowed"
            and entry["context"]["repository"] == self.gun
        ]

    def check(self, *names: str) -> None:
        """Everything that must be true, and that a newcomer's notary lists exactly ``names``."""
        digests: dict[tuple[str, int], set[str]] = defaultdict(set)
        for entry in self.signatures():
            signed = entry["context"]["role"], entry["statement"]["version"]
            is_reissued = entry["details"]["mark"] == "reissued"
            known = digests[signed]
            # notary-server signs before it stores, and asks again after a crash.
            is_server = entry["principal"] == PRINCIPAL
            assert not known or entry["digest"] in known or (is_reissued and is_server), entry
            known.add(entry["digest"])
        server = self._stage.server(self.gun)
        for role in {role for role, _ in digests}:
            current = server.find(role)
            for number in range(1, max(v for r, v in digests if r == role) + 1):
                file = server.find(f"{number}.{role}")
                if file is None:
                    continue
                name = f"{number}.{role}"
                digest = hashlib.sha256(envelope.parse(file).payload).hexdigest()
                is_signed = f"sha256:{digest}" in digests[role, number]
                assert is_signed or number <= self._older, f"{name} was never signed so"
                assert self._served.setdefault(name, file) == file, f"{name} was served otherwise"
            assert current is None or current in self._served.values()
        assert set(self._stage.listed(self.gun)) == set(names)
