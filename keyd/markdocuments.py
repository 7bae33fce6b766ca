"""The documents behind marks: loaded and parsed once, and kept as long as there is room."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from concurrent.futures import Executor

from keyd.content import parse_document
from keyd.content.documents import Document
from keyd.errors import ContentError
from keyd.model import Marks

CACHE_BYTES = 16 * 1024 * 1024
"""Payloads whose documents are kept in memory; parsed they take some times more."""

_PARSE_AT_ONCE_BYTES = 16 * 1024


class MarkDocuments:
    """Documents by the SHA-256 of their payload, those used last; bounded by payload bytes."""

    def __init__(self, marks: Marks, workers: Executor | None, limit_bytes: int) -> None:
        self._marks = marks
        self._workers = workers
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._known: OrderedDict[bytes, tuple[Document, int]] = OrderedDict()

    def find(self, digest: bytes) -> Document | None:
        """The document, if it is in memory."""
        known = self._known.get(digest)
        if known is None:
            return None
        self._known.move_to_end(digest)
        return known[0]

    def put(self, digest: bytes, document: Document, size_bytes: int) -> None:
        """Keep a document, in the place of those not used for longest."""
        if digest in self._known:
            return
        self._known[digest] = (document, size_bytes)
        self._size_bytes += size_bytes
        while self._size_bytes > self._limit_bytes:
            _, (_, forgotten_bytes) = self._known.popitem(last=False)
            self._size_bytes -= forgotten_bytes

    async def load(self, repository: str, role: str) -> dict[bytes, Document | None]:
        """The documents behind a stored mark by digest; None where the mark has no bytes.

        Raises:
            ContentError: the bytes cannot be read any more.
        """
        before = self._marks.find_mark(repository, role)
        contents = await self._marks.load_contents(repository, role)
        found: dict[bytes, Document | None] = {}
        for payload in {contents.newest, contents.complete} - {b""}:
            digest = hashlib.sha256(payload).digest()
            document = self.find(digest)
            try:
                if document is None and len(payload) <= _PARSE_AT_ONCE_BYTES:
                    document = parse_document(payload)
                elif document is None:
                    loop = asyncio.get_running_loop()
                    document = await loop.run_in_executor(self._workers, parse_document, payload)
            except ContentError as e:
                raise ContentError(
                    f"what is stored of {repository}:{role} cannot be read: {e.message}",
                    hint=f"show what is published with: keydctl role import {repository}",
                    problem=e.facts.get("problem", ""),
                ) from e
            self.put(digest, document, len(payload))
            found[digest] = document
        if before is not None and before == self._marks.find_mark(repository, role):
            for marked in (before.newest, before.complete):
                if marked is not None:
                    found.setdefault(marked.digest, None)
        return found
