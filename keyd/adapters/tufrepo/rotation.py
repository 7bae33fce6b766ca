"""A role's key from one version to the next: daemon and metadata together, in steps that can
each be the last one before a crash.

    1. RotateKey: the daemon generates and stages a new version (or: the one staged already).
    2. The delegator names the new key instead of the old one; for root, old and new both sign.
    3. What the old key had signed is signed anew, with old and new, and published.
    4. ActivateKeyVersion: the new version signs by default from now on.

Run again, each step sees that it was done. Without the old key (lost, stolen) step 2 takes two
versions of the delegator: one that lists both keys, then one that lists the new key only, because
there is no other order in which every moment is a valid repository.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from securesystemslib.signer import Key as TufKey
from securesystemslib.signer import SSlibKey

from keyd.adapters.tuf import public_key_der, tuf_key
from keyd.adapters.tufrepo import edits
from keyd.adapters.tufrepo.change import Change
from keyd.adapters.tufrepo.keyring import SigningKey
from keyd.adapters.tufrepo.published import Delegator, delegated_names
from keyd.adapters.tufrepo.report import Report
from keyd.adapters.tufrepo.repository import Repository
from keyd.adapters.uri import SCHEME, KeydUri
from keyd.errors import RepositoryError
from keyd.model import Binding, Key, KeyVersion, VersionState

if TYPE_CHECKING:
    from keyd.client import Client


@dataclass(frozen=True, slots=True)
class Rotated:
    """``old`` and ``new``: keyids. ``activated``: KEY/versions/N, empty while root waits for
    signatures. ``disabled``: the old version, when that was asked for."""

    report: Report
    role: str
    old: str
    new: str
    activated: str = ""
    disabled: str = ""


def bind(client: Client, key: Key, repository: str, role: str) -> None:
    """Bind a key to a role of a repository; its other bindings stay."""
    binding = Binding(repository, role)
    if binding not in key.bindings:
        client.update(
            key.name, bindings=key.bindings | {binding}, reason=f"signs {repository} {role}"
        )


def signing_key(key: Key, version: KeyVersion, uri: KeydUri | None = None) -> SigningKey:
    """One version of a key as it shall stand in metadata; its URI names no version."""
    plain = replace(uri, key=key.name, version=0) if uri else KeydUri(key.name)
    return SigningKey(tuf_key(version.public_key, key.scheme), str(plain))


def find_newest_enabled(key: Key) -> KeyVersion | None:
    """The newest version that signs: staged if there is one, else the active one; or None."""
    enabled = [v for v in key.versions if v.state is VersionState.ENABLED]
    return enabled[-1] if enabled else None


def rotate(
    repository: Repository,
    client: Client,
    role: str,
    *,
    key: str = "",
    to: str = "",
    without_old: bool = False,
    disable_old: bool = False,
) -> Rotated:
    """Rotate one key of a role.

    ``key``: the keyd key to replace (its name, or the keyid of any key, or how that begins); may be
    empty when the role has one. ``to``: another keyd key whose newest version takes its place,
    instead of a new version of the same key. ``without_old``: the old key is asked for nothing.

    Raises:
        RepositoryError: the role or key is not there, a name fits several keys, or clients would
            follow no root without the old key; nothing was changed.
        KeydError: what the daemon refused; run it again when that is mended.
    """
    with repository.changing() as change:
        delegator_name, delegator = _delegator(change, role)
        listed = edits.role_keys(delegator, role)
        names = _Names(repository, client)
        former, name = names.pick(listed, role, key, to)
        if not to and not name:
            raise RepositoryError(
                f"{former.keyid} is not a key of this daemon", hint="name its successor with --to"
            )
        if without_old:
            _check_left(repository, delegator, role, former.keyid)
        held = client.get_key(to or name)
        bind(client, held, repository.settings.repository, role)
        successor = _successor(client, held, listed, role, own=not to or to == key)
        new = signing_key(held, successor)
        repository.remember([new])
        old = _replaced(former, new.public, listed, names, name)
        change.skip = [old.keyid] if without_old and old else []
        report = _name_in_delegator(change, delegator_name, role, old, new.public, without_old)
    old_keyid = old.keyid if old else ""
    rotated = Rotated(report, role, old_keyid, new.public.keyid)
    if report.waiting:
        return rotated
    reason = f"rotation of {role}"
    if held.active_version != successor.number:
        client.activate(held.name, successor.number, reason=reason)
    disabled = ""
    if disable_old:
        gone = _version_of(client, old) if old else held.active
        if gone is not None and gone.name != successor.name:
            disabled = _disable(client, gone, reason)
    return replace(rotated, activated=successor.name, disabled=disabled)


def drop(repository: Repository, connect: Callable[[], Client], role: str, which: str) -> Rotated:
    """Take a lost or stolen key out of a role; the others sign, it is not asked for anything.

    ``which``: keyid, its first characters, or the name of the keyd key.

    Raises:
        RepositoryError: no such key, or the others are too few for the threshold.
        KeydError: what the daemon refused, as the consent it asks for; run it again then.
    """
    with repository.changing() as change:
        delegator_name, delegator = _delegator(change, role)
        listed = edits.role_keys(delegator, role)
        gone = _to_drop(repository, connect, listed, role, which)
        kept = [key for key in listed if key.keyid != gone.keyid]
        _check_left(repository, delegator, role, gone.keyid, replaced=False)
        change.skip = [gone.keyid]

        def without(signed: Delegator) -> None:
            edits.set_role_keys(signed, role, kept)

        if delegator_name == "root":
            change.stage_root(without)
        else:
            change.stage_targets(delegator_name, without)
        return Rotated(change.finish(), role, gone.keyid, "")


def _check_left(
    repository: Repository, delegator: Delegator, role: str, gone: str, *, replaced: bool = True
) -> None:
    """Refuse to go on without a key where the others are too few. ``replaced``: another key takes
    its place, which helps for all roles but root: clients count the keys of the root they have.

    Raises:
        RepositoryError: with the way out; nothing was changed.
    """
    threshold = delegator.get_delegated_role(role).threshold
    left = sum(1 for key in edits.role_keys(delegator, role) if key.keyid != gone)
    if left >= threshold or (replaced and role != "root"):
        return
    rotate = f"keydctl tuf rotate {repository.folder.path} {role} --key {gone[:16]}"
    raise RepositoryError(
        f"{role} needs {threshold} signature(s), and without {gone[:16]} it has {left} key(s)",
        hint="clients follow no root that this key does not sign (docs/recovery.md); "
        f"as long as it can: {rotate} --to KEY"
        if role == "root"
        else f"put another key in its place: {rotate} --to KEY --without-old",
        role=role,
    )


def _to_drop(
    repository: Repository,
    connect: Callable[[], Client],
    listed: Sequence[TufKey],
    role: str,
    which: str,
) -> TufKey:
    fitting = [key for key in listed if _names(which, key)]
    if not fitting:
        names = _Names(repository, connect())
        fitting = [key for key in listed if names.of(key) == which]
    if len(fitting) != 1:
        shown = ", ".join(key.keyid[:16] for key in listed)
        raise RepositoryError(
            f"{role} has {len(fitting)} keys called {which}",
            hint=f"name one by its keyid: {shown}",
            role=role,
        )
    return fitting[0]


def _names(text: str, key: TufKey) -> bool:
    """True for a keyid, or the first characters of one: eight at least."""
    return len(text) >= 8 and key.keyid.startswith(text)


def _delegator(change: Change, role: str) -> tuple[str, Delegator]:
    if change.published is None:
        raise RepositoryError("nothing is published yet", hint="finish `keydctl tuf init` first")
    if role in edits.TOP_LEVEL:
        return "root", change.published.root.signed
    for name, metadata in change.published.targets.items():
        if role in delegated_names(metadata.signed):
            return name, metadata.signed
    raise RepositoryError(f"there is no role {role}", role=role)


@dataclass(frozen=True, slots=True)
class _Names:
    """Which keyd key holds a public key of the metadata."""

    repository: Repository
    client: Client

    def of(self, key: TufKey) -> str:
        uri = self.repository.settings.signers.get(key.keyid, "")
        if uri.startswith(f"{SCHEME}:"):
            return KeydUri.parse(uri).key
        if not isinstance(key, SSlibKey):
            return ""
        der = public_key_der(key)
        held = (k.name for k in self.client.list_keys() if k.find_public_key(der))
        return next(held, "")

    def pick(self, listed: Sequence[TufKey], role: str, wanted: str, to: str) -> tuple[TufKey, str]:
        """The key to replace, and its name; after a run that went further, its successor."""
        named = [(key, self.of(key)) for key in listed]
        fitting = [(k, n) for k, n in named if wanted in ("", n) or _names(wanted, k)]
        if not fitting and to:
            fitting = [(k, n) for k, n in named if n == to]
        # A rotation that stopped halfway without the old key leaves two versions of one name,
        # and one to another key leaves both names.
        others = {name or key.keyid for key, name in fitting} - (
            {to} if len(fitting) > 1 else set()
        )
        if len(others) != 1:
            names = ", ".join(name or key.keyid for key, name in named)
            raise RepositoryError(
                f"{role} has {len(named)} key(s): {names}", hint="name one of them with --key"
            )
        return next((k, n) for k, n in fitting if (n or k.keyid) in others)


def _successor(
    client: Client, held: Key, listed: Sequence[TufKey], role: str, *, own: bool
) -> KeyVersion:
    """The version that takes over; with ``own``, made now unless there is one that waits."""
    newest = find_newest_enabled(held)
    if newest is not None:
        if not own or newest.number > held.active_version:
            return newest
        if tuf_key(newest.public_key, held.scheme).keyid not in [k.keyid for k in listed]:
            return newest  # Active already, through another role that the same key serves.
    if own:
        last = held.versions[-1].number
        held = client.rotate(held.name, expected_newest=last, reason=f"rotation of {role}")
        newest = find_newest_enabled(held)
    if newest is None:
        raise RepositoryError(
            f"no version of {held.name} is enabled", hint=f"keydctl key show {held.name}"
        )
    return newest


def _replaced(
    former: TufKey, new: TufKey, listed: Sequence[TufKey], names: _Names, name: str
) -> TufKey | None:
    """The key that goes; None when a former run has taken it out already."""
    if former.keyid != new.keyid:
        return former
    return next((k for k in listed if k.keyid != new.keyid and names.of(k) == name), None)


def _name_in_delegator(
    change: Change,
    delegator_name: str,
    role: str,
    old: TufKey | None,
    new: TufKey,
    without_old: bool,
) -> Report:
    """Step 2 and 3: one version of the delegator, or two when the old key cannot sign."""

    def with_both(signed: Delegator) -> None:
        edits.set_role_keys(signed, role, [*edits.role_keys(signed, role), new])

    def with_new_only(signed: Delegator) -> None:
        gone = old.keyid if old else ""
        kept = [new if k.keyid == gone else k for k in edits.role_keys(signed, role)]
        edits.set_role_keys(signed, role, kept)

    done = Report()
    steps = [with_new_only]
    # Root has no metadata below it that the old key alone had signed; a delegation changes
    # together with what it delegates to, in one snapshot.
    if without_old and delegator_name == "root" and role != "root":
        steps.insert(0, with_both)
    for step in steps:
        if delegator_name == "root":
            change.stage_root(step)
        else:
            change.stage_targets(delegator_name, step)
        done.add(change.finish())
        if done.waiting:
            break
    return done


def _version_of(client: Client, key: TufKey) -> KeyVersion | None:
    if not isinstance(key, SSlibKey):
        return None
    der = public_key_der(key)
    return next((v for k in client.list_keys() if (v := k.find_public_key(der))), None)


def _disable(client: Client, gone: KeyVersion, reason: str) -> str:
    if gone.state is not VersionState.ENABLED:
        return ""
    client.disable(gone.key, gone.number, reason=reason)
    return gone.name
