"""Signing with cached object handles. Host side.

A handle is looked up once for each key pair and login (keyindex.py); its public key is compared
with the one the registry knows before the first use, and nothing searches or logs in for a
signature.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pkcs11
from pkcs11 import MGF, Attribute, Mechanism

from keyd.device import encoding, keypairs, ykcs11
from keyd.device.keyindex import KeyIndex, Pair
from keyd.device.pkcs11 import TokenSession
from keyd.device.settings import TOUCH_WINDOW_S
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import (
    AlgorithmMismatchError,
    DeviceGoneError,
    KeydError,
    PinRefusedError,
    TokenError,
    TokenLockedError,
    TokenObjectError,
    WrongTokenError,
)
from keyd.model import KeyAlgorithm, Scheme

_SIGNATURE_BYTES = 1024
"""python-pkcs11 clears a buffer of this size for each signature; RSA-4096 needs 512."""

_TOUCH_MARGIN_S = 1.0
"""A cached touch is not counted on in the last moment of its life."""

SignPayload = Callable[[bytes], bytes]

Tell = Callable[[pb.TouchWait | None], None]
"""Called with what may be waited for before a signature, and with None after each item."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A key and a scheme. ``touch``: the key's policy; never on tokens without a contact."""

    object_id: bytes
    scheme: Scheme
    touch: str
    sign: SignPayload


def _parameters(scheme: Scheme) -> dict[str, Any]:
    """The keyword arguments of python-pkcs11's sign() for payloads that are digests."""
    if scheme in (Scheme.ECDSA_P256_SHA256, Scheme.ECDSA_P384_SHA384):
        return {"mechanism": Mechanism.ECDSA}
    if scheme is Scheme.ED25519:
        return {"mechanism": Mechanism.EDDSA}
    if not scheme.is_pss:
        return {"mechanism": Mechanism.RSA_PKCS}
    pss = encoding.pss_parameters(scheme)
    return {
        "mechanism": Mechanism.RSA_PKCS_PSS,
        "mechanism_param": (Mechanism[pss.hash], MGF[pss.mgf], pss.salt_bytes),
    }


class Signer:
    """Signs the groups of one SignMany after another."""

    def __init__(self, token: TokenSession, index: KeyIndex) -> None:
        self._token = token
        self._index = index
        self._touched_at: dict[bytes, float] = {}

    def sign(self, request: pb.SignMany, tell: Tell) -> pb.Signed:
        """Sign every payload; what fails is told item by item.

        Once the session is lost the rest of the request fails without being tried; other
        failures are those of one item alone.
        """
        reply = pb.Signed()
        started = time.perf_counter()
        lost: DeviceGoneError | None = None

        def tell_here(wait: pb.TouchWait) -> None:
            wait.index = len(reply.signatures)
            tell(wait)

        for group in request.groups:
            results = self._sign_group(group, tell_here) if lost is None else _all_fail(group, lost)
            for result in results:
                if isinstance(result, bytes):
                    reply.signatures.append(result)
                else:
                    lost = result if isinstance(result, DeviceGoneError) else lost
                    reply.failures.add(index=len(reply.signatures), failure=failure_message(result))
                    reply.signatures.append(b"")
                tell(None)
        reply.token_seconds = time.perf_counter() - started
        return reply

    def _sign_group(
        self, group: pb.SignGroup, tell: Callable[[pb.TouchWait], None]
    ) -> Iterator[bytes | KeydError]:
        try:
            ready = self._prepare(group)
        except KeydError as error:
            yield from _all_fail(group, error)
            return
        rest = iter(group.payloads)
        for payload in rest:
            started = time.monotonic()
            touch = self._announce(ready, tell)
            result = self._sign_one(ready, payload)
            if isinstance(result, pkcs11.PKCS11Error) and self._token.proves_again(result):
                result = self._sign_one(ready, payload)
            if isinstance(result, pkcs11.PKCS11Error) and self._token.object_was_replaced(result):
                # A handle goes stale when another process replaces the object: look once more.
                self._index.forget(group.object_id)
                try:
                    ready = self._prepare(group)
                except KeydError as error:
                    yield error
                    continue
                result = self._sign_one(ready, payload)
            if isinstance(result, pkcs11.PKCS11Error):
                self._touched_at.pop(ready.object_id, None)
                took_s = time.monotonic() - started
                fault = self._token.signing_fault(result, ready.object_id, touch, took_s)
                yield fault
                if isinstance(fault, DeviceGoneError | PinRefusedError | TokenLockedError):
                    # The session is no more, and nothing of the rest was tried.
                    lost = self._token.lost("signing")
                    yield from (lost for _ in rest)
            else:
                if touch != "never":
                    self._touched_at[ready.object_id] = time.monotonic()
                yield result

    def _announce(self, ready: _Ready, tell: Callable[[pb.TouchWait], None]) -> str:
        """Say that a touch may be waited for; what this signature wants of the contact."""
        if ready.touch == "never":
            return "never"
        touched_at = self._touched_at.get(ready.object_id)
        if (
            ready.touch == "cached"
            and touched_at is not None
            and time.monotonic() - touched_at < TOUCH_WINDOW_S - _TOUCH_MARGIN_S
        ):
            return "never"
        tell(pb.TouchWait(window_s=TOUCH_WINDOW_S, certain=ready.touch != "unknown"))
        return ready.touch

    def _sign_one(
        self, ready: _Ready, payload: bytes
    ) -> bytes | AlgorithmMismatchError | pkcs11.PKCS11Error:
        hash_algorithm = ready.scheme.hash
        if hash_algorithm is not None and len(payload) != hash_algorithm.size_bytes:
            return AlgorithmMismatchError(
                f"{ready.scheme} signs digests of {hash_algorithm.size_bytes} bytes, "
                f"got {len(payload)}"
            )
        try:
            return ready.sign(payload)
        except pkcs11.PKCS11Error as error:
            return error

    def _prepare(self, group: pb.SignGroup) -> _Ready:
        """How to sign one payload with this key and scheme."""
        scheme = _checked_scheme(group)
        key = self._handle(group)
        policy = self._token.policy(group.object_id)
        arguments = {**_parameters(scheme), "buffer_size": _SIGNATURE_BYTES}
        if policy.pin == "always" or (policy.pin == "unknown" and _wants_pin(key)):
            # CKU_CONTEXT_SPECIFIC (PKCS#11 v2.40, 5.6): the PIN counts for one signature.
            arguments["pin"] = self._token.accepted_pin
        hash_algorithm = scheme.hash
        sign: SignPayload
        if scheme.value.startswith("rsa-pkcs1v15") and hash_algorithm is not None:
            prefixed = partial(encoding.digest_info, hash_algorithm)
            sign = lambda digest: bytes(key.sign(prefixed(digest), **arguments))  # noqa: E731
        else:
            sign = lambda payload: bytes(key.sign(payload, **arguments))  # noqa: E731
        return _Ready(group.object_id, scheme, policy.touch, sign)

    def _handle(self, group: pb.SignGroup) -> Any:
        session = self._token.open_session()
        if group.serial and group.serial != self._token.serial:
            raise WrongTokenError(
                f"the key lies on the token with serial {group.serial}, but token "
                f"{self._token.name} has {self._token.serial}",
                token=self._token.name,
                serial=self._token.serial,
                expected=group.serial,
            )
        pair = self._index.known(group.object_id)
        if pair is None or pair.proven != group.public_key:
            self._check_kind(session, group)
            try:
                if pair is None or not _still_fits(pair, group):
                    pair = self._index.search(group.object_id)
                    self._check_pair(pair, group)
            except pkcs11.PKCS11Error as error:
                raise self._token.fault(error, "looking for a key") from error
            pair.proven = group.public_key
        return pair.privates[0]

    def _check_kind(self, session: pkcs11.Session, group: pb.SignGroup) -> None:
        if not self._token.is_yubikey:
            return
        if group.object_id == ykcs11.ATTESTATION_ID:
            raise self._object_error(
                TokenObjectError,
                group.object_id,
                "keeps its attestation key, which signs nothing else, under CKA_ID",
            )
        ykcs11.check_can_sign(
            session.token.slot,
            KeyAlgorithm(group.algorithm),
            self._token.name,
            self._token.library_version,
        )

    def _check_pair(self, pair: Pair, group: pb.SignGroup) -> None:
        object_id, privates, publics = group.object_id, pair.privates, pair.publics
        if len(privates) != 1 or not publics:
            if not self._token.answers():
                # A token that went away shows as an empty one.
                raise pkcs11.TokenNotPresent
            raise self._object_error(
                TokenObjectError,
                object_id,
                f"holds {len(privates)} private and {len(publics)} public keys with CKA_ID",
            )
        if not any(keypairs.public_key(obj)[1] == group.public_key for obj in publics):
            raise self._object_error(
                WrongTokenError, object_id, "holds another public key than registered under CKA_ID"
            )
        if not hasattr(privates[0], "sign"):
            raise self._object_error(
                TokenObjectError, object_id, "does not allow signing (CKA_SIGN) with CKA_ID"
            )

    def _object_error(self, kind: type[TokenError], object_id: bytes, what: str) -> TokenError:
        name = self._token.name
        return kind(f"token {name} {what} {object_id.hex()}", token=name, object_id=object_id.hex())


def _still_fits(pair: Pair, group: pb.SignGroup) -> bool:
    """True when remembered handles stand for the pair that is wanted."""
    if not pair.is_single or not hasattr(pair.privates[0], "sign"):
        return False
    try:
        return (
            keypairs.object_id(pair.privates[0]) == group.object_id
            and keypairs.object_id(pair.publics[0]) == group.object_id
            and keypairs.public_key(pair.publics[0])[1] == group.public_key
        )
    except pkcs11.PKCS11Error:
        return False


def _wants_pin(key: Any) -> bool:
    """CKA_ALWAYS_AUTHENTICATE: libykcs11 answers by slot, whatever the key's policy is."""
    try:
        return bool(key[Attribute.ALWAYS_AUTHENTICATE])
    except pkcs11.PKCS11Error:
        return False


def _checked_scheme(group: pb.SignGroup) -> Scheme:
    try:
        algorithm, scheme = KeyAlgorithm(group.algorithm), Scheme(group.scheme)
    except ValueError as error:
        raise AlgorithmMismatchError(f"unknown algorithm or scheme: {error}") from error
    if scheme not in algorithm.schemes:
        raise AlgorithmMismatchError(f"a key of {algorithm} cannot sign with {scheme}")
    return scheme


def _all_fail(group: pb.SignGroup, error: KeydError) -> Iterator[KeydError]:
    return (error for _ in group.payloads)


def failure_message(error: KeydError, *, pin_sent: bool = False) -> pb.Failure:
    """An error as it travels to the daemon."""
    return pb.Failure(
        reason=error.reason,
        message=error.message,
        hint=error.hint,
        facts=dict(error.facts),
        session_lost=isinstance(error, DeviceGoneError),
        pin_sent=pin_sent,
    )
