"""What `keyd-server doctor` says of tokens: the daemon's word while it runs, else the module's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyd.cli.server_doctor_findings import Area, Finding
from keyd.cli.server_doctor_probe import ProbedModule, ProbedToken, Readers
from keyd.config.sections import TokenSection
from keyd.device.failures import INSTALL_YUBIKIT
from keyd.model import TokenState, TokenStatus

_INITIALIZED, _COUNT_LOW, _FINAL_TRY, _LOCKED = 0x400, 0x10000, 0x20000, 0x40000
"""CKF_TOKEN_INITIALIZED and CKF_USER_PIN_* (PKCS#11 v2.40, section 3.2)."""

_BY_PCSC = ("ykcs11", "opensc")
_ABSENT = "keys on it sign nothing until it is there"


def needs_pcscd(token: TokenSection) -> bool:
    """True for modules that reach their tokens through pcscd."""
    return any(name in token.module.name for name in _BY_PCSC)


def check_readers(tokens: Sequence[TokenSection], seen: Readers) -> Iterator[Finding]:
    """Does pcscd answer, and are there cards for the tokens (all of modules that need it)?"""
    if seen.missing:
        yield Finding(
            Area.MODULE,
            f"{seen.missing} is not installed beside keyd",
            "YubiKeys sign without it, but none is set up or attested, no key is made on one, and "
            "touches are told by the time they take",
            INSTALL_YUBIKIT,
        )
    names = ", ".join(token.name for token in tokens)
    why = f"without it the {'token' if len(tokens) == 1 else 'tokens'} {names} cannot be reached"
    if seen.problem:
        yield Finding(
            Area.PCSCD,
            f"pcscd does not answer the service's user: {seen.problem}",
            why,
            "systemctl enable --now pcscd.socket; if it runs: journalctl -u pcscd, and see that "
            "polkit lets the user in (50-keyd-server.rules, which make install puts into "
            "/usr/share/polkit-1/rules.d)",
        )
        return
    yield Finding(Area.PCSCD, "pcscd answers")
    if seen.missing:
        return  # nobody here can ask it for its readers
    if len(seen.filled) >= len(tokens):
        yield Finding(Area.READER, ", ".join(seen.filled))
        return
    empty = [name for name in seen.names if name not in seen.filled]
    what = f"{len(seen.filled)} cards are in readers, for {len(tokens)} tokens"
    yield Finding(
        Area.READER,
        what + (f"; empty: {', '.join(empty)}" if empty else ""),
        "keys on what is missing sign nothing",
        "plug it in; if it is: pcsc_scan shows what pcscd sees, lsusb what the machine sees",
    )


def is_cut_off(token: TokenStatus) -> bool:
    """True for what pcscd's silence explains, where the token's module needs it."""
    return token.state in (TokenState.ABSENT, TokenState.FAULTED)


def check_shown_token(token: TokenStatus) -> Iterator[Finding]:
    """A token as the running daemon has it."""
    name, detail = token.name, f": {token.detail}" if token.detail else ""
    if token.state is TokenState.READY:
        yield Finding(Area.TOKEN, f"{name} is READY, serial {token.serial}")
    elif token.state is TokenState.LOCKED:
        yield Finding(
            Area.TOKEN,
            f"{name} is LOCKED{detail}",
            "keys on it sign nothing until somebody gives the PIN",
            f"keydctl token unlock {name}",
        )
    elif token.state is not TokenState.PIN_LOCKED:  # which is said below
        yield Finding(
            Area.TOKEN,
            f"{name} is {token.state}{detail}",
            _ABSENT,
            f"plug it in, and see that label and serial of {name} in keyd.toml are its own: "
            "keydctl token list",
        )
    locked = token.state is TokenState.PIN_LOCKED
    yield from _check_pin(name, "locked" if locked else token.pin_state)


def check_probed_token(token: TokenSection, seen: ProbedModule) -> Iterator[Finding]:
    """A token as its module shows it, the daemon being stopped."""
    name = token.name
    if seen.problem:
        yield Finding(
            Area.MODULE,
            f"{token.module}: {seen.problem}",
            f"without it there is no token {name}",
            f"try it by itself: pkcs11-tool --module {token.module} --list-slots; reinstall its "
            "package, or correct module in keyd.toml",
        )
        return
    ours = [t for t in seen.tokens if t.flags & _INITIALIZED and _is_ours(token, t)]
    if len(ours) != 1:
        others = ", ".join(f"{t.label or '(no label)'} {t.serial}".strip() for t in seen.tokens)
        yield Finding(
            Area.TOKEN,
            f"{len(ours)} tokens fit {name}; the module shows: {others or 'none'}",
            _ABSENT if not ours else "keyd takes none of two that look the same",
            f"plug it in, or correct label and serial of {name} in keyd.toml",
        )
        return
    flags = ours[0].flags
    yield Finding(Area.TOKEN, f"{name} is there, serial {ours[0].serial}")
    states = ((_LOCKED, "locked"), (_FINAL_TRY, "final-try"), (_COUNT_LOW, "count-low"))
    yield from _check_pin(name, next((word for flag, word in states if flags & flag), "ok"))


def _is_ours(token: TokenSection, seen: ProbedToken) -> bool:
    return token.label in (None, seen.label) and token.serial in (None, seen.serial)


def _check_pin(name: str, state: str) -> Iterator[Finding]:
    if state in ("", "ok"):
        return
    if state == "locked":
        yield Finding(
            Area.PIN,
            f"{name}: the PIN is blocked",
            "the token takes no PIN any more, not the right one either",
            f"a YubiKey, with its PUK: keydctl yubikey unblock {name}; others: by their vendor's "
            "tool, with the SO PIN",
        )
        return
    last = state == "final-try"
    yield Finding(
        Area.PIN,
        f"{name}: {'one try is left' if last else 'wrong PINs were given'}",
        "a wrong PIN more blocks the token" if last else "a few wrong PINs more block the token",
        "be sure of the PIN, then give it, which sets the count back: "
        f"keydctl token unlock {name}{' --spend-last-try' if last else ''}",
    )
