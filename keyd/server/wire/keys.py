"""keyd.v1.KeyService: messages <-> nouns. Names, bindings and labels are checked by the domain."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from keyd import publickeys
from keyd.errors import InvalidRequestError, KeydError
from keyd.keyfields import KeyFilter, NewKey
from keyd.model import (
    Attestation,
    Binding,
    Freeze,
    Key,
    KeyAlgorithm,
    KeyVersion,
    PinPolicy,
    Scheme,
    Slot,
    TouchPolicy,
    VersionState,
    check_name,
)
from keyd.server.wire.fields import (
    MAX_PATTERN_CHARS,
    check_new_name,
    check_range,
    check_reason,
    check_size,
    check_text,
    choose,
    parse_key,
    to_timestamp,
)
from keyd.v1 import keys_pb2 as pb

MAX_OBJECT_ID_BYTES = 255
MAX_LIST_PAGE = 1000
MAX_NUMBER = 10**9
MAX_WAIT_S = 10 * 366 * 24 * 3600

_STATES_OUT = {s: pb.KeyVersionState.Value(f"KEY_VERSION_STATE_{s}") for s in VersionState}
_STATES = {theirs: ours for ours, theirs in _STATES_OUT.items()}


@dataclass(frozen=True, slots=True)
class VersionChange:
    """One version that shall change, and why."""

    name: str
    number: int
    said: str


# ---------------------------------------------------------------------------------- requests


def new_key(message: pb.CreateKeyRequest) -> NewKey:
    """What CreateKey asks for."""
    return NewKey(
        name=check_new_name("name", message.name),
        token=check_token(message.token) if message.token else "",
        algorithm=choose("algorithm", message.algorithm, KeyAlgorithm),
        scheme=choose("scheme", message.scheme, Scheme) if message.scheme else None,
        bindings=bindings(message.bindings),
        labels=dict(message.labels),
        rotation_period_s=message.rotation_period_s,
        said=check_reason(message.reason),
        slot=Slot.parse(message.slot) if message.slot else None,
        pin=choose("pin_policy", message.pin_policy, PinPolicy) if message.pin_policy else None,
        touch=choose("touch_policy", message.touch_policy, TouchPolicy)
        if message.touch_policy
        else None,
    )


def key_filter(message: pb.ListKeysRequest) -> KeyFilter:
    """What ListKeys asks for."""
    if message.state and message.state not in _STATES:
        raise InvalidRequestError("state", f"{message.state} is no KeyVersionState")
    return KeyFilter(
        token=check_text("token", message.token, MAX_PATTERN_CHARS),
        repository=check_text("repository", message.repository, MAX_PATTERN_CHARS),
        role=check_text("role", message.role, MAX_PATTERN_CHARS),
        state=_STATES[message.state] if message.state else None,
        label=check_text("label", message.label, 2 * MAX_PATTERN_CHARS),
        name=check_text("name", message.name, MAX_PATTERN_CHARS),
    )


def check_token(name: str) -> str:
    """A configured token's name."""
    return check_name("token", name)


def key_name(name: str) -> str:
    """A key's name, where a version's will not do."""
    key, number = parse_key("name", name)
    if number:
        raise InvalidRequestError("name", f"{name} names a version; name the key, {key}")
    return key


def version_change(
    message: pb.KeyVersionRequest | pb.ActivateKeyVersionRequest | pb.ScheduleDestroyRequest,
) -> VersionChange:
    """The version a request names, as ``name`` and ``version`` or as KEY/versions/N alone."""
    key, number = parse_key("name", message.name)
    if number and message.version not in (0, number):
        raise InvalidRequestError("version", f"{message.version}, but the name says {number}")
    number = check_range("version", number or message.version, 1, MAX_NUMBER)
    return VersionChange(key, number, check_reason(message.reason))


def wait_s(message: pb.ScheduleDestroyRequest) -> int:
    """The waiting time; 0 for the daemon's default."""
    return check_range("wait_s", message.wait_s, 0, MAX_WAIT_S)


def expected_newest(message: pb.RotateKeyRequest) -> int:
    """The newest version the caller knows; 0 when it does not say."""
    return check_range("expected_newest_version", message.expected_newest_version, 0, MAX_NUMBER)


def bindings(messages: Iterable[pb.Binding]) -> frozenset[Binding]:
    """A set: a binding given twice counts once."""
    return frozenset(Binding(m.repository, m.role) for m in messages)


def check_adoption(message: pb.AdoptKeyRequest) -> None:
    """Either one named object, or all that keyd once labelled."""
    check_token(message.token)
    check_reason(message.reason)
    if message.all_labelled:
        for field, given in (
            ("name", message.name),
            ("object_id", message.object_id),
            ("bindings", message.bindings),
        ):
            if given:
                raise InvalidRequestError(field, "does not go with all_labelled")
        return
    check_new_name("name", message.name)
    if not message.object_id:
        raise InvalidRequestError("object_id", "is empty", hint="see: keydctl token objects")
    check_size("object_id", message.object_id, MAX_OBJECT_ID_BYTES)


# ---------------------------------------------------------------------------------- answers


def key_message(key: Key, frozen: Freeze | None, now: datetime) -> pb.Key:
    """A key with its versions and their public keys in every form."""
    return pb.Key(
        name=key.name,
        token=key.token,
        algorithm=key.algorithm,
        scheme=key.scheme,
        bindings=[pb.Binding(repository=b.repository, role=b.role) for b in _ordered(key.bindings)],
        labels=key.labels,
        rotation_period_s=key.rotation_period_s,
        active_version=key.active_version,
        versions=[
            version_message(key, v, now) for v in sorted(key.versions, key=lambda v: v.number)
        ],
        created_at=to_timestamp(key.created_at),
        created_by=key.created_by,
        frozen=freeze_line(frozen) if frozen else "",
    )


def version_message(key: Key, version: KeyVersion, now: datetime) -> pb.KeyVersion:
    """One version; the forms of its public key are empty while it is PENDING."""
    message = pb.KeyVersion(
        name=version.name,
        number=version.number,
        state=_STATES_OUT[version.shown_state(now)],
        origin=version.origin,
        token_serial=version.token_serial,
        object_id=version.object_id,
        public_key=version.public_key,
        keyids=version.keyids,
        created_at=to_timestamp(version.created_at),
        created_by=version.created_by,
        staged=version.state is VersionState.ENABLED and version.number > key.active_version,
    )
    if version.destroy_after is not None:
        message.destroy_after.CopyFrom(to_timestamp(version.destroy_after))
    if version.attestation is not None:
        message.attestation.CopyFrom(attestation(version.attestation))
    if version.public_key:
        forms = _forms(version.public_key, key.scheme, version.name)
        message.public_key_pem = forms.pem
        message.public_key_tuf = forms.tuf
        message.public_key_notary = forms.notary
        message.public_key_ssh = forms.ssh
    return message


def attestation(proven: Attestation) -> pb.Attestation:
    """What a device has proven."""
    return pb.Attestation(
        slot=proven.slot,
        serial=proven.serial,
        firmware=proven.firmware,
        form_factor=proven.form_factor,
        pin_policy=proven.pin,
        touch_policy=proven.touch,
        chain=proven.chain,
    )


def freeze_line(freeze: Freeze) -> str:
    """A freeze as people read it: ``acme/root: frozen by ... since ...: why``."""
    since = freeze.since.strftime("%Y-%m-%dT%H:%M:%SZ")
    line = f"{freeze.key or 'all keys'}: frozen by {freeze.by} since {since}"
    return f"{line}: {freeze.said}" if freeze.said else line


@dataclass(frozen=True, slots=True)
class _Forms:
    pem: str
    tuf: str
    notary: str
    ssh: str


# A public key never changes, and writing one in four forms costs more than all the rest of a Key.
@lru_cache(maxsize=4096)
def _forms(public_key: bytes, scheme: Scheme, comment: str) -> _Forms:
    keyid = publickeys.tuf_keyid(public_key, scheme)
    tuf = {"keyid": keyid} | publickeys.tuf_key(public_key, scheme)
    try:
        notary = publickeys.notary_key(public_key)
    except KeydError:
        notary = ""  # a kind of key Notary does not know
    return _Forms(
        pem=publickeys.pem(public_key),
        tuf=json.dumps(tuf, sort_keys=True),
        notary=notary,
        ssh=publickeys.ssh_line(public_key, comment),
    )


def _ordered(given: Iterable[Binding]) -> list[Binding]:
    return sorted(given, key=lambda b: (b.repository, b.role))
