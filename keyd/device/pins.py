"""Where a token's PIN comes from."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from keyd.errors import InvalidRequestError, TokenLockedError
from keyd.model import Pin

_MAX_PIN_BYTES = 1024


class PinSource:
    """``credential:NAME``, ``file:PATH`` or ``prompt``, as the configuration spells it.

    credential: a file of that name in $CREDENTIALS_DIRECTORY (systemd's LoadCredential). file: a
    file that only its owner can read. prompt: a person gives it with each unlock.
    """

    def __init__(self, token: str, text: str, environment: Mapping[str, str]) -> None:
        self.text = text
        self._token = token
        self._kind, _, self._rest = text.partition(":")
        self._environment = environment

    @property
    def is_prompt(self) -> bool:
        """True where only a person knows the PIN."""
        return self._kind == "prompt"

    def read(self) -> Pin:
        """The PIN, read afresh; one newline at the end is not part of it.

        Raises:
            InvalidRequestError: the source is ``prompt``.
            TokenLockedError: it cannot be read, or others could read it too.
        """
        if self.is_prompt:
            raise InvalidRequestError(
                "pin",
                f"token {self._token} has no configured PIN, give one",
                hint=f"keydctl token unlock {self._token}",
            )
        path = self._path()
        try:
            # Checked on the descriptor: the name may point elsewhere a moment later.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                state = os.fstat(file.fileno())
                self._check_mode(path, state.st_mode)
                raw = file.read(_MAX_PIN_BYTES + 1)
        except OSError as error:
            raise self._error(f"{path} cannot be read: {error.strerror}") from error
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        if not raw or len(raw) > _MAX_PIN_BYTES:
            raise self._error(f"{path} does not hold a PIN: it is empty or too long")
        try:
            return Pin(raw.decode("utf-8"))
        except UnicodeDecodeError:
            # The original error would quote the bytes.
            raise self._error(f"{path} does not hold a PIN: it is not UTF-8") from None

    def _path(self) -> Path:
        if self._kind == "file":
            return Path(self._rest)
        folder = self._environment.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise self._error(
                "$CREDENTIALS_DIRECTORY is not set",
                hint=f"start keyd by systemd with LoadCredential={self._rest}:FILE",
            )
        if "/" in self._rest or self._rest in (".", ".."):
            raise self._error(f"{self._rest!r} is not a credential's name")
        return Path(folder) / self._rest

    def _check_mode(self, path: Path, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise self._error(f"{path} is not a regular file")
        # systemd protects the credentials folder itself and may set group bits by an ACL.
        if self._kind == "file" and mode & 0o077:
            raise self._error(
                f"{path} holds a PIN and others can get at it (mode {stat.S_IMODE(mode):04o})",
                hint=f"chmod 600 {path}",
            )

    def _error(self, why: str, hint: str = "") -> TokenLockedError:
        return TokenLockedError(
            f"token {self._token}: {why}",
            hint=hint or f"correct it, then: keydctl token unlock {self._token}",
            token=self._token,
        )


class PinTag:
    """Recognises a PIN that was seen before, for the life of this process, without keeping it."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._tag = b""

    def remember(self, pin: Pin) -> None:
        """This is the one."""
        self._tag = self._of(pin)

    def forget(self) -> None:
        """There is none."""
        self._tag = b""

    def matches(self, pin: Pin) -> bool:
        """True for the PIN that was remembered last."""
        return hmac.compare_digest(self._tag, self._of(pin))

    def _of(self, pin: Pin) -> bytes:
        return hmac.digest(self._key, pin.reveal().encode(), "sha256")
