"""Certificates for people without a PKI, and the rules for the names in them.

``keydctl tls request`` makes a key and a certificate request, ``keyd-server tls sign`` answers it
with a certificate of a small CA. The daemon reads callers' names by the same rules. These are TLS
keys, kept in files; keyd's signing keys never are.
"""

from keyd.pki.authority import MAX_LEAF_DAYS, Authority
from keyd.pki.files import write_new_file
from keyd.pki.names import certificate_names, parse_name, principal_id
from keyd.pki.request import NewRequest, RequestInfo, inspect_request, new_request

__all__ = [
    "MAX_LEAF_DAYS",
    "Authority",
    "NewRequest",
    "RequestInfo",
    "certificate_names",
    "inspect_request",
    "new_request",
    "parse_name",
    "principal_id",
    "write_new_file",
]
