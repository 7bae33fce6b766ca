"""What is asked of keys: a new key, a filter, and the checks of their fields."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from keyd.consents import bindings_asked
from keyd.errors import InvalidRequestError
from keyd.model import (
    Binding,
    Key,
    KeyAlgorithm,
    PinPolicy,
    Scheme,
    Slot,
    SlotOrder,
    TokenObject,
    TouchPolicy,
    VersionState,
    check_name,
)

_MAX_LABELS = 64
_MAX_LABEL_CHARS = 256
_MAX_BINDINGS = 256
_MAX_DETAIL_CHARS = 900
_MAX_DETAIL_PARTS = 10


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a caller wants made. ``token`` may be empty when only one is configured. ``slot``,
    ``pin`` and ``touch`` are for a YubiKey; None for once and never."""

    name: str
    token: str
    algorithm: KeyAlgorithm
    scheme: Scheme | None = None
    bindings: frozenset[Binding] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    rotation_period_s: int = 0
    said: str = ""
    slot: Slot | None = None
    pin: PinPolicy | None = None
    touch: TouchPolicy | None = None


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys to list; every field that is set has to match. ``name`` is a glob pattern."""

    token: str = ""
    repository: str = ""
    role: str = ""
    state: VersionState | None = None
    label: str = ""
    name: str = ""

    def matches(self, key: Key, now: datetime) -> bool:
        """True when the key fits every field that is set."""
        label, _, value = self.label.partition("=")
        return (
            (not self.token or key.token == self.token)
            and (not self.name or fnmatch.fnmatchcase(key.name, self.name))
            and (not label or (label in key.labels and value in ("", key.labels[label])))
            and (
                self.state is None
                or any(self.state in (v.state, v.shown_state(now)) for v in key.versions)
            )
            and (
                not (self.repository or self.role)
                or any(
                    (not self.repository or fnmatch.fnmatchcase(self.repository, b.repository))
                    and (not self.role or fnmatch.fnmatchcase(self.role, b.role))
                    for b in key.bindings
                )
            )
        )


def asked_of_new(key: Key, order: SlotOrder | None = None) -> dict[str, object]:
    """What people consent to when they consent to a new key."""
    in_slot = {"slot": str(order.slot), "pin": order.pin, "touch": order.touch} if order else {}
    return {
        **in_slot,
        "algorithm": key.algorithm.value,
        "bindings": bindings_asked(key.bindings),
        "labels": dict(key.labels),
        "rotation_period_s": key.rotation_period_s,
        "scheme": key.scheme.value,
        "token": key.token,
    }


def asked_of_update(
    bindings: frozenset[Binding] | None,
    labels: Mapping[str, str] | None,
    rotation_period_s: int | None,
) -> dict[str, object]:
    """What people consent to when they consent to other fields of a key: those that change."""
    asked: dict[str, object] = {}
    if bindings is not None:
        asked["bindings"] = bindings_asked(bindings)
    if labels is not None:
        asked["labels"] = dict(labels)
    if rotation_period_s is not None:
        asked["rotation_period_s"] = rotation_period_s
    return asked


def binding_details(old: frozenset[Binding], new: frozenset[Binding]) -> dict[str, str]:
    """What an entry says of changed bindings: each one added (``bound``) and removed
    (``unbound``), in as many details as its texts need, and the SHA-256 of the whole new set, one
    ``REPOSITORY:ROLE`` a line, sorted.

    Raises:
        InvalidRequestError: more than an entry can say in full; nothing may hide in it.
    """
    whole = "".join(f"{b}\n" for b in sorted(new))
    details = {"bindings_sha256": hashlib.sha256(whole.encode()).hexdigest() if new else "none"}
    for what, changed in (("bound", new - old), ("unbound", old - new)):
        parts = [""]
        for text in map(str, sorted(changed)):
            joined = f"{parts[-1]}, {text}" if parts[-1] else text
            if len(joined) <= _MAX_DETAIL_CHARS:
                parts[-1] = joined
            else:
                parts.append(text)
        if len(parts) > _MAX_DETAIL_PARTS:
            raise InvalidRequestError("bindings", "too many changes at once; make them in steps")
        details |= {f"{what}.{n}" if n else what: text for n, text in enumerate(parts) if text}
    return details


def check_fields(
    bindings: frozenset[Binding], labels: Mapping[str, str], rotation_period_s: int
) -> None:
    """Refuse bindings, labels and periods that cannot be meant.

    Raises:
        InvalidRequestError: naming the field.
    """
    if len(bindings) > _MAX_BINDINGS:
        raise InvalidRequestError("bindings", f"at most {_MAX_BINDINGS}")
    for binding in bindings:
        for what, text in (("repository", binding.repository), ("role", binding.role)):
            if not text or len(text) > _MAX_LABEL_CHARS or not text.isprintable() or " " in text:
                raise InvalidRequestError(
                    "bindings", f"the {what} is 1 to {_MAX_LABEL_CHARS} printable characters"
                )
    if len(labels) > _MAX_LABELS:
        raise InvalidRequestError("labels", f"at most {_MAX_LABELS}")
    for name, value in labels.items():
        check_name("labels", name)
        if len(value) > _MAX_LABEL_CHARS or not value.isprintable():
            raise InvalidRequestError(
                "labels", f"a value is at most {_MAX_LABEL_CHARS} printable characters"
            )
    if not 0 <= rotation_period_s < 2**40:
        raise InvalidRequestError("rotation_period_s", "a number of seconds, 0 for never")


def parse_label(label: str) -> tuple[str, int]:
    """Split a CKA_LABEL NAME/N as keyd writes it; ("", 0) for any other."""
    name, _, number = label.rpartition("/")
    if not number.isascii() or not number.isdigit() or len(number) > 9 or number.startswith("0"):
        return "", 0
    try:
        return check_name("label", name), int(number)
    except InvalidRequestError:
        return "", 0


def label_order(found: TokenObject) -> tuple[str, int]:
    """Order by name, then number, so that version 1 is adopted before version 2."""
    return parse_label(found.label)
