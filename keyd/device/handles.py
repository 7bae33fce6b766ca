"""Signing with cached object handles. Host side.

A handle is found once for each key pair and login; its public key is compared with the one the
registry knows before the first use, and nothing searches or logs in for a signature.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pkcs11
from pkcs11 import MGF, Mechanism, ObjectClass

from keyd.device import encoding, keypairs
from keyd.device.pkcs11 import TokenSession
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import (
    AlgorithmMismatchError,
    DeviceGoneError,
    KeydError,
    TokenError,
    TokenObjectError,
    WrongTokenError,
)
from keyd.model import HashAlgorithm, KeyAlgorithm, Scheme

_SIGNATURE_BYTES = 1024
"""python-pkcs11 clears a buffer of this size for each signature; RSA-4096 needs 512."""

_HANDLES = 10_000
"""A cache larger than this is emptied; lookups are cheap beside the memory of a lost count."""

SignPayload = Callable[[bytes], bytes]


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

    def __init__(self, token: TokenSession) -> None:
        self._token = token
        self._handles: dict[tuple[bytes, bytes], Any] = {}
        self._generation = 0

    def sign(self, request: pb.SignMany, between: Callable[[], None]) -> pb.Signed:
        """Sign every payload; what fails is told item by item. ``between`` is called after each.

        Once the session is lost the rest of the request fails without being tried.
        """
        reply = pb.Signed()
        started = time.perf_counter()
        lost: DeviceGoneError | None = None
        for group in request.groups:
            results = self._sign_group(group) if lost is None else _all_fail(group, lost)
            for result in results:
                if isinstance(result, bytes):
                    reply.signatures.append(result)
                else:
                    lost = result if isinstance(result, DeviceGoneError) else lost
                    reply.failures.add(index=len(reply.signatures), failure=failure_message(result))
                    reply.signatures.append(b"")
                between()
        reply.token_seconds = time.perf_counter() - started
        return reply

    def _sign_group(self, group: pb.SignGroup) -> Iterator[bytes | KeydError]:
        try:
            scheme = _checked_scheme(group)
            sign = self._prepare(group, scheme)
        except KeydError as error:
            yield from _all_fail(group, error)
            return
        rest = iter(group.payloads)
        for payload in rest:
            result = self._sign_one(sign, scheme, payload)
            if isinstance(result, bytes):
                yield result
                continue
            if isinstance(result, pkcs11.PKCS11Error) and self._token.object_was_replaced(result):
                # A handle goes stale when another process replaces the object: look once more.
                self._handles.clear()
                try:
                    sign = self._prepare(group, scheme)
                except KeydError as error:
                    yield error
                    continue
                result = self._sign_one(sign, scheme, payload)
            if isinstance(result, pkcs11.PKCS11Error):
                fault = self._token.fault(result, "signing")
                yield fault
                if isinstance(fault, DeviceGoneError):
                    yield from (fault for _ in rest)
            else:
                yield result

    def _sign_one(
        self, sign: SignPayload, scheme: Scheme, payload: bytes
    ) -> bytes | AlgorithmMismatchError | pkcs11.PKCS11Error:
        if scheme.hash is not None and len(payload) != scheme.hash.size_bytes:
            return AlgorithmMismatchError(
                f"{scheme} signs digests of {scheme.hash.size_bytes} bytes, got {len(payload)}"
            )
        try:
            return sign(payload)
        except pkcs11.PKCS11Error as error:
            return error

    def _prepare(self, group: pb.SignGroup, scheme: Scheme) -> SignPayload:
        """A function that signs one payload with this key and scheme."""
        key = self._handle(group)
        arguments = {**_parameters(scheme), "buffer_size": _SIGNATURE_BYTES}
        if scheme.value.startswith("rsa-pkcs1v15"):
            hash_algorithm: HashAlgorithm | None = scheme.hash
            assert hash_algorithm is not None
            return lambda digest: bytes(
                key.sign(encoding.digest_info(hash_algorithm, digest), **arguments)
            )
        return lambda payload: bytes(key.sign(payload, **arguments))

    def _handle(self, group: pb.SignGroup) -> Any:
        session = self._token.open_session()
        if self._generation != self._token.generation or len(self._handles) > _HANDLES:
            self._handles.clear()
            self._generation = self._token.generation
        if group.serial and group.serial != self._token.serial:
            raise WrongTokenError(
                f"the key lies on the token with serial {group.serial}, but token "
                f"{self._token.name} has {self._token.serial}",
                token=self._token.name,
                serial=self._token.serial,
                expected=group.serial,
            )
        wanted = (group.object_id, group.public_key)
        handle = self._handles.get(wanted)
        if handle is None:
            try:
                handle = self._find(session, *wanted)
            except pkcs11.PKCS11Error as error:
                raise self._token.fault(error, "looking for a key") from error
            self._handles[wanted] = handle
        return handle

    def _find(self, session: pkcs11.Session, object_id: bytes, spki: bytes) -> pkcs11.Object:
        privates = keypairs.find(session, ObjectClass.PRIVATE_KEY, object_id)
        publics = keypairs.find(session, ObjectClass.PUBLIC_KEY, object_id)
        if len(privates) != 1 or not publics:
            if not self._token.answers():
                # A token that went away shows as an empty one.
                raise pkcs11.TokenNotPresent
            raise self._object_error(
                TokenObjectError,
                object_id,
                f"holds {len(privates)} private and {len(publics)} public keys with CKA_ID",
            )
        if not any(keypairs.public_key(obj)[1] == spki for obj in publics):
            raise self._object_error(
                WrongTokenError, object_id, "holds another public key than registered under CKA_ID"
            )
        if not hasattr(privates[0], "sign"):
            raise self._object_error(
                TokenObjectError, object_id, "does not allow signing (CKA_SIGN) with CKA_ID"
            )
        return privates[0]

    def _object_error(self, kind: type[TokenError], object_id: bytes, what: str) -> TokenError:
        name = self._token.name
        return kind(f"token {name} {what} {object_id.hex()}", token=name, object_id=object_id.hex())


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
