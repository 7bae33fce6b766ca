"""Changes that people have to consent to, although every rule is kept.

The words of Grave.rule:

    threshold-lowered   fewer people than before can sign for a role, or for a delegation
    root-key-dropped    a holder of root is gone and nobody here takes the place
    root-key-added      a holder of root comes who is nobody here, and whose signature is enough
    key-swapped         another key, or none, stands under an id that a role trusts
    key-doubled         one key pair under two ids: clients that count ids let it sign twice
    gun-changed         the certificates of a Notary root are for other collections than before
    meta-lowered        a snapshot goes back on a role, a timestamp on its snapshot
    role-lost           a snapshot no longer speaks of a role
    before-unknown      what the last complete version said is not known here any more

What may go back is left alone where the keys of the role changed since: that is how a repository
recovers from versions that a thief ran up (TUF 1.0, 5.3.11).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from keyd.content.change import Change
from keyd.content.delegationdiff import compare_delegations
from keyd.content.describe import key
from keyd.content.diff import compare
from keyd.content.documents import Document, PublicKeyInfo, Root, Targets
from keyd.gunnames import is_made_for_server
from keyd.model import ONLINE_ROLES, Mark
from keyd.rules.case import Asked, Grave, History
from keyd.rules.needs import has_changed, holders_in, identities, keyset_of

_RULES = {
    "threshold": "threshold-lowered",
    "key-object": "key-swapped",
    "doubled-key": "key-doubled",
    "gun": "gun-changed",
}


def grave_changes(asked: Asked, document: Document, history: History) -> tuple[Grave, ...]:
    """What ``document`` weakens or takes back, compared with the last complete version."""
    base, mark = history.complete, history.mark
    if base is None:
        if mark is None or mark.complete is None:
            return ()
        told = f"what {document.kind} v{mark.complete.version} said is not known here any more"
        return (Grave("before-unknown", f"{told}: nobody can see what changes"),)
    if isinstance(base, Targets) and isinstance(document, Targets):
        # What is compared stays small: there may be a hundred thousand targets.
        changes = (*compare_delegations(base.delegations, document.delegations),)
    else:
        changes = compare(base, document)
    found = [
        Grave(_RULES[change.kind], _told(change))
        for change in changes
        if change.grave and change.kind in _RULES
    ]
    if isinstance(base, Root) and isinstance(document, Root):
        found += _dropped(asked, base, document)
        found += _added(asked, base, document)
    if document.kind in ONLINE_ROLES and not _is_one_of_several(asked, document, mark):
        found += _back(document.kind, changes, history)
    return tuple(found)


def _is_one_of_several(asked: Asked, document: Document, mark: Mark | None) -> bool:
    """True when nobody can tell what was published before: notary-server signs before it stores,
    so that of several files under one version any may be the one it kept. Two who publish at once
    each lack what the other one adds."""
    if mark is None or not is_made_for_server(asked.key):
        return False
    return mark.newest.version == document.version or mark.reissued > 0


def _dropped(asked: Asked, before: Root, after: Root) -> Iterator[Grave]:
    """Root keys that go, unless as many enabled root keys of this daemon come, so that no place is
    lost either. By key pair: a new certificate over the same key drops nobody."""
    old, new = identities(holders_in(before, "root")), identities(holders_in(after, "root"))
    came = _keys(after, new - old)
    ours = [info for info in came if info.spki and asked.is_root_key_here(info.spki)]
    gone = _keys(before, old - new)
    if len(ours) >= len(gone):
        return
    for info in gone:
        yield Grave("root-key-dropped", f"root loses the key {key(info, info.keyid)}")


def _added(asked: Asked, before: Root, after: Root) -> Iterator[Grave]:
    """Root keys that come from elsewhere where one alone can sign the next root, and drop all the
    others there: what would be grave in one step is so in two."""
    if after.roles["root"].threshold > 1:
        return
    old, new = identities(holders_in(before, "root")), identities(holders_in(after, "root"))
    for info in _keys(after, new - old):
        if not info.spki or not asked.is_root_key_here(info.spki):
            told = f"root gets the key {key(info, info.keyid)}, which is none of this daemon"
            yield Grave("root-key-added", f"{told} and alone is enough for the next root")


def _keys(root: Root, wanted: frozenset[str]) -> list[PublicKeyInfo]:
    """One key of the root role for each identity."""
    keys = (root.keys.get(keyid) for keyid in root.roles["root"].keyids)
    by_identity = {info.identity: info for info in keys if info and info.identity in wanted}
    return list(by_identity.values())


def _back(kind: str, changes: Iterable[Change], history: History) -> Iterator[Grave]:
    mark = history.mark
    before = mark.complete.keyset if mark and mark.complete else ""
    now = keyset_of(kind, history.root, None)
    for change in changes:
        if change.kind != "meta" or not change.grave:
            continue
        below_changed = has_changed(change.subject, before, now)
        if below_changed or (kind == "snapshot" and has_changed("snapshot", before, now)):
            continue
        if change.after:
            told = f"{kind} takes {change.subject} back from {change.before} to {change.after}"
            yield Grave("meta-lowered", told)
        else:
            told = f"{kind} no longer speaks of {change.subject} ({change.before})"
            yield Grave("role-lost", told)


def _told(change: Change) -> str:
    """The change in words; its parts are printable already."""
    if change.kind == "threshold":
        return f"the threshold of {change.subject} goes down from {change.before} to {change.after}"
    if change.kind == "key-object":
        after = f"becomes {change.after}" if change.after else "is no longer there"
        return f"the key {change.before} {after}"
    if change.kind == "doubled-key":
        return f"in {change.subject}: {change.after}"
    return f"the collections go from {change.before} to {change.after}"
