"""How tokens, and what lies on them, are shown."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from keyd.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyd.client import TokenObject
    from keyd.model import Purpose, TokenStatus


def token_json(t: TokenStatus) -> dict[str, object]:
    """A token's stable keys."""
    return {
        "name": t.name,
        "state": t.state.value,
        "detail": t.detail,
        "serial": t.serial,
        "label": t.label,
        "model": t.model,
        "manufacturer": t.manufacturer,
        "firmware": t.firmware,
        "pin_state": t.pin_state,
        "hosts": t.hosts,
        "queued": t.queued,
        "touch": {
            **_purpose_json(t.touch.purpose),
            "left_s": t.touch.left_s,
            "window_s": t.touch.window_s,
        }
        if t.touch
        else None,
        "waiting": [
            {**_purpose_json(call.purpose), "signatures": call.signatures} for call in t.waiting
        ],
    }


def _purpose_json(purpose: Purpose) -> dict[str, object]:
    return {"key": purpose.key, "what": purpose.what, "asked_by": purpose.asked_by}


def waiting_lines(t: TokenStatus) -> list[str]:
    """Who waits for the token, in their order, a line each."""
    lines = []
    before = 1 if t.touch else 0
    for call in t.waiting:
        who = str(call.purpose) or "a key you may not see"
        many = f", {call.signatures} signatures" if call.signatures > 1 else ""
        lines.append(f"waits, {before} before it: {who}{many}")
        before += call.signatures
    return lines


def tokens_table(tokens: Sequence[TokenStatus]) -> str:
    """All tokens, and below what they wait for and who waits for them."""
    rows = [
        (
            t.name,
            t.state,
            t.serial,
            t.label,
            f"{t.model} {t.firmware}".strip(),
            t.pin_state,
            t.queued,
        )
        for t in tokens
    ]
    lines = [
        output.table(("NAME", "STATE", "SERIAL", "LABEL", "MODEL", "PIN", "QUEUED"), rows),
        *(f"{t.name}: {t.detail}" for t in tokens if t.detail),
    ]
    for t in tokens:
        lines += [f"{t.name}: {t.touch}"] if t.touch else []
        lines += [f"{t.name}: {text}" for text in waiting_lines(t)]
    return "\n".join(lines) if tokens else "no tokens you may see"


def object_json(o: TokenObject) -> dict[str, object]:
    """A key pair's stable keys."""
    return {
        "object_id": o.object_id.hex(),
        "label": o.label,
        "algorithm": o.algorithm.value if o.algorithm else "",
        "public_key": base64.b64encode(o.public_key).decode(),
        "registered_as": o.registered_as,
        "sensitive": o.sensitive,
        "extractable": o.extractable,
        "always_sensitive": o.always_sensitive,
        "never_extractable": o.never_extractable,
        "local": o.local,
    }


def objects_table(found: Sequence[TokenObject]) -> str:
    """The key pairs on a token."""
    rows = [
        (
            o.object_id.hex(),
            o.label,
            o.algorithm or "other",
            o.registered_as,
            "yes" if o.sensitive and not o.extractable else "NO",
            "yes" if o.local else "no",
        )
        for o in found
    ]
    headers = ("OBJECT ID", "LABEL", "ALGORITHM", "REGISTERED AS", "STAYS INSIDE", "MADE THERE")
    return output.table(headers, rows) if found else "no key pairs"
