"""Uploads that may have overtaken somebody else's, until that was looked at.

Written down before such an upload leaves: a run that dies before it has looked leaves it to the
next one of this publisher.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from keyd.adapters.notary.metadata import Draft

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Upload:
    """A version of a targets role made on top of ``base``, with other numbers between them.
    ``sha256``: of the file that was sent, hex."""

    role: str
    base: int
    version: int
    sha256: str


def skipping(drafts: Mapping[str, Draft]) -> list[Upload]:
    """The drafts that skip numbers: others may have published under these."""
    return [
        Upload(role, draft.base, draft.version, hashlib.sha256(draft.file()).hexdigest())
        for role, draft in drafts.items()
        if (role == "targets" or role.startswith("targets/")) and draft.version > draft.base + 1
    ]


def read(content: bytes | None) -> list[Upload]:
    """What an earlier run wrote; nothing where it cannot be read: it only saves others a loss."""
    if content is None:
        return []
    try:
        found = json.loads(content)
        return [Upload(**each) for each in found["uploads"]] if found["format"] == FORMAT else []
    except (ValueError, KeyError, TypeError):
        return []


def write(uploads: Iterable[Upload]) -> bytes:
    """The text that keeps them."""
    content = {"format": FORMAT, "uploads": [asdict(u) for u in dict.fromkeys(uploads)]}
    return json.dumps(content, indent=1).encode() + b"\n"
