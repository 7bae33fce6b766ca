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
    Attested,
    Checkpoint,
    ConsistencyProof,
    EntryFilter,
    InclusionProof,
    Key,
    KeyFilter,
    PluggedIn,
    PluggedInList,
    Requirement,
    Role,
    RoleFile,
    RoleSigner,
    ShownFiles,
    Signature,
    Status,
    TokenObject,
    WhoAmI,
    YubiKey,
    YubiKeySlot,
)
from keyd.model import (
    ApprovalState,
    Attestation,
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
    PinPolicy,
    Scheme,
    SignRequest,
    Slot,
    TokenStatus,
    TouchPolicy,
    VersionState,
    Vote,
)

__all__ = [
    "AcceptedLoss",
    "Adopted",
    "Approval",
    "ApprovalState",
    "AsyncClient",
    "Attestation",
    "Attested",
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
    "PinPolicy",
    "PluggedIn",
    "PluggedInList",
    "Requirement",
    "Retries",
    "Role",
    "RoleFile",
    "RoleSigner",
    "Scheme",
    "ShownFiles",
    "SignRequest",
    "Signature",
    "Slot",
    "Status",
    "Tls",
    "TokenObject",
    "TokenStatus",
    "TouchPolicy",
    "VersionState",
    "Vote",
    "WhoAmI",
    "YubiKey",
    "YubiKeySlot",
    "find_endpoint",
]
