"""keydctl sign and verify."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.cli.exits import Exit
from keyd.cli.settings import Command, Settings
from keyd.cli.signwait import WaitingCommand, advise, sign_when_approved, wait_time

if TYPE_CHECKING:
    from keyd.client import Signature
    from keyd.errors import KeydError
    from keyd.model import Context, Digest, Encoding, Scheme

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
ENCODINGS = ("der", "raw")


@click.command(cls=WaitingCommand)
@click.argument("file", required=False)
@click.option("--key", required=True, help="The key (its active version) or KEY/versions/N.")
@click.option("--digest", metavar="ALG:HEX", help="Sign a finished digest, as sha256:1f3c...")
@click.option("--encoding", type=click.Choice(ENCODINGS), help="ECDSA needs a choice.")
@click.option("--scheme", default="", help="Signature scheme; by default the key's own.")
@click.option("--context", metavar="REPO:ROLE", help="What the signature is for.")
@click.option("--reason", default="", help="Why, for the log.")
@click.option("--dry-run", is_flag=True, help="Ask what would happen; sign nothing.")
@click.option(
    "--wait",
    "wait_s",
    type=wait_time,
    metavar="[=TIME]",
    help="Stay until people have consented, at most for a time, as --wait=10m.",
)
@click.option("-o", "--output", "target", metavar="SIG", help="Write the signature; - for stdout.")
@click.pass_obj
def sign(
    settings: Settings,
    file: str | None,
    key: str,
    digest: str | None,
    encoding: str | None,
    scheme: str,
    context: str | None,
    reason: str,
    dry_run: bool,
    wait_s: float | None,
    target: str | None,
) -> int:
    """Sign FILE (- for standard input), or a digest.

    Encodings of ECDSA: der for TUF, X.509 and openssl, raw for Notary and JWS. The signature is
    verified before it is written. Where people have to consent first, the exit code is 3 and the
    same command has to be run again, or --wait stays until they have.
    """
    if (file is None) == (digest is None):
        raise click.UsageError("give either FILE or --digest")
    from keyd.cli.signadvice import advise_refused
    from keyd.errors import (
        AlgorithmMismatchError,
        ApprovalNeededError,
        ContentError,
        RuleRefusedError,
    )
    from keyd.model import SignRequest

    message = None if file is None else read_file(file)
    request = SignRequest(
        key=key,
        message=message,
        digest=_digest(digest) if digest else None,
        encoding=parse_encoding(encoding),
        scheme=parse_scheme(scheme),
        context=parse_context(context),
        reason=reason,
        dry_run=dry_run,
    )
    with settings.connect() as keyd:

        def ask() -> Signature:
            return keyd.sign_one(request)

        try:
            signed = ask()
        except (AlgorithmMismatchError, ContentError, RuleRefusedError) as e:
            advise_refused(e, file or "FILE", message or b"", encoding)
            advise_encoding(e, encoding)
            raise
        except ApprovalNeededError as e:
            if wait_s is None or dry_run:
                advise(e)
                raise
            signed = sign_when_approved(keyd, ask, e, wait_s)
    if target and not dry_run:
        _write(target, signed.signature)
    if target != "-" or dry_run:
        settings.answer(signature_json(signed), lambda: _receipt(signed, dry_run, target))
        _warn(signed)
    return Exit.NEEDS_PEOPLE if signed.needs else Exit.DONE


@click.command(cls=Command)
@click.argument("file")
@click.argument("sig")
@click.option("--key", help="A key of the daemon: any of its versions; or KEY/versions/N.")
@click.option("--public-key", metavar="PEM", help="A public key file: no daemon is asked.")
@click.option("--encoding", type=click.Choice(ENCODINGS), help="By default told by its length.")
@click.option("--scheme", default="", help="Signature scheme; by default the key's own.")
@click.pass_obj
def verify(
    settings: Settings,
    file: str,
    sig: str,
    key: str | None,
    public_key: str | None,
    encoding: str | None,
    scheme: str,
) -> None:
    """Verify the signature SIG over FILE. Exit code 1 when it does not verify."""
    from keyd import publickeys
    from keyd.errors import BadSignatureError, KeydError

    if (key is None) == (public_key is None):
        raise click.UsageError("give either --key or --public-key")
    message, signature = read_file(file), read_file(sig)
    wanted = parse_scheme(scheme)
    if public_key is not None:
        der = publickeys.load_pem(read_file(public_key))
        candidates = [(public_key, der, wanted or publickeys.algorithm_of(der).schemes[0])]
    else:
        candidates = _keys_of(settings, key or "", wanted)
    for name, der, used in candidates:
        try:
            raw = _raw(signature, der, encoding)
            publickeys.verify(der, used, raw, message)
        except KeydError:
            continue
        settings.answer(
            {"verified": True, "key": name, "scheme": used.value}, f"verified: {name}, {used}"
        )
        return
    names = ", ".join(name for name, _, _ in candidates) or "no version"
    raise BadSignatureError(f"{sig} is not a signature of {names} over {file}", file=file)


def read_file(name: str) -> bytes:
    """A whole file; ``-`` is standard input.

    Raises:
        click.UsageError: missing, unreadable or larger than 64 MiB.
    """
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_MESSAGE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_MESSAGE_BYTES + 1)
    except OSError as e:
        raise click.UsageError(f"cannot read {name}: {e.strerror}") from e
    if len(data) > MAX_MESSAGE_BYTES:
        raise click.UsageError(f"{name} is larger than 64 MiB; sign its digest with --digest")
    return data


def signature_json(s: Signature) -> dict[str, object]:
    """A signature's stable keys."""
    return {
        "key_version": s.key_version,
        "signature": base64.b64encode(s.signature).decode(),
        "encoding": s.encoding.value,
        "scheme": s.scheme.value,
        "keyid": s.keyid,
        "digest": str(s.digest),
        "public_key": base64.b64encode(s.public_key).decode(),
        "log_index": s.log_index,
        "replayed": s.replayed,
        "rule": s.rule,
        "summary": s.summary,
        "request_id": s.request_id,
        "unbound": s.unbound,
        "reissued": s.reissued,
        "checks": list(s.checks),
        "needs": list(s.needs),
    }


def _receipt(s: Signature, dry_run: bool, target: str | None) -> str:
    log = "none, nothing was signed" if dry_run else f"entry {s.log_index}"
    shown = "" if dry_run or target else base64.b64encode(s.signature).decode()
    return output.fields(
        [
            ("would sign with" if dry_run else "signed with", s.key_version),
            ("content", s.summary),
            ("digest", s.digest),
            ("scheme", f"{s.scheme}, {s.encoding}"),
            ("allowed by", s.rule),
            *(("checked", line) for line in s.checks),
            *(("needs consent", line) for line in s.needs),
            ("log", f"{log}{' (the stored signature, given again)' if s.replayed else ''}"),
            ("written to", "" if dry_run else target or ""),
            ("signature", shown),
        ]
    )


def _warn(s: Signature) -> None:
    if s.unbound:
        output.warn(f"{s.key_version} belongs to a key bound to nothing: it signs anything")
    if s.reissued:
        output.warn(
            "other bytes were signed under this version before: publish only the last of them"
        )


def _write(target: str, signature: bytes) -> None:
    if target == "-":
        output.write_bytes(signature)
        return
    try:
        Path(target).write_bytes(signature)
    except OSError as e:
        raise click.UsageError(f"cannot write {target}: {e.strerror}") from e


def _digest(text: str) -> Digest:
    from keyd.model import Digest, HashAlgorithm

    algorithm, colon, value = text.partition(":")
    try:
        if not colon or algorithm not in list(HashAlgorithm):
            raise ValueError
        return Digest(HashAlgorithm(algorithm), bytes.fromhex(value))
    except ValueError as e:
        raise click.UsageError(
            f"--digest: {text!r} is not sha256:HEX, sha384:HEX or sha512:HEX"
        ) from e


def parse_encoding(text: str | None) -> Encoding | None:
    """One of ENCODINGS, or no choice."""
    from keyd.model import Encoding

    return Encoding(text) if text else None


def parse_scheme(text: str) -> Scheme | None:
    """A scheme, or none for the key's own.

    Raises:
        click.UsageError: no scheme keyd knows.
    """
    from keyd.model import Scheme

    if text and text not in list(Scheme):
        raise click.UsageError(f"{text} is no scheme; known are {', '.join(Scheme)}")
    return Scheme(text) if text else None


def advise_encoding(error: KeydError, given: str | None) -> None:
    """Add the hint that a choice of encoding is missing, where that is what went wrong."""
    if given is None and "encoding" in error.message:
        error.hint = error.hint or "say --encoding der or --encoding raw"


def parse_context(text: str | None) -> Context:
    """REPO:ROLE, or nothing claimed.

    Raises:
        click.UsageError: it is something else.
    """
    from keyd.model import Context

    if text is None:
        return Context()
    repository, colon, role = text.rpartition(":")
    if not (repository and colon and role):
        raise click.UsageError(f"--context: {text!r} is not REPO:ROLE, as in acme:targets")
    return Context(repository, role)


def _keys_of(
    settings: Settings, key: str, wanted: Scheme | None
) -> list[tuple[str, bytes, Scheme]]:
    name, _, number = key.partition("/versions/")
    with settings.connect() as keyd:
        found = keyd.get_key(name)
    versions = [v for v in found.versions if v.public_key and number in ("", str(v.number))]
    return [(v.name, v.public_key, wanted or found.scheme) for v in versions]


def _raw(signature: bytes, public_key: bytes, encoding: str | None) -> bytes:
    """r||s of an ECDSA signature in either encoding; a DER one is some bytes longer than r||s."""
    from keyd import publickeys

    algorithm = publickeys.algorithm_of(public_key)
    if not algorithm.is_ecdsa or encoding == "raw":
        return signature
    if encoding is None and len(signature) == (64 if algorithm.value == "ecdsa-p256" else 96):
        return signature
    return publickeys.to_raw(signature, algorithm)
