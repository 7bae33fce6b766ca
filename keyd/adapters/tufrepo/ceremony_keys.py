"""The keys of a ceremony: made before the draft, put into use and out of use after it is published.

Facts ``new 0``, ``new 1``, ...: KEY/versions/N, the new version of each rotation of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from securesystemslib.signer import Key as TufKey
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root

from keyd.adapters.tuf import public_key_der, tuf_key
from keyd.adapters.tufrepo import rotation
from keyd.adapters.tufrepo.ceremony_draft import named_keys
from keyd.adapters.tufrepo.ceremony_plan import Plan, Rotation
from keyd.adapters.tufrepo.keyring import SigningKey
from keyd.adapters.tufrepo.published import Published
from keyd.adapters.uri import SCHEME, KeydUri
from keyd.errors import KeyNotFoundError, RepositoryError
from keyd.model import Key, KeyVersion, VersionState

if TYPE_CHECKING:
    from keyd.client import Client


@dataclass(frozen=True, slots=True)
class Keys:
    """The daemon's keys that a plan is about. ``base``: the root the plan starts from."""

    client: Client
    plan: Plan
    base: Root

    def generate(self) -> dict[str, str]:
        """Make a new version for each rotation, bind what joins, and say what was made: facts.

        A version that waits already is taken, be it of a run that was killed or of a ceremony that
        was aborted; RotateKey's ``expected_newest`` keeps two runs from making two.
        """
        repository = self.plan.repository
        for addition in self.plan.add:
            name = _held_here(addition.uri)
            if name:
                held = self.client.get_key(name)
                rotation.bind(self.client, held, repository, addition.role)
        facts = {}
        for number, each in enumerate(self.plan.rotate):
            held = self.client.get_key(each.key)
            rotation.bind(self.client, held, repository, each.role)
            facts[f"new {number}"] = self._successor(held, each.role).name
        return facts

    def _successor(self, held: Key, role: str) -> KeyVersion:
        listed = _ders(self.base.keys[keyid] for keyid in self.base.roles[role].keyids)
        newest = rotation.find_newest_enabled(held)
        if newest is None or newest.public_key in listed:
            last = held.versions[-1].number
            reason = f"ceremony: rotation of {role}"
            held = self.client.rotate(held.name, expected_newest=last, reason=reason)
            newest = rotation.find_newest_enabled(held)
        if newest is None:
            raise RepositoryError(
                f"no version of {held.name} is enabled", hint=f"keydctl key show {held.name}"
            )
        return newest

    def new_keys(self, facts: Mapping[str, str]) -> list[SigningKey]:
        """The new key of each rotation, as it shall stand in the root."""
        found = []
        for _, name in generated(self.plan, facts):
            held, version = self._get(name)
            public = tuf_key(version.public_key, held.scheme)
            found.append(SigningKey(public, str(KeydUri(held.name))))
        return found

    def activate(self, facts: Mapping[str, str]) -> None:
        """Let the new versions sign by default."""
        for _, name in generated(self.plan, facts):
            held, version = self._get(name)
            if held.active_version < version.number:
                self.client.activate(held.name, version.number, reason="ceremony: published")

    def disable_old(self, published: Published) -> list[str]:
        """Disable what the plan took out and nothing published names; say what was done, and what
        stays enabled why."""
        named = named_keys(published)
        notes = []
        gone = [each.keyid for each in self.plan.rotate] + [each.keyid for each in self.plan.drop]
        for public_key in _ders(self.base.keys[keyid] for keyid in dict.fromkeys(gone)):
            pairs = ((k, k.find_public_key(public_key)) for k in self.client.list_keys())
            held, version = next(((k, v) for k, v in pairs if v is not None), (None, None))
            if held is None or version is None or version.state is not VersionState.ENABLED:
                continue
            others = {b for b in held.bindings if b.repository != self.plan.repository}
            if public_key in named:
                notes.append(f"{version.name} stays enabled: published roles still name it")
            elif others:
                bound = ", ".join(str(b) for b in sorted(others))
                notes.append(f"{version.name} stays enabled: its key is bound to {bound} too")
            else:
                reason = "ceremony: no published root names it"
                self.client.disable(held.name, version.number, reason=reason)
                notes.append(f"disabled {version.name}: nothing published names it any more")
        return notes

    def can_sign(self, signers: Mapping[str, str]) -> Callable[[TufKey], bool]:
        """Whether a key is within reach. ``signers``: keyid -> URI, for keys held elsewhere."""
        enabled = {
            version.public_key
            for held in self.client.list_keys()
            for version in held.versions
            if version.state is VersionState.ENABLED
        }

        def answer(key: TufKey) -> bool:
            uri = signers.get(key.keyid, "")
            elsewhere = bool(uri) and not _held_here(uri)
            return elsewhere or any(der in enabled for der in _ders([key]))

        return answer

    def names(self) -> frozenset[str]:
        """Of the daemon's keys that the plan touches."""
        gone = _ders(self.base.keys[d.keyid] for d in self.plan.drop if d.keyid in self.base.keys)
        named = {each.key for each in self.plan.rotate}
        named |= {name for each in self.plan.add if (name := _held_here(each.uri))}
        held = self.client.list_keys() if gone else ()
        named |= {key.name for key in held if any(key.find_public_key(der) for der in gone)}
        return frozenset(named)

    def _get(self, name: str) -> tuple[Key, KeyVersion]:
        key, _, number = name.rpartition("/versions/")
        held = self.client.get_key(key)
        version = held.find_version(int(number))
        if version is None:
            raise KeyNotFoundError(f"{name} is gone", key=key)
        return held, version


def generated(plan: Plan, facts: Mapping[str, str]) -> list[tuple[Rotation, str]]:
    """The new versions made so far: of which rotation, and KEY/versions/N."""
    found = [(each, facts.get(f"new {n}", "")) for n, each in enumerate(plan.rotate)]
    return [(each, name) for each, name in found if name]


def _held_here(uri: str) -> str:
    """The name of a key of this daemon, or empty for anything else."""
    if not uri.startswith(f"{SCHEME}:"):
        return ""
    parsed = KeydUri.parse(uri)
    return "" if parsed.endpoint or parsed.profile else parsed.key


def _ders(keys: Iterable[TufKey]) -> list[bytes]:
    return [public_key_der(key) for key in keys if isinstance(key, SSlibKey)]
