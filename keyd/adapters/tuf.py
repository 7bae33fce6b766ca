"""KeydSigner: a securesystemslib Signer whose private key stays on a token behind keyd.

Works in python-tuf, tuf-on-ci, RSTUF, in-toto and whatever else speaks securesystemslib's Signer
interface (1.3 and later). It connects at the first signature, never before, and needs no
environment variable and no secrets handler: the endpoint comes from the URI or a client.toml.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding as KeyEncoding
from cryptography.hazmat.primitives.serialization import PublicFormat
from securesystemslib import exceptions as sslib_exceptions
from securesystemslib.signer import Key, SecretsHandler, Signature, Signer, SSlibKey

from keyd import publickeys
from keyd.adapters.uri import SCHEME, KeydUri
from keyd.errors import KeydError, KeyMismatchError
from keyd.model import Context, Encoding, Scheme

if TYPE_CHECKING:
    from keyd.client import Client

# securesystemslib has KeyMismatchError since 1.6; both are ValueErrors, as its callers expect.
_MismatchBase: type[ValueError] = getattr(sslib_exceptions, "KeyMismatchError", ValueError)


class SignerKeyMismatchError(_MismatchBase):  # type: ignore[misc,valid-type]
    """keyd's key has no version that holds the public key this signer was given."""


class _SharedClients:
    """One client, so one connection, per endpoint and process; threads share it.

    Keyed by process id too: a gRPC channel does not survive fork, and workers fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[tuple[int, str, str], Client] = {}

    def get(self, endpoint: str, profile: str) -> Client:
        from keyd.client import Client

        where = (os.getpid(), endpoint, profile)
        with self._lock:
            if where not in self._clients:
                self._clients[where] = Client(endpoint=endpoint, profile=profile)
            return self._clients[where]


_shared = _SharedClients()


def shared_client(endpoint: str, profile: str) -> Client:
    """The client of this process for an endpoint; empty texts for the usual places. Does not
    connect.

    Raises:
        KeydError: a bad endpoint, profile or client.toml.
    """
    return _shared.get(endpoint, profile)


def public_key_der(key: SSlibKey) -> bytes:
    """The key's DER SubjectPublicKeyInfo, whatever TUF's keyval holds (hex or PEM).

    Raises:
        ValueError: the text is no public key.
    """
    text = key.keyval["public"]
    try:
        if key.keytype == "ed25519":
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
            return public.public_bytes(KeyEncoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return publickeys.load_pem(text.encode())
    except (ValueError, KeydError) as e:
        raise ValueError(f"key {key.keyid}: its public part cannot be read: {e}") from e


def tuf_key(public_key: bytes, scheme: Scheme) -> SSlibKey:
    """The TUF key object of a DER SubjectPublicKeyInfo, with securesystemslib's default keyid."""
    return SSlibKey.from_crypto(publickeys.load(public_key), scheme=scheme.value)


class KeydSigner(Signer):
    """Signs with a key on a token.

    Every request carries the public key this signer was given: the version that holds it signs
    and no other, so a rotation behind the caller's back cannot change who signs. Signatures name
    the keyid that was given, never a computed one.
    """

    SCHEME = SCHEME

    def __init__(
        self,
        uri: KeydUri,
        public_key: SSlibKey,
        *,
        reason: str = "",
        client: Client | None = None,
        request_id: str = "",
    ) -> None:
        """``reason``: why, for the audit log; at most 1 000 characters. ``client``: to use instead
        of the one that all signers of an endpoint share. ``request_id``: of the next signature, so
        that somebody can watch what it waits for; empty for one that the daemon makes up.

        Raises:
            ValueError: keyd cannot make signatures of the key's scheme.
        """
        try:
            self._scheme = Scheme(public_key.scheme)
        except ValueError as e:
            raise ValueError(f"keyd does not sign with scheme {public_key.scheme}") from e
        self._uri = uri
        self._public_key = public_key
        self._der = public_key_der(public_key)
        self._reason = reason
        self._client = client
        self._request_id = request_id

    @classmethod
    def from_priv_key_uri(
        cls,
        priv_key_uri: str,
        public_key: Key,
        secrets_handler: SecretsHandler | None = None,
    ) -> KeydSigner:
        """Make a signer from a ``keyd:`` URI (see :mod:`keyd.adapters.uri`); does not connect.

        Raises:
            ValueError: the URI does not parse, the key is no SSlibKey, or its scheme is unknown.
        """
        del secrets_handler  # PINs go to the daemon, through `keydctl token unlock`.
        if not isinstance(public_key, SSlibKey):
            raise ValueError(f"expected an SSlibKey for {priv_key_uri}")
        return cls(KeydUri.parse(priv_key_uri), public_key)

    @classmethod
    def import_(
        cls,
        key: str,
        *,
        repository: str = "",
        role: str = "",
        version: int = 0,
        endpoint: str = "",
        profile: str = "",
    ) -> tuple[str, SSlibKey]:
        """Ask the daemon for a key's public part: the URI for ``from_priv_key_uri`` and the key.

        ``version`` 0: the active one; the URI then names no version either, since the public key
        already picks one.

        Raises:
            KeydError: no daemon, no such key, or not allowed to see it.
            ValueError: the key has no such version, or none that is active.
        """
        uri = KeydUri(key, repository, role, version, endpoint, profile)
        found = shared_client(endpoint, profile).get_key(key)
        held = found.find_version(version or found.active_version)
        if held is None or not held.public_key:
            raise ValueError(f"key {key} has no version {version or '(active)'}")
        return str(uri), tuf_key(held.public_key, found.scheme)

    @property
    def public_key(self) -> SSlibKey:
        """The key as it was given."""
        return self._public_key

    @property
    def uri(self) -> KeydUri:
        """Where the private key is."""
        return self._uri

    def sign(self, payload: bytes) -> Signature:
        """Sign: DER for ECDSA, as TUF wants it; the only form there is for the others.

        Raises:
            KeyMismatchError: (securesystemslib's) no version of the key holds the public key.
            KeydError: whatever the daemon refused with.
        """
        uri = self._uri
        client = self._client or shared_client(uri.endpoint, uri.profile)
        ecdsa = self._scheme.value.startswith("ecdsa-")
        try:
            signed = client.sign(
                f"{uri.key}/versions/{uri.version}" if uri.version else uri.key,
                message=payload,
                expected_public_key=self._der,
                context=Context(uri.repository, uri.role),
                encoding=Encoding.DER if ecdsa else Encoding.RAW,
                scheme=self._scheme,
                reason=self._reason,
                request_id=self._request_id,
            )
        except KeyMismatchError as e:
            raise SignerKeyMismatchError(
                f"{uri.key} has no version with the public key of keyid {self._public_key.keyid}"
            ) from e
        return Signature(self._public_key.keyid, signed.signature.hex())
