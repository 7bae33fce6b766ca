"""Signing a bundle on one's own daemon: under its policy, its marks, and into its log."""

from __future__ import annotations

import fnmatch
import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from keyd.adapters.tufrepo import rotation
from keyd.adapters.tufrepo.bundle import BundleSignature, LogReceipt, Request, Response, refuse
from keyd.adapters.tufrepo.ceremony_evidence import Evidence, draft_identities
from keyd.content import envelope
from keyd.content.documents import PublicKeyInfo, Root
from keyd.errors import ContentError, PolicyDeniedError, RoleNotFoundError
from keyd.model import Binding, Context, Encoding, Key, KeyVersion, Scheme, VersionState

if TYPE_CHECKING:
    from keyd.client import Client, Role

ROOT = "root"


@dataclass(frozen=True, slots=True)
class Cosigner:
    """Whoever signs a request. ``trust_root``: the file of a root that the person vouches for, for
    a daemon that knows nothing of the repository; empty for none."""

    client: Client
    request: Request
    evidence: Evidence
    trust_root: bytes = b""

    def versions(self, key: Key) -> list[tuple[KeyVersion, list[PublicKeyInfo]]]:
        """The versions of a key whose signatures the draft needs, each with the keys it is there.

        Raises:
            RepositoryError: fact ``problem``: key.
        """
        holders = draft_identities(self.evidence).values()
        found = [
            (version, [h for h in holders if h.spki == version.public_key])
            for version in key.versions
            if version.state is VersionState.ENABLED
        ]
        found = [(version, infos) for version, infos in found if infos]
        if not found:
            raise refuse(
                "key",
                f"{key.name} has no enabled version that is a root key of "
                f"{self.request.repository}, neither in root {self.request.version - 1} nor in "
                f"root {self.request.version}",
                hint=f"compare the keyids shown with: keydctl key show {key.name}",
            )
        return found

    def check_known(self, key: Key) -> str:
        """Compare the bundle with what this daemon knows, and change nothing. Answers in words what
        vouches for the bundle's root.

        Raises:
            RepositoryError: fact ``problem``: unknown, swapped, replayed, gap, binding.
        """
        repository, before = self.request.repository, self.request.version - 1
        role = self._find_role()
        known, digest = _known(role)
        if not known:
            return self._check_trust()
        if not any(_fits(binding, repository) for binding in key.bindings):
            raise refuse(
                "binding",
                f"{key.name} is not bound to {repository}:{ROOT}, so it would sign it outside of "
                "all rules",
                hint="if you hold that root, vouch for it: --trust-root FILE",
            )
        if known > before and digest != self._draft_digest:
            raise refuse(
                "replayed",
                f"root {known} of {repository} is complete here; the bundle is about root "
                f"{self.request.version}, which is over",
                hint="do not sign; ask whoever sent it",
            )
        if known <= before:
            self._check_same(known, digest)
        return f"this daemon knows root {known} of it"

    def _check_same(self, known: int, digest: bytes) -> None:
        files = {file.document.version: file for file in self.evidence.history}
        if known not in files:
            oldest = min(files)
            raise refuse(
                "gap",
                f"this daemon knows {self.request.repository} up to root {known}; the bundle "
                f"begins with root {oldest}",
                hint=f"have it exported again with --since {known}",
            )
        if hashlib.sha256(files[known].payload).digest() != digest:
            raise refuse(
                "swapped",
                f"the bundle's root {known} is not the root {known} of {self.request.repository} "
                "that this daemon knows: it belongs to another repository, or somebody made it up",
                hint="do not sign; ask whoever sent it",
            )

    def _check_trust(self) -> str:
        if not self.trust_root:
            raise refuse(
                "unknown",
                f"this daemon knows no root of {self.request.repository}, so nothing here vouches "
                "for the bundle",
                hint="get its root from a source you trust, and give it: --trust-root FILE",
            )
        trusted = self._trusted()
        files = {file.document.version: file for file in self.evidence.history}
        same = files.get(trusted.document.version)
        if same is None:
            raise refuse(
                "gap",
                f"the bundle does not reach back to root {trusted.document.version}, which you "
                "trust",
                hint=f"have it exported again with --since {trusted.document.version}",
            )
        if same.payload != trusted.payload:
            raise refuse(
                "swapped",
                f"the bundle's root {trusted.document.version} is not the one you trust",
                hint="do not sign; ask whoever sent it",
            )
        return f"you vouch for root {trusted.document.version} of it"

    def _trusted(self) -> envelope.Envelope:
        try:
            trusted = envelope.parse(self.trust_root)
        except ContentError as e:
            raise refuse("unknown", f"--trust-root is no metadata: {e.message}") from e
        if not isinstance(trusted.document, Root):
            raise refuse("unknown", f"--trust-root is {trusted.document.kind}, not root")
        return trusted

    @property
    def _draft_digest(self) -> bytes:
        return hashlib.sha256(self.request.draft).digest()

    def _find_role(self) -> Role | None:
        try:
            return self.client.get_role(self.request.repository, ROOT)
        except RoleNotFoundError:
            return None

    # ------------------------------------------------------------------------------ signing

    def sign(self, key: Key, *, reason: str, now: datetime) -> tuple[Response, tuple[str, ...]]:
        """Bring the daemon's marks up by the bundle's evidence, and sign; the response, and what
        somebody should know. Run again, it gives the same signatures.

        Raises:
            KeydError: what the daemon refused: rules, a missing approval, a locked token.
        """
        versions = self.versions(key)
        self._bring_up(key, reason)
        notes: list[str] = []
        signatures: list[BundleSignature] = []
        for version, infos in versions:
            signatures += self._sign_with(version, infos, reason, notes)
        response = Response(
            id=self.request.id,
            ceremony=self.request.ceremony,
            repository=self.request.repository,
            version=self.request.version,
            created=now.replace(microsecond=0),
            expires=self.request.expires,
            draft_sha256=self.request.draft_sha256,
            signatures=tuple(signatures),
            signer=self.client.whoami().principal,
            reason=reason,
        )
        return response, tuple(dict.fromkeys(notes))

    def _bring_up(self, key: Key, reason: str) -> None:
        from keyd.client import RoleFile

        repository = self.request.repository
        role = self._find_role()
        if role is None or not _known(role)[0]:
            rotation.bind(self.client, key, repository, ROOT)
            trusted = self._trusted().document.version
            files = [
                RoleFile(ROOT, file.content)
                for file in self.request.history
                if file.version > trusted
            ]
            self.client.import_role(
                repository,
                self.trust_root,
                files,
                reason=reason or "a bundle, and its trusted root",
            )
            return
        unknown = [
            RoleFile(ROOT, file.content)
            for file in self.request.history
            if file.version > role.complete_version
        ]
        if unknown:
            self.client.advance_role(repository, unknown, reason=reason or "a bundle's history")

    def _sign_with(
        self, version: KeyVersion, infos: list[PublicKeyInfo], reason: str, notes: list[str]
    ) -> list[BundleSignature]:
        made = []
        for info in infos:
            scheme = Scheme(info.scheme)
            signed = self.client.sign(
                version.name,
                self.request.draft,
                expected_public_key=version.public_key,
                context=Context(self.request.repository, ROOT),
                encoding=Encoding.DER if scheme.value.startswith("ecdsa-") else Encoding.RAW,
                scheme=scheme,
                reason=reason or f"bundle {self.request.id} of ceremony {self.request.ceremony}",
            )
            receipt = self._receipt(signed.log_index, notes)
            made.append(BundleSignature(info.keyid, signed.signature, signed.key_version, receipt))
        return made

    def _receipt(self, index: int, notes: list[str]) -> LogReceipt | None:
        try:
            keys = self.client.checkpoint(fresh=True).verifier_keys
            proof = self.client.prove_inclusion(index)
        except PolicyDeniedError as e:
            notes.append(f"the response carries no receipt: {e.message}")
            return None
        return LogReceipt(
            index,
            proof.entry.body,
            proof.hashes,
            proof.checkpoint.note,
            proof.checkpoint.verifier_keys or keys,
        )


def _known(role: Role | None) -> tuple[int, bytes]:
    """The root a daemon goes by, and its digest: the last complete one, or root 1 that it signed
    itself and whose other signatures it has not seen; 0 for none."""
    if role is None:
        return 0, b""
    if not role.complete_version and role.version == 1:
        return 1, role.digest
    return role.complete_version, role.complete_digest


def _fits(binding: Binding, repository: str) -> bool:
    return fnmatch.fnmatchcase(repository, binding.repository) and fnmatch.fnmatchcase(
        ROOT, binding.role
    )
