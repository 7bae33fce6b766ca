"""Publishing: keep the new versions, sign them, send them, and check what is served then.

A version is on disk before anybody is asked to sign it, and goes on from there whatever happens:
its bytes stay the same, so that what was signed or consented to is used. It is forgotten when it
is served, or when somebody else was first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from keyd.adapters.notary import delegations, metadata, uploads
from keyd.adapters.notary.cache import Cache
from keyd.adapters.notary.changes import Change
from keyd.adapters.notary.conflict import check_between, check_served, describe_others, overtaken
from keyd.adapters.notary.drafting import Drafting
from keyd.adapters.notary.evidence import Evidence
from keyd.adapters.notary.keyring import KeyRing, raise_unsigned, waiting_for
from keyd.adapters.notary.metadata import Draft
from keyd.adapters.notary.pinning import Pinning
from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.trusted import Reading, Trusted
from keyd.adapters.notary.uploads import Upload
from keyd.content import envelope
from keyd.content.documents import PublicKeyInfo, RoleKeys, Root, Targets
from keyd.content.verification import verify_threshold
from keyd.errors import (
    ApprovalNeededError,
    ConflictError,
    KeydError,
    RepositoryError,
    RuleRefusedError,
    ServerGoneError,
    VersionTakenError,
)

Make = Callable[[Trusted | None, Drafting], Mapping[str, Draft]]
"""What shall be published on top of what is served; may be asked again after a conflict."""

_ATTEMPTS = 8
_LEAST_DAYS = 1.0


@dataclass(slots=True)
class Report:
    """``published``: role -> version. ``notes``: what somebody should know."""

    published: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Publication:
    """Publishes one collection; use it while its folder is locked.

    ``retries``: how often to begin again on top of what somebody else has published meanwhile.
    ``signs_also``: further signatures over a new root, as of a key file that is given up.
    ``is_snapshot_servers``: the new root names a snapshot key that the server has just made.
    """

    server: NotaryServer
    cache: Cache
    ring: KeyRing
    pinning: Pinning
    now: Callable[[], datetime]
    retries: int = 0
    signs_also: Callable[[Draft], None] | None = None
    is_snapshot_servers: bool = False
    evidence: Evidence = field(init=False)
    _trusted: Trusted | None = None

    def __post_init__(self) -> None:
        self.evidence = Evidence(self.server)
        self.ring.evidence = self.evidence

    def read(self, *, is_expired_taken: bool = False) -> Trusted | None:
        """What is served, verified and kept; None where the server has no such collection."""
        reading = Reading(
            self.server,
            self.cache.read(),
            self.pinning,
            self.now(),
            is_expired_taken=is_expired_taken,
        )
        found = reading.find()
        if found is not None:
            self.cache.write(found.files(), {d.role.name for d in delegations.found(found)})
        self.evidence.trusted = found
        self._trusted = found
        return found

    def publish(self, make: Make) -> Report:
        """Publish what ``make`` says; nothing happens where that is what is served.

        Raises:
            ConflictError: somebody else was first; their changes are in the message.
            ApprovalNeededError: people have to consent; the same command goes on afterwards.
            KeydError: it cannot be signed or sent now.
            RepositoryError: it is published, and what is served is something else.
        """
        report = Report()
        self._publish_made(make, report)
        self._restore(report)
        return report

    def _publish_made(self, make: Make, report: Report) -> None:
        for attempt in range(self.retries + 1):
            trusted = self.read(is_expired_taken=True)
            drafting = Drafting(self.server, trusted, self.now(), [])
            try:
                drafts = self._resumed(trusted, make(trusted, drafting))
                report.notes += drafting.notes
                self._publish(drafts, report)
                return
            except ConflictError as e:
                told = self._tell_conflict(e, trusted)
                if attempt == self.retries:
                    raise told from e
                report.notes.append(f"{told.message}; published on top of it")

    def _restore(self, report: Report) -> None:
        """Publish anew what an upload of ours has overtaken, in this run or in one that died; but
        nothing for a role that nobody delegates to any more."""
        looked: list[Upload] = []
        while sent := [u for u in uploads.read(self.cache.read_uploads()) if u not in looked]:
            looked += sent
            known, lost = self._trusted, overtaken(self.server, sent)
            theirs = [c for c in lost if known is not None and known.holders(c.role)]
            if theirs:
                self.retries = max(self.retries, _ATTEMPTS)
                self._publish_made(partial(_of_changes, theirs), report)
                names = ", ".join(sorted({change.name for change in theirs}))
                report.notes.append(
                    f"somebody else had published {names} at the moment of an upload: it is there "
                    "as well"
                )
        self.cache.write_uploads(None)

    def _resumed(self, trusted: Trusted | None, drafts: Mapping[str, Draft]) -> dict[str, Draft]:
        """Versions of the same content that are kept from an earlier run go on."""
        pending = self.cache.pending()
        found = {}
        for role, draft in drafts.items():
            kept = metadata.open_file(role, pending[role]) if role in pending else None
            if kept is not None and self._goes_on(trusted, kept, draft):
                found[role], kept.base = kept, draft.base
            else:
                found[role] = draft
                self.cache.keep_pending(role, draft.file())
        for role in pending.keys() - found.keys() - {"snapshot"}:
            self.cache.drop_pending(role)
        return found

    def _goes_on(self, trusted: Trusted | None, kept: Draft, draft: Draft) -> bool:
        if kept.version < draft.version:
            return False
        if envelope.parse(kept.file()).document.expires <= self.now() + timedelta(days=_LEAST_DAYS):
            return False
        # The keys of a new collection's server are made when they are asked for: another answer
        # does not change what people decided.
        if trusted is None and kept.role == "root" and kept.version == 1:
            before, after = kept.signed["roles"], draft.signed["roles"]
            return all(before[role] == after[role] for role in ("root", "targets"))
        return kept.says() == draft.says()

    # ------------------------------------------------------------------ sign

    def _publish(self, drafts: dict[str, Draft], report: Report) -> None:
        if not drafts:
            return
        waiting: list[ApprovalNeededError] = []
        order = sorted(drafts, key=lambda r: (r != "root", r))
        for role in order:
            try:
                self._sign(drafts[role], drafts)
            except ApprovalNeededError as e:
                waiting.append(e)
        if waiting:
            raise waiting_for(waiting)
        files = {role: draft.file() for role, draft in drafts.items()}
        snapshot = self._own_snapshot(drafts, files)
        if snapshot is not None:
            files["snapshot"] = snapshot
        check_between(self.server, drafts)
        skipping = uploads.skipping(drafts)
        if skipping:
            known = uploads.read(self.cache.read_uploads())
            self.cache.write_uploads(uploads.write([*known, *skipping]))
        self.server.publish(files)
        try:
            served = self.read(is_expired_taken=True)
            assert served is not None
            check_served(served, files)
        except ServerGoneError as e:
            e.hint = "it took what was sent; when it answers, run the same command again to check"
            raise
        report.published |= {r: envelope.parse(f).document.version for r, f in files.items()}
        self.cache.drop_pending()
        report.notes += self.evidence.tell(self.ring.connect())

    def _sign(self, draft: Draft, drafts: Mapping[str, Draft]) -> None:
        for _ in range(_ATTEMPTS):
            try:
                if draft.role == "root" and self.signs_also is not None:
                    self.signs_also(draft)
                for role_keys, keys in self._judges(draft, drafts):
                    self._sign_for(draft, role_keys, keys)
                self.cache.keep_pending(draft.role, draft.file())
                return
            except (VersionTakenError, RuleRefusedError) as e:
                self._adjust(draft, e)
                self.cache.keep_pending(draft.role, draft.file())
        raise RepositoryError(
            f"{self.server.gun} {draft.role}: no version was free in {_ATTEMPTS} attempts",
            role=draft.role,
        )

    def _judges(
        self, draft: Draft, drafts: Mapping[str, Draft]
    ) -> Iterable[tuple[RoleKeys, Mapping[str, PublicKeyInfo]]]:
        """Whose signatures make it valid: for a root the one before and itself."""
        if draft.role == "root":
            own = _read(draft)
            assert isinstance(own, Root)
            if self._trusted is not None:
                before = self._trusted.root_document
                yield before.roles["root"], before.keys
            yield own.roles["root"], own.keys
            return
        delegator = draft.role.rpartition("/")[0] or "root"
        if delegator in drafts:
            document = _read(drafts[delegator])
            if isinstance(document, Root):
                yield document.roles[draft.role], document.keys
                return
            assert isinstance(document, Targets)
            for role in document.delegations.roles if document.delegations else ():
                if role.name == draft.role and document.delegations is not None:
                    yield role, document.delegations.keys
                    return
        holders = self._trusted.holders(draft.role) if self._trusted else None
        if holders is None:
            raise RepositoryError(
                f"{self.server.gun}: nobody delegates to {draft.role}",
                hint=f"keydctl trust delegation add {self.server.gun} {draft.role} KEY",
                role=draft.role,
            )
        yield holders

    def _sign_for(self, draft: Draft, role: RoleKeys, keys: Mapping[str, PublicKeyInfo]) -> None:
        """Ask the keys of a role that the daemon holds, until there are enough signatures."""
        errors: list[KeydError] = []
        payload = draft.payload
        for keyid in role.keyids:
            if verify_threshold(payload, draft.signatures, role, keys).is_met:
                return
            info = keys.get(keyid)
            if info is None or any(s.keyid == keyid for s in draft.signatures):
                continue
            held = self.ring.find_signer(draft.role, info.spki)
            if held is None:
                continue
            try:
                draft.signatures.append(self.ring.sign(payload, draft.role, keyid, held))
            except (VersionTakenError, RuleRefusedError):
                raise
            except KeydError as e:
                errors.append(e)  # another key of the role may be allowed to
        if not verify_threshold(payload, draft.signatures, role, keys).is_met:
            errors.sort(key=lambda e: not isinstance(e, ApprovalNeededError))
            raise_unsigned(self.server.gun, draft.role, errors, [k[:12] for k in role.keyids])

    def _adjust(self, draft: Draft, refusal: VersionTakenError | RuleRefusedError) -> None:
        """A number that is free, or an end that the policy allows; else the refusal stands.

        Raises:
            ConflictError: the number is taken because somebody else has published it.
        """
        rule = refusal.facts.get("rule", "")
        if rule == "expiry-too-far" and not draft.signatures:
            days = float(refusal.facts["max_expiry_days"])
            allowed = self.now() + timedelta(days=days) - timedelta(seconds=60)
            draft.expire(metadata.expiry(draft.role, allowed, 0.0))
            return
        number = int(refusal.facts.get("next_version", "0"))
        if not isinstance(refusal, VersionTakenError) and rule != "version-lower":
            raise refusal
        self._check_unmoved(draft)
        if draft.role == "root" or number <= draft.version:
            raise refusal
        draft.renumber(number)

    # ------------------------------------------------------------------ others

    def _check_unmoved(self, draft: Draft) -> None:
        served = self.server.find(draft.role)
        if (envelope.parse(served).document.version if served else 0) != draft.base:
            raise ConflictError(f"{self.server.gun}: somebody else has published {draft.role}")

    def _tell_conflict(self, error: ConflictError, before: Trusted | None) -> ConflictError:
        after = self.read(is_expired_taken=True)
        told = describe_others(before, after)
        return ConflictError(
            error.message + (f": {told}" if told else ""),
            hint="look at it, then publish on top of it: the same command again, or with --retry",
            gun=self.server.gun,
        )

    # ------------------------------------------------------------------ snapshot and check

    def _own_snapshot(self, drafts: Mapping[str, Draft], files: dict[str, bytes]) -> bytes | None:
        """The snapshot, where its key is the publishers' and not the server's."""
        root = _read(drafts["root"]) if "root" in drafts else None
        if root is None and self._trusted is not None:
            root = self._trusted.root_document
        assert isinstance(root, Root)
        role = root.roles["snapshot"]
        held = [k for k in role.keyids if k in root.keys and self.ring.find(root.keys[k].spki)]
        # Where keyd signs for the server too, its daemon holds that key as well.
        is_servers = self.is_snapshot_servers or self._trusted is None
        if not held or is_servers or self.server.key("snapshot").keyid in role.keyids:
            return None
        drafting = Drafting(self.server, self._trusted, self.now(), [])
        draft = drafting.next_snapshot(files)
        known = self.cache.pending().get("snapshot")
        kept = metadata.open_file("snapshot", known) if known else None
        if kept is not None and self._goes_on(self._trusted, kept, draft):
            draft, kept.base = kept, draft.base
        self.cache.keep_pending("snapshot", draft.file())
        self._sign(draft, drafts)
        return draft.file()


def _of_changes(
    theirs: Sequence[Change], _: Trusted | None, drafting: Drafting
) -> Mapping[str, Draft]:
    return drafting.of_changes(theirs)


def _read(draft: Draft) -> Root | Targets:
    document = envelope.parse(draft.file()).document
    assert isinstance(document, Root | Targets)
    return document
