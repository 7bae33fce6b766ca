"""Notary's dialect of TUF (Docker Content Trust): the object that is signed -> a document.

Types are capitalised, there is no ``spec_version`` (notary-server would drop it and serve files
that match no hash), a key's id is the hash of its object, digests are base64, and the keys of the
root role are X.509 certificates whose common name is the GUN.
"""

from __future__ import annotations

import hashlib
import re

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keyd import publickeys
from keyd.content import x509facts
from keyd.content.canonical import Json, encode
from keyd.content.digests import base64_digests, from_base64
from keyd.content.documents import (
    TOP_LEVEL_ROLES,
    DelegatedRole,
    Delegations,
    Dialect,
    Document,
    Header,
    KeyCertificate,
    MetaFile,
    PublicKeyInfo,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from keyd.content.fields import Fields, rfc3339
from keyd.content.holders import check_delegated_names, keys_by_id, role_keys
from keyd.content.refusal import refuse
from keyd.content.tuf import ED25519_SPKI
from keyd.errors import InvalidRequestError

_DELEGATED_NAME = re.compile(r"targets(?:/[-a-z0-9_]+)+", re.ASCII)
_MAX_NAME_CHARS = 255

_CLASSES = {"ecdsa": ec.EllipticCurvePublicKey, "rsa": rsa.RSAPublicKey}


def parse(value: Json) -> Document:
    """The document of a ``signed`` object whose ``_type`` is capitalised.

    Raises:
        ContentError: with the field and what it must hold.
    """
    fields = Fields(value)
    parser = _PARSERS.get(fields.text("_type"))
    if parser is None:
        kinds = ", ".join(name.capitalize() for name in TOP_LEVEL_ROLES)
        raise refuse("type", f"_type is none of {kinds}", field="_type")
    if fields.has("spec_version"):
        raise fields.wrong("has no place in Notary's dialect", "spec_version")
    version = fields.integer("version", 1)
    expires, expires_text = rfc3339(fields, "expires")
    header = Header(
        dialect=Dialect.NOTARY,
        version=version,
        expires=expires,
        expires_text=expires_text,
        spec_version="",
    )
    return parser(fields, header)


def _root(fields: Fields, header: Header) -> Root:
    consistent = None
    if fields.has("consistent_snapshot"):
        consistent = fields.boolean("consistent_snapshot")
    keys = keys_by_id(fields.object("keys"), _key)
    roles = {name: role_keys(role, or_null=True) for name, role in fields.object("roles").each()}
    if set(roles) != set(TOP_LEVEL_ROLES):
        raise fields.wrong(f"must be {', '.join(TOP_LEVEL_ROLES)} and no other", "roles")
    for keyid in roles["root"].keyids:
        if keyid in keys and keys[keyid].certificate is None:
            raise fields.wrong("must be a certificate: it is a root key", f"keys.{keyid}")
    return Root(
        **header, keys=keys, roles=roles, consistent_snapshot=consistent, unknown=fields.rest()
    )


def _targets(fields: Fields, header: Header) -> Targets:
    targets = {path: _target(target) for path, target in fields.object("targets").each()}
    delegations = None
    if fields.has("delegations"):
        delegations = _delegations(fields.object("delegations"))
    return Targets(**header, targets=targets, delegations=delegations, unknown=fields.rest())


def _snapshot(fields: Fields, header: Header) -> Snapshot:
    meta = {}
    for role, file in fields.object("meta").each():
        if not role or role.endswith(".json"):
            raise file.wrong("is no role's name: Notary writes them without .json")
        meta[role] = _meta(file)
    return Snapshot(**header, meta=meta, unknown=fields.rest())


def _timestamp(fields: Fields, header: Header) -> Timestamp:
    meta = fields.object("meta")
    snapshot = _meta(meta.object("snapshot"))
    others: dict[str, Json] = {"meta": meta.rest()} if meta.rest() else {}
    return Timestamp(**header, snapshot=snapshot, unknown=fields.rest() | others)


_PARSERS = {"Root": _root, "Targets": _targets, "Snapshot": _snapshot, "Timestamp": _timestamp}


def _target(fields: Fields) -> TargetFile:
    length = fields.integer("length", 0)
    digests = base64_digests(fields.object("hashes"))
    # null stays among the unknown, so that it is told from no custom at all
    custom = fields.take("custom") if fields.rest().get("custom") is not None else None
    return TargetFile(length=length, hashes=digests, custom=custom, unknown=fields.rest())


def _meta(fields: Fields) -> MetaFile:
    length = fields.integer("length", 0)
    digests = base64_digests(fields.object("hashes"))
    return MetaFile(length=length, hashes=digests, unknown=fields.rest())


def _delegations(fields: Fields) -> Delegations:
    keys = keys_by_id(fields.object("keys"), _key)
    roles = [_delegated(role) for role in fields.objects("roles", or_null=True)]
    check_delegated_names(fields, roles)
    return Delegations(keys=keys, roles=tuple(roles), unknown=fields.rest())


def _delegated(fields: Fields) -> DelegatedRole:
    name = fields.text("name")
    if len(name) > _MAX_NAME_CHARS or not _DELEGATED_NAME.fullmatch(name):
        raise fields.wrong("must be targets/NAME of a-z, 0-9, - and _", "name")
    paths = fields.texts("paths", or_null=True) if fields.has("paths") else None
    keys = role_keys(fields, or_null=True)
    return DelegatedRole(
        name=name,
        keyids=keys.keyids,
        threshold=keys.threshold,
        paths=paths,
        unknown=keys.unknown,
    )


def _key(keyid: str, fields: Fields) -> PublicKeyInfo:
    identity = hashlib.sha256(encode(fields.rest())).hexdigest()
    keytype = fields.text("keytype")
    keyval = fields.object("keyval")
    public = keyval.text("public")
    raw = from_base64(keyval, "public", public)
    if keyval.take("private") is not None:
        raise refuse("private-key", "private key material has no place here", field=f"keys.{keyid}")
    if keyval.rest() or fields.rest():
        raise fields.wrong("has members beside keytype, keyval.public and keyval.private")
    if identity != keyid:
        raise fields.wrong(f"is not the id of this key, {identity}")
    certificate = None
    if keytype.endswith("-x509"):
        certificate, spki = _certificate(fields, keytype, raw)
    elif keytype == "ed25519":
        if len(raw) != 32:
            raise fields.wrong(f"an ed25519 key has 32 bytes, not {len(raw)}", "keyval.public")
        spki = ED25519_SPKI + raw
    else:
        spki = _spki(fields, keytype, raw)
    return PublicKeyInfo(
        keyid=keyid,
        keytype=keytype,
        scheme="",
        spki=spki,
        public=public,
        certificate=certificate,
        canonical_id=publickeys.notary_keyid(spki) if spki else "",
    )


def _spki(fields: Fields, keytype: str, der: bytes) -> bytes:
    """DER, checked; empty for a kind of key that Notary does not have: it never verifies."""
    if keytype not in _CLASSES:
        return b""
    try:
        if isinstance(publickeys.load(der), _CLASSES[keytype]):
            return der
    except InvalidRequestError as e:
        raise fields.wrong("is no public key", "keyval.public") from e
    raise fields.wrong(f"is no {keytype} key", "keyval.public")


def _certificate(fields: Fields, keytype: str, pem: bytes) -> tuple[KeyCertificate, bytes]:
    """The leaf of a chain; the CAs after it count for those who pin one."""
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
        certificate = KeyCertificate(
            common_name=x509facts.common_name(leaf.subject),
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            is_ca=x509facts.is_ca(leaf.extensions),
            fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        )
    except x509facts.MALFORMED as e:
        raise fields.wrong("is no PEM certificate", "keyval.public") from e
    spki = x509facts.spki(leaf)
    return certificate, _spki(fields, keytype.removesuffix("-x509"), spki) if spki else b""
