"""What a ceremony shall change in the root: kept by the daemon as canonical JSON.

    {"add":[{"key":{...},"keyid":"ab..","role":"root","uri":"keyd:acme/root-bob"}],
     "base":2,"drop":[{"keyid":"cd..","role":"root"}],"format":1,"keep_old":false,
     "repository":"acme",
     "rotate":[{"key":"acme/targets","keyid":"ef..","role":"targets"}],
     "thresholds":{"root":2}}

``base``: the published root it starts from. ``rotate``: a new version of the keyd key takes the
place of the keyid. ``add``: TUF key objects; ``uri`` is empty for a key of somebody else.
``keep_old``: old versions stay enabled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from securesystemslib.signer import Key as TufKey
from tuf.api.metadata import Root

from keyd.adapters.tufrepo import edits
from keyd.content import canonical
from keyd.content.canonical import Json
from keyd.content.fields import Fields
from keyd.errors import ContentError, RepositoryError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Rotation:
    """``key``: name of the keyd key; ``keyid``: of the version that goes."""

    role: str
    key: str
    keyid: str


@dataclass(frozen=True, slots=True)
class Addition:
    """A key that joins a role."""

    role: str
    public: TufKey
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Removal:
    """A key that leaves a role."""

    role: str
    keyid: str


@dataclass(frozen=True, slots=True)
class Plan:
    """See the module. ``thresholds``: role -> number of signatures."""

    repository: str
    base: int
    rotate: tuple[Rotation, ...] = ()
    add: tuple[Addition, ...] = ()
    drop: tuple[Removal, ...] = ()
    thresholds: Mapping[str, int] = field(default_factory=dict)
    keep_old: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles it touches, in the usual order."""
        return tuple(role for role in edits.TOP_LEVEL if role in self._named())

    def _named(self) -> set[str]:
        return {
            *(each.role for each in self.rotate),
            *(each.role for each in self.add),
            *(each.role for each in self.drop),
            *self.thresholds,
        }

    def check_roles(self) -> None:
        """Refuse roles that no root has.

        Raises:
            RepositoryError: naming it; or the plan changes nothing.
        """
        unknown = self._named() - set(edits.TOP_LEVEL)
        if unknown or not self._named():
            raise RepositoryError(
                f"{', '.join(sorted(unknown))}: a root has the roles {', '.join(edits.TOP_LEVEL)}"
                if unknown
                else "the plan changes nothing"
            )

    def edit(self, root: Root, successors: Sequence[TufKey]) -> None:
        """Change a root. ``successors``: the new key of each of ``rotate``, in its order.

        Raises:
            RepositoryError: a keyid is not there, or a threshold does not fit.
        """
        for role in self.roles:
            kept = {key.keyid: key for key in edits.role_keys(root, role)}
            new: dict[str, TufKey] = {}
            coming = dict(zip(self.rotate, successors, strict=True))
            going = {r.keyid: coming[r] for r in self.rotate if r.role == role}
            leaving = {r.keyid for r in self.drop if r.role == role}
            for keyid in (*going, *leaving):
                if keyid not in kept:
                    raise RepositoryError(f"{keyid} is no key of {role}", role=role)
            for keyid, key in kept.items():
                if keyid not in leaving:
                    successor = going.get(keyid, key)
                    new[successor.keyid] = successor
            for addition in self.add:
                if addition.role == role:
                    new[addition.public.keyid] = addition.public
            edits.set_role_keys(root, role, new.values(), self.thresholds.get(role, 0))

    def lines(self, who: Callable[[str], str]) -> list[str]:
        """The plan for people. ``who``: what to call a keyid."""
        lines = [
            f"rotate {r.role}: a new version of {r.key} for {who(r.keyid)}" for r in self.rotate
        ]
        lines += [f"add to {a.role}: {a.uri or who(a.public.keyid)}" for a in self.add]
        lines += [f"drop from {d.role}: {who(d.keyid)}" for d in self.drop]
        return lines + [f"{role}: threshold {n}" for role, n in sorted(self.thresholds.items())]

    def to_json(self) -> str:
        """Canonical JSON."""
        value: Json = {
            "add": [
                {
                    "key": a.public.to_dict(),
                    "keyid": a.public.keyid,
                    "role": a.role,
                    "uri": a.uri,
                }
                for a in self.add
            ],
            "base": self.base,
            "drop": [{"keyid": d.keyid, "role": d.role} for d in self.drop],
            "format": FORMAT,
            "keep_old": self.keep_old,
            "repository": self.repository,
            "rotate": [{"key": r.key, "keyid": r.keyid, "role": r.role} for r in self.rotate],
            "thresholds": dict(self.thresholds),
        }
        return canonical.encode(value).decode()


def read_plan(text: str) -> Plan:
    """Read a plan back.

    Raises:
        RepositoryError: it is none, or one of a newer keydctl.
    """
    try:
        fields = Fields(canonical.decode(text.encode()))
        if fields.integer("format", 1) != FORMAT:
            raise RepositoryError("this ceremony was begun by a newer keydctl: go on with that one")
        thresholds = fields.object("thresholds")
        plan = Plan(
            repository=fields.text("repository"),
            base=fields.integer("base", 1),
            rotate=tuple(
                Rotation(each.text("role"), each.text("key"), each.text("keyid"))
                for each in fields.objects("rotate")
            ),
            add=tuple(_to_addition(each) for each in fields.objects("add")),
            drop=tuple(
                Removal(each.text("role"), each.text("keyid")) for each in fields.objects("drop")
            ),
            thresholds={role: thresholds.integer(role, 1) for role in list(thresholds.rest())},
            keep_old=fields.boolean("keep_old"),
        )
    except (ContentError, ValueError, KeyError, TypeError) as e:
        raise RepositoryError(f"the ceremony's plan cannot be read: {e}") from e
    plan.check_roles()
    return plan


def _to_addition(fields: Fields) -> Addition:
    keyid = fields.text("keyid")
    key = fields.take("key")
    if not isinstance(key, dict):
        raise fields.wrong("must be a key object", "key")
    return Addition(fields.text("role"), TufKey.from_dict(keyid, dict(key)), fields.text("uri"))
