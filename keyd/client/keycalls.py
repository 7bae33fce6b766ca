"""The calls of KeyService: arguments in, a :class:`Call` out. Nothing here talks to anybody.

The docstrings are those of the methods of Client and AsyncClient. All of them raise KeydError
subclasses: what the daemon refused, ServerGoneError, DeadlineError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from keyd.client import types, wire
from keyd.client.call import Call, Page, Pages, call
from keyd.model import Binding, KeyAlgorithm, PinPolicy, Scheme, Slot, TouchPolicy
from keyd.v1 import keys_pb2


def _change(method: str, request: Message, *, by_hand: bool = False) -> Call[types.Key]:
    return call(f"KeyService/{method}", request, keys_pb2.Key, wire.key, by_hand=by_hand)


def create_key(
    name: str,
    algorithm: KeyAlgorithm,
    *,
    token: str = "",
    scheme: Scheme | None = None,
    bindings: Iterable[Binding] = (),
    labels: Mapping[str, str] | None = None,
    rotation_period_s: int = 0,
    slot: Slot | None = None,
    pin: PinPolicy | None = None,
    touch: TouchPolicy | None = None,
    reason: str = "",
) -> Call[types.Key]:
    """Generate version 1 of a new key; ``token`` may be empty where only one is configured. On a
    YubiKey it is made in an empty ``slot``, with these policies (None: once, never)."""
    request = keys_pb2.CreateKeyRequest(
        name=name,
        token=token,
        algorithm=algorithm.value,
        scheme=scheme.value if scheme else "",
        bindings=wire.bindings(bindings),
        labels=dict(labels or {}),
        rotation_period_s=rotation_period_s,
        slot=str(slot) if slot else "",
        pin_policy=pin or "",
        touch_policy=touch or "",
        reason=reason,
    )
    return _change("CreateKey", request, by_hand=True)


def list_keys(wanted: types.KeyFilter = types.ALL_KEYS, *, page_size: int = 0) -> Pages[types.Key]:
    """The keys the caller may see, by name; asks for a page (100 keys) when it is needed."""

    def page(token: str) -> Call[Page[types.Key]]:
        request = keys_pb2.ListKeysRequest(
            token=wanted.token,
            repository=wanted.repository,
            role=wanted.role,
            state=wire.state(wanted.state),
            label=wanted.label,
            name=wanted.name,
            page_size=page_size,
            page_token=token,
        )
        return call(
            "KeyService/ListKeys",
            request,
            keys_pb2.ListKeysResponse,
            lambda m: Page([wire.key(k) for k in m.keys], m.next_page_token),
            repeatable=True,
        )

    return page


def get_key(name: str) -> Call[types.Key]:
    """One key with all versions and public keys."""
    request = keys_pb2.GetKeyRequest(name=name)
    return call("KeyService/GetKey", request, keys_pb2.Key, wire.key, repeatable=True)


def rotate(
    name: str, *, at_once: bool = False, expected_newest: int = 0, reason: str = ""
) -> Call[types.Key]:
    """Generate a new version: staged for a bound key; with ``at_once`` active at once.

    ``expected_newest``: the newest version the caller knows; another one is a
    RotationConflictError.
    """
    request = keys_pb2.RotateKeyRequest(
        name=name, at_once=at_once, reason=reason, expected_newest_version=expected_newest
    )
    return _change("RotateKey", request, by_hand=True)


def activate(name: str, version: int, *, reason: str = "") -> Call[types.Key]:
    """Make an enabled version the one that signs by default."""
    request = keys_pb2.ActivateKeyVersionRequest(name=name, version=version, reason=reason)
    return _change("ActivateKeyVersion", request)


def _version(name: str, version: int, reason: str) -> keys_pb2.KeyVersionRequest:
    return keys_pb2.KeyVersionRequest(name=name, version=version, reason=reason)


def enable(name: str, version: int, *, reason: str = "") -> Call[types.Key]:
    """DISABLED -> ENABLED."""
    return _change("EnableKeyVersion", _version(name, version, reason))


def disable(name: str, version: int, *, reason: str = "") -> Call[types.Key]:
    """ENABLED -> DISABLED."""
    return _change("DisableKeyVersion", _version(name, version, reason))


def schedule_destroy(
    name: str, version: int, *, wait_s: int = 0, reason: str = ""
) -> Call[types.Key]:
    """Start the waiting time (0: 7 days) after which a person may destroy the version."""
    request = keys_pb2.ScheduleDestroyRequest(
        name=name, version=version, wait_s=wait_s, reason=reason
    )
    return _change("ScheduleDestroy", request)


def cancel_destroy(name: str, version: int, *, reason: str = "") -> Call[types.Key]:
    """DESTROY_SCHEDULED -> DISABLED."""
    return _change("CancelDestroy", _version(name, version, reason))


def destroy(name: str, version: int, *, reason: str = "") -> Call[types.Key]:
    """Destroy the key pair on the token; only after the waiting time."""
    return _change("Destroy", _version(name, version, reason))


def adopt(
    token: str,
    name: str,
    object_id: bytes,
    *,
    bindings: Iterable[Binding] = (),
    reason: str = "",
) -> Call[types.Adopted]:
    """Register one key pair that lies on a token already; ``object_id`` is its CKA_ID."""
    request = keys_pb2.AdoptKeyRequest(
        token=token,
        name=name,
        object_id=object_id,
        bindings=wire.bindings(bindings),
        reason=reason,
    )
    return _adopt(request)


def adopt_labelled(token: str, *, reason: str = "") -> Call[types.Adopted]:
    """Register every key pair on a token whose label is NAME/N, as keyd writes it."""
    return _adopt(keys_pb2.AdoptKeyRequest(token=token, all_labelled=True, reason=reason))


def _adopt(request: keys_pb2.AdoptKeyRequest) -> Call[types.Adopted]:
    return call(
        "KeyService/AdoptKey",
        request,
        keys_pb2.AdoptKeyResponse,
        lambda m: types.Adopted(tuple(wire.key(k) for k in m.keys), tuple(m.skipped)),
        by_hand=True,
    )


def update(
    name: str,
    *,
    bindings: Iterable[Binding] | None = None,
    labels: Mapping[str, str] | None = None,
    rotation_period_s: int | None = None,
    reason: str = "",
) -> Call[types.Key]:
    """Replace bindings, labels or rotation period; None leaves a field as it is."""
    request = keys_pb2.UpdateKeyRequest(
        name=name,
        set_bindings=bindings is not None,
        bindings=wire.bindings(bindings or ()),
        set_labels=labels is not None,
        labels=dict(labels or {}),
        set_rotation_period=rotation_period_s is not None,
        rotation_period_s=rotation_period_s or 0,
        reason=reason,
    )
    return _change("UpdateKey", request)


def freeze(key: str = "", *, reason: str = "") -> Call[tuple[str, ...]]:
    """Stop signing with one key, or with all (empty). Answers with the freezes that stand."""
    request = keys_pb2.FreezeRequest(key=key, reason=reason)
    return call("KeyService/Freeze", request, keys_pb2.FreezeResponse, lambda m: tuple(m.freezes))


def unfreeze(key: str = "", *, reason: str = "") -> Call[tuple[str, ...]]:
    """End a freeze of one key, or the one on all (empty). Answers with those that still stand."""
    request = keys_pb2.FreezeRequest(key=key, reason=reason)
    return call("KeyService/Unfreeze", request, keys_pb2.FreezeResponse, lambda m: tuple(m.freezes))
