"""keydctl yubikey."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from keyd.cli import output
from keyd.cli.exits import Exit
from keyd.cli.keyarguments import LAST_TRY, REASON
from keyd.cli.secrets import check_yubikey, fd_option, read_secret
from keyd.cli.settings import Group, Settings


@click.group(cls=Group)
def yubikey() -> None:
    """Set up YubiKeys, change their PINs, see and prove what lies in their slots.

    TOKEN is the name in the daemon's configuration. PIN and PUK are asked for on the terminal, or
    read from file descriptors; they go to the daemon over its unix socket only.
    """


def _secrets(*named: tuple[str, str]) -> Callable[[click.Command], click.Command]:
    def add(command: click.Command) -> click.Command:
        command.params.extend(fd_option(name, what) for name, what in named)
        return command

    return add


@yubikey.command("list")
@click.argument("token", required=False, default="")
@click.pass_obj
def list_(settings: Settings, token: str) -> int:
    """List the YubiKeys and what lies in their slots; spends no try.

    Without TOKEN also those that are plugged in and not configured yet, with what to add to
    keyd.toml. Exit code 1 when one could not be read.
    """
    from keyd.cli.yubikeyshapes import plugged_in_json, plugged_in_text, shown, yubikey_json
    from keyd.client import PluggedInList

    with settings.connect() as keyd:
        found = keyd.list_yubikeys(token)
        others = PluggedInList((), "") if token else keyd.list_plugged_in()
        unseen = [] if token else [t for t in keyd.list_tokens() if not t.model]
    parts = [*map(shown, found), *map(plugged_in_text, others.yubikeys)]
    settings.answer(
        [*map(yubikey_json, found), *map(plugged_in_json, others.yubikeys)],
        "\n\n".join(parts) or f"no YubiKeys {'that are there' if unseen else 'you may see'}",
    )
    for absent in unseen:
        # What it is nobody knows, since it was not there since the daemon's start.
        output.note(f"{absent.name} is {absent.state}: {absent.detail}")
    if others.problem:
        output.warn(others.problem)
    return Exit.FAILED if any(y.state is None for y in found) else Exit.DONE


@_secrets(("pin", "new PIN"), ("puk", "new PUK"))
@yubikey.command()
@click.argument("token")
@click.option("--factory", is_flag=True, help="It is new or was reset: try its factory secrets.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@REASON
@click.pass_obj
def init(
    settings: Settings,
    token: str,
    factory: bool,
    yes: bool,
    reason: str,
    pin_fd: int | None,
    puk_fd: int | None,
) -> None:
    """Set PIN, PUK and a random management key of a new YubiKey.

    The management key is kept on the card, behind the PIN: nobody has to know it. A YubiKey that
    holds keys or has another PIN than the factory's is left alone; see keydctl key adopt.
    """
    if not factory:
        raise click.UsageError(
            "init tries the factory's PIN, PUK and management key, once each; if the YubiKey is "
            "new or was reset, say --factory"
        )
    with settings.connect() as keyd:
        check_yubikey(keyd, token)
        settings.confirm(f"YubiKey {token} gets a new PIN, PUK and management key.", token, yes)
        pin = read_secret(f"New PIN of {token} (6 to 8 characters)", pin_fd, "--pin-fd", twice=True)
        puk = read_secret(f"New PUK of {token} (6 to 8 characters)", puk_fd, "--puk-fd", twice=True)
        notes = keyd.init_yubikey(token, pin, puk, factory=True, reason=reason)
    settings.answer(
        {"token": token, "initialised": True, "notes": list(notes)},
        f"{token} has its own PIN, PUK and management key. Keep the PUK where the PIN is not; "
        f"then: keydctl token unlock {token}",
    )
    for note in notes:
        output.warn(note)


@_secrets(("old-pin", "PIN as it is"), ("new-pin", "new PIN"))
@yubikey.command("change-pin")
@click.argument("token")
@LAST_TRY
@REASON
@click.pass_obj
def change_pin(
    settings: Settings,
    token: str,
    spend_last_try: bool,
    reason: str,
    old_pin_fd: int | None,
    new_pin_fd: int | None,
) -> None:
    """Change the PIN. A wrong old one costs one of the tries."""
    from keyd.cli.tokenshapes import token_json

    with settings.connect() as keyd:
        check_yubikey(keyd, token)
        old = read_secret(f"PIN of {token} as it is", old_pin_fd, "--old-pin-fd")
        new = read_secret(f"New PIN of {token}", new_pin_fd, "--new-pin-fd", twice=True)
        now = keyd.change_pin(token, old, new, spend_last_try=spend_last_try, reason=reason)
    settings.answer(token_json(now), f"{now.name} has a new PIN and is {now.state}")


@_secrets(("puk", "PUK"), ("new-pin", "new PIN"))
@yubikey.command()
@click.argument("token")
@LAST_TRY
@REASON
@click.pass_obj
def unblock(
    settings: Settings,
    token: str,
    spend_last_try: bool,
    reason: str,
    puk_fd: int | None,
    new_pin_fd: int | None,
) -> None:
    """Set a new PIN with the PUK. A wrong PUK costs one of its tries."""
    from keyd.cli.tokenshapes import token_json

    with settings.connect() as keyd:
        check_yubikey(keyd, token)
        puk = read_secret(f"PUK of {token}", puk_fd, "--puk-fd")
        new = read_secret(f"New PIN of {token}", new_pin_fd, "--new-pin-fd", twice=True)
        now = keyd.unblock_pin(token, puk, new, spend_last_try=spend_last_try, reason=reason)
    settings.answer(
        token_json(now), f"{now.name} has a new PIN; now: keydctl token unlock {now.name}"
    )


@yubikey.command()
@click.argument("token")
@click.argument("slot")
@click.option("--out", type=click.Path(dir_okay=False), help="Write the chain to this PEM file.")
@REASON
@click.pass_obj
def attest(settings: Settings, token: str, slot: str, out: str | None, reason: str) -> None:
    """Have the YubiKey prove where the key in SLOT was made, and with which policies.

    The daemon verifies the statement up to a root it trusts, and keeps it with the key's version.
    """
    from keyd.cli.yubikeyshapes import attestation_json, attestation_text, pem
    from keyd.client import Slot

    wanted = Slot.parse(slot)
    with settings.connect() as keyd:
        found = keyd.attest(token, wanted, reason=reason)
    if out:
        Path(out).write_text("".join(pem(der) for der in found.attestation.chain))
    settings.answer(
        {**attestation_json(found.attestation), "registered_as": found.registered_as},
        lambda: (
            f"{found.registered_as or 'a key that is not registered'}\n"
            f"{attestation_text(found.attestation)}"
        ),
    )


@yubikey.command()
@click.argument("token")
@click.argument("slot")
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False),
    help="Put this certificate (PEM or DER) for the slot's own key into the slot.",
)
@REASON
@click.pass_obj
def certificate(settings: Settings, token: str, slot: str, write: str | None, reason: str) -> None:
    """Show the certificate in SLOT as PEM, or put another one there.

    keyd names its keys in these certificates: with another one there, keydctl key adopt --all
    does not know the key any more.
    """
    from keyd.cli.yubikeyshapes import pem, problem_text
    from keyd.client import Slot

    wanted = Slot.parse(slot)
    with settings.connect() as keyd:
        if write:
            keyd.write_slot_certificate(token, wanted, _certificate(write), reason=reason)
        (found,) = keyd.list_yubikeys(token)
    if found.state is None:
        raise click.ClickException(problem_text(found))
    content = next((c for c in found.slots if c.slot == wanted), None)
    if content is None or not content.certificate:
        raise click.ClickException(f"there is no certificate in slot {wanted} of {token}")
    text = pem(content.certificate)
    settings.answer({"slot": str(wanted), "certificate": text}, text.rstrip("\n"))


def _certificate(file: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    raw = Path(file).read_bytes()
    is_pem = b"-----BEGIN" in raw
    load = x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate
    try:
        return load(raw).public_bytes(Encoding.DER)
    except ValueError as e:
        raise click.UsageError(f"{file} holds no certificate") from e
