"""What a ceremony asks of roots: pure, but for what is published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from securesystemslib.signer import Key as TufKey
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Root

from keyd.adapters.tuf import public_key_der
from keyd.adapters.tufrepo import edits
from keyd.adapters.tufrepo.ceremony_plan import Plan
from keyd.adapters.tufrepo.change import Change
from keyd.adapters.tufrepo.published import Published, verifies
from keyd.content import canonical
from keyd.errors import RepositoryError


def published_root(change: Change) -> Metadata[Root]:
    """The root clients see.

    Raises:
        RepositoryError: nothing is published.
    """
    if change.published is None:
        raise RepositoryError("nothing is published yet", hint="finish `keydctl tuf init` first")
    return change.published.root


def rehearse(plan: Plan, root: Root) -> None:
    """Refuse a plan that does not fit a root: unknown keys, thresholds nobody can reach.

    Raises:
        RepositoryError: why.
    """
    plan.check_roles()
    placeholders = [root.keys.get(each.keyid) for each in plan.rotate]
    for each, key in zip(plan.rotate, placeholders, strict=True):
        if key is None:
            raise RepositoryError(f"{each.keyid} is no key of {each.role}", role=each.role)
    plan.edit(Root.from_dict(root.to_dict()), [key for key in placeholders if key is not None])


def lacking(before: Root, draft: Metadata[Root]) -> int:
    """How many signatures a new root needs yet, by the old root or by itself."""
    return max(
        0,
        *(
            judge.get_verification_result("root", draft.signed_bytes, draft.signatures).missing
            for judge in (before, draft.signed)
        ),
    )


def check_followers(state: Published, draft: Root, can_sign: Callable[[TufKey], bool]) -> None:
    """Refuse a root that could never be published, before anybody signs it.

    Where the new root does not accept what is published, that has to be signed anew, by enough of
    the old keys too: else clients would find an invalid repository between two renames.

    Raises:
        RepositoryError: naming the role.
    """
    files: dict[str, Metadata[Any]] = {
        "targets": state.targets["targets"],
        "snapshot": state.snapshot,
        "timestamp": state.timestamp,
    }
    for role, metadata in files.items():
        keys = edits.role_keys(state.root.signed, role)
        able = sum(can_sign(key) for key in keys)
        if not verifies(draft, role, metadata) and able < state.root.signed.roles[role].threshold:
            raise RepositoryError(
                f"the old keys of {role} cannot sign, so no order of publishing keeps the "
                "repository valid",
                hint=f"abort this ceremony, and use: keydctl tuf rotate DIR {role} --without-old",
                role=role,
            )


def named_keys(state: Published) -> set[bytes]:
    """DER of all keys that a published root or delegation names."""
    keys: list[TufKey] = list(state.root.signed.keys.values())
    for metadata in state.targets.values():
        if metadata.signed.delegations is not None:
            keys += metadata.signed.delegations.keys.values()
    return {public_key_der(key) for key in keys if isinstance(key, SSlibKey)}


def digest(draft: bytes) -> bytes:
    """As marks and approvals name it: SHA-256."""
    return hashlib.sha256(draft).digest()


def restored(draft: bytes, folder: str) -> Metadata[Root]:
    """A draft without signatures, from its signed bytes. ``folder``: for the hint.

    Raises:
        RepositoryError: python-tuf would write other bytes.
    """
    signed: Any = canonical.load(draft)
    again: Metadata[Root] = Metadata(Root.from_dict(signed))
    if again.signed_bytes != draft:
        raise RepositoryError(
            "the draft the daemon keeps was made by another version of python-tuf",
            hint=f"keydctl tuf ceremony abort {folder}, and begin another one",
        )
    return again
