"""A ceremony that is killed wherever it can be: resumed it ends well, aborted it leaves no harm."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from keyd.adapters.tufrepo.ceremony import ORDER, Work
from keyd.adapters.tufrepo.ceremony_end import abort
from keyd.adapters.tufrepo.ceremony_plan import Addition, Plan, Rotation
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.repository import RoleKeys
from keyd.adapters.tufrepo.rotation import bind, signing_key
from keyd.adapters.tufrepo.settings import Settings
from keyd.client import Client
from keyd.errors import RepositoryError, ServerGoneError
from keyd.model import Ceremony, KeyAlgorithm, MarkState, Phase, VersionState
from tests.e2e import ceremony_child
from tests.e2e.daemon_process import DaemonProcess
from tests.tuf_repositories import ROLES, StockClient, file_key

pytestmark = pytest.mark.softhsm
TIMEOUT_S = 60.0
ROOT = Path(__file__).resolve().parents[2]
BOUNDARIES = [phase for phase in ORDER if phase not in (Phase.PLAN, Phase.ABORTED)]
OPEN = [phase for phase in ORDER if phase.is_open]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("d") / "d", forked=True) as running:
        yield running


@dataclass(frozen=True)
class Site:
    """A published repository with its keys on the token, and a client that was there from the
    start."""

    name: str
    path: Path
    keyd: Client
    client: StockClient

    def work(self) -> Work:
        return ceremony_child.open_work(self.keyd, self.path)

    def newest_root(self) -> Metadata[Root]:
        number = max(int(p.name.split(".")[0]) for p in self.path.glob("metadata/*.root.json"))
        return Metadata.from_file(str(self.path / f"metadata/{number}.root.json"))

    def start(self, *rotate: str) -> Ceremony:
        """Begin a rotation of the keys of these roles."""
        root = self.newest_root().signed
        rotations = [Rotation(r, f"{self.name}/{r}", root.roles[r].keyids[0]) for r in rotate]
        plan = Plan(self.name, root.version, rotate=tuple(rotations))
        return self.keyd.start_ceremony(self.name, plan.to_json(), reason="test")

    def versions(self, role: str) -> dict[int, VersionState]:
        return {v.number: v.state for v in self.keyd.get_key(f"{self.name}/{role}").versions}

    def phase(self) -> Phase:
        return self.keyd.list_ceremonies(self.name)[0].phase

    def check_clients(self) -> None:
        """A client that has seen everything, and a new one, both follow."""
        self.client.update()
        StockClient(self.client.state.with_name(f"new{time.monotonic_ns()}"), self.path).update()


@pytest.fixture
def site(daemon: DaemonProcess, tmp_path: Path) -> Iterator[Site]:
    with Client(daemon.endpoint, keep_checkpoints=False) as keyd:
        yield a_site(keyd, tmp_path)


def a_site(keyd: Client, tmp_path: Path) -> Site:
    name = f"site{time.monotonic_ns()}"
    path = tmp_path / "repo"
    path.mkdir()
    Settings(name).save(Folder(path))
    repository = ceremony_child.open_repository(keyd, path)
    roles = {}
    for role in ROLES:
        key = keyd.create_key(f"{name}/{role}", KeyAlgorithm.ECDSA_P256)
        bind(keyd, key, name, role)
        assert key.active is not None
        roles[role] = RoleKeys((signing_key(key, key.active),))
    repository.create(roles)
    made = Site(name, path, keyd, StockClient(tmp_path / "client", path))
    made.client.update()
    return made


def run_and_be_killed(site: Site, what: str, phase: Phase, when: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.e2e.ceremony_child", site.keyd.endpoint.target),
            *(str(site.path), what, phase.value, when),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == -9, f"{phase} {when}: {done.returncode}\n{done.stdout}{done.stderr}"


def test_a_ceremony_killed_before_and_after_every_phase_ends_as_if_nothing_had_happened(
    site: Site,
) -> None:
    site.start("root", "targets", "timestamp")

    for phase in BOUNDARIES:
        for when in ("before", "after"):
            run_and_be_killed(site, "resume", phase, when)
            site.check_clients()

    assert site.phase() is Phase.DONE
    assert site.newest_root().signed.version == 2
    for role in ("root", "targets", "timestamp"):
        assert site.versions(role) == {1: VersionState.DISABLED, 2: VersionState.ENABLED}
        assert site.keyd.get_key(f"{site.name}/{role}").active_version == 2
    assert site.versions("snapshot") == {1: VersionState.ENABLED}
    assert site.keyd.get_role(site.name, "root").state is MarkState.PUBLISHED
    assert list((site.path / "staged").iterdir()) == []


@pytest.mark.parametrize("phase", [p for p in OPEN if p is not Phase.RETIRE])
def test_a_ceremony_aborted_at_any_phase_leaves_a_repository_whose_next_ceremony_works(
    site: Site, phase: Phase
) -> None:
    before = {p.name: p.read_bytes() for p in (site.path / "metadata").iterdir()}
    site.start("root", "targets")
    site.work().resume(until=phase)
    assert site.phase() is phase

    aborted = abort(site.work(), reason="changed our minds")

    assert {p.name: p.read_bytes() for p in (site.path / "metadata").iterdir()} == before
    assert not list(site.path.glob("staged/*"))
    made = ORDER.index(phase) > ORDER.index(Phase.GENERATE)
    assert [line.split()[0] for line in aborted.stays if "staged" in line] == (
        [f"{site.name}/root/versions/2", f"{site.name}/targets/versions/2"] if made else []
    )
    site.start("root")
    outcome = site.work().resume()
    assert outcome.ceremony.phase is Phase.DONE
    assert list(site.versions("root")) == [1, 2], "the version that stayed was not used"
    assert site.newest_root().signed.version == 2
    site.check_clients()


def test_a_ceremony_whose_root_is_published_cannot_be_aborted_any_more(site: Site) -> None:
    site.start("targets")
    site.work().resume(until=Phase.RETIRE)

    with pytest.raises(RepositoryError, match="is published") as refused:
        abort(site.work(), reason="too late")

    assert "ceremony resume" in refused.value.hint
    assert site.work().resume().ceremony.phase is Phase.DONE


def test_a_draft_that_was_lost_with_its_folder_comes_back_from_the_daemon(site: Site) -> None:
    site.start("root", "targets")
    site.work().resume(until=Phase.SIGN)
    (site.path / "staged/2.root.json").unlink()

    assert site.work().resume().ceremony.phase is Phase.DONE
    assert site.newest_root().signed.version == 2
    site.check_clients()


def test_somebody_elses_draft_in_the_folder_is_left_alone(site: Site) -> None:
    site.start("root")
    site.work().resume(until=Phase.SIGN)
    path = site.path / "staged/2.root.json"
    other = Metadata[Root].from_file(str(path))
    other.signed.expires += timedelta(days=1)
    path.write_bytes(other.to_bytes())

    with pytest.raises(RepositoryError, match="is not the draft of this ceremony"):
        site.work().resume()
    abort(site.work(), reason="as it says")

    assert path.read_bytes() == other.to_bytes()


def test_an_abort_that_was_killed_is_finished_by_another_one(site: Site) -> None:
    site.start("targets")
    site.work().resume(until=Phase.CHECK)
    run_and_be_killed(site, "abort", Phase.ABORTED, "before")
    assert site.phase() is Phase.CHECK

    abort(site.work(), reason="again")

    assert site.phase() is Phase.ABORTED
    site.start("targets")
    assert site.work().resume().ceremony.phase is Phase.DONE
    site.check_clients()


def test_an_abort_killed_right_after_it_gave_the_draft_up_leaves_no_daemon_without_a_root(
    site: Site,
) -> None:
    site.start("targets")
    site.work().resume(until=Phase.CHECK)
    draft = site.keyd.get_role(site.name, "root")
    left = site.keyd.supersede_role(site.name, "root", draft.digest, reason="as abort does")
    assert left is not None
    assert left.version == 1

    abort(site.work(), reason="again")

    assert site.keyd.get_role(site.name, "root").version == 1
    site.start("targets")
    assert site.work().resume().ceremony.phase is Phase.DONE


class DaemonKiller(Client):
    """Kills the daemon just before it would learn that a phase is done."""

    victim: DaemonProcess
    phase: Phase | None = None

    def advance_ceremony(
        self,
        id: str,
        step: int,
        phase: Phase,
        *,
        facts: Mapping[str, str] | None = None,
        draft: bytes | None = None,
    ) -> Ceremony:
        if phase is self.phase:
            self.phase = None
            self.victim.kill()
            self._deadline_s = 0.3  # nobody answers: the call need not wait long to learn that
        return super().advance_ceremony(id, step, phase, facts=facts, draft=draft)


def test_a_daemon_killed_before_it_learns_of_any_phase_goes_on_from_there(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with (
        DaemonProcess(tmp_path / "d" / "d", forked=True) as daemon,
        contextlib.ExitStack() as stack,
    ):
        keyd = DaemonKiller(daemon.endpoint, keep_checkpoints=False)
        stack.callback(keyd.close)
        keyd.victim = daemon
        site = a_site(keyd, tmp_path)
        site.start("root", "targets")

        for phase in BOUNDARIES:
            keyd.phase = phase
            with pytest.raises(ServerGoneError):
                site.work().resume()
            keyd.close()  # the next call connects anew; this connection would wait longer each time
            daemon.start()
            keyd._deadline_s = TIMEOUT_S
            assert site.phase() is not phase, "the daemon learned of it after all"
            site.check_clients()
            site.work().resume(until=phase)
            assert site.phase() is phase

        for role in ("root", "targets"):
            assert site.versions(role) == {1: VersionState.DISABLED, 2: VersionState.ENABLED}
        assert site.newest_root().signed.version == 2
        site.check_clients()


def test_a_plan_whose_old_keys_cannot_sign_is_refused_before_anybody_signs_it(
    site: Site, tmp_path: Path
) -> None:
    keyid = site.newest_root().signed.roles["targets"].keyids[0]
    site.keyd.disable(f"{site.name}/targets", 1, reason="lost")
    plan = Plan(
        site.name,
        1,
        rotate=(Rotation("targets", f"{site.name}/targets", keyid),),
        add=(Addition("root", file_key(tmp_path / "keys", "bob").public),),
    )
    site.keyd.start_ceremony(site.name, plan.to_json())

    with pytest.raises(RepositoryError, match="old keys of targets cannot sign") as refused:
        site.work().resume()

    assert "--without-old" in refused.value.hint
    assert not list(site.path.glob("staged/*"))
    assert site.keyd.get_role(site.name, "root").version == 1
    assert abort(site.work(), reason="as it says").ceremony.phase is Phase.ABORTED
