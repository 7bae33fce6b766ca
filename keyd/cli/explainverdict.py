"""Whether a signature would be given, in words: the answer, and what must change for another."""

from __future__ import annotations

from keyd.cli.exits import Exit, exit_code
from keyd.errors import KeydError

_VERDICTS = {
    Exit.DONE: "would be signed",
    Exit.NEEDS_PEOPLE: "needs people",
    Exit.TRY_AGAIN: "try again",
    Exit.USAGE: "cannot be asked like this",
}

_MUST_CHANGE = {
    "APPROVAL_NEEDED": "people have to approve exactly these bytes",
    "CONTENT": "the document itself",
    "FROZEN": "a person has to end the freeze",
    "KEY_NOT_ENABLED": "the key version has to be enabled, or another one has to sign",
    "KEY_NOT_FOUND": "the name or version given with --key",
    "KEY_MISMATCH": "the version given with --key",
    "POLICY_DENIED": "a grant for you, this key and this content; or --key or --context",
    "UNKNOWN_CALLER": "the certificate or socket you come with",
    "VERSION_TAKEN": "the version number in the document",
    "CONFIG": "the settings the daemon is found by",
    "ALGORITHM_MISMATCH": "--encoding or --scheme, which have to fit the key",
    "INVALID_REQUEST": "the request: --key, --context or FILE",
    "RATE_LIMITED": "nothing; ask less often",
    "SERVER_GONE": "nothing, once a daemon answers; --offline asks none",
    "DEADLINE": "nothing; ask again",
    "CHECKPOINT_BEHIND": "the daemon's state, by whoever runs it",
    "AUDIT_UNAVAILABLE": "the daemon's state, by whoever runs it",
    "CLOCK": "the daemon's state, by whoever runs it",
}


def verdict(error: KeydError | None) -> str:
    """A word or two for the exit code; None: it would be signed."""
    return _VERDICTS.get(Exit.DONE if error is None else exit_code(error), "refused")


def must_change(error: KeydError) -> str:
    """What has to be another than it is for a signature to be given; empty if nobody knows."""
    if error.reason == "VERSION_TAKEN" and error.facts.get("next_version"):
        return f"the version number in the document; {error.facts['next_version']} is free"
    return _MUST_CHANGE.get(error.reason, "")
