"""From a public key in metadata to a signature by the daemon that holds it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyd import gunnames, publickeys
from keyd.adapters.notary import keyobjects
from keyd.adapters.notary.evidence import Evidence
from keyd.adapters.notary.keyobjects import KeyObject
from keyd.adapters.notary.rootcert import SignX509
from keyd.content.envelope import FileSignature
from keyd.errors import (
    ApprovalNeededError,
    ConflictError,
    KeydError,
    KeyExistsError,
    KeyNotFoundError,
    PolicyDeniedError,
    RepositoryError,
    RuleRefusedError,
    ServerGoneError,
)
from keyd.model import (
    Binding,
    Context,
    Encoding,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Scheme,
    VersionState,
)

if TYPE_CHECKING:
    from keyd.client import Client

_SCHEMES = {
    KeyAlgorithm.ECDSA_P256: (Scheme.ECDSA_P256_SHA256, "ecdsa"),
    KeyAlgorithm.ED25519: (Scheme.ED25519, "eddsa"),
    KeyAlgorithm.RSA_2048: (Scheme.RSA_PSS_SHA256, "rsapss"),
    KeyAlgorithm.RSA_3072: (Scheme.RSA_PSS_SHA256, "rsapss"),
    KeyAlgorithm.RSA_4096: (Scheme.RSA_PSS_SHA256, "rsapss"),
}
_MAX_KEYS_OF_A_ROLE = 1_000


@dataclass(frozen=True, slots=True)
class Held:
    """A key pair that the daemon holds."""

    key: Key
    version: KeyVersion

    @property
    def object(self) -> KeyObject:
        """As metadata names it."""
        return keyobjects.of_public_key(self.version.public_key)


@dataclass(slots=True)
class KeyRing:
    """Signs for one collection. ``connect``: the daemon. ``token``: where new keys are made; empty
    where only one is configured. ``reason``: for the audit log. ``signers``: the only keys that
    sign delegated roles, DER SubjectPublicKeyInfo; None for all that the caller may sign with."""

    gun: str
    connect: Callable[[], Client]
    token: str = ""
    reason: str = ""
    evidence: Evidence | None = None
    signers: frozenset[bytes] | None = None
    _held: dict[bytes, Held] | None = None

    def find(self, spki: bytes) -> Held | None:
        """The key pair behind a public key, None when the daemon shows none that signs."""
        if self._held is None:
            self._held = {
                v.public_key: Held(key, v)
                for key in self.connect().list_keys()
                for v in key.versions
                if v.public_key and v.state is VersionState.ENABLED
            }
        return self._held.get(spki)

    def find_signer(self, role: str, spki: bytes) -> Held | None:
        """The same for who is asked to sign a role; empty ``spki`` is nobody's."""
        is_others = role.startswith("targets/") and self.signers is not None
        if not spki or (is_others and spki not in (self.signers or ())):
            return None
        return self.find(spki)

    def sign(self, payload: bytes, role: str, keyid: str, held: Held) -> FileSignature:
        """Sign metadata. ``keyid``: what the delegator calls the key.

        Raises:
            KeydError: as the daemon answers; see :meth:`keyd.client.Client.sign`.
        """
        algorithm = held.key.algorithm
        if algorithm not in _SCHEMES:
            raise RepositoryError(
                f"{held.key.name}: Notary's clients do not verify what {algorithm} keys of keyd "
                "sign; take ecdsa-p256",
                role=role,
            )
        scheme, method = _SCHEMES[algorithm]
        value = self._ask(held, payload, role, scheme, Encoding.RAW)
        return FileSignature(keyid, method, value)

    def may_sign(self, payload: bytes, role: str, held: Held) -> bool:
        """True unless the caller's grants keep a key from them; what rules or people say of this
        very content is heard when it is signed.

        Raises:
            ServerGoneError: the daemon does not answer.
        """
        scheme, _ = _SCHEMES.get(held.key.algorithm, (held.key.scheme, ""))
        try:
            self.connect().sign(
                held.key.name,
                payload,
                expected_public_key=held.version.public_key,
                encoding=Encoding.RAW,
                scheme=scheme,
                context=Context(self.gun, role),
                reason=self.reason,
                dry_run=True,
            )
        except PolicyDeniedError:
            return False
        except ServerGoneError:
            raise
        except KeydError:
            return True
        return True

    def certify(self, held: Held, role: str = "root") -> SignX509:
        """What signs X.509 with a key, for :mod:`keyd.adapters.notary.rootcert`."""
        is_rsa = held.key.algorithm.is_rsa
        scheme = Scheme.RSA_PKCS1_SHA256 if is_rsa else Scheme.ECDSA_P256_SHA256
        encoding = Encoding.RAW if is_rsa else Encoding.DER
        return lambda payload: self._ask(held, payload, role, scheme, encoding)

    def _ask(
        self, held: Held, payload: bytes, role: str, scheme: Scheme, encoding: Encoding
    ) -> bytes:
        def ask() -> bytes:
            return (
                self.connect()
                .sign(
                    held.key.name,
                    payload,
                    expected_public_key=held.version.public_key,
                    encoding=encoding,
                    scheme=scheme,
                    context=Context(self.gun, role),
                    reason=self.reason,
                )
                .signature
            )

        try:
            return ask()
        except RuleRefusedError as e:
            if self.evidence is None or not self.evidence.helps(self.connect(), role, e):
                raise
            return ask()

    # ------------------------------------------------------------------ keys of roles

    def ensure(self, role: str, name: str = "") -> Held:
        """The key of a role: ``name``, else the collection's own, which is made where it is
        missing; bound to the role.

        Raises:
            KeydError: a key that was named is missing, or the daemon refuses.
        """
        client = self.connect()
        try:
            key: Key = client.get_key(name or gunnames.key_name(self.gun, role))
        except (KeyNotFoundError, PolicyDeniedError):
            # Who may not see a key is told that there may be none: making it tells which it is.
            if name:
                raise
            return self._make(gunnames.key_name(self.gun, role), role)
        return self.bound(key, role)

    def create(self, role: str, used: Collection[bytes]) -> Held:
        """A new key of a role, under the first name that is free; or one of the publishers' that
        was never used, as a run that died has left it. ``used``: DER SubjectPublicKeyInfo."""
        client, waiting = self.connect(), None
        for number in range(1, _MAX_KEYS_OF_A_ROLE):
            name = gunnames.key_name(self.gun, role, number)
            try:
                key = client.get_key(name)
            except (KeyNotFoundError, PolicyDeniedError):
                return self.bound(waiting, role) if waiting else self._make(name, role)
            version = key.active
            if gunnames.is_made_for_server(key) or version is None:
                continue
            if version.state is VersionState.ENABLED and version.public_key not in used:
                waiting = key
        raise RepositoryError(f"{self.gun} {role}: no name for another key is free", role=role)

    def _make(self, name: str, role: str) -> Held:
        try:
            key = self.connect().create_key(
                name,
                KeyAlgorithm.ECDSA_P256,
                token=self.token,
                bindings=[Binding(self.gun, role)],
                reason=self.reason or f"{role} of {self.gun}",
            )
        except KeyExistsError:
            self.connect().get_key(name)  # who may not see it is told so
            raise _being_made(name) from None
        return self._active(key)

    def bound(self, key: Key, role: str) -> Held:
        """The active version of a key that may sign the role; bound to it where it was not."""
        held = self._active(key)
        if not any(_fits(b, self.gun, role) for b in key.bindings):
            binding = Binding(self.gun, role)
            changed = self.connect().update(
                key.name, bindings=key.bindings | {binding}, reason=f"signs {self.gun} {role}"
            )
            held = self._active(changed)
        return held

    def successor(self, key: Key, used: Collection[bytes]) -> Held:
        """The version of a key that comes after those in use: its newest where that is not used
        yet, as after a run that died or a rotation for another collection; else a new one."""
        enabled = [v for v in key.versions if v.state is VersionState.ENABLED]
        newest = enabled[-1] if enabled else None
        if newest is None or newest.public_key in used:
            known = max((v.number for v in key.versions), default=0)
            key = self.connect().rotate(key.name, expected_newest=known, reason=self.reason)
            newest = key.versions[-1]
        self._held = None
        return Held(key, newest)

    def activate(self, held: Held) -> None:
        """Let a version sign by default; nothing happens when it does."""
        if held.key.active_version != held.version.number:
            self.connect().activate(held.key.name, held.version.number, reason=self.reason)

    def _active(self, key: Key) -> Held:
        version = key.active
        if any(v.state is VersionState.PENDING for v in key.versions) and version is None:
            raise _being_made(key.name)
        if version is None or not version.public_key:
            raise RepositoryError(
                f"{key.name} has no version that signs", hint=f"keydctl key show {key.name}"
            )
        self._held = None
        return Held(key, version)


def _being_made(name: str) -> ConflictError:
    return ConflictError(
        f"somebody else is making the key {name} at this moment",
        hint="run the same command again: it takes the key that is there then",
        retry_after_s=1,
        key=name,
    )


def _fits(binding: Binding, gun: str, role: str) -> bool:
    return fnmatch.fnmatchcase(gun, binding.repository) and fnmatch.fnmatchcase(role, binding.role)


def raise_unsigned(gun: str, role: str, errors: Sequence[KeydError], who: Sequence[str]) -> None:
    """Raise why a role cannot be signed: the daemon's own error where there is one.

    Raises:
        KeydError: always.
    """
    if errors:
        raise errors[0]
    raise RepositoryError(
        f"{gun} {role}: the daemon holds none of its keys"
        + (f" ({', '.join(who)})" if who else ""),
        hint="its signers publish it themselves; with another daemon: --profile or --endpoint",
        gun=gun,
        role=role,
        missing=", ".join(who),
    )


def waiting_for(waiting: Sequence[ApprovalNeededError]) -> ApprovalNeededError:
    """One error for several roles that wait for consent, with all that has to be approved."""
    ids = list(dict.fromkeys(e.facts.get("approval", "") for e in waiting))
    error = waiting[0]
    error.hint = (
        "have it approved: "
        + "; ".join(f"keydctl approve {each}" for each in ids if each)
        + "; then run this same command again"
    )
    error.facts = {**error.facts, "approvals": " ".join(ids)}
    return error


def name_of(spki: bytes, ring: KeyRing) -> str:
    """KEY/versions/N where the daemon holds it, else the beginning of its id."""
    held = ring.find(spki)
    return held.version.name if held else publickeys.notary_keyid(spki)[:12]
