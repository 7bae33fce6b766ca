"""Bundles as text; see :mod:`bundle` for its three lines."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime
from typing import TypeVar

from keyd.adapters.tufrepo.bundle import (
    FORMAT,
    MARK,
    BundleSignature,
    LogReceipt,
    Request,
    Response,
    RootFile,
    refuse,
)
from keyd.content import canonical
from keyd.content.canonical import Json
from keyd.content.fields import Fields, whole_seconds
from keyd.errors import ContentError

T = TypeVar("T")

MAX_BUNDLE_BYTES = canonical.MAX_PAYLOAD_BYTES
MAX_TEXT_CHARS = 1_000
"""Of a reason, a name, an id."""

MAX_ROOTS = 1_024
MAX_SIGNATURES = 64
MAX_HASHES = 64
"""Of an inclusion proof: a log of 2 to the power of 64 entries."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEX = re.compile(r"(?:[0-9a-f]{2})+")


def write(bundle: Request | Response) -> bytes:
    """The file."""
    body = _request_json(bundle) if isinstance(bundle, Request) else _response_json(bundle)
    text = bundle.headline.encode() + b"\n" + canonical.encode(body) + b"\n"
    return text + f"sha256:{hashlib.sha256(text).hexdigest()}\n".encode()


def read_request(data: bytes) -> Request:
    """Read a request; nothing is believed yet but that it is whole.

    Raises:
        RepositoryError: fact ``problem``: too-large, format, damaged.
    """
    found = _read(data)
    if not isinstance(found, Request):
        raise refuse(
            "format",
            "this bundle is a response: it holds signatures and asks for none",
            hint="add it to the repository: keydctl tuf ceremony import DIR FILE",
        )
    return found


def read_response(data: bytes) -> Response:
    """Read a response; nothing is believed yet but that it is whole.

    Raises:
        RepositoryError: fact ``problem``: too-large, format, damaged.
    """
    found = _read(data)
    if not isinstance(found, Response):
        raise refuse(
            "format",
            "this bundle is a request: it asks for signatures and holds none",
            hint="sign it with: keydctl tuf sign FILE --key KEY",
        )
    return found


def _read(data: bytes) -> Request | Response:
    if len(data) > MAX_BUNDLE_BYTES:
        raise refuse("too-large", f"{len(data)} bytes; a bundle has at most {MAX_BUNDLE_BYTES}")
    lines = data.split(b"\n")
    if not data.startswith(MARK):
        raise refuse("format", "this is no exchange bundle of keyd: its first line says otherwise")
    if not data.startswith(b"%s%d " % (MARK, FORMAT)):
        raise refuse("format", "this bundle was written by a newer keydctl, which has to read it")
    whole = hashlib.sha256(data[: data.rfind(b"\nsha256:") + 1]).hexdigest()
    if len(lines) != 4 or lines[3] or lines[2] != f"sha256:{whole}".encode():
        raise refuse(
            "damaged",
            "this bundle is not as it was written: the checksum does not fit",
            hint="have it sent again, as a file and not as text in a mail",
        )
    try:
        fields = Fields(canonical.decode(lines[1]))
        kind = fields.text("kind")
        if fields.integer("format", 1) != FORMAT or kind not in ("request", "response"):
            raise fields.wrong("is neither request nor response", "kind")
        found = _to_request(fields) if kind == "request" else _to_response(fields)
        if fields.rest():
            raise fields.wrong("is not known here", sorted(fields.rest())[0])
    except ContentError as e:
        raise refuse("format", f"this bundle cannot be read: {e.message}") from e
    if found.headline.encode() != lines[0]:
        raise refuse("damaged", "this bundle's first line says something else than its content")
    return found


# ------------------------------------------------------------------------------------ request


def _request_json(request: Request) -> Json:
    return {
        **_common(request, "request"),
        "asks": request.asks,
        "draft": _part(request.draft),
        "history": [{"version": root.version, **_part(root.content)} for root in request.history],
    }


def _to_request(fields: Fields) -> Request:
    history = fields.objects("history")
    if not 1 <= len(history) <= MAX_ROOTS:
        raise fields.wrong(f"must hold 1 to {MAX_ROOTS} roots", "history")
    return Request(
        id=_text(fields, "id"),
        ceremony=_text(fields, "ceremony"),
        repository=_text(fields, "repository"),
        version=fields.integer("version", 1),
        created=whole_seconds(fields, "created")[0],
        expires=whole_seconds(fields, "expires")[0],
        draft=_to_part(fields.object("draft")),
        history=tuple(_to_root(each) for each in history),
        asks=_text(fields, "asks"),
        reason=_text(fields, "reason"),
    )


def _to_root(fields: Fields) -> RootFile:
    return RootFile(fields.integer("version", 1), _to_part(fields))


# ------------------------------------------------------------------------------------ response


def _response_json(response: Response) -> Json:
    return {
        **_common(response, "response"),
        "draft_sha256": response.draft_sha256,
        "signatures": [_signature_json(each) for each in response.signatures],
        "signer": response.signer,
    }


def _signature_json(one: BundleSignature) -> Json:
    value: dict[str, Json] = {
        "key_version": one.key_version,
        "keyid": one.keyid,
        "sig": one.signature.hex(),
    }
    if one.receipt is not None:
        value["receipt"] = {
            "checkpoint": list[Json](one.receipt.checkpoint.split("\n")),
            "entry": _part(one.receipt.entry),
            "hashes": [base64.b64encode(each).decode() for each in one.receipt.hashes],
            "index": one.receipt.index,
            "verifier_keys": list(one.receipt.verifier_keys),
        }
    return value


def _to_response(fields: Fields) -> Response:
    signatures = fields.objects("signatures")
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise fields.wrong(f"must hold 1 to {MAX_SIGNATURES} signatures", "signatures")
    digest = fields.text("draft_sha256")
    if not _SHA256.fullmatch(digest):
        raise fields.wrong("must be a SHA-256 in hex", "draft_sha256")
    return Response(
        id=_text(fields, "id"),
        ceremony=_text(fields, "ceremony"),
        repository=_text(fields, "repository"),
        version=fields.integer("version", 1),
        created=whole_seconds(fields, "created")[0],
        expires=whole_seconds(fields, "expires")[0],
        draft_sha256=digest,
        signatures=tuple(_to_signature(each) for each in signatures),
        signer=_text(fields, "signer"),
        reason=_text(fields, "reason"),
    )


def _to_signature(fields: Fields) -> BundleSignature:
    receipt = _to_receipt(fields.object("receipt")) if fields.has("receipt") else None
    keyid, sig = fields.text("keyid"), fields.text("sig")
    if not _HEX.fullmatch(sig):
        raise fields.wrong("must be lower-case hexadecimal", "sig")
    found = BundleSignature(keyid, bytes.fromhex(sig), _text(fields, "key_version"), receipt)
    return _nothing_left(fields, found)


def _to_receipt(fields: Fields) -> LogReceipt:
    hashes = fields.texts("hashes")
    if len(hashes) > MAX_HASHES:
        raise fields.wrong(f"holds over {MAX_HASHES} hashes", "hashes")
    found = LogReceipt(
        index=fields.integer("index", 0),
        entry=_to_part(fields.object("entry")),
        hashes=tuple(_from_base64(fields, "hashes", each) for each in hashes),
        checkpoint="\n".join(fields.texts("checkpoint")),
        verifier_keys=fields.texts("verifier_keys"),
    )
    return _nothing_left(fields, found)


# ------------------------------------------------------------------------------------ both


def _common(bundle: Request | Response, kind: str) -> dict[str, Json]:
    return {
        "ceremony": bundle.ceremony,
        "created": _when(bundle.created),
        "expires": _when(bundle.expires),
        "format": FORMAT,
        "id": bundle.id,
        "kind": kind,
        "reason": bundle.reason,
        "repository": bundle.repository,
        "version": bundle.version,
    }


def _when(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(fields: Fields, name: str) -> str:
    value = fields.text(name)
    if len(value) > MAX_TEXT_CHARS:
        raise fields.wrong(f"has over {MAX_TEXT_CHARS} characters", name)
    return value


def _part(content: bytes) -> dict[str, Json]:
    return {
        "base64": base64.b64encode(content).decode(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _to_part(fields: Fields) -> bytes:
    content = _from_base64(fields, "base64", fields.text("base64"))
    if fields.text("sha256") != hashlib.sha256(content).hexdigest():
        raise fields.wrong("does not fit the part it stands with", "sha256")
    return _nothing_left(fields, content)


def _from_base64(fields: Fields, name: str, text: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise fields.wrong("is no base64", name) from e
    if base64.b64encode(value).decode() != text:  # one text for each value
        raise fields.wrong("is not in base64's canonical form", name)
    return value


def _nothing_left(fields: Fields, found: T) -> T:
    if fields.rest():
        raise fields.wrong("is not known here", sorted(fields.rest())[0])
    return found
