"""Which root certificates are trusted at first sight: notary's ``trust_pinning``.

certs   GUN, or a prefix ending in ``*``, -> ids of root keys; no others are trusted
ca      prefix of GUNs -> a file of CA certificates that must have issued the root's
disable_tofu   true: what neither names is not trusted at first sight
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from keyd.adapters.notary import chains, keyobjects
from keyd.content.documents import PublicKeyInfo, Root
from keyd.errors import ConfigError, RepositoryError

_MIN_RSA_BITS = 2048
_HINTS = {
    "certs": "somebody else's root is served; where its owner changed it, change the pin",
    "ca": "somebody else's root is served; or its owner has to have it issued anew: up to the "
    "pinned CA all are in date, and have no extended key usage or serverAuth among them",
}


@dataclass(frozen=True, slots=True)
class Pinning:
    """``certs``: GUN or prefix -> ids. ``cas``: prefix -> PEM file. ``is_first_use_trusted``:
    what neither names is trusted when it is seen first."""

    certs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    cas: Mapping[str, Path] = field(default_factory=dict)
    is_first_use_trusted: bool = True

    def trusted_keys(self, gun: str, root: Root, now: datetime) -> list[PublicKeyInfo]:
        """The root role's keys that may vouch for a root of a collection.

        Raises:
            RepositoryError: none of its certificates is for the collection, in date and pinned.
            ConfigError: a CA file that cannot be read.
        """
        keys = [root.keys[k] for k in root.roles["root"].keyids if k in root.keys]
        fitting = [key for key in keys if _is_for(gun, key, now)]
        if not fitting:
            raise RepositoryError(
                f"no root certificate of {gun} is for {gun} and in date",
                hint="what the server holds is not this collection, or its certificate has "
                "expired: ask its owner, who can publish a new one with trust key rotate GUN root",
                gun=gun,
            )
        pins = self._pins(gun)
        if pins is not None:
            return self._chosen(gun, [k for k in fitting if k.keyid in pins], "certs")
        bundle = self._bundle(gun)
        if bundle is not None:
            led = [k for k in fitting if chains.leads_to(keyobjects.chain_of(k), bundle, now)]
            return self._chosen(gun, led, "ca")
        return fitting

    def check_first_use(self, gun: str) -> None:
        """Refuse a collection that was never seen and that nothing pins.

        Raises:
            RepositoryError: trust on first use is switched off.
        """
        if self._pins(gun) is None and self._ca_file(gun) is None and not self.is_first_use_trusted:
            raise RepositoryError(
                f"{gun} was never seen here and is not pinned; trust on first use is switched off",
                hint="pin it under trust_pinning in notary's config.json",
                gun=gun,
            )

    def _chosen(self, gun: str, keys: list[PublicKeyInfo], by: str) -> list[PublicKeyInfo]:
        if not keys:
            raise RepositoryError(
                f"the root certificate of {gun} is not the pinned one (trust_pinning.{by})",
                hint=_HINTS[by],
                gun=gun,
            )
        return keys

    def _pins(self, gun: str) -> frozenset[str] | None:
        if gun in self.certs:
            return self.certs[gun]
        prefixes = [p for p in self.certs if p.endswith("*") and gun.startswith(p[:-1])]
        return self.certs[max(prefixes, key=len)] if prefixes else None

    def _ca_file(self, gun: str) -> Path | None:
        prefixes = [prefix for prefix in self.cas if gun.startswith(prefix)]
        return self.cas[max(prefixes, key=len)] if prefixes else None

    def _bundle(self, gun: str) -> list[x509.Certificate] | None:
        file = self._ca_file(gun)
        if file is None:
            return None
        try:
            return x509.load_pem_x509_certificates(file.read_bytes())
        except (OSError, ValueError) as e:
            raise ConfigError(
                f"{file}: no CA certificates can be read from it", file=str(file)
            ) from e


def covers(common_name: str, gun: str) -> bool:
    """True for the GUN itself and for ``PREFIX/*`` over it."""
    return common_name == gun or (
        common_name.endswith("/*") and gun.startswith(common_name.removesuffix("*"))
    )


def _is_for(gun: str, key: PublicKeyInfo, now: datetime) -> bool:
    certificate = key.certificate
    if certificate is None or not key.spki:
        return False
    leaf = keyobjects.chain_of(key)[0]
    weak = isinstance(leaf.signature_hash_algorithm, hashes.SHA1)
    public = leaf.public_key()
    short = isinstance(public, rsa.RSAPublicKey) and public.key_size < _MIN_RSA_BITS
    in_date = certificate.not_before <= now < certificate.not_after
    return covers(certificate.common_name, gun) and in_date and not weak and not short
