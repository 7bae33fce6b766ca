"""Consent signed with a person's own OpenSSH key: SSHSIG, made and checked by ssh-keygen itself.

The format is PROTOCOL.sshsig of OpenSSH. Hardware keys, agents and every kind of key are thereby
what OpenSSH makes of them; keyd reads no private key. Both functions block and are bounded.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from keyd.errors import DeadlineError, InvalidRequestError

NAMESPACE = "keyd-approval"
"""What the signatures are for; one made for another purpose never counts."""

MAX_SIGNATURE_CHARS = 32 * 1024
"""An armored signature, RSA-16384 included, is far shorter."""

VERIFY_TIMEOUT_S = 10.0

SIGN_TIMEOUT_S = 120.0
"""A person may have to type a passphrase and touch a security key."""

_PROGRAM = "ssh-keygen"
_PRINCIPAL = re.compile(r"[!-~]{1,512}")
_PATTERN_CHARACTERS = set('*?!,"#')
_FINGERPRINT = re.compile(r" key (SHA256:[A-Za-z0-9+/]{43})\s*$")


def sign(text: bytes, key_file: Path) -> str:
    """Sign with the private key in ``key_file``, or with the agent's when it is a public one.

    ssh-keygen asks at the terminal for a passphrase, a PIN or a touch. Returns the armored SSHSIG.

    Raises:
        InvalidRequestError: ssh-keygen could not sign with that key, or is not installed.
        DeadlineError: nobody typed or touched what it waited for.
    """
    if not key_file.is_file():
        raise InvalidRequestError("key", f"there is no key file {key_file}")
    # From standard input ssh-keygen writes the signature to standard output, and no file.
    command = ["-Y", "sign", "-q", "-n", NAMESPACE, "-f", str(key_file.absolute())]
    done = _run(command, text, SIGN_TIMEOUT_S)
    signature = done.stdout.decode("ascii", "replace")
    if done.returncode != 0 or not signature.startswith("-----BEGIN SSH SIGNATURE-----"):
        raise InvalidRequestError(
            "key",
            f"ssh-keygen could not sign with {key_file}: {_said(done)}",
            hint="it has to be an OpenSSH key of your own, as made by: ssh-keygen -t ed25519",
        )
    return signature


def verify(text: bytes, signature: str, principal: str, public_keys: Sequence[str]) -> str:
    """Check that one of the principal's keys signed ``text``; returns that key's fingerprint.

    ``public_keys``: OpenSSH public key lines (``ssh-ed25519 AAAA... comment``).

    Raises:
        InvalidRequestError: another key, text or purpose, no signature at all, or no ssh-keygen
            to check it with; the message says which.
        DeadlineError: ssh-keygen did not answer.
    """
    listed = [line for line in (_allowed(principal, key) for key in public_keys) if line]
    if not listed:
        raise InvalidRequestError(
            "signature",
            f"there is no key listed with which {principal} may sign consent",
            hint="list it in the policy: [[approver]] with principal and ssh_keys",
        )
    return verify_listed(text, signature, principal, "\n".join(listed) + "\n")


def verify_listed(
    text: bytes,
    signature: str,
    principal: str,
    allowed_signers: str,
    *,
    at: datetime | None = None,
) -> str:
    """As :func:`verify`, with keys from the text of an allowed-signers file (ssh-keygen(1)).

    ``at``: when the file had to list the key, by its valid-after and valid-before; None: now.

    Raises:
        InvalidRequestError: as :func:`verify`; also where the file lists no such key.
        DeadlineError: ssh-keygen did not answer.
    """
    if not _PRINCIPAL.fullmatch(principal) or _PATTERN_CHARACTERS & set(principal):
        raise InvalidRequestError("signature", f"{principal!r} cannot be a signer's name")
    if len(signature) > MAX_SIGNATURE_CHARS or not signature.isascii():
        raise InvalidRequestError("signature", "it is no armored SSH signature")
    with tempfile.TemporaryDirectory(prefix="keyd-sshsig-") as folder:
        signers, armored = Path(folder) / "allowed_signers", Path(folder) / "signature"
        signers.write_text(allowed_signers, encoding="utf-8")
        armored.write_text(signature, encoding="ascii")
        command = ["-Y", "verify", "-n", NAMESPACE, "-I", principal]
        if at is not None:
            command.append(f"-Overify-time={at.astimezone(UTC):%Y%m%d%H%M%SZ}")
        done = _run([*command, "-f", str(signers), "-s", str(armored)], text, VERIFY_TIMEOUT_S)
    found = _FINGERPRINT.search(done.stdout.decode("utf-8", "replace"))
    if done.returncode != 0 or found is None:
        raise InvalidRequestError(
            "signature",
            f"it is none of {principal} over this consent: {_said(done)}",
            hint=f"sign the very text, with a listed key and the namespace {NAMESPACE}",
        )
    return found[1]


def _allowed(principal: str, public_key: str) -> str:
    """A line of an allowed-signers file, or nothing for what is no public key: options before the
    key, and a second line, would say more than the policy does."""
    words = public_key.split()
    if len(words) < 2 or not re.fullmatch(r"[a-z0-9@.-]+", words[0]):
        return ""
    if not re.fullmatch(r"AAAA[A-Za-z0-9+/=]+", words[1]):
        return ""
    return f'{principal} namespaces="{NAMESPACE}" {words[0]} {words[1]}'


def _run(arguments: list[str], text: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            [_PROGRAM, *arguments], input=text, capture_output=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError as e:
        raise InvalidRequestError(
            "signature",
            "there is no ssh-keygen on this machine to make or check it with",
            hint="install it; on Debian and Ubuntu: apt-get install openssh-client",
        ) from e
    except subprocess.TimeoutExpired as e:
        raise DeadlineError(
            f"ssh-keygen did not answer within {timeout_s:g} s",
            hint="does the key wait for a touch or a passphrase? then try again",
        ) from e


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    text = (done.stderr or done.stdout).decode("utf-8", "replace")
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:300] or f"exit code {done.returncode}"
