"""The ``keyd:`` URI, by which metadata and settings files name a key without any secret.

    keyd:KEY[?repository=R&role=ROLE&version=N&endpoint=unix:/path|dns:host:port&profile=NAME]

Only KEY is required. Everything about the connection may be left out: the client library then
looks where it always looks. TLS files and anything secret belong into a profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from keyd.errors import InvalidRequestError
from keyd.model import check_name

SCHEME = "keyd"
_FIELDS = ("repository", "role", "version", "endpoint", "profile")
_MAX_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class KeydUri:
    """A parsed ``keyd:`` URI. ``version`` 0 means: whichever holds the expected public key."""

    key: str
    repository: str = ""
    role: str = ""
    version: int = 0
    endpoint: str = ""
    profile: str = ""

    @classmethod
    def parse(cls, uri: str) -> KeydUri:
        """Parse a URI.

        Raises:
            ValueError: another scheme, an invalid key name, or an unknown or repeated field.
        """
        scheme, _, rest = uri.partition(":")
        if scheme != SCHEME or len(uri) > _MAX_CHARS:
            raise ValueError(f"not a keyd: URI: {uri[:200]!r}")
        key, _, query = rest.partition("?")
        try:
            check_name("key", key)
        except InvalidRequestError as e:
            raise ValueError(f"{uri[:200]!r}: {e.message}") from e
        try:
            pairs = parse_qsl(query, strict_parsing=True, max_num_fields=20) if query else []
        except ValueError as e:
            raise ValueError(f"{uri[:200]!r}: write fields as NAME=VALUE joined by '&'") from e
        fields = dict(pairs)
        unknown = sorted(set(fields) - set(_FIELDS))
        if unknown or len(fields) != len(pairs):
            raise ValueError(
                f"{uri[:200]!r}: {unknown[0] if unknown else 'a field'} is "
                f"{'unknown' if unknown else 'repeated'}; the fields are {', '.join(_FIELDS)}"
            )
        number = fields.pop("version", "0")
        if not (number.isascii() and number.isdigit()) or len(number) > 9:
            raise ValueError(f"{uri[:200]!r}: version has to be a number")
        return cls(key, version=int(number), **fields)

    def __str__(self) -> str:
        fields = {name: getattr(self, name) for name in _FIELDS if getattr(self, name)}
        query = urlencode(fields, safe="/:")
        return f"{SCHEME}:{self.key}" + (f"?{query}" if query else "")
