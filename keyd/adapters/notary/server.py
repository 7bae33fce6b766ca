"""The calls of notary-server that a publisher needs."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import quote

from keyd.adapters.notary import keyobjects
from keyd.adapters.notary.answers import Answer
from keyd.adapters.notary.keyobjects import KeyObject
from keyd.adapters.notary.web import Web
from keyd.content import canonical
from keyd.errors import ConflictError, RepositoryError, ServerGoneError

_BOUNDARY_BYTES = 16
_SIGNER = re.compile(r"rpc error: code = (?P<code>\w+) desc = (?P<text>.*?)\"?}*$", re.DOTALL)
_TRANSIENT = ("Unavailable", "DeadlineExceeded", "ResourceExhausted")


class NotaryServer:
    """One collection on one server."""

    def __init__(self, web: Web, gun: str) -> None:
        self.gun = gun
        self.web = web
        self._base = f"/v2/{quote(gun, safe='/:')}/_trust/tuf/"

    def find(self, name: str) -> bytes | None:
        """A file: ``ROLE``, ``ROLE.HASH`` or ``N.ROLE``, without ``.json``; None if there is none.

        Raises:
            ServerGoneError, PolicyDeniedError: see :meth:`Web.ask`.
            RepositoryError: the server fails.
        """
        answer = self._ask("GET", f"{name}.json", "pull")
        if answer.status == 404:
            return None
        if answer.status != 200:
            self._fail(answer)
        return answer.body

    def key(self, role: str) -> KeyObject:
        """The server's own key for snapshot or timestamp; it makes one where there is none."""
        return self._key("GET", role, "push,pull")

    def new_key(self, role: str) -> KeyObject:
        """A new key of the server, which counts once a root names it."""
        return self._key("POST", role, "*")

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Send metadata files, role -> content; all are taken, or none.

        Raises:
            ConflictError: another publisher was first.
            ServerGoneError: no answer, and then it may have taken them; or its signer or its
                database fails, and then it has not.
            RepositoryError: the server refuses them, with its reason.
        """
        boundary = secrets.token_hex(_BOUNDARY_BYTES)
        parts = []
        for role, content in files.items():
            head = (
                f"--{boundary}\r\n"
                f'Content-Disposition: form-data; name="files"; filename="{role}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n"
            )
            parts += [head.encode(), content, b"\r\n"]
        body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
        kind = f"multipart/form-data; boundary={boundary}"
        try:
            answer = self._ask("POST", "", "push,pull", body=body, content_type=kind)
        except ServerGoneError as e:
            if "certificate" not in e.facts:
                e.hint = (
                    "it may have taken what was sent: check that it runs, then run the same "
                    "command again, which goes on from what is there"
                )
            raise
        if answer.status != 200:
            self._fail(answer)

    def delete(self) -> None:
        """Delete the collection with all its versions."""
        answer = self._ask("DELETE", "", "*")
        if answer.status not in (200, 404):
            self._fail(answer)

    def _key(self, method: str, role: str, actions: str) -> KeyObject:
        body = b"" if method == "POST" else None
        answer = self._ask(method, f"{role}.key", actions, body=body)
        if answer.status != 200:
            self._fail(answer)
        return keyobjects.of_value(canonical.load(answer.body))

    def _ask(
        self,
        method: str,
        name: str,
        actions: str,
        *,
        body: bytes | None = None,
        content_type: str = "",
    ) -> Answer:
        return self.web.ask(
            method,
            self._base + quote(name, safe="/"),
            body=body,
            headers={"Content-Type": content_type} if content_type else {},
            scope=f"repository:{self.gun}:{actions}",
        )

    def _fail(self, answer: Answer) -> NoReturn:
        code, text = _error(answer)
        if code == "VERSION":
            raise ConflictError(
                f"{self.gun}: somebody else has published this version, or a later one",
                gun=self.gun,
            )
        if answer.status >= 500:
            raise ServerGoneError(
                f"the trust server failed ({answer.status}): {text}",
                hint="ask whoever runs it how its signer and its database are; when they are "
                "back, run the same command again: what is staged and signed is kept",
                server=self.web.base_url,
            )
        if code == "INVALID_UPDATE":
            self._fail_behind(text)
        raise RepositoryError(
            f"{self.gun}: the trust server refused it ({answer.status} {code}): {text}",
            gun=self.gun,
            code=code,
        )

    def _fail_behind(self, text: str) -> None:
        """notary-server calls an upload invalid also where its signer or its store fails: the
        signer's words are in the text then, and nothing at all is for the store.

        Raises:
            ServerGoneError: that is what happened.
        """
        told = _SIGNER.search(text)
        if told is None and "{" in text:
            return
        if told is not None and told["code"] not in _TRANSIENT:
            return
        what = f"its signer says: {told['text']}" if told else f"its database failed ({text})"
        raise ServerGoneError(
            f"{self.gun}: the trust server could not sign or store it; {what}",
            hint="nothing was published; ask whoever runs it, and when that works again, run the "
            "same command: what is staged and signed is kept",
            server=self.web.base_url,
        )


def _error(answer: Answer) -> tuple[str, str]:
    """Code and text of the first error; whatever it is, it is read by people only."""
    try:
        first = json.loads(answer.body)["errors"][0]
        code, message = str(first.get("code", "")), str(first.get("message", ""))
        detail = first.get("detail")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", answer.body[:200].decode(errors="replace").strip()
    told = json.dumps(detail, ensure_ascii=False)[:600] if detail else ""
    return code, f"{message} {told}".strip()
