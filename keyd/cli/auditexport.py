"""Taking the log, or its newest checkpoint, out of a daemon, and believing neither unchecked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keyd.audit import merkle
from keyd.audit.export import checkpoint_line
from keyd.cli import output
from keyd.durable import replacing
from keyd.errors import LogProofError
from keyd.model import Checkpoint

if TYPE_CHECKING:
    from keyd.client import Client

_ENTRIES_A_PAGE = 5000
_LEAVES_AT_ONCE = 1000


def export_log(client: Client, target: Path) -> Checkpoint:
    """Write all entries and a fresh checkpoint over them; the file appears only when it is whole.

    Raises:
        LogProofError: the entries do not fit the checkpoint.
    """
    head = client.checkpoint(fresh=True)
    with replacing(target, prefix=f".{target.name}.") as file:
        frontier: tuple[bytes, ...] = ()
        leaves: list[bytes] = []
        size = 0
        entries = client.list_entries(page_size=_ENTRIES_A_PAGE) if head.size else iter(())
        with output.progress(entries, "exporting", head.size) as shown:
            for entry in shown:
                if entry.index != size + len(leaves):
                    raise LogProofError(f"the daemon left out entry {size + len(leaves)}")
                file.write(entry.body + b"\n")
                leaves.append(merkle.leaf_hash(entry.body))
                done = entry.index + 1 == head.size
                if done or len(leaves) == _LEAVES_AT_ONCE:
                    frontier, _ = merkle.append(size, frontier, leaves)
                    size, leaves = size + len(leaves), []
                if done:
                    break
        if size != head.size or merkle.root_hash(frontier) != head.root_hash:
            raise LogProofError(
                "the entries the daemon gave do not fit its own checkpoint",
                hint="keep the kept checkpoints; look into the daemon's database",
            )
        file.write(checkpoint_line(head.note))
    return head


def compare_with_kept(client: Client, kept: Checkpoint | None, newest: Checkpoint) -> str:
    """Have the daemon prove that its log only grew since the kept checkpoint; what to say of it.

    Raises:
        LogProofError: it did not only grow.
    """
    if kept is None:
        return ""
    if kept.origin != newest.origin:
        return (
            f"you kept a checkpoint of {kept.origin}, this log is {newest.origin}; if a loss was "
            "accepted: keydctl audit list --action checkpoint-accept"
        )
    if kept.size > newest.size:
        return (
            f"you kept a checkpoint of {kept.size} entries, this one has {newest.size}; "
            "--fresh asks for one of the whole log"
        )
    proof = client.prove_consistency(kept.size, new_size=newest.size)
    merkle.verify_consistency(
        kept.size, kept.root_hash, newest.size, newest.root_hash, proof.hashes
    )
    return f"the log only grew since the {kept.size} entries you kept a checkpoint of"
