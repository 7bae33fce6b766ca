"""One collection as the commands see it: staged, published, looked up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from keyd.adapters.notary import changes, keyobjects, metadata, rootcert
from keyd.adapters.notary.cache import Cache
from keyd.adapters.notary.changes import Change
from keyd.adapters.notary.drafting import Drafting
from keyd.adapters.notary.keyobjects import KeyObject
from keyd.adapters.notary.keyring import Held, KeyRing
from keyd.adapters.notary.metadata import Draft
from keyd.adapters.notary.pinning import Pinning, covers
from keyd.adapters.notary.publication import Publication, Report
from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.trusted import Trusted
from keyd.errors import KeydError, RepositoryError, RuleRefusedError, VersionTakenError
from keyd.model import MarkState


@dataclass(slots=True)
class Collection:
    """A collection, on its server and in the trust directory. ``reason``: for the audit log."""

    server: NotaryServer
    cache: Cache
    ring: KeyRing
    pinning: Pinning
    now: Callable[[], datetime]
    publication: Publication = field(init=False)

    def __post_init__(self) -> None:
        self.publication = Publication(self.server, self.cache, self.ring, self.pinning, self.now)

    @property
    def gun(self) -> str:
        """Its globally unique name."""
        return self.server.gun

    # ------------------------------------------------------------------ read

    def find(self, *, is_expired_taken: bool = False) -> Trusted | None:
        """What is served, verified; None where there is none."""
        with self.cache.locked():
            return self.publication.read(is_expired_taken=is_expired_taken)

    def get(self) -> Trusted:
        """What is served, verified.

        Raises:
            RepositoryError: the server has no such collection.
        """
        found = self.find()
        if found is None:
            raise self.absent()
        return found

    def absent(self) -> RepositoryError:
        """The error for a collection that the server does not have."""
        return RepositoryError(
            f"the trust server {self.server.web.base_url} has no collection {self.gun}",
            hint=f"begin it: keydctl trust init {self.gun}; where another server has it: -s URL",
            gun=self.gun,
        )

    # ------------------------------------------------------------------ stage

    def staged(self) -> list[Change]:
        """What is staged, oldest first."""
        return changes.read(self.cache.read_changes())

    def stage(self, *new: Change) -> None:
        """Keep changes until they are published."""
        with self.cache.locked():
            self.cache.write_changes(changes.write([*self.staged(), *new]))

    def unstage(self, numbers: Sequence[int] | None = None) -> list[Change]:
        """Drop changes by their number in :meth:`staged`, or all; answers with those dropped.

        Raises:
            RepositoryError: there is no change of such a number; nothing was dropped.
        """
        with self.cache.locked():
            staged = self.staged()
            dropped = range(len(staged)) if numbers is None else sorted(set(numbers))
            wrong = [n for n in dropped if not 0 <= n < len(staged)]
            if wrong:
                raise RepositoryError(
                    f"there is no staged change {wrong[0]}",
                    hint=f"keydctl trust status {self.gun} lists them",
                )
            kept = [c for n, c in enumerate(staged) if n not in dropped]
            self.cache.write_changes(changes.write(kept))
            if numbers is None:
                self.cache.drop_pending()
                self.cache.write_uploads(None)
            return [staged[n] for n in dropped]

    def init(self, root_key: Held, certificate: bytes = b"") -> None:
        """Stage the beginning of a collection; its root key is certified here where nobody gives
        a certificate. Nothing happens where that is staged already, as by a run that died or
        waits for consent.

        Raises:
            RepositoryError: it exists already, or is staged with another key, or the certificate
                does not fit.
        """
        staged = self._staged_root()
        if staged is not None and not certificate and staged.spki == root_key.version.public_key:
            return
        if self.find(is_expired_taken=True) is not None:
            raise RepositoryError(
                f"{self.gun} exists on the server already",
                hint=f"change it with keydctl trust add {self.gun}; take it over from key files "
                f"with keydctl trust migrate {self.gun}",
                gun=self.gun,
            )
        if staged is not None:
            raise RepositoryError(
                f"the beginning of {self.gun} is staged already",
                hint=f"keydctl trust publish {self.gun}; or drop it and all that is staged with "
                f"it: keydctl trust reset {self.gun} --all",
            )
        pem = certificate or rootcert.pem(self.certify(root_key))
        found = keyobjects.of_certificates(x509.load_pem_x509_certificates(pem))
        if found.spki != root_key.version.public_key or not covers(found.common_name, self.gun):
            raise RepositoryError(
                f"the root certificate is for {found.common_name!r} and another key, or another "
                f"collection than {self.gun}",
                hint=f"make one: keydctl trust certificate {root_key.key.name} --gun {self.gun}",
            )
        with self.cache.locked():
            begin = Change("init", "root", "", {"certificate": pem.decode("ascii")})
            self.cache.write_changes(changes.write([begin, *self.staged()]))

    def certify(self, root_key: Held) -> x509.Certificate:
        """A root certificate for this collection, signed by its own key."""
        subject = rootcert.Subject(root_key.version.public_key, self.gun)
        return rootcert.self_signed(subject, self.ring.certify(root_key), self.now())

    # ------------------------------------------------------------------ publish

    def publish(self, *, retries: int = 0) -> Report:
        """Publish what is staged; see :meth:`Publication.publish`."""
        with self.cache.locked():
            staged = self.staged()
            self.publication.retries = retries

            def make(trusted: Trusted | None, drafting: Drafting) -> dict[str, Draft]:
                if trusted is None:
                    return self._beginning(staged, drafting)
                self._check_own_beginning(trusted)
                return drafting.of_changes(staged)

            try:
                report = self.publication.publish(make)
            except (RuleRefusedError, VersionTakenError) as e:
                self._tell_gone(e)
                raise
            self.cache.write_changes(None)
            return report

    def _tell_gone(self, refusal: RuleRefusedError | VersionTakenError) -> None:
        """Where a beginning is refused because the collection was published before, and the server
        has it no more, neither a later number nor giving up a draft is the way on."""
        if self.publication.evidence.trusted is not None or refusal.facts.get("role") != "root":
            return
        try:
            known = self.ring.connect().get_role(self.gun, "root")
        except KeydError:
            return  # The refusal's own hint has to do.
        if known.state is MarkState.PUBLISHED:
            refusal.hint = (
                f"{self.gun} was published before, and {self.server.web.base_url} has it no more. "
                f"Where it was deleted to begin anew: keydctl role reset {self.gun} --reason TEXT, "
                "then this same command again; where it was not, begin nothing: find the server "
                "that has it (-s URL), or restore it"
            )

    def _beginning(self, staged: Sequence[Change], drafting: Drafting) -> dict[str, Draft]:
        """The first root and targets, with all that is staged."""
        root_key = self._staged_root()
        if root_key is None:
            raise self.absent()
        keys = {"root": root_key, "targets": self.ring.ensure("targets").object}
        keys |= {role: self.server.key(role) for role in ("snapshot", "timestamp")}
        root = metadata.new_root(
            {key.keyid: key.value for key in keys.values()},
            {role: [key.keyid] for role, key in keys.items()},
            metadata.expiry("root", self.now()),
        )
        drafts = {"targets": drafting.next_targets("targets"), **drafting.of_changes(staged)}
        return {"root": root, **drafts}

    def _staged_root(self) -> KeyObject | None:
        """The root key of a beginning that is staged."""
        begin = next((c for c in self.staged() if c.action == "init"), None)
        if begin is None:
            return None
        pem = str(begin.facts["certificate"]).encode("ascii")
        return keyobjects.of_certificates(x509.load_pem_x509_certificates(pem))

    def _check_own_beginning(self, trusted: Trusted) -> None:
        """What was staged for a collection of our own is not for one that somebody else began.

        Raises:
            RepositoryError: another root key than the staged one began it.
        """
        mine, root = self._staged_root(), trusted.root_document
        keys = {root.keys[k].spki for k in root.roles["root"].keyids if k in root.keys}
        if mine is not None and mine.spki not in keys:
            raise RepositoryError(
                f"{self.gun} was begun by somebody else meanwhile, with another root key",
                hint=f"look at it: keydctl trust list {self.gun}; drop what is staged here: "
                f"keydctl trust reset {self.gun} --all",
                gun=self.gun,
            )

    def delete(self, *, remote: bool) -> None:
        """Forget everything here; with ``remote`` the server deletes it first, for everybody."""
        with self.cache.locked():
            if remote:
                self.server.delete()
            self.cache.forget()
