"""A way through the steps of the program ``notary``: who goes it, and what is seen from there."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from itertools import count
from typing import Any

from keyd.client import KeyFilter
from tests.notary_client import NotaryClient
from tests.notary_programs import Sandbox

GUN = "docker.io/acme/app"
TEXT = "hello"
"""What the file says that is published."""


class Walk:
    """alice's way through all steps, bob who follows with a trust directory that stays, and what
    the steps leave for later ones. ``signed``: what the server served so far with signatures of
    its own keys: signature's SHA-256 -> file."""

    def __init__(self, sandbox: Sandbox, alice: NotaryClient) -> None:
        self.sandbox = sandbox
        self.alice = alice
        self.bob = sandbox.client("bob")
        self.file = alice.file("app", TEXT)
        self.listed: dict[str, str] = {}
        self.server_keys: set[str] = set()
        self.signed: dict[str, bytes] = {}
        self.kept: dict[str, str] = {}
        self._numbers = count(1)

    def newcomer(self) -> NotaryClient:
        """Somebody with an empty trust directory."""
        return self.sandbox.client(f"newcomer{next(self._numbers)}")

    def expect(self, *names: str, gone: tuple[str, ...] = ()) -> None:
        """A newcomer lists what was listed, and these names of the targets role."""
        self.listed |= dict.fromkeys(names, "targets")
        self.listed = {n: role for n, role in self.listed.items() if n not in gone}
        assert self.newcomer().targets(GUN) == self.listed

    def keyids(self, role: str) -> list[str]:
        """Those that the published root has for a role."""
        signed: Any = self.sandbox.metadata(GUN, "root")["signed"]
        found: list[str] = signed["roles"][role]["keyids"]
        return found

    def changes(self) -> int:
        """How many are staged."""
        return len(re.findall(r"^\d+ ", self.alice("status", GUN), re.MULTILINE))

    def keys_of_keyd(self) -> set[str]:
        """Their names, from the role on."""
        with self.sandbox.admin() as keyd:
            keys = list(keyd.list_keys(KeyFilter(name=f"notary/{GUN}/*")))
        assert all(key.labels["gun"] == GUN for key in keys)
        return {key.name.removeprefix(f"notary/{GUN}/") for key in keys}

    def publish_after(self, name: str, role: str, *, is_servers: bool) -> None:
        """What a rotation is for: the role's new key signs what is published now."""
        [keyid] = self.keyids(role)
        self.alice("add", GUN, name, self.file, "-p")
        self.expect(name)
        signatures: Any = self.sandbox.metadata(GUN, role)["signatures"]
        assert [each["keyid"] for each in signatures] == [keyid]
        if is_servers:
            self.server_keys.add(keyid)

    def collect(self) -> None:
        """Read every version that the server has of the roles that it may sign."""
        for role in ("snapshot", "timestamp"):
            for version in range(1, self.sandbox.version(GUN, role) + 1):
                path = f"/v2/{GUN}/_trust/tuf/{version}.{role}.json"
                status, body = self.sandbox.get(path)
                if status == 404:
                    continue  # notary's own snapshots do not begin at 1
                [signature] = json.loads(body)["signatures"]
                if signature["keyid"] in self.server_keys:
                    raw = base64.b64decode(signature["sig"])
                    self.signed[hashlib.sha256(raw).hexdigest()] = body
