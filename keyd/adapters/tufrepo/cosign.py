"""Adding one's own signature to metadata that somebody else prepared."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key as TufKey
from tuf.api.metadata import Metadata

from keyd.adapters.tufrepo import inspection, published
from keyd.adapters.tufrepo.evidence import Evidence
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.keyring import KeyRing, SigningKey
from keyd.adapters.tufrepo.report import Missing
from keyd.adapters.tufrepo.settings import FILE_NAME
from keyd.durable import replacing
from keyd.errors import RepositoryError


@dataclass(frozen=True, slots=True)
class Cosigned:
    """``added``: keyids that signed now. ``missing``: those that were wanted and could not.
    ``needs``: signatures still lacking, -1 where the file does not tell."""

    role: str
    version: int
    added: tuple[str, ...]
    missing: tuple[Missing, ...]
    needs: int


def folder_of(path: Path) -> Folder | None:
    """The repository a file lies in, by its settings file, or None."""
    parent = path.absolute().parent.parent
    return Folder(parent) if (parent / FILE_NAME).exists() else None


def sign_file(
    path: Path, ring: KeyRing, folder: Folder | None, keys: Sequence[SigningKey] = ()
) -> Cosigned:
    """Sign a metadata file in place; nothing but signatures changes.

    ``keys``: sign with these; without any, with every key the role lists whose signer is within
    reach. A key that the role lists signs under the keyid it has there.

    Raises:
        RepositoryError: not metadata, published already, or nobody to sign it.
    """
    if folder is not None and path.absolute().parent == folder.metadata.absolute():
        raise RepositoryError(
            f"{path} is published, and published files never change",
            hint="what waits for signatures lies in staged/",
            file=path,
        )
    metadata = inspection.parse_any(path)
    role = inspection.role_of(path, metadata)
    judges = [j for j in inspection.judges_of(path, metadata, folder) if j is not None]
    listed: dict[str, TufKey] = {}
    for judge in judges:
        listed |= {k: judge.get_key(k) for k in judge.get_delegated_role(role).keyids}
    wanted = _choose(listed, keys, ring, role) if keys else listed
    if not wanted:
        raise RepositoryError(
            f"{path}: nothing here says whose signatures {role} needs", hint="name a key with --key"
        )
    if folder is not None:
        state = functools.cache(functools.partial(published.read, folder))
        ring.evidence = Evidence(folder, state, ring.reason)
    before = set(metadata.signatures)
    missing = ring.sign(metadata, role, wanted.values())
    added = [keyid for keyid in metadata.signatures if keyid not in before]
    if added:
        _replace(path, metadata)
    needs = max(
        (
            j.get_verification_result(role, metadata.signed_bytes, metadata.signatures).missing
            for j in judges
        ),
        default=-1,
    )
    return Cosigned(role, metadata.signed.version, tuple(added), tuple(missing), needs)


def _choose(
    listed: dict[str, TufKey], keys: Sequence[SigningKey], ring: KeyRing, role: str
) -> dict[str, TufKey]:
    wanted: dict[str, TufKey] = {}
    for key in keys:
        same = [k for k in listed.values() if k.keyval == key.public.keyval]
        if listed and not same:
            raise RepositoryError(f"{key.uri} is not a key of {role}", role=role)
        for one in same or [key.public]:
            wanted[one.keyid] = one
            ring.settings.signers[one.keyid] = key.uri
    return wanted


def _replace(path: Path, metadata: Metadata[Any]) -> None:
    with replacing(path, prefix=".keyd-tmp-", mode=path.stat().st_mode & 0o777) as stream:
        stream.write(metadata.to_bytes())
