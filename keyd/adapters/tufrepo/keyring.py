"""From a public key in metadata to whoever can sign for it.

A keyid's URI comes from the command line, else from the settings, else the daemon is asked which
of its keys has that public key. Any securesystemslib signer will do; ``keyd:`` ones get the
repository and the role that is signed as context, whatever role their URI names: one key may serve
several. A daemon that lacks the history of the repository is shown it, and asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key as TufKey
from securesystemslib.signer import Signature, Signer, SSlibKey
from tuf.api.metadata import Metadata

from keyd.adapters.tuf import KeydSigner, public_key_der, shared_client
from keyd.adapters.tufrepo.evidence import Daemon, Evidence
from keyd.adapters.tufrepo.report import Missing
from keyd.adapters.tufrepo.settings import Settings
from keyd.adapters.uri import SCHEME, KeydUri
from keyd.errors import KeydError, RepositoryError, RuleRefusedError, VersionTakenError

if TYPE_CHECKING:
    from keyd.client import Client


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key as it shall stand in metadata, and the URI that signs for it; the URI is
    empty for a key of somebody else's."""

    public: TufKey
    uri: str = ""


def _alone(client: Client) -> Client:
    return client


@dataclass(slots=True)
class KeyRing:
    """Finds signers and signs.

    ``extra``: URIs to try for keys that have none, keyid -> URIs, with "" for any key.
    ``connect``: the daemon for URIs that name none, and for keys without a URI.
    ``reason``: for the audit log. ``evidence``: what daemons can be shown; None before anything is
    known of the repository. ``daemons``: those that were asked for signatures so far.
    ``accompanied``: a client as it asks for signatures, as one that tells a person what the token
    wants meanwhile.
    """

    settings: Settings
    connect: Callable[[], Client] | None = None
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reason: str = ""
    evidence: Evidence | None = None
    daemons: list[Daemon] = field(default_factory=list)
    accompanied: Callable[[Client], Client] = _alone
    _held: dict[bytes, str] | None = None

    def sign(
        self, metadata: Metadata[Any], role: str, keys: Iterable[TufKey], skip: Sequence[str] = ()
    ) -> list[Missing]:
        """Add a signature of each key whose signer is within reach; say what is missing.

        Signatures that are there and verify are kept, others removed. ``skip``: keyids that
        shall not be asked.

        Raises:
            VersionTakenError: a daemon has signed other bytes at this version.
            RuleRefusedError: a daemon has signed a later version already.
        """
        payload = metadata.signed_bytes
        missing: list[Missing] = []
        for key in keys:
            there = metadata.signatures.pop(key.keyid, None)
            if there is not None and _fits(key, there, payload):
                metadata.signatures[key.keyid] = there
            elif key.keyid in skip:
                missing.append(Missing(key.keyid, self.who(key), "not asked"))
            else:
                missing.extend(self._sign_with(metadata, role, key, payload))
        return missing

    def _sign_with(
        self, metadata: Metadata[Any], role: str, key: TufKey, payload: bytes
    ) -> list[Missing]:
        why = "no signer for it is known here"
        error: KeydError | None = None
        for uri in self._uris(key):
            try:
                signature = self._ask(uri, key, role, payload)
            except VersionTakenError:
                raise
            except KeydError as e:
                if e.facts.get("rule") == "version-lower":
                    raise
                why, error = e.message, e
            except Exception as e:  # noqa: BLE001 - "may raise errors that are not documented" (Signer)
                # A signer tried on the chance that it fits says less than the daemon's refusal.
                why = why if error else _in_words(e)
            else:
                if _fits(key, signature, payload):
                    metadata.signatures[key.keyid] = signature
                    return []
                why = why if error else f"{uri} does not hold this key"
        return [Missing(key.keyid, self.who(key), why, error)]

    def _ask(self, uri: str, key: TufKey, role: str, payload: bytes) -> Signature:
        if not uri.startswith(f"{SCHEME}:"):
            return Signer.from_priv_key_uri(uri, key).sign(payload)
        if not isinstance(key, SSlibKey):
            raise ValueError(f"keyd cannot sign as {key.keytype} {key.scheme}")
        parsed = KeydUri.parse(uri)
        daemon = self.daemon(parsed)
        complete = replace(parsed, repository=daemon.repository, role=role)
        try:
            return self._ask_once(complete, key, daemon.client, payload)
        except RuleRefusedError as e:
            if self.evidence is None or not self.evidence.helps(daemon, role, e):
                raise
            return self._ask_once(complete, key, daemon.client, payload)

    def _ask_once(self, uri: KeydUri, key: SSlibKey, client: Client, payload: bytes) -> Signature:
        signer = KeydSigner(uri, key, reason=self.reason, client=self.accompanied(client))
        return signer.sign(payload)

    def daemon(self, uri: KeydUri) -> Daemon:
        """The daemon that holds a key; from now on among ``daemons``.

        Raises:
            KeydError: a bad endpoint, profile or client.toml.
        """
        elsewhere = uri.endpoint or uri.profile or self.connect is None
        client = shared_client(uri.endpoint, uri.profile) if elsewhere else None
        if client is None:
            assert self.connect is not None
            client = self.connect()
        found = Daemon(client, uri.repository or self.settings.repository)
        if found not in self.daemons:
            self.daemons.append(found)
        return found

    def who(self, key: TufKey) -> str:
        """What to call a key when speaking to people: KEY/versions/N where the daemon holds it."""
        known = self.settings.signers.get(key.keyid, "")
        return self._version_name(key) or known or f"{key.keytype} key {key.keyid[:16]}"

    def _uris(self, key: TufKey) -> Iterable[str]:
        yield from self.extra.get(key.keyid, ())
        known = self.settings.signers.get(key.keyid, "")
        if known:
            yield known
        else:
            name, _, _ = self._version_name(key).partition("/versions/")
            if name:
                yield str(KeydUri(name))
        yield from self.extra.get("", ())

    def _version_name(self, key: TufKey) -> str:
        """KEY/versions/N of the daemon's key with this public part, or empty."""
        if self.connect is None or not isinstance(key, SSlibKey):
            return ""
        if self._held is None:
            self._held = {}
            try:
                for held in self.connect().list_keys():
                    self._held |= {v.public_key: v.name for v in held.versions if v.public_key}
            except KeydError:
                self._held.clear()  # Without a daemon the key simply stays unknown.
        try:
            return self._held.get(public_key_der(key), "")
        except ValueError:
            return ""


def _in_words(error: Exception) -> str:
    """What a signer's undocumented error says to people; its class only where it says nothing."""
    text = " ".join(str(error).split())
    return text or f"its signer failed ({type(error).__name__})"


def _fits(key: TufKey, signature: Any, payload: bytes) -> bool:
    try:
        key.verify_signature(signature, payload)
    except UnverifiedSignatureError:
        return False
    return True


def raise_missing(role: str, missing: Sequence[Missing]) -> None:
    """Raise why a role cannot be signed: the daemon's own error when there is just one reason.

    Raises:
        KeydError: always.
    """
    errors = [m.error for m in missing if m.error is not None]
    if errors and len({e.reason for e in errors}) == 1 and len(errors) == len(missing):
        raise errors[0]
    raise RepositoryError(
        f"{role} cannot be signed: " + "; ".join(f"{m.who}: {m.why}" for m in missing),
        hint=next((e.hint for e in errors if e.hint), ""),
        role=role,
        missing=", ".join(m.keyid for m in missing),
    )
