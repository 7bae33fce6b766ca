"""What snapshot and timestamp list: the versions of the metadata below them. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp


def next_snapshot(
    old: Snapshot | None, targets: Mapping[str, Metadata[Targets]], version: int
) -> Snapshot:
    """The snapshot that lists these targets roles; roles listed before stay listed."""
    signed = copy.deepcopy(old) if old else Snapshot()
    for role, metadata in targets.items():
        name = f"{role}.json"
        signed.meta[name] = _listed(signed.meta.get(name), metadata)
    signed.version = version
    return signed


def next_timestamp(old: Timestamp | None, snapshot: Metadata[Snapshot]) -> Timestamp:
    """The timestamp that lists this snapshot, one version on."""
    signed = copy.deepcopy(old) if old else Timestamp()
    signed.snapshot_meta = _listed(old.snapshot_meta if old else None, snapshot)
    signed.version = old.version + 1 if old else 1
    return signed


def _listed(before: MetaFile | None, metadata: Metadata[Any]) -> MetaFile:
    """The entry for a file; with length and hashes only where there were some before."""
    fresh = MetaFile(metadata.signed.version)
    if before is not None:
        fresh.unrecognized_fields = dict(before.unrecognized_fields)
        data = metadata.to_bytes()
        if before.length is not None:
            fresh.length = len(data)
        if before.hashes is not None:
            measured = MetaFile.from_data(metadata.signed.version, data, list(before.hashes))
            fresh.hashes = measured.hashes
    return fresh
