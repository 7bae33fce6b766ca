"""The calls of notary-server that a publisher needs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import quote

from keyd.adapters.notary import keyobjects
from keyd.adapters.notary.keyobjects import KeyObject
from keyd.adapters.notary.web import Answer, Web
from keyd.content import canonical
from keyd.errors import ConflictError, RepositoryError, ServerGoneError

_BOUNDARY_BYTES = 16


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
        answer = self._ask("POST", "", "push,pull", body=body, content_type=kind)
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
                hint="ask whoever runs it, or try again; nothing was changed",
                server=self.web.base_url,
            )
        raise RepositoryError(
            f"{self.gun}: the trust server refused it ({answer.status} {code}): {text}",
            gun=self.gun,
            code=code,
        )


def _error(answer: Answer) -> tuple[str, str]:
    """Code and text of the first error; whatever it is, it is read by people only."""
    try:
        first = json.loads(answer.body)["errors"][0]
        code, message = str(first.get("code", "")), str(first.get("message", ""))
        detail = first.get("detail")
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", answer.body[:200].decode(errors="replace").strip()
    told = json.dumps(detail, ensure_ascii=False)[:600] if detail else ""
    return code, f"{message} {told}".strip()
