"""Getting signatures: from every key within reach, at a version that is free, for exact bytes that
are on disk before anybody is asked to consent to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.signer import Key as TufKey
from tuf.api.metadata import Metadata, Root, Signed

from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.keyring import KeyRing, raise_missing
from keyd.adapters.tufrepo.published import Delegator, parse_any, verifies
from keyd.adapters.tufrepo.report import Missing, Waiting
from keyd.adapters.tufrepo.settings import Settings
from keyd.errors import (
    DeadlineError,
    RepositoryError,
    RuleRefusedError,
    TokenError,
    VersionTakenError,
)

_ATTEMPTS = 8


@dataclass(slots=True)
class Gathering:
    """Signatures for one piece of metadata after another, while the folder is locked.

    ``skip``: keyids that shall not be asked (lost or stolen keys). ``notes``: what was renumbered,
    and which tokens did not sign what was complete without them.
    """

    folder: Folder
    settings: Settings
    ring: KeyRing
    now: Callable[[], datetime]
    skip: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)

    def expiry(self, role: str) -> datetime:
        """When metadata of a role that is made now expires."""
        days = timedelta(days=self.settings.days(role))
        return (self.now() + days).replace(microsecond=0)

    def stage(self, role: str, metadata: Metadata[Any], version: int) -> None:
        """Keep new metadata in staged/, with this version, a fresh expiry and no signature."""
        metadata.signed.version = version
        metadata.signed.expires = self.expiry(role)
        metadata.signatures.clear()
        self.folder.stage(role, version, metadata.to_bytes())

    def collect(
        self, role: str, metadata: Metadata[Any], judges: Sequence[Delegator]
    ) -> Waiting | None:
        """Sign staged metadata with every key within reach of all that judge it. What it still
        waits for, while the last judge (and for a root, each) is not satisfied.

        Raises:
            VersionTakenError: a root of this version with other content is signed.
            RepositoryError: a staged root has expired while it waited.
        """
        self._renew_expiry(role, metadata)
        missing = self._sign(role, metadata, judges)
        self.folder.stage(role, metadata.signed.version, metadata.to_bytes())
        strict = judges if role == "root" else judges[-1:]
        needs = max(_lacking(judge, role, metadata) for judge in strict)
        listed = {keyid for judge in strict for keyid in judge.get_delegated_role(role).keyids}
        if needs == 0:
            self._tell_of_tokens(role, metadata, listed, missing)
            return None
        return Waiting(
            role,
            metadata.signed.version,
            str(self.folder.staged_files()[role]),
            needs,
            tuple(m for m in missing if m.keyid in listed),
        )

    def collect_online(
        self, role: str, made: Metadata[Any], judges: Sequence[Delegator]
    ) -> Metadata[Any]:
        """Sign a new snapshot or timestamp, or the one of the same content that waits in staged/
        for consent, whose bytes must not change.

        Raises:
            KeydError: it cannot be signed now. Where people have to consent first, it stays in
                staged/ and the same command goes on with it.
        """
        made.signed.expires = self.expiry(role)
        metadata = self._find_waiting(role, made.signed) or made
        missing = self._sign(role, metadata, judges)
        judge = judges[-1]
        listed = set(judge.get_delegated_role(role).keyids)
        if verifies(judge, role, metadata):
            self._tell_of_tokens(role, metadata, listed, missing)
            return metadata
        lacking = [m for m in missing if m.keyid in listed]
        if any(m.approval for m in lacking):
            self.folder.stage(role, metadata.signed.version, metadata.to_bytes())
        raise_missing(role, lacking)
        return metadata

    def _tell_of_tokens(
        self, role: str, metadata: Metadata[Any], listed: set[str], missing: Sequence[Missing]
    ) -> None:
        """Say whose signature is not there though nobody needs it: a token that was not touched, or
        not there, is nothing that one would notice otherwise."""
        signed = len(listed & metadata.signatures.keys())
        for lost in missing:
            if lost.keyid in listed and isinstance(lost.error, TokenError | DeadlineError):
                self.notes.append(
                    f"{role} {metadata.signed.version} is signed by {signed} of {len(listed)} "
                    f"keys, which is enough; {lost.who} did not sign: {lost.why}. To have it sign "
                    f"the next version: keydctl tuf refresh {self.folder.path} --role {role}"
                )

    def _find_waiting(self, role: str, signed: Signed) -> Metadata[Any] | None:
        path = self.folder.staged_files().get(role)
        if path is None:
            return None
        waiting = parse_any(path)
        fresh = waiting.signed.expires > self.now() and waiting.signed.type == signed.type
        return waiting if fresh and says(waiting.signed) == says(signed) else None

    def _renew_expiry(self, role: str, metadata: Metadata[Any]) -> None:
        """What waited until it expired gets a new expiry, since clients would refuse it; so does
        what nobody has signed, when the settings have been shortened since."""
        too_far = not metadata.signatures and metadata.signed.expires > self.expiry(role)
        if metadata.signed.expires > self.now() and not too_far:
            return
        if isinstance(metadata.signed, Root) and metadata.signatures:
            # Its number cannot change, and people have signed exactly these bytes.
            path = self.folder.staged_files()[role]
            raise RepositoryError(
                f"root {metadata.signed.version} expired on {metadata.signed.expires:%Y-%m-%d} "
                "while it waited for signatures",
                hint=f"give it up: keydctl role supersede {self.settings.repository} root, delete "
                f"{path}, and begin again",
                file=path,
                role=role,
            )
        self.stage(role, metadata, metadata.signed.version)

    def _sign(
        self, role: str, metadata: Metadata[Any], judges: Iterable[Delegator]
    ) -> list[Missing]:
        keys: dict[str, TufKey] = {}
        for judge in judges:
            keys |= {k: judge.get_key(k) for k in judge.get_delegated_role(role).keyids}
        first = metadata.signed.version
        for _ in range(_ATTEMPTS):
            try:
                missing = self.ring.sign(metadata, role, keys.values(), self.skip)
            except (VersionTakenError, RuleRefusedError) as e:
                self._renumber(role, metadata, e)
            else:
                if metadata.signed.version != first:
                    self.notes.append(
                        f"{role} became version {metadata.signed.version}: version {first} was "
                        "signed before with other content"
                    )
                return missing
        raise RepositoryError(f"no version of {role} was free in {_ATTEMPTS} attempts", role=role)

    def _renumber(
        self, role: str, metadata: Metadata[Any], refusal: VersionTakenError | RuleRefusedError
    ) -> None:
        """The next free version, on disk before it is signed; a root's number is no choice."""
        number = int(refusal.facts.get("next_version", "0"))
        if role == "root" or number <= metadata.signed.version:
            raise refusal
        metadata.signed.version = number
        metadata.signatures.clear()
        if role in self.folder.staged_files():
            self.folder.stage(role, number, metadata.to_bytes())


def says(signed: Signed) -> dict[str, Any]:
    """The content without version and expiry: what people decided."""
    content = signed.to_dict()
    content.pop("version")
    content.pop("expires")
    return content


def _lacking(judge: Delegator, role: str, metadata: Metadata[Any]) -> int:
    result = judge.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return max(0, result.missing)
