"""``.keyd-tuf.json``: what later commands need to know and metadata does not say.

    {"format": 1, "repository": "acme",
     "signers": {"<keyid>": "keyd:acme/root"},
     "expiry_days": {"root": 365, "targets": 90, "snapshot": 7, "timestamp": 1}}

It holds no secret and no endpoint, and may be committed. Fields it does not know are kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from keyd.adapters.tufrepo.folder import Folder
from keyd.errors import RepositoryError

FILE_NAME = ".keyd-tuf.json"
DEFAULT_EXPIRY_DAYS = {"root": 365, "targets": 90, "snapshot": 7, "timestamp": 1}
MAX_EXPIRY_DAYS = 3_650


@dataclass(slots=True)
class Settings:
    """``repository``: the name sent as context with each signature. ``signers``: keyid -> URI."""

    repository: str
    signers: dict[str, str] = field(default_factory=dict)
    expiry_days: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_EXPIRY_DAYS))
    other: dict[str, Any] = field(default_factory=dict)

    def days(self, role: str) -> int:
        """How many days a role's metadata lives; delegated roles live as long as targets."""
        days = self.expiry_days.get(role, self.expiry_days.get("targets"))
        return days if days is not None else DEFAULT_EXPIRY_DAYS["targets"]

    def save(self, folder: Folder) -> None:
        """Write the file, whole or not at all."""
        content = {
            **self.other,
            "format": 1,
            "repository": self.repository,
            "signers": self.signers,
            "expiry_days": self.expiry_days,
        }
        folder.write_settings(json.dumps(content, indent=2, sort_keys=True).encode() + b"\n")


def find(folder: Folder) -> Settings | None:
    """The settings of a folder, or None where there are none.

    Raises:
        RepositoryError: the file is there and not what this version writes.
    """
    path = folder.path / FILE_NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
        if content.pop("format") != 1:
            raise RepositoryError(
                f"{path}: written by a newer keydctl, which has to change it", file=path
            )
        signers, expiry = content.pop("signers"), content.pop("expiry_days")
        settings = Settings(
            str(content.pop("repository")),
            {str(keyid): str(uri) for keyid, uri in signers.items()},
            {str(role): int(days) for role, days in expiry.items()},
            content,
        )
    except (ValueError, KeyError, AttributeError, TypeError) as e:
        raise RepositoryError(f"{path}: not settings of keydctl tuf: {e!r}", file=path) from e
    return settings


def read(folder: Folder) -> Settings:
    """The settings of a folder.

    Raises:
        RepositoryError: none there, or not readable.
    """
    settings = find(folder)
    if settings is None:
        raise RepositoryError(
            f"{folder.path} is not a repository of keydctl tuf ({FILE_NAME} is missing)",
            hint="keydctl tuf init DIR makes a new one, keydctl tuf migrate DIR takes over another",
        )
    return settings
