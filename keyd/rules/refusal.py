"""How a rule says no: the word of the rule, what is wrong, and the way out.

The words of the fact ``rule``, what each refuses, and what a person can do about it:

    digest-only         a finished digest: nobody can see what it stands for
                        -> send the message; sign it with a key that has no bindings
    opaque              bytes that are no metadata, certificate or request
                        -> sign them with a key that has no bindings
    wrong-role          metadata of another kind than the role has that is signed for
                        -> name the role it is for, with a key bound to that role
    wrong-dialect       Notary's form after TUF's, or the other way round
                        -> write the dialect of the repository; `role reset` after a migration
    version-lower       a version below the one signed last: a rollback to clients
                        -> the next free version; `role supersede` or `role reset`
    version-step        a version too far above the one signed last: no way back from it
                        -> a nearer version; `role import` or `role advance` with what is published
    no-history          a root other than version 1 where no root is known
                        -> `role import` from a root you trust
    root-incomplete     a root after one that lacks signatures
                        -> let the others sign; `role advance` when they did so elsewhere
    root-step           a root that is not exactly the next after the complete one
                        -> that version; `role advance` with the roots between
    root-key-missing    a root that names the signing key neither itself nor in the root before
                        -> check the repository; name the key in the root role
    wrong-gun           a Notary root whose certificates are for another collection
                        -> sign for the collection that the certificates name
    expired             an expiry that is not in the future
                        -> a later expiry; `role supersede` where the version is signed already
    expiry-too-far      an expiry beyond the longest the policy allows: clients would be frozen
                        -> a nearer expiry; a [[limit]] of the policy with more days
    path-outside        a target that the role's limit in the policy does not cover
                        -> another role; a [[limit]] of the policy with its path
    certificate-key     a certificate or request for another key than the one that signs it
                        -> put the public key of `key show` into it
    certificate-name    a name that is neither a repository nor a role the key is bound to
                        -> the name of the repository or role; `key update --bind`
    certificate-ca      power over other certificates
                        -> CA:FALSE, no keyCertSign and no cRLSign
    certificate-issuer  a certificate that somebody else is said to have issued
                        -> a self-issued one, or a request for that issuer

Published files that are shown as evidence (`role import`, `role advance`) are refused for:

    evidence-signatures fewer valid signatures by the role's keys than its threshold
                        -> files of this repository, with all signatures and the roots up to them
    evidence-chain      a root that is not the next after the one before it
                        -> the roots between, each with all its signatures
    evidence-role       a file of another kind than the role it is said to be of
                        -> say of each file which role it is of
    evidence-dialect    Notary's form among TUF's, or the other way round
                        -> files of one repository only
    evidence-delegation a delegated file, and nobody is known to delegate to its role
                        -> the targets file that does so too
    evidence-lower      an import that would go back behind what was signed here
                        -> newer files; `role reset` where that never counted
    evidence-conflict   two different files of one version: clients may be split
                        -> `role supersede` for a draft; `role reset` and `role import`
    draft-published     giving up a version that clients may hold
                        -> the next version; `role reset` when they are known not to
    nothing-below       giving up more than the versions that are remembered
                        -> the next version; `role reset` where nothing was published

Other bytes at a version that is taken are a VersionTakenError: renumber to ``next_version``, or
`role supersede` where the version was not published.
"""

from __future__ import annotations

import shlex

from keyd.content import Content
from keyd.content.documents import Document
from keyd.content.refusal import printable
from keyd.errors import RuleRefusedError, VersionTakenError
from keyd.model import Context, Mark

WORDS = (
    "digest-only",
    "opaque",
    "wrong-role",
    "wrong-dialect",
    "version-lower",
    "version-step",
    "no-history",
    "root-incomplete",
    "root-step",
    "root-key-missing",
    "wrong-gun",
    "expired",
    "expiry-too-far",
    "path-outside",
    "certificate-key",
    "certificate-name",
    "certificate-ca",
    "certificate-issuer",
    "evidence-signatures",
    "evidence-chain",
    "evidence-role",
    "evidence-dialect",
    "evidence-delegation",
    "evidence-lower",
    "evidence-conflict",
    "draft-published",
    "nothing-below",
)
"""Every value of the fact ``rule``; the table above says what each is for."""


def refuse(
    rule: str,
    message: str,
    *,
    hint: str,
    context: Context,
    content: Content | None = None,
    **facts: str | int,
) -> RuleRefusedError:
    """The error to raise. ``message`` and ``hint`` hold printable texts only."""
    version = content.version if isinstance(content, Document) else 0
    error = RuleRefusedError(
        message,
        hint=hint,
        rule=rule,
        repository=printable(context.repository),
        role=printable(context.role),
        version=version,
    )
    error.facts = {**error.facts, **{name: str(value) for name, value in facts.items()}}
    return error


def taken(context: Context, digest: bytes, mark: Mark, *, next_version: int) -> VersionTakenError:
    """Other bytes are signed at the version of the mark's newest. ``digest``: of those asked for;
    ``next_version``: the version at which they could be signed, the same for a draft."""
    newest = mark.newest
    if next_version == newest.version:
        said = f"{len(mark.signers)} signed other bytes as version {newest.version} before"
        hint = "sign the same bytes as they did, or give that draft up with: " + command(
            "supersede", context
        )
    else:
        said = f"version {newest.version} is {mark.state} with other bytes"
        hint = (
            f"sign yours as version {next_version}; if version {newest.version} was never "
            f"published, give it up with: {command('supersede', context)}"
        )
    return VersionTakenError(
        f"{of(context)}: {said} (SHA-256 {newest.digest.hex()}, yours {digest.hex()})",
        hint=hint,
        repository=printable(context.repository),
        role=printable(context.role),
        version=newest.version,
        digest=digest.hex(),
        signed_digest=newest.digest.hex(),
        last_version=newest.version,
        next_version=next_version,
    )


def of(context: Context) -> str:
    """``ROLE of REPOSITORY``, printable."""
    return f"{printable(context.role)} of {printable(context.repository)}"


def command(verb: str, context: Context) -> str:
    """The way out as it is typed: ``keydctl role VERB REPOSITORY ...``."""
    repository, role = quoted(context.repository), quoted(context.role)
    if verb == "import":
        return f"keydctl role import {repository}"
    if verb == "advance":
        return f"keydctl role advance {repository} FILE..."
    return f"keydctl role {verb} {repository} {role}"


def quoted(name: str) -> str:
    """A name for a command line: printable, and one word to a shell."""
    return shlex.quote(printable(name))
