"""keydctl audit prove, export, verify, checkpoint and log-key: believe the log, or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from keyd.cli import output
from keyd.cli.settings import Command, Settings

if TYPE_CHECKING:
    from keyd.audit.note import VerifierKey

_PATH = click.Path(path_type=Path)


@click.command(cls=Command)
@click.argument("index", type=click.IntRange(min=0))
@click.option("-o", "--output", "target", type=_PATH, help="Write a C2SP .tlog-proof file.")
@click.option("--log-key", type=_PATH, help="Verifier keys to check the checkpoint with.")
@click.pass_obj
def prove(settings: Settings, index: int, target: Path | None, log_key: Path | None) -> None:
    """Prove that an entry is in the log: checked here, and written for others to check.

    The proof is c2sp.org/tlog-proof@v1; what it proves is the entry's canonical JSON, which
    keydctl audit show --json prints.
    """
    import base64

    from keyd.audit.checkpoint import verify_checkpoint
    from keyd.audit.merkle import leaf_hash, verify_inclusion
    from keyd.errors import LogProofError

    keys = _verifier_keys(log_key) if log_key else None
    with settings.connect() as keyd:
        proof = keyd.prove_inclusion(index)
    head = proof.checkpoint
    if proof.tree_size != head.size or proof.entry.index != index:
        raise LogProofError(f"the daemon proved something else than entry {index}")
    verify_inclusion(leaf_hash(proof.entry.body), index, head.size, proof.hashes, head.root_hash)
    if keys:
        verify_checkpoint(head.note, keys)
    hashes = [base64.b64encode(h).decode() for h in proof.hashes]
    text = "".join(
        f"{line}\n" for line in ("c2sp.org/tlog-proof@v1", f"index {index}", *hashes, "")
    )
    if target:
        _write_file(target, (text + head.note).encode())
    value = {
        "index": index,
        "tree_size": head.size,
        "hashes": hashes,
        "checkpoint": head.note,
        "entry": proof.entry.body.decode(),
        "output": str(target) if target else "",
        "checkpoint_verified": bool(keys),
    }
    said = f"entry {index} is in the log of {head.size} entries" + (
        f"; proof written to {target}" if target else ""
    )
    settings.answer(value, said if target else f"{said}\n\n{text}{head.note}".rstrip("\n"))


@click.command(cls=Command)
@click.option("-o", "--output", "target", type=_PATH, required=True, help="The file to write.")
@click.pass_obj
def export(settings: Settings, target: Path) -> None:
    """Write the whole log as JSON lines with a fresh checkpoint at its end.

    What arrives is checked against the checkpoint while it is written.
    """
    from keyd.cli.auditexport import export_log

    with settings.connect() as keyd:
        checkpoint = export_log(keyd, target)
    settings.answer(
        {
            "output": str(target),
            "entries": checkpoint.size,
            "origin": checkpoint.origin,
            "checkpoint": checkpoint.note,
        },
        f"wrote {checkpoint.size} entries of {checkpoint.origin} to {target}",
    )


@click.command(cls=Command)
@click.argument("file", type=_PATH, metavar="EXPORT")
@click.option("--log-key", type=_PATH, required=True, help="Verifier keys; audit log-key has them.")
@click.option("--checkpoint", type=_PATH, help="A checkpoint you kept: finds a log that was cut.")
@click.option("--allowed-signers", type=_PATH, help="Who may sign consent, as ssh-keygen reads it.")
@click.pass_obj
def verify(
    settings: Settings,
    file: Path,
    log_key: Path,
    checkpoint: Path | None,
    allowed_signers: Path | None,
) -> None:
    """Verify an exported log, every byte of it; no daemon is asked.

    With --allowed-signers (the format of OpenSSH: PRINCIPAL KEYTYPE KEY in each line) every signed
    consent is checked too: that this person signed it, and consented to what the entry says.
    """
    from keyd.audit.export import verify_export
    from keyd.cli.auditconsents import keep_consents, read_consents, verify_consent

    keys = _verifier_keys(log_key)
    kept = _read_text(checkpoint) if checkpoint else None
    signers = _read_text(allowed_signers) if allowed_signers else None
    signed: list[bytes] = []
    try:
        size = file.stat().st_size
        with file.open("rb") as lines, output.progress_bytes(size, "verifying") as advance:
            report = verify_export(keep_consents(_counted(lines, advance), signed), keys, kept)
    except OSError as e:
        raise click.UsageError(f"cannot read {file}: {e.strerror}") from e
    consents = read_consents(signed)
    if signers is not None:
        with output.progress(consents, "verifying consents") as shown:
            for entry in shown:
                verify_consent(entry, signers)
    value = {
        "verified": True,
        "consents": len(consents),
        "consents_verified": signers is not None,
        "entries": report.entries,
        "checkpoints": report.checkpoints,
        "origin": report.newest.origin,
        "root_hash": report.newest.root_hash.hex(),
        "against_kept_checkpoint": checkpoint is not None,
        "losses": [loss.text for loss in report.losses],
    }
    settings.answer(
        value,
        f"verified: {report.entries} entries of {report.newest.origin}"
        + (", nothing missing since the checkpoint you kept" if checkpoint else "")
        + _consents_told(len(consents), signers is not None),
    )
    for loss in report.losses:
        output.note(loss.text)


def _consents_told(count: int, verified: bool) -> str:
    if verified:
        return f"; {count} signed consent{'s' if count != 1 else ''} verified"
    return f"; signed consents not checked (--allowed-signers): {count}" if count else ""


@click.command(cls=Command)
@click.option("--fresh", is_flag=True, help="Of the whole log as it is now.")
@click.option("--forget", is_flag=True, help="Drop the kept one: the daemon was set up anew.")
@click.option("-o", "--output", "target", type=_PATH, help="Write the checkpoint to a file.")
@click.pass_obj
def checkpoint(settings: Settings, fresh: bool, forget: bool, target: Path | None) -> None:
    """Show the newest checkpoint, checked against the one this user has kept."""
    from keyd.cli.auditexport import compare_with_kept

    with settings.connect() as keyd:
        if forget:
            dropped = keyd.forget_checkpoint()
            settings.answer(
                {"forgotten": dropped},
                "the kept checkpoint is dropped" if dropped else "there was none",
            )
            return
        kept = keyd.kept_checkpoint()
        newest = keyd.checkpoint(fresh=fresh)
        said = compare_with_kept(keyd, kept, newest)
        verdict = keyd.checkpoint_verdict
    if target:
        _write_file(target, newest.note.encode())
    value = {
        "origin": newest.origin,
        "size": newest.size,
        "root_hash": newest.root_hash.hex(),
        "note": newest.note,
        "kept_size": kept.size if kept else None,
        "verdict": verdict,
    }
    settings.answer(value, newest.note.rstrip("\n"))
    if said:
        output.note(said)


@click.command("log-key", cls=Command)
@click.option("-o", "--output", "target", type=_PATH, help="Write them to a file.")
@click.pass_obj
def log_key(settings: Settings, target: Path | None) -> None:
    """Show the verifier keys that check the log's checkpoints.

    Keep them where the daemon cannot change them: audit verify trusts what you give it.
    """
    with settings.connect() as keyd:
        keys = keyd.checkpoint().verifier_keys
    if target:
        _write_file(target, "".join(f"{key}\n" for key in keys).encode())
    settings.answer({"verifier_keys": list(keys)}, "\n".join(keys))


def _verifier_keys(file: Path) -> list[VerifierKey]:
    from keyd.audit.note import VerifierKey

    lines = [line.strip() for line in _read_text(file).splitlines()]
    keys = [VerifierKey.parse(line) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise click.UsageError(f"{file} has no verifier keys")
    return keys


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as e:
        raise click.UsageError(f"cannot read {file}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise click.UsageError(f"{file} is not UTF-8 text") from e


def _write_file(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as e:
        raise click.UsageError(f"cannot write {file}: {e.strerror}") from e


def _counted(lines: BinaryIO, advance: output.Advance) -> Iterator[bytes]:
    for line in lines:
        advance(len(line))
        yield line
