"""Publishing: a list of renames, ordered so that clients find a valid repository after each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tuf.api.metadata import Metadata, Root

from keyd.adapters.tufrepo.folder import ROOT_COPY, Folder, file_name
from keyd.adapters.tufrepo.published import Published, verifies
from keyd.errors import RepositoryError


def publish(
    folder: Folder, old: Published | None, state: Published, changed: Iterable[str]
) -> list[str]:
    """Publish what differs from ``old``; return the file names in their order.

    ``changed``: the targets roles that do.

    Raises:
        RepositoryError: no order keeps the repository valid; nothing was published.
    """
    files = [_file(role, state.targets[role]) for role in changed]
    if old is None or state.snapshot is not old.snapshot:
        files.append(_file("snapshot", state.snapshot))
    switch = []
    if old is None or state.timestamp is not old.timestamp:
        switch.append(_file("timestamp", state.timestamp))
    if old is None or state.root is not old.root:
        root = [_file("root", state.root)]
        if (folder.metadata / ROOT_COPY).exists():
            root.append((ROOT_COPY, root[0][1]))
        # A crash between two renames must leave what clients accept: either the new
        # timestamp and all below it also verify under the old root, or the old ones
        # verify under the new root.
        if old is None or not switch or accepts(old.root.signed, state):
            switch = switch + root
        elif accepts(state.root.signed, old):
            switch = root + switch
        else:
            raise no_order()
    folder.publish(files + switch)
    return [name for name, _ in files + switch]


def no_order() -> RepositoryError:
    """Neither root accepts what the other one does."""
    return RepositoryError(
        "neither root accepts what the other one does, so no order of publishing keeps the "
        "repository valid",
        hint="the old keys could not sign: run it again with --without-old",
    )


def accepts(root: Root, state: Published) -> bool:
    """True when a client that holds this root takes the rest of the state."""
    return (
        verifies(root, "timestamp", state.timestamp)
        and verifies(root, "snapshot", state.snapshot)
        and verifies(root, "targets", state.targets["targets"])
    )


def _file(role: str, metadata: Metadata[Any]) -> tuple[str, bytes]:
    return file_name(role, metadata.signed.version), metadata.to_bytes()
