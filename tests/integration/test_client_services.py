"""The client's calls of RoleService and CeremonyService: what is sent, and what is read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keyd.client import AcceptedLoss, Client, MarkState, Phase, Role, RoleFile, RoleSigner
from keyd.errors import KeydError
from keyd.v1 import ceremonies_pb2, roles_pb2
from tests.scripted_daemon import NOW, ScriptedDaemon

LATER = datetime(2027, 1, 1, tzinfo=UTC)


def a_role(role: str = "root") -> roles_pb2.Role:
    made = roles_pb2.Role(
        repository="acme",
        role=role,
        version=2,
        state=roles_pb2.ROLE_STATE_SIGNED,
        digest=b"d" * 32,
        dialect="tuf",
        missing=1,
        reissued=3,
        keys=["acme/root"],
        content=b"{}",
    )
    made.signers.add(identity="ab", key_version="acme/root/versions/1")
    made.expires.FromDatetime(LATER)
    made.signed_at.FromDatetime(NOW)
    return made


def a_ceremony(step: int = 1) -> ceremonies_pb2.Ceremony:
    made = ceremonies_pb2.Ceremony(
        id="ce-1",
        repository="acme",
        phase=ceremonies_pb2.CEREMONY_PHASE_STAGE,
        plan="{}",
        started_by="socket:admin",
        reason="yearly",
        draft=b"draft",
        facts={"root": "acme/root/versions/2"},
        step=step,
    )
    made.started_at.FromDatetime(NOW)
    made.changed_at.FromDatetime(NOW)
    return made


class Services(ScriptedDaemon):
    """Answers every call of the two services with something to read. ``state``: of listed
    roles."""

    state: Any = roles_pb2.ROLE_STATE_SIGNED

    def list_roles(self, r: Any) -> Any:
        found = [a_role(), a_role("targets")]
        for role in found:
            role.state = self.state
        return roles_pb2.ListRolesResponse(roles=found)

    def get_role(self, r: Any) -> Any:
        made = a_role()
        made.complete_version = 1
        made.complete_expires.FromDatetime(NOW)
        made.complete_published = True
        return made

    def import_role(self, r: Any) -> Any:
        return roles_pb2.ImportRoleResponse(roles=[a_role()], notes=["root v1 is old"])

    def advance_role(self, r: Any) -> Any:
        return roles_pb2.AdvanceRoleResponse(roles=[a_role()])

    def supersede_role(self, r: Any) -> Any:
        return a_role()

    def reset_role(self, r: Any) -> Any:
        return roles_pb2.ResetRoleResponse()

    def accept_loss(self, r: Any) -> Any:
        return roles_pb2.AcceptLossResponse(loss="entries 5 to 9", origin="new", log_index=5)

    def start_ceremony(self, r: Any) -> Any:
        return a_ceremony()

    def get_ceremony(self, r: Any) -> Any:
        return a_ceremony()

    def list_ceremonies(self, r: Any) -> Any:
        return ceremonies_pb2.ListCeremoniesResponse(ceremonies=[a_ceremony()])

    def advance_ceremony(self, r: Any) -> Any:
        return a_ceremony(r.step + 1)

    def abort_ceremony(self, r: Any) -> Any:
        return a_ceremony()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path) as started:
        yield started


@pytest.fixture
def client(daemon: Services, tmp_path: Path) -> Iterator[Client]:
    with Client(daemon.endpoint, checkpoints=tmp_path / "kept") as made:
        yield made


def test_roles_are_read_whole(daemon: Services, client: Client) -> None:
    listed = list(client.list_roles("acme", expiring_within_s=60))
    got = client.get_role("acme", "root")

    assert [r.role for r in listed] == ["root", "targets"]
    assert listed[0].complete_expires is None
    assert got == Role(
        repository="acme",
        role="root",
        version=2,
        state=MarkState.SIGNED,
        digest=b"d" * 32,
        dialect="tuf",
        expires=LATER,
        signed_at=NOW,
        signers=(RoleSigner("ab", "acme/root/versions/1"),),
        missing=1,
        reissued=3,
        complete_version=1,
        complete_expires=NOW,
        complete_published=True,
        content=b"{}",
        keys=("acme/root",),
    )
    assert daemon.requests["ListRoles"].repository == "acme"
    assert daemon.requests["ListRoles"].expiring_within_s == 60


def test_roles_are_changed_with_what_was_said(daemon: Services, client: Client) -> None:
    files = [RoleFile("root", b"2"), RoleFile("targets", b"t")]

    shown = client.import_role("acme", b"1", files, reason="take over", dry_run=True)
    moved = client.advance_role("acme", files, published=True)
    client.supersede_role("acme", "root", b"d" * 32, reason="wrong key")
    assert client.reset_role("acme", "root", b"d" * 32, reason="anew") is None
    loss = client.accept_loss(reason="restored")

    assert ([r.role for r in shown.roles], shown.notes) == (["root"], ("root v1 is old",))
    assert ([r.role for r in moved.roles], moved.notes) == (["root"], ())
    sent = daemon.requests["ImportRole"]
    assert (sent.trusted_root, sent.reason, sent.dry_run) == (b"1", "take over", True)
    assert [(f.role, f.content) for f in sent.files] == [("root", b"2"), ("targets", b"t")]
    assert daemon.requests["AdvanceRole"].published
    assert daemon.requests["SupersedeRole"].digest == b"d" * 32
    assert daemon.requests["ResetRole"].reason == "anew"
    assert loss == AcceptedLoss("entries 5 to 9", "new", 5)


def test_ceremonies_go_on_from_the_step_that_was_seen(daemon: Services, client: Client) -> None:
    started = client.start_ceremony("acme", "{}", reason="yearly")
    client.advance_ceremony(started.id, started.step, Phase.SIGN, facts={"a": "b"}, draft=b"x")
    with_draft = daemon.requests["AdvanceCeremony"]
    client.advance_ceremony(started.id, 2, Phase.CHECK)
    without = daemon.requests["AdvanceCeremony"]
    client.abort_ceremony(started.id, reason="not now")

    assert (started.phase, started.said, started.draft) == (Phase.STAGE, "yearly", b"draft")
    assert started.facts == {"root": "acme/root/versions/2"}
    assert with_draft.phase == ceremonies_pb2.CEREMONY_PHASE_SIGN
    assert (with_draft.step, dict(with_draft.facts)) == (1, {"a": "b"})
    assert (with_draft.draft, with_draft.set_draft) == (b"x", True)
    assert without.set_draft is False
    assert client.get_ceremony("ce-1") == client.list_ceremonies("acme", open=True)[0]
    assert daemon.requests["AbortCeremony"].reason == "not now"


def test_a_state_of_a_newer_daemon_is_not_guessed_at(daemon: Services, client: Client) -> None:
    daemon.state = 9

    with pytest.raises(KeydError, match="role state") as caught:
        list(client.list_roles())

    assert "the daemon may be newer than this client" in caught.value.hint
