"""From requests to plans: what a payload says, who may, with which version, in what form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from keyd import content, publickeys, rules
from keyd.content import Reading
from keyd.content.certificates import CertificateRequest
from keyd.content.describe import summary
from keyd.errors import AlgorithmMismatchError, KeydError
from keyd.gate import Gate
from keyd.model import (
    Action,
    AuditLog,
    Caller,
    ContentReader,
    Context,
    Registry,
    SignRequest,
    Statement,
    check_encoding,
)
from keyd.plan import Plan, Terms, check_open, choose_version, digest_to_sign, find_context
from keyd.proving import check_demands

_READ_AT_ONCE_BYTES = 16 * 1024
"""Payloads up to this, together, are read on the event loop: less than a millisecond."""

_OPAQUE = Statement()
_NO_CONTEXT = Context()
_DER_SEQUENCE = b"\x30"


@dataclass(frozen=True, slots=True)
class Refused:
    """An item for which there is no plan, and why."""

    key: str
    action: Action
    error: KeydError


class Planning:
    """Decides everything that can be decided before rules, people and tokens are asked."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        audit: AuditLog,
        read_content: ContentReader,
        workers: Executor,
    ) -> None:
        """``read_content``: names what keys without bindings are asked to sign; what bound keys
        sign is parsed. ``workers``: threads that read large payloads."""
        self._gate = gate
        self._registry = registry
        self._audit = audit
        self._read_content = read_content
        self._workers = workers

    async def read_all(
        self, caller: Caller, requests: Sequence[SignRequest | KeydError]
    ) -> list[Reading | Statement]:
        """What each payload says: a Reading for bound keys. Large ones are read on a worker
        thread, since reading must not hold up others; what comes from strangers to the key is
        refused whatever it says, unread."""
        readers = [self._reader(caller, request) for request in requests]
        size_bytes = sum(len(message) for _, message in readers)

        def read() -> list[Reading | Statement]:
            return [reader(m) if m else _OPAQUE for reader, m in readers]

        if size_bytes <= _READ_AT_ONCE_BYTES:
            return read()
        return await asyncio.get_running_loop().run_in_executor(self._workers, read)

    def plan(
        self,
        caller: Caller,
        place: int,
        request: SignRequest,
        found: Reading | Statement,
        before: Plan | None,
    ) -> Plan | Refused:
        """The plan of one item, or why there is none; decided once for neighbours (``before``:
        the last one) that differ only in what they sign."""
        reading, statement, action = self._understand(caller, request, found)
        try:
            if before is not None and before.covers(request, statement, action):
                terms = before.terms
            else:
                terms = self._terms(caller, request, statement, action, reading)
            digest = digest_to_sign(terms.key, terms.scheme, request)
        except KeydError as e:
            return Refused(request.key, action, e)
        return Plan(place, request, terms, digest, reading)

    def _reader(
        self, caller: Caller, request: SignRequest | KeydError
    ) -> tuple[Callable[[bytes], Reading | Statement], bytes]:
        if isinstance(request, KeydError) or request.message is None:
            return self._read_content, b""
        message = request.message
        bound = self._is_bound(request.key)
        stranger = self._gate.is_stranger(caller, Action.SIGN, request.key)
        if stranger and bound and message.startswith(_DER_SEQUENCE):
            stranger = self._gate.is_stranger(caller, Action.CERTIFY, request.key)
        return content.examine if bound else self._read_content, b"" if stranger else message

    def _is_bound(self, name: str) -> bool:
        key = self._registry.find(name)
        return key is not None and bool(key.bindings)

    def _understand(
        self, caller: Caller, request: SignRequest, found: Reading | Statement
    ) -> tuple[Reading | None, Statement, Action]:
        """What was read, in terms of the key as it is now."""
        if request.message is None or not self._is_bound(request.key):
            statement = found if isinstance(found, Statement) else found.statement
            return None, statement, Action.SIGN
        if isinstance(found, Statement):
            if self._gate.is_stranger(caller, Action.SIGN, request.key):
                return None, found, Action.SIGN  # unread, and refused next
            found = content.examine(request.message)  # the key was bound while it was read
        if isinstance(found.content, CertificateRequest):
            kind = Statement("certificate", summary=summary(found.content))
            return replace(found, statement=kind), kind, Action.CERTIFY
        return found, found.statement, Action.SIGN

    def _terms(
        self,
        caller: Caller,
        request: SignRequest,
        statement: Statement,
        action: Action,
        reading: Reading | None,
    ) -> Terms:
        key = self._registry.find(request.key)
        # The context may come from the bindings, and the policy shall see it: so it is worked out
        # first, but whether it fits is said only to those whom the policy lets in.
        context, misfit = find_context(key, request.context, statement)
        if action is Action.CERTIFY and request.context == _NO_CONTEXT:
            misfit = None  # a certificate says by its own name what it is for
        decision = self._gate.decide(caller, action, request.key, statement, context)
        key = self._gate.existing(request.key)
        if misfit is not None:
            raise misfit
        version = choose_version(key, request)
        check_open(version, self._registry.freeze_on(key.name))
        check_demands(version, self._gate.demands(caller, action, request.key, context))
        scheme = request.scheme or key.scheme
        publickeys.check_scheme(key.algorithm, scheme)
        try:
            encoding = check_encoding(key.algorithm, request.encoding)
        except AlgorithmMismatchError:
            # No encoding helps what this key never signs, such as a whole metadata file.
            if key.bindings:
                rules.read(reading, key, context)
            raise
        self._audit.check_signing_allowed(bound=bool(key.bindings))
        return Terms(
            action=action,
            key=key,
            version=version,
            scheme=scheme,
            encoding=encoding,
            statement=statement,
            context=context,
            decision=decision,
            policy_hash=self._gate.policy_hash,
            fingerprint=version.fingerprint,
            waits=bool(self._gate.requirements(caller, action, request.key, context)),
        )
