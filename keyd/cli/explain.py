"""keydctl explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.cli.settings import Command, Settings
from keyd.cli.sign import (
    ENCODINGS,
    advise_encoding,
    parse_context,
    parse_encoding,
    parse_scheme,
    read_file,
)

if TYPE_CHECKING:
    from keyd.cli.explainfile import Reading
    from keyd.cli.explainshapes import Explained
    from keyd.client import Signature
    from keyd.content.change import Change
    from keyd.content.documents import Document
    from keyd.errors import KeydError
    from keyd.model import Context, Encoding, Scheme


@click.command(cls=Command)
@click.argument("file")
@click.option("--key", help="The key (its active version) or KEY/versions/N.")
@click.option("--against", metavar="OLD", help="List what changed since this version of it.")
@click.option("--context", metavar="REPO:ROLE", help="What the signature is for.")
@click.option("--encoding", type=click.Choice(ENCODINGS), help="By default as the content has it.")
@click.option("--scheme", default="", help="Signature scheme; by default the key's own.")
@click.option("--offline", is_flag=True, help="Only what FILE says: no daemon is asked.")
@click.pass_obj
def explain(
    settings: Settings,
    file: str,
    key: str | None,
    against: str | None,
    context: str | None,
    encoding: str | None,
    scheme: str,
    offline: bool,
) -> int:
    """Show what signing FILE would mean, and ask whether it is allowed.

    FILE (- for standard input) is a metadata file, of which the signed part is taken, or the bytes
    to sign. What it says is read here; the daemon is asked by a dry run, which signs nothing and
    asks no token: which version would sign, which grant allows it or which rule refuses it and
    why, what was checked, and whose consent would be asked for. Exit code 0 when it would be
    signed, 3 when people have to consent first.
    """
    from keyd.cli.explainfile import read
    from keyd.cli.explainshapes import Explained, explained_json, explained_text
    from keyd.cli.explainsignatures import count, judge, keys_at_hand
    from keyd.errors import ContentError

    if key is None and not offline:
        raise click.UsageError("give --key, or --offline to ask no daemon")
    claimed, wanted, chosen = parse_context(context), parse_scheme(scheme), parse_encoding(encoding)
    message = read_file(file)
    old_name, old = (against, read_old(against)) if against is not None else ("", None)
    try:
        reading = read(message)
    except ContentError as e:
        explained = Explained(file, None, old_name, old, outcome=e)
    else:
        at_hand = keys_at_hand(reading, old, old_name, claimed.role)
        changed = changes(reading, old) if old else None
        outcome = None
        if key is not None and not offline:
            outcome = _ask(settings, reading, key, claimed, wanted, chosen)
        explained = Explained(
            file,
            reading,
            old_name,
            old,
            changes=changed,
            signatures=judge(reading, at_hand),
            counts=count(reading, at_hand),
            outcome=outcome,
            encoding=_encoding_of(reading, outcome, encoding),
        )
    settings.answer(explained_json(explained), lambda: explained_text(explained))
    _warn(explained)
    return explained.code


def read_old(name: str) -> Document:
    """The document to compare with: a metadata file, or the signed part of one.

    Raises:
        click.UsageError: unreadable, or no metadata.
    """
    from keyd.cli.explainfile import read
    from keyd.cli.explainshapes import plain
    from keyd.content.documents import Document
    from keyd.errors import ContentError

    problem: ContentError | None
    try:
        reading = read(read_file(name))
    except ContentError as e:
        problem = e
    else:
        if isinstance(reading.content, Document):
            return reading.content
        problem = reading.problem
    why = plain(problem.message) if problem else "it is a certificate or a request for one"
    raise click.UsageError(f"--against: {name} is no metadata: {why}")


def changes(reading: Reading, old: Document) -> tuple[Change, ...] | None:
    """What changed; None for what cannot be read, and for another role than a root that was given
    for its keys.

    Raises:
        click.UsageError: the two have nothing to do with each other.
    """
    from keyd.content.diff import compare
    from keyd.content.documents import Document, Root
    from keyd.errors import ContentError

    new = reading.content
    if new is None:
        return None
    if not isinstance(new, Document):
        raise click.UsageError("--against: only metadata can be compared, FILE is none")
    if isinstance(old, Root) and new.kind != old.kind and new.dialect is old.dialect:
        return None
    try:
        return compare(old, new)
    except ContentError as e:
        raise click.UsageError(f"--against: {e.message}") from e


def _ask(
    settings: Settings,
    reading: Reading,
    key: str,
    context: Context,
    scheme: Scheme | None,
    encoding: Encoding | None,
) -> Signature | KeydError:
    """What the daemon would do, or why not, whatever the reason."""
    from keyd.errors import KeydError
    from keyd.model import Encoding

    try:
        with settings.connect() as keyd:
            return keyd.sign(
                key,
                reading.payload,
                # What is readable has an encoding of its own. RAW is what every kind of key has;
                # no signature is made that could be in the wrong one.
                encoding=encoding or (Encoding.RAW if reading.content else None),
                scheme=scheme,
                context=context,
                dry_run=True,
            )
    except KeydError as e:
        advise_encoding(e, encoding.value if encoding else None)
        return e


def _encoding_of(reading: Reading, outcome: Signature | KeydError | None, given: str | None) -> str:
    """The encoding the signature would have: as chosen, else as the content's readers want it."""
    from keyd import publickeys
    from keyd.errors import KeydError

    if outcome is None or isinstance(outcome, KeydError):
        return ""
    if given or reading.content is None:
        return outcome.encoding.value
    is_ecdsa = publickeys.algorithm_of(outcome.public_key).is_ecdsa
    return "der" if is_ecdsa and not reading.is_notary else "raw"


def _warn(explained: Explained) -> None:
    """Say what a yes does not mean."""
    from keyd.cli.explainshapes import unread
    from keyd.errors import KeydError

    reading, outcome = explained.reading, explained.outcome
    if reading is None or outcome is None or isinstance(outcome, KeydError):
        return
    if why := unread(reading):
        output.warn(f"it would be signed though nobody can say for certain what it says: {why}")
    if outcome.unbound:
        output.warn(f"{outcome.key_version} belongs to a key bound to nothing: it signs anything")
