"""How long metadata may be valid: not over yet, and not longer than the policy allows.

Far expiry freezes clients: whoever holds back newer files goes unnoticed until then.
"""

from __future__ import annotations

from datetime import datetime

from keyd.content.describe import when
from keyd.content.documents import Document
from keyd.content.refusal import printable
from keyd.model import Context, Limits
from keyd.rules.refusal import command, of, refuse

_DAY_S = 86_400


def check_expiry(document: Document, context: Context, limits: Limits, now: datetime) -> str:
    """What was looked at, in words.

    Raises:
        RuleRefusedError: expired, or expiry-too-far.
    """
    left_days = (document.expires - now).total_seconds() / _DAY_S
    if left_days <= 0:
        raise refuse(
            "expired",
            f"{of(context)} v{document.version} expired at {when(document.expires)}, "
            f"it is {when(now)}",
            hint="write a later expiry under the next version; where this version is signed "
            f"already but not complete, give it up first: {command('supersede', context)}",
            context=context,
            content=document,
            expires=document.expires_text,
        )
    longest = f"{limits.max_expiry_days:g} days"
    by = f"limit {printable(limits.rule)}" if limits.rule else "default"
    if left_days > limits.max_expiry_days:
        raise refuse(
            "expiry-too-far",
            f"{of(context)} v{document.version} expires at {when(document.expires)}, in "
            f"{left_days:.1f} days; the longest is {longest} ({by})",
            hint=f"let it expire within {longest}, or set max_expiry_days in a [[limit]] of the "
            "policy",
            context=context,
            content=document,
            expires=document.expires_text,
            max_expiry_days=f"{limits.max_expiry_days:g}",
        )
    return f"expires in {left_days:.1f} days, at most {longest} ({by})"
