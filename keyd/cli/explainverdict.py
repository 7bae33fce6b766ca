"""Whether a signature would be given, in words: the answer, and what must change for another."""

from __future__ import annotations

from keyd.cli.exits import Exit
from keyd.errors import KeydError

CONSENT = "nothing; people have to approve exactly these bytes"
"""What must change where only consent is missing."""

_VERDICTS = {
    Exit.DONE: "would be signed",
    Exit.NEEDS_PEOPLE: "needs people",
    Exit.TRY_AGAIN: "try again",
    Exit.USAGE: "cannot be asked like this",
}

_MUST_CHANGE = {
    "APPROVAL_NEEDED": CONSENT,
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

_BY_RULE = {
    "digest-only": "what is sent: the bytes themselves, not their digest",
    "opaque": "the document: only metadata and certificates can be read, or the key's bindings",
    "wrong-role": "the document's type, --context, or --key",
    "wrong-dialect": "the document's dialect, or --key",
    "version-lower": "the version number in the document",
    "version-step": "the version number in the document",
    "no-history": "the version to 1, or what the daemon knows: keydctl role import",
    "root-incomplete": "the last root: it has to get its missing signatures first",
    "root-step": "the version number in the document: one above the last complete root",
    "root-key-missing": "the keys in the document: this key has to be one of its root keys",
    "wrong-gun": "the certificates in the document, or --context",
    "expired": "the expiry in the document",
    "expiry-too-far": "the expiry in the document",
    "path-outside": "the targets in the document",
    "certificate-key": "the public key in the document",
    "certificate-name": "the common name in the document",
    "certificate-ca": "the document: no CA and no signing of certificates",
    "certificate-issuer": "the issuer in the document",
}
"""What has to be another than it is, by the rule for bound keys that refused (keyd/rules)."""


def verdict(code: Exit) -> str:
    """A word or two for the exit code of the question."""
    return _VERDICTS.get(code, "refused")


def must_change(error: KeydError) -> str:
    """What has to be another than it is for a signature to be given; empty if nobody knows."""
    if error.reason == "VERSION_TAKEN" and error.facts.get("next_version"):
        return f"the version number in the document; {error.facts['next_version']} is free"
    if error.reason == "RULE_REFUSED":
        return _BY_RULE.get(error.facts.get("rule", ""), "the document")
    return _MUST_CHANGE.get(error.reason, "")
