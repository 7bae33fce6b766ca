"""What to do where keydctl sign was given something that is not signed as it lies."""

from __future__ import annotations

import json

from keyd.errors import AlgorithmMismatchError, ContentError, KeydError


def advise_refused(error: KeydError, file: str, message: bytes, encoding: str | None) -> None:
    """Say what ``file`` is, where that is why nothing was signed; else leave the error alone.

    ``encoding``: the one that was asked for. A choice of it helps nobody who wants metadata signed
    and gives the whole file, so that is said instead.
    """
    no_choice = isinstance(error, AlgorithmMismatchError) and encoding is None
    is_content = isinstance(error, ContentError) or error.facts.get("rule") == "opaque"
    if not (is_content or no_choice):
        return
    if is_whole_file(message):
        if no_choice:
            error.message = f"{file} is a whole metadata file, with its signatures"
        error.hint = (
            f"keys sign the signed part of a metadata file: keydctl tuf sign {file}; see what it "
            f"is: keydctl explain {file} --key KEY"
        )
        if no_choice:
            error.hint += "; to sign the file as it lies, say --encoding der or --encoding raw"
    elif is_content:
        error.hint = error.hint or f"see what it is: keydctl explain {file} --key KEY"


def is_whole_file(message: bytes) -> bool:
    """True for metadata with its signatures around it, as TUF and Notary publish it."""
    try:
        # Canonical JSON leaves control characters bare; Notary's files hold them.
        found = json.loads(message, strict=False)
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict) or not isinstance(found.get("signatures"), list):
        return False
    signed = found.get("signed")
    return isinstance(signed, dict) and "_type" in signed
