"""keydctl key."""

from __future__ import annotations

import click

from keyd.cli import output
from keyd.cli.durations import duration
from keyd.cli.keyarguments import (
    REASON,
    name_and_number,
    read_bindings,
    read_hex,
    read_labels,
    refuse_others,
    versioned,
)
from keyd.cli.keyversions import COMMANDS, answer
from keyd.cli.settings import Group, Settings

_ALGORITHMS = ("ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096")
_STATES = ("PENDING", "ENABLED", "DISABLED", "DESTROY_SCHEDULED", "DESTROYABLE", "DESTROYED")
_TOUCH = ("always", "cached", "never")
_PIN = ("once", "always", "never")
_FORMATS = ("pem", "tuf", "notary", "ssh", "json")


@click.group(cls=Group)
def key() -> None:
    """Create, show, rotate and retire keys.

    A key is a name that lives on; its versions are the key pairs on the token. A version is named
    as KEY N or as KEY/versions/N.
    """


for _command in COMMANDS:
    key.add_command(_command)


@key.command()
@click.argument("name")
@click.option("--token", default="", help="The configured token; may be left out if there is one.")
@click.option(
    "--algorithm",
    type=click.Choice(_ALGORITHMS),
    default="ecdsa-p256",
    show_default=True,
    help="What kind of key pair; the token must have it.",
)
@click.option("--scheme", default="", help="Signature scheme; by default the algorithm's first.")
@click.option("--bind", multiple=True, metavar="REPO:ROLE", help="What the key is for; repeatable.")
@click.option("--label", multiple=True, metavar="K=V", help="Repeatable.")
@click.option("--rotate-every", type=duration, default="0s", help="When a rotation is due, as 90d.")
@click.option("--slot", default="", help="On a YubiKey: 9a, 9c, 9d, 9e, 82 to 95; an empty one.")
@click.option("--touch", type=click.Choice(_TOUCH), help="On a YubiKey: when it wants a touch.")
@click.option("--pin", type=click.Choice(_PIN), help="On a YubiKey: when it wants the PIN.")
@REASON
@click.pass_obj
def create(
    settings: Settings,
    name: str,
    token: str,
    algorithm: str,
    scheme: str,
    bind: tuple[str, ...],
    label: tuple[str, ...],
    rotate_every: int,
    slot: str,
    touch: str | None,
    pin: str | None,
    reason: str,
) -> None:
    """Generate a key on a token. Without --bind it signs anything.

    On a YubiKey it is made in a slot that is empty, with policies it keeps for ever: by default
    it wants the PIN once for a login, and no touch. Nothing is ever overwritten.
    """
    from keyd.model import KeyAlgorithm, PinPolicy, Scheme, Slot, TouchPolicy

    if scheme and scheme not in list(Scheme):
        raise click.UsageError(f"{scheme} is no scheme; known are {', '.join(Scheme)}")
    bindings = read_bindings(bind)
    labels = read_labels(label)
    with settings.connect() as keyd:
        made = keyd.create_key(
            name,
            KeyAlgorithm(algorithm),
            token=token,
            scheme=Scheme(scheme) if scheme else None,
            bindings=bindings,
            labels=labels,
            rotation_period_s=rotate_every,
            slot=Slot.parse(slot) if slot else None,
            touch=TouchPolicy(touch) if touch else None,
            pin=PinPolicy(pin) if pin else None,
            reason=reason,
        )
    answer(settings, made, f"created {made.name} on {made.token}")
    if not bindings:
        output.warn(f"{made.name} is bound to nothing: it signs anything; see keydctl key update")


@key.command("list")
@click.option("--token", default="", help="Only keys on this token.")
@click.option("--repository", default="", help="Only keys bound to this repository.")
@click.option("--role", default="", help="Only keys bound to this role.")
@click.option("--state", type=click.Choice(_STATES), help="Only keys with such a version.")
@click.option("--label", default="", metavar="K[=V]", help="Only keys with this label.")
@click.option("--name", default="", metavar="GLOB", help="Only keys of such a name.")
@click.pass_obj
def list_(
    settings: Settings,
    token: str,
    repository: str,
    role: str,
    state: str | None,
    label: str,
    name: str,
) -> None:
    """List the keys you may see."""
    from keyd.cli.keyshapes import key_json, keys_table
    from keyd.client import KeyFilter, VersionState

    wanted = KeyFilter(token, repository, role, VersionState(state) if state else None, label, name)
    with settings.connect() as keyd:
        keys = list(keyd.list_keys(wanted))
    settings.answer(
        [key_json(k) for k in keys],
        lambda: keys_table(keys) if keys else "no such keys, or none you may see",
    )


@key.command()
@versioned
@click.option("--format", "form", type=click.Choice(_FORMATS), help="The public key in this form.")
@click.option("--version", "wanted", type=click.IntRange(min=1), help="Which; default the active.")
@click.pass_obj
def show(
    settings: Settings, key: str, version: int | None, form: str | None, wanted: int | None
) -> None:
    """Show a key with its versions, or one public key for another program."""
    from keyd.cli.keyshapes import details, key_json, pick, public_form

    name, number = name_and_number(key, version or wanted, required=False)
    with settings.connect() as keyd:
        found = keyd.get_key(name)
    if form == "json" or (form is None and settings.json):
        output.write_json(key_json(found))
    elif form is None:
        output.write(details(found))
    else:
        picked = pick(found, number)
        text = public_form(found, picked, form)
        settings.answer({"version": picked.name, "format": form, "public_key": text}, text)


@key.command()
@click.argument("key")
@click.option("--at-once", is_flag=True, help="Sign with the new version from now on.")
@REASON
@click.pass_obj
def rotate(settings: Settings, key: str, at_once: bool, reason: str) -> None:
    """Generate a new version.

    It is staged: it signs only for callers who expect its public key, until it is activated.
    A key that is bound to a repository is rotated with keydctl tuf rotate.
    """
    with settings.connect() as keyd:
        before = keyd.get_key(key)
        newest = max((v.number for v in before.versions), default=0)
        now = keyd.rotate(key, at_once=at_once, expected_newest=newest, reason=reason)
    number = max(v.number for v in now.versions)
    answer(settings, now, f"{now.name}: version {number} is {'active' if at_once else 'staged'}")


@key.command()
@click.argument("name", required=False)
@click.option("--token", required=True, help="The configured token.")
@click.option("--object-id", default="", metavar="HEX", help="CKA_ID of the key pair.")
@click.option("--slot", default="", help="On a YubiKey, instead: the slot it lies in, as 9c.")
@click.option(
    "--all", "--all-labelled", "all_", is_flag=True, help="Every key pair that keyd once labelled."
)
@click.option("--bind", multiple=True, metavar="REPO:ROLE", help="What the key is for; repeatable.")
@REASON
@click.pass_obj
def adopt(
    settings: Settings,
    name: str | None,
    token: str,
    object_id: str,
    slot: str,
    all_: bool,
    bind: tuple[str, ...],
    reason: str,
) -> None:
    """Register key pairs that lie on a token already: NAME --object-id HEX, NAME --slot 9c, --all.

    Their origin stays "adopted-unproven": nobody can prove they were never anywhere else; but a
    YubiKey that made a key itself proves it, and then its origin is "attested".
    """
    from keyd.cli.keyshapes import key_json
    from keyd.model import Slot

    if slot and object_id:
        raise click.UsageError("--slot and --object-id say the same; give one")
    if slot:
        object_id = Slot.parse(slot).object_id.hex()
    if all_ == bool(name or object_id) or (not all_ and not (name and object_id)):
        raise click.UsageError("give either NAME and --object-id HEX or --slot SLOT, or --all")
    if all_ and bind:
        raise click.UsageError("--bind is for a single key; see keydctl key update")
    raw = read_hex(object_id, "--object-id")
    bindings = read_bindings(bind)
    with settings.connect() as keyd:
        for found in keyd.list_tokens() if slot else ():
            if found.name == token:
                refuse_others(found)
        if all_:
            done = keyd.adopt_labelled(token, reason=reason)
        else:
            done = keyd.adopt(token, name or "", raw, bindings=bindings, reason=reason)
    lines = [f"adopted {k.name}" for k in done.keys] or ["nothing was adopted"]
    settings.answer(
        {"keys": [key_json(k) for k in done.keys], "skipped": list(done.skipped)},
        "\n".join([*lines, *(f"left alone: {line}" for line in done.skipped)]),
    )


@key.command()
@click.argument("key")
@click.option("--bind", multiple=True, metavar="REPO:ROLE", help="Add a binding; repeatable.")
@click.option("--unbind", multiple=True, metavar="REPO:ROLE", help="Remove one; repeatable.")
@click.option("--label", multiple=True, metavar="K=V", help="Set a label; K= removes it.")
@click.option("--rotate-every", type=duration, help="When a rotation is due; 0s for never.")
@REASON
@click.pass_obj
def update(
    settings: Settings,
    key: str,
    bind: tuple[str, ...],
    unbind: tuple[str, ...],
    label: tuple[str, ...],
    rotate_every: int | None,
    reason: str,
) -> None:
    """Change what a key is for, its labels, or when it is due for rotation."""
    if not (bind or unbind or label or rotate_every is not None):
        raise click.UsageError("nothing to change: give --bind, --unbind, --label, --rotate-every")
    added, removed = read_bindings(bind), read_bindings(unbind)
    set_labels = read_labels(label)
    with settings.connect() as keyd:
        before = keyd.get_key(key)
        strangers = removed - before.bindings
        if strangers:
            raise click.UsageError(
                f"{key} is not bound to {', '.join(str(b) for b in sorted(strangers))}"
            )
        labels = {k: v for k, v in {**before.labels, **set_labels}.items() if v}
        now = keyd.update(
            key,
            bindings=(before.bindings | added) - removed if bind or unbind else None,
            labels=labels if label else None,
            rotation_period_s=rotate_every,
            reason=reason,
        )
    answer(settings, now, f"{now.name} is changed")
    if before.bindings and not now.bindings:
        output.warn(f"{now.name} is bound to nothing now: it signs anything")
