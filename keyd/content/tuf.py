"""TUF 1.0 (specification 1.0.x, section 4): the object that is signed -> a document.

Accepts what python-tuf accepts and writes, and is stricter where a looser reading would let two
clients see different things.
"""

from __future__ import annotations

import re

from keyd import publickeys
from keyd.content.canonical import Json
from keyd.content.digests import hex_digests
from keyd.content.documents import (
    TOP_LEVEL_ROLES,
    DelegatedRole,
    Delegations,
    Dialect,
    Document,
    Header,
    MetaFile,
    PublicKeyInfo,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from keyd.content.fields import Fields, whole_seconds
from keyd.content.holders import check_delegated_names, keys_by_id, role_keys
from keyd.content.refusal import refuse
from keyd.errors import InvalidRequestError

_SPEC_VERSION = re.compile(r"1\.\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_ED25519 = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410, 4)."""


def parse(value: Json) -> Document:
    """The document of a ``signed`` object whose ``_type`` is in lower case.

    Raises:
        ContentError: with the field and what it must hold.
    """
    fields = Fields(value)
    kind = fields.text("_type")
    parser = _PARSERS.get(kind)
    if parser is None:
        raise refuse("type", f"_type is none of {', '.join(TOP_LEVEL_ROLES)}", field="_type")
    spec_version = fields.text("spec_version")
    if not _SPEC_VERSION.fullmatch(spec_version):
        raise fields.wrong("must be 1.0 or 1.0.x: keyd reads TUF 1", "spec_version")
    version = fields.integer("version", 1)
    expires, expires_text = whole_seconds(fields, "expires")
    header = Header(
        dialect=Dialect.TUF,
        version=version,
        expires=expires,
        expires_text=expires_text,
        spec_version=spec_version,
    )
    return parser(fields, header)


def _root(fields: Fields, header: Header) -> Root:
    consistent = None
    if fields.has("consistent_snapshot"):
        consistent = fields.boolean("consistent_snapshot")
    keys = keys_by_id(fields.object("keys"), _key)
    roles = {name: role_keys(role) for name, role in fields.object("roles").each()}
    if set(roles) != set(TOP_LEVEL_ROLES):
        raise fields.wrong(f"must be {', '.join(TOP_LEVEL_ROLES)} and no other", "roles")
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
    for name, file in fields.object("meta").each():
        role = name.removesuffix(".json")
        if not role or role == name:
            raise file.wrong("is no metadata file's name: it must be ROLE.json")
        meta[role] = _meta(file)
    return Snapshot(**header, meta=meta, unknown=fields.rest())


def _timestamp(fields: Fields, header: Header) -> Timestamp:
    meta = fields.object("meta")
    snapshot = _meta(meta.object("snapshot.json"))
    # python-tuf's client never looks at other files here, so they are nobody's business but shown.
    others: dict[str, Json] = {"meta": meta.rest()} if meta.rest() else {}
    return Timestamp(**header, snapshot=snapshot, unknown=fields.rest() | others)


_PARSERS = {"root": _root, "targets": _targets, "snapshot": _snapshot, "timestamp": _timestamp}


def _target(fields: Fields) -> TargetFile:
    length = fields.integer("length", 0)
    hashes = hex_digests(fields.object("hashes"))
    # null stays among the unknown, so that it is told from no custom at all
    custom = fields.take("custom") if fields.rest().get("custom") is not None else None
    return TargetFile(length=length, hashes=hashes, custom=custom, unknown=fields.rest())


def _meta(fields: Fields) -> MetaFile:
    version = fields.integer("version", 1)
    length = fields.integer("length", 0) if fields.has("length") else None
    hashes = hex_digests(fields.object("hashes")) if fields.has("hashes") else {}
    return MetaFile(version=version, length=length, hashes=hashes, unknown=fields.rest())


def _delegations(fields: Fields) -> Delegations:
    keys = keys_by_id(fields.object("keys"), _key)
    if fields.has("roles") == fields.has("succinct_roles"):
        raise fields.wrong("must have either roles or succinct_roles")
    roles: list[DelegatedRole] = []
    succinct = None
    if fields.has("roles"):
        roles = [_delegated(role) for role in fields.objects("roles")]
        check_delegated_names(fields, roles)
    else:
        succinct = _succinct(fields.object("succinct_roles"))
    return Delegations(keys=keys, roles=tuple(roles), succinct=succinct, unknown=fields.rest())


def _delegated(fields: Fields) -> DelegatedRole:
    name = fields.text("name")
    terminating = fields.boolean("terminating")
    paths = fields.texts("paths") if fields.has("paths") else None
    prefixes = fields.texts("path_hash_prefixes") if fields.has("path_hash_prefixes") else None
    if (paths is None) == (prefixes is None):
        raise fields.wrong("must have either paths or path_hash_prefixes")
    keys = role_keys(fields)
    return DelegatedRole(
        name=name,
        keyids=keys.keyids,
        threshold=keys.threshold,
        terminating=terminating,
        paths=paths,
        path_hash_prefixes=prefixes,
        unknown=keys.unknown,
    )


def _succinct(fields: Fields) -> SuccinctRoles:
    bit_length = fields.integer("bit_length", 1, 32)
    name_prefix = fields.text("name_prefix")
    keys = role_keys(fields)
    return SuccinctRoles(
        keyids=keys.keyids,
        threshold=keys.threshold,
        bit_length=bit_length,
        name_prefix=name_prefix,
        unknown=keys.unknown,
    )


def _key(keyid: str, fields: Fields) -> PublicKeyInfo:
    keytype, scheme = fields.text("keytype"), fields.text("scheme")
    keyval = fields.object("keyval")
    public = keyval.text("public")
    if keyval.rest().get("private"):  # old securesystemslib wrote an empty one
        raise refuse("private-key", "private key material has no place here", field=f"keys.{keyid}")
    others: dict[str, Json] = {"keyval": keyval.rest()} if keyval.rest() else {}
    return PublicKeyInfo(
        keyid=keyid,
        keytype=keytype,
        scheme=scheme,
        spki=_spki(keytype, public),
        public=public,
        unknown=fields.rest() | others,
    )


def _spki(keytype: str, public: str) -> bytes:
    """DER, or empty for what keyd cannot read: a foreign kind of key in an honest repository."""
    if keytype == "ed25519":
        return ED25519_SPKI + bytes.fromhex(public) if _ED25519.fullmatch(public) else b""
    try:
        der = publickeys.load_pem(public.encode("utf-8"))
        publickeys.load(der)
    except InvalidRequestError:
        return b""
    return der
