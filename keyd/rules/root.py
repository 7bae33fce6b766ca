"""Rules of the root role: one chain, without gaps or forks (TUF 1.0, 5.3).

A root is the next after the complete one, names the key that signs it, and is for the repository
it is signed for. Its thresholds are judged when it is published, not here: any other bound key may
sign the same bytes at any time.
"""

from __future__ import annotations

from keyd.content.documents import Dialect, Root
from keyd.content.refusal import printable
from keyd.model import Mark
from keyd.rules.case import Asked, History
from keyd.rules.needs import holders_in, identities, identity_of
from keyd.rules.refusal import command, of, refuse, taken
from keyd.rules.versions import Standing, lower, standing


def check_version(asked: Asked, root: Root, history: History) -> tuple[Standing, str]:
    """How the bytes stand to the roots signed before, and that in words.

    Raises:
        RuleRefusedError: no-history, version-lower, root-incomplete, root-step.
        VersionTakenError: other bytes are signed as this version.
    """
    mark = history.mark
    if mark is None:
        return Standing.NEW, _first(asked, root)
    known = standing(asked, root, mark)
    if known is not None:
        return known, f"the same bytes as version {root.version} that is signed already"
    if root.version < mark.newest.version:
        raise lower(asked, root, mark)
    if root.version == mark.newest.version:
        next_version = root.version + 1 if mark.is_complete else root.version
        raise taken(asked.context, asked.digest, mark, next_version=next_version)
    return Standing.NEW, _next(asked, root, mark)


def _first(asked: Asked, root: Root) -> str:
    if root.version != 1:
        raise refuse(
            "no-history",
            f"{of(asked.context)}: version {root.version} cannot be judged, no root of it is known "
            "here",
            hint=f"start from a root you trust: {command('import', asked.context)}",
            context=asked.context,
            content=root,
            next_version=1,
        )
    return "version 1, the first root"


def _next(asked: Asked, root: Root, mark: Mark) -> str:
    context, last = asked.context, mark.newest.version
    if not mark.is_complete:
        raise refuse(
            "root-incomplete",
            f"{of(context)}: version {last} still lacks {mark.missing} of its signatures, nothing "
            "may follow it yet",
            hint=f"let the other holders sign version {last}; when they did so elsewhere, show the "
            f"file: {command('advance', context)}; or give it up: {command('supersede', context)}",
            context=context,
            content=root,
            last_version=last,
            next_version=last,
            missing=mark.missing,
        )
    if root.version != last + 1:
        raise refuse(
            "root-step",
            f"{of(context)}: version {root.version} cannot follow version {last}, clients take "
            f"only {last + 1}",
            hint=f"make it version {last + 1}; if the versions between are published, show them: "
            f"{command('advance', context)}",
            context=context,
            content=root,
            last_version=last,
            next_version=last + 1,
        )
    return f"version {root.version}, the next after version {last}, which is {mark.state}"


def check_key(asked: Asked, root: Root, history: History) -> str:
    """The signing key has a say in this root: it, or the complete one before, names the key.

    Raises:
        RuleRefusedError: root-key-missing.
    """
    identity = identity_of(asked.version.public_key)
    if identity in identities(holders_in(root, "root")):
        return f"names the public key of {asked.version.name} in its root role"
    if history.root and identity in identities(holders_in(history.root, "root")):
        return (
            f"drops the public key of {asked.version.name}, which root v{history.root.version} "
            "names"
        )
    mark = history.mark
    if mark and mark.newest.digest == asked.digest and _is_needed(identity, mark):
        return f"the root before version {root.version} names the public key of the signer"
    raise refuse(
        "root-key-missing",
        f"{of(asked.context)} v{root.version} does not name the public key of "
        f"{asked.version.name} (SHA-256 {identity}) in its root role, nor does the root before it",
        hint="check that it is a root of this repository; else add the key to its root role, as "
        f"keydctl key show {asked.key.name} prints it",
        context=asked.context,
        content=root,
        key=asked.key.name,
    )


def _is_needed(identity: str, mark: Mark) -> bool:
    return any(identity in need.signers for need in mark.needs)


def check_gun(asked: Asked, root: Root) -> str:
    """All certificates of a Notary root are for the collection; nothing to see in TUF.

    Raises:
        RuleRefusedError: wrong-gun.
    """
    if root.dialect is not Dialect.NOTARY:
        return "TUF names no repository: this one is the caller's claim"
    gun, names = asked.context.repository, root.common_names
    wrong = sorted(name for name in names if not covers(name, gun))
    if wrong or not names:
        told = ", ".join(f'"{printable(name)}"' for name in wrong[:4]) or "nothing"
        raise refuse(
            "wrong-gun",
            f"{of(asked.context)} v{root.version}: its root certificates are for {told}",
            hint="sign for the collection that the certificates name, or use certificates with "
            f"the common name {printable(gun)}",
            context=asked.context,
            content=root,
        )
    return f"its root certificates are for {', '.join(printable(n) for n in sorted(names))}"


def covers(common_name: str, gun: str) -> bool:
    """True for the GUN itself and for ``PREFIX/*`` over it."""
    if common_name == gun:
        return True
    return common_name.endswith("/*") and gun.startswith(common_name[:-1])
