"""Changes in who holds a role: keys, thresholds, and key pairs behind ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from keyd.content import describe
from keyd.content.change import Change, compare_unknown
from keyd.content.documents import PublicKeyInfo, RoleKeys
from keyd.content.refusal import printable

Keys = Mapping[str, PublicKeyInfo]


def compare_role(
    subject: str,
    before: tuple[RoleKeys, Keys],
    after: tuple[RoleKeys, Keys],
    *,
    is_root: bool = False,
) -> Iterator[Change]:
    """Threshold and keys of one role, each with the ``keys`` object its ids point into."""
    (old, old_keys), (new, new_keys) = before, after
    if old.threshold != new.threshold:
        yield Change(
            "threshold",
            subject,
            _of(old),
            _of(new),
            grave=new.threshold < old.threshold,
        )
    gone, came = set(old.keyids) - set(new.keyids), set(new.keyids) - set(old.keyids)
    for keyid in old.keyids:
        if keyid in gone:
            told = describe.key(old_keys.get(keyid), keyid)
            yield Change("key", subject, told, "", grave=is_root)
    for keyid in new.keyids:
        if keyid in came:
            yield Change("key", subject, "", describe.key(new_keys.get(keyid), keyid))
    if not gone and not came and old.keyids != new.keyids:
        told_before, told_after = describe.shown([*old.keyids]), describe.shown([*new.keyids])
        yield Change("key-order", subject, told_before, told_after)
    yield from _doubled(subject, before, after)
    yield from compare_unknown(subject, old.unknown, new.unknown)


def compare_keys(
    before: Keys, after: Keys, used_before: Collection[str], used_after: Collection[str]
) -> Iterator[Change]:
    """Key objects that changed under their id, and those that came or went without a role telling
    it. ``used``: the ids that roles name."""
    for keyid in sorted(before.keys() | after.keys()):
        old, new = before.get(keyid), after.get(keyid)
        if old is not None and new is not None:
            # 1 and true in an unknown field are equal to Python, not to readers of JSON.
            if old != new or describe.key(old, keyid) != describe.key(new, keyid):
                yield _key_object(keyid, old, new)
        elif old is None and (keyid in used_before or keyid not in used_after):
            # A role named it before it was there, or none does.
            yield Change("key-object", printable(keyid, 80), "", describe.key(new, keyid))
        elif new is None and (keyid in used_after or keyid not in used_before):
            # A role that still names it has one signer less than it seems to have.
            yield Change(
                "key-object",
                printable(keyid, 80),
                describe.key(old, keyid),
                "",
                grave=keyid in used_after,
            )


def _key_object(keyid: str, old: PublicKeyInfo, new: PublicKeyInfo) -> Change:
    is_other = (old.identity, old.scheme, old.keytype) != (new.identity, new.scheme, new.keytype)
    told_before = f"{describe.key(old, keyid)} {old.identity[:16]}"
    told_after = f"{describe.key(new, keyid)} {new.identity[:16]}"
    if told_before == told_after:
        told_after += ", written differently"
    return Change("key-object", printable(keyid, 80), told_before, told_after, grave=is_other)


def _of(role: RoleKeys) -> str:
    return f"{role.threshold} of {len(role.keyids)}"


def _doubled(
    subject: str, before: tuple[RoleKeys, Keys], after: tuple[RoleKeys, Keys]
) -> Iterator[Change]:
    """One key pair under several ids: clients that count ids let its holder sign twice."""
    known = _doubles(*before)
    for identity, number in _doubles(*after).items():
        if number > known.get(identity, 1):
            yield Change(
                "doubled-key",
                subject,
                "",
                f"one key pair, {identity[:16]}, stands under {number} ids",
                grave=True,
            )


def _doubles(role: RoleKeys, keys: Keys) -> dict[str, int]:
    counted = Counter(keys[keyid].identity for keyid in role.keyids if keyid in keys)
    return {identity: number for identity, number in counted.items() if number > 1}
