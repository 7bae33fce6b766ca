"""Collections in this process, and notary-servers that break off, move on or go back at a moment
of a test's choosing, in front of the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from keyd.adapters.notary import changes
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.server import NotaryServer
from keyd.errors import ServerGoneError
from tests.trust_stage import Stage

DIGESTS = {"sha256": b"\1" * 32}


def add(collection: Collection, *names: str) -> None:
    """Stage targets."""
    for name in names:
        collection.stage(changes.add("targets", name, 1, DIGESTS))


def begun(stage: Stage) -> str:
    """A collection that is published and signs nothing."""
    gun = stage.gun()
    with stage.collection(gun) as owner:
        owner.init(owner.ring.ensure("root"))
        owner.publish()
    return gun


class Interrupted(NotaryServer):
    """Calls ``before`` each upload, and ``after`` it."""

    def __init__(
        self,
        of: NotaryServer,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(of.web, of.gun)
        self._before, self._after = before, after

    def publish(self, files: Mapping[str, bytes]) -> None:
        """As the server does."""
        self._before()
        super().publish(files)
        self._after()


class Moving(NotaryServer):
    """Lets something happen before the first look at the timestamp."""

    def __init__(self, of: NotaryServer, happens: Callable[[], object]) -> None:
        super().__init__(of.web, of.gun)
        self._happens = once(happens)

    def find(self, name: str) -> bytes | None:
        """As the server does."""
        if name == "timestamp":
            self._happens()
        return super().find(name)


class Recorded(NotaryServer):
    """Serves what it saw when it was made."""

    def __init__(self, of: NotaryServer) -> None:
        super().__init__(of.web, of.gun)
        roles = ("root", "timestamp", "snapshot", "targets")
        self._files = {role: of.find(role) for role in roles}

    def find(self, name: str) -> bytes | None:
        """The old file."""
        return self._files.get(name.partition(".")[0]) if not name[0].isdigit() else None


def die() -> None:
    raise ServerGoneError("the connection broke")


def once(act: Callable[[], object]) -> Callable[[], None]:
    """Does it the first time only."""
    done: list[bool] = []

    def maybe() -> None:
        if not done:
            done.append(True)
            act()

    return maybe
