"""Signed image tags, as docker shows and pulls them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from keyd.adapters.notary import delegations, lookup
from keyd.adapters.notary.changes import Change
from keyd.adapters.notary.lookup import RELEASES
from keyd.adapters.notary.trusted import Trusted
from keyd.content.documents import TargetFile
from keyd.errors import RepositoryError

ADMIN = "Repo Admin"
"""Who signs with the collection's own key, in docker's words."""

_NUMBER = re.compile(r"([0-9]+)")


@dataclass(frozen=True, slots=True)
class SignedTag:
    """A tag that docker pulls. ``digest``: SHA-256 of its manifest, hex. ``signers``: by name."""

    tag: str
    digest: str
    signers: tuple[str, ...]


def signed_tags(trusted: Trusted, tag: str = "") -> list[SignedTag]:
    """The tags that docker pulls, each with those who sign the very same digest."""
    every: list[tuple[str, str, TargetFile]] = [
        (name, role, target)
        for role in trusted.targets
        for name, target in trusted.targets_document(role).targets.items()
        if lookup.may_sign(trusted, role, name) and (not tag or name == tag)
    ]
    released = {
        (name, target.hashes.get("sha256", b"").hex())
        for name, role, target in every
        if role in (RELEASES, "targets")
    }
    rows = []
    for name, digest in released:
        by = sorted(
            role.removeprefix("targets/")
            for other, role, target in every
            if other == name
            and role not in (RELEASES, "targets")
            and target.hashes.get("sha256", b"").hex() == digest
        )
        rows.append(SignedTag(name, digest, tuple(by) or (ADMIN,)))
    return sorted(rows, key=lambda row: (_natural(row.tag), row.digest))


def inspected(trusted: Trusted, name: str, tag: str = "") -> dict[str, object]:
    """What ``docker trust inspect`` prints of an image or a repository."""
    root = trusted.root_document
    return {
        "Name": name,
        "SignedTags": [
            {"SignedTag": row.tag, "Digest": row.digest, "Signers": list(row.signers)}
            for row in signed_tags(trusted, tag)
        ],
        "Signers": [
            {"Name": signer, "Keys": [{"ID": each} for each in ids]}
            for signer, ids in signers(trusted)
        ],
        "AdministrativeKeys": [
            {"Name": title, "Keys": [{"ID": each} for each in sorted(root.roles[role].keyids)]}
            for title, role in (("Root", "root"), ("Repository", "targets"))
        ],
    }


def signers(trusted: Trusted) -> list[tuple[str, list[str]]]:
    """Every signer with the ids of their keys, as docker's lists show them."""
    return [
        (d.role.name.removeprefix("targets/"), sorted(k.canonical_id for k in d.keys))
        for d in delegations.found(trusted)
        if d.role.name != RELEASES
    ]


def removal(trusted: Trusted, roles: Sequence[str], tag: str) -> list[Change]:
    """The changes that take a tag, or all of them, out of roles.

    Raises:
        RepositoryError: none of the roles signs it.
    """
    changes = [
        Change("remove", role, name)
        for role in roles
        if role in trusted.targets
        for name in trusted.targets_document(role).targets
        if not tag or name == tag
    ]
    if not changes:
        raise RepositoryError(
            f"no signed tag {tag} of {trusted.gun}" if tag else f"{trusted.gun}: no signed tags",
            hint=f"keydctl trust inspect --pretty {trusted.gun} shows who signs what",
            gun=trusted.gun,
        )
    return changes


def still_pulled(trusted: Trusted, tags: Sequence[str]) -> list[tuple[str, str]]:
    """Which of these tags docker still pulls, and the role that signs each."""
    found = ((tag, lookup.find(trusted, tag, (RELEASES, "targets"))) for tag in tags)
    return [(tag, f.role) for tag, f in found if f and f.role in (RELEASES, "targets")]


def _natural(text: str) -> list[tuple[int, int, str]]:
    """1.10 after 1.9, as docker sorts."""
    parts = [part for part in _NUMBER.split(text) if part]
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
