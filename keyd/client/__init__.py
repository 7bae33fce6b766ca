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
    AcceptedLoss,
    Adopted,
    Approval,
    Checkpoint,
    ConsistencyProof,
    EntryFilter,
    InclusionProof,
    Key,
    KeyFilter,
    Requirement,
    Role,
    RoleFile,
    RoleSigner,
    ShownFiles,
    Signature,
    Status,
    TokenObject,
    WhoAmI,
)
from keyd.model import (
    ApprovalState,
    Binding,
    Ceremony,
    Context,
    Digest,
    Encoding,
    Entry,
    HashAlgorithm,
    KeyAlgorithm,
    KeyVersion,
    MarkState,
    Phase,
    Pin,
    Scheme,
    SignRequest,
    TokenStatus,
    VersionState,
    Vote,
)

__all__ = [
    "AcceptedLoss",
    "Adopted",
    "Approval",
    "ApprovalState",
    "AsyncClient",
    "Binding",
    "Ceremony",
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
    "MarkState",
    "Phase",
    "Pin",
    "Requirement",
    "Retries",
    "Role",
    "RoleFile",
    "RoleSigner",
    "Scheme",
    "ShownFiles",
    "SignRequest",
    "Signature",
    "Status",
    "Tls",
    "TokenObject",
    "TokenStatus",
    "VersionState",
    "Vote",
    "WhoAmI",
    "find_endpoint",
]
