"""Who has signed a metadata file already, by the keys that are at hand.

No rule says here which keys are the right ones: a file's own keys prove nothing about it, those of
an older root do as far as that is trusted. So each answer names whose key it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyd.cli.explainfile import Reading
from keyd.content.documents import Document, PublicKeyInfo, RoleKeys, Root, Targets
from keyd.content.envelope import FileSignature
from keyd.content.verification import verify_signature, verify_threshold
from keyd.errors import AlgorithmMismatchError, BadSignatureError, InvalidRequestError


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys at hand. ``source``: the document they are from, as people call it. ``role`` and
    ``holders``: whom it lets sign the file, where it says that."""

    source: str
    keys: Mapping[str, PublicKeyInfo]
    role: str = ""
    holders: RoleKeys | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One signature. ``state``: valid, invalid, unknown key (in no document at hand), unreadable
    key (of a kind, or with a method, that keyd does not know) or empty (a place is held).
    ``sources``: the documents whose key for this id said so."""

    keyid: str
    state: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Count:
    """How many of a role's different keys have signed, by the document ``source``."""

    source: str
    role: str
    signers: int
    threshold: int


def keys_at_hand(
    reading: Reading, old: Document | None, old_name: str, role: str
) -> tuple[Keys, ...]:
    """Keys of the document itself and of an older root.

    ``role``: what the file claims to be, or empty for its type.
    """
    found = []
    if isinstance(reading.content, Document):
        found += _keys("this file", reading.content, reading.kind, role)
    if isinstance(old, Root):
        found += _keys(old_name, old, reading.kind, role)
    return tuple(found)


def _keys(source: str, document: Document, kind: str, role: str) -> list[Keys]:
    if isinstance(document, Root):
        name = role or kind
        return [Keys(source, document.keys, name, document.roles.get(name))]
    if isinstance(document, Targets) and document.delegations is not None:
        return [Keys(source, document.delegations.keys)]
    return []


def judge(reading: Reading, at_hand: Sequence[Keys]) -> tuple[Judged, ...]:
    """Each signature of the file, once for each different answer about it."""
    judged = []
    for signature in reading.signatures:
        by_state: dict[str, list[str]] = {}
        for each in at_hand:
            key = each.keys.get(signature.keyid)
            if key is not None and signature.value:
                state = _state(key, signature, reading.payload)
                by_state.setdefault(state, []).append(each.source)
        if not by_state:
            by_state = {"unknown key" if signature.value else "empty": []}
        judged += [Judged(signature.keyid, s, tuple(names)) for s, names in by_state.items()]
    return tuple(judged)


def count(reading: Reading, at_hand: Sequence[Keys]) -> tuple[Count, ...]:
    """How far the signatures satisfy each document that says who has to sign."""
    counts = []
    for each in at_hand:
        if each.holders is not None:
            found = verify_threshold(reading.payload, reading.signatures, each.holders, each.keys)
            counts.append(Count(each.source, each.role, found.signers, found.threshold))
    return tuple(counts)


def _state(key: PublicKeyInfo, signature: FileSignature, payload: bytes) -> str:
    try:
        verify_signature(key, signature, payload)
    except AlgorithmMismatchError:
        return "unreadable key"
    except (BadSignatureError, InvalidRequestError):
        return "invalid"
    return "valid"
