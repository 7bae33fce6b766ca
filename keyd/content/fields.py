"""Members of a JSON object, taken out one by one, each with its type; what is left is unknown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from keyd.content.canonical import MAX_INTEGER, Json
from keyd.content.refusal import refuse
from keyd.errors import ContentError

_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(?:Z|([+-])(\d{2}):(\d{2}))", re.ASCII
)
_WHOLE_SECONDS = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)


class Fields:
    """One object of a document. Every method raises ContentError with the field's full name."""

    def __init__(self, value: Json, *where: str) -> None:
        """``where``: the names that lead here from the top of the document."""
        self._where = where
        if not isinstance(value, dict):
            raise self.wrong("must be an object")
        self._left = dict(value)

    def wrong(self, why: str, name: str = "") -> ContentError:
        """The error for a member of this object, or for the object itself."""
        path = (*self._where, name) if name else self._where
        return refuse("field", why, field=".".join(path) or "document")

    def has(self, name: str) -> bool:
        """True while a member of that name is left."""
        return name in self._left

    def take(self, name: str) -> Json:
        """The member as it is; it must exist."""
        if name not in self._left:
            raise self.wrong("is missing", name)
        return self._left.pop(name)

    def text(self, name: str) -> str:
        """A text."""
        value = self.take(name)
        if not isinstance(value, str):
            raise self.wrong("must be a text", name)
        return value

    def integer(self, name: str, least: int, most: int = MAX_INTEGER) -> int:
        """An integer within bounds; true and false are none."""
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            bounds = f"at least {least}" if most == MAX_INTEGER else f"{least} to {most}"
            raise self.wrong(f"must be an integer, {bounds}", name)
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.wrong("must be true or false", name)
        return value

    def object(self, name: str) -> Fields:
        """An object, to be taken apart in turn."""
        return Fields(self.take(name), *self._where, name)

    def texts(self, name: str, *, or_null: bool = False) -> tuple[str, ...]:
        """A list of texts. ``or_null``: null stands for an empty one, as Go writes it."""
        value = self.take(name)
        if value is None and or_null:
            return ()
        if not isinstance(value, list):
            raise self.wrong("must be a list of texts", name)
        found = tuple(item for item in value if isinstance(item, str))
        if len(found) != len(value):
            raise self.wrong("must be a list of texts", name)
        return found

    def objects(self, name: str, *, or_null: bool = False) -> list[Fields]:
        """A list of objects."""
        value = self.take(name)
        if value is None and or_null:
            return []
        if not isinstance(value, list):
            raise self.wrong("must be a list of objects", name)
        return [Fields(item, *self._where, name, str(n)) for n, item in enumerate(value)]

    def each(self) -> Iterator[tuple[str, Fields]]:
        """All members left, each an object; nothing is left afterwards."""
        left, self._left = self._left, {}
        for name, value in left.items():
            yield name, Fields(value, *self._where, name)

    def each_text(self) -> Iterator[tuple[str, str]]:
        """All members left, each a text; nothing is left afterwards."""
        for name in list(self._left):
            yield name, self.text(name)

    def rest(self) -> dict[str, Json]:
        """What nobody took."""
        return self._left


def whole_seconds(fields: Fields, name: str) -> tuple[datetime, str]:
    """A time as TUF writes it, ``YYYY-MM-DDTHH:MM:SSZ``, and its text."""
    text = fields.text(name)
    if not _WHOLE_SECONDS.fullmatch(text):
        raise fields.wrong("must be a time as in 2030-01-31T00:00:00Z", name)
    return _time(fields, name, text), text


def rfc3339(fields: Fields, name: str) -> tuple[datetime, str]:
    """A time as Go writes it (RFC 3339, up to nanoseconds), in UTC, and its text."""
    text = fields.text(name)
    return _time(fields, name, text), text


def _time(fields: Fields, name: str, text: str) -> datetime:
    found = _TIME.fullmatch(text)
    if not found:
        raise fields.wrong("must be a time as in 2030-01-31T00:00:00Z", name)
    seconds, fraction, sign, hours, minutes = found.groups()
    try:
        time = datetime.fromisoformat(seconds).replace(tzinfo=UTC)
        if sign:
            if int(hours) > 23 or int(minutes) > 59:
                raise ValueError
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            time = time - offset if sign == "+" else time + offset
    except (ValueError, OverflowError) as e:
        raise fields.wrong("is no time of any calendar", name) from e
    return time.replace(microsecond=int((fraction or "0")[:6].ljust(6, "0")))
