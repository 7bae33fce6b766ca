"""Talk to a keyd daemon: ``Client`` for threads, ``AsyncClient`` for asyncio.

    from keyd.client import Client, Encoding

    with Client() as keyd:
        signed = keyd.sign("acme/targets", payload, encoding=Encoding.DER)

Both raise the daemon's own errors (:mod:`keyd.errors`) and check every signature before they
return it.
"""

from keyd.client.aio import AsyncClient
from keyd.client.client import Client
from keyd.client.endpoint import Endpoint, find_endpoint
from keyd.client.profiles import Tls
from keyd.client.retry import Retries
from keyd.client.types import (
    Adopted,
    Checkpoint,
    ConsistencyProof,
    EntryFilter,
    InclusionProof,
    Key,
    KeyFilter,
    Signature,
    Status,
    TokenObject,
    WhoAmI,
)
from keyd.model import (
    Binding,
    Context,
    Digest,
    Encoding,
    Entry,
    HashAlgorithm,
    KeyAlgorithm,
    KeyVersion,
    Pin,
    Scheme,
    SignRequest,
    TokenStatus,
    VersionState,
)

__all__ = [
    "Adopted",
    "AsyncClient",
    "Binding",
    "Checkpoint",
    "Client",
    "ConsistencyProof",
    "Context",
    "Digest",
    "Encoding",
    "Endpoint",
    "Entry",
    "EntryFilter",
    "HashAlgorithm",
    "InclusionProof",
    "Key",
    "KeyAlgorithm",
    "KeyFilter",
    "KeyVersion",
    "Pin",
    "Retries",
    "Scheme",
    "SignRequest",
    "Signature",
    "Status",
    "Tls",
    "TokenObject",
    "TokenStatus",
    "VersionState",
    "WhoAmI",
    "find_endpoint",
]
