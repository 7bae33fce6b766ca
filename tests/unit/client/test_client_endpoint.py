"""Finding the daemon, and client.toml."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyd.client.endpoint import Endpoint, find_endpoint, parse_target
from keyd.client.profiles import Tls, load_profiles
from keyd.errors import ConfigError, KeydError, ServerGoneError


class Machine:
    """A home, a runtime folder and a system folder of our own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            "HOME": str(folder / "home"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
        }
        self.system_socket = folder / "system" / "keyd.sock"
        self.user_socket = folder / "run" / "keyd-server" / "keyd.sock"
        self.system_profiles = folder / "etc" / "client.toml"
        self.user_profiles = folder / "home" / ".config" / "keyd" / "client.toml"

    def find(self, endpoint: str = "", profile: str = "", **environ: str) -> Endpoint:
        return find_endpoint(
            endpoint,
            profile,
            environ={**self.environ, **environ},
            system_socket=self.system_socket,
            system_profiles=self.system_profiles,
        )

    def write(self, file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def listen(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not tmp_path: a socket's path has room for 107 bytes.
    with tempfile.TemporaryDirectory(prefix="keyd-") as folder:
        yield Machine(Path(folder))


REMOTE = """
[profile.office]
endpoint = "dns:keyd.example:7443"
ca = "ca.pem"
cert = "/abs/me.pem"
key = "me.key"
deadline_s = 7
"""


def test_everything_named_wins_over_what_is_found_in_order(machine: Machine) -> None:
    machine.listen(machine.user_socket)
    machine.listen(machine.system_socket)
    machine.write(
        machine.user_profiles,
        'default = "a"\n[profile.a]\nendpoint = "unix:/a"\n[profile.b]\nendpoint = "unix:/b"\n'
        '[profile.c]\nendpoint = "unix:/c"\n',
    )

    found = [
        machine.find("unix:/given", KEYD_ENDPOINT="unix:/env"),
        machine.find(profile="c", KEYD_ENDPOINT="unix:/env"),
        machine.find(KEYD_ENDPOINT="unix:/env", KEYD_PROFILE="b"),
        machine.find(KEYD_PROFILE="b"),
        machine.find(),
    ]

    assert [(e.target, e.source) for e in found] == [
        ("unix:/given", "--endpoint"),
        ("unix:/c", "profile c"),
        ("unix:/env", "KEYD_ENDPOINT"),
        ("unix:/b", "profile b"),
        ("unix:/a", "default profile a"),
    ]


def test_of_two_sockets_the_users_own_is_taken(machine: Machine) -> None:
    machine.listen(machine.system_socket)
    only_system = machine.find()
    machine.listen(machine.user_socket)
    both = machine.find()

    assert (only_system.target, only_system.source) == (
        f"unix:{machine.system_socket}",
        "system socket",
    )
    assert (both.target, both.source) == (f"unix:{machine.user_socket}", "user socket")


def test_without_any_socket_the_error_says_where_was_looked(machine: Machine) -> None:
    with pytest.raises(ServerGoneError) as e:
        machine.find()

    assert str(machine.user_socket) in e.value.message
    assert str(machine.system_socket) in e.value.message
    assert "--endpoint" in e.value.hint


def test_a_plain_file_at_the_sockets_place_is_no_socket(machine: Machine) -> None:
    machine.write(machine.user_socket, "")

    with pytest.raises(ServerGoneError):
        machine.find()


def test_a_profile_brings_tls_and_deadline_with_paths_from_its_folder(machine: Machine) -> None:
    machine.write(machine.user_profiles, REMOTE)

    found = machine.find(profile="office")

    folder = machine.user_profiles.parent
    assert found.tls == Tls(folder / "ca.pem", Path("/abs/me.pem"), folder / "me.key")
    assert found.deadline_s == 7


def test_an_endpoint_given_by_hand_uses_the_certificates_of_its_profile(machine: Machine) -> None:
    machine.write(machine.user_profiles, REMOTE)

    found = machine.find("dns:keyd.example:7443")

    assert found.tls is not None
    assert found.source == "--endpoint"


def test_the_environment_brings_certificates_or_says_which_is_missing(machine: Machine) -> None:
    files = {"KEYD_CA": "/ca", "KEYD_CERT": "/cert", "KEYD_KEY": "/key"}
    found = machine.find("dns:keyd.example:1", **files)
    with pytest.raises(ConfigError) as incomplete:
        machine.find("dns:keyd.example:1", KEYD_CA="/ca")
    with pytest.raises(ConfigError) as none:
        machine.find("dns:keyd.example:1")

    assert found.tls == Tls(Path("/ca"), Path("/cert"), Path("/key"))
    assert "KEYD_CERT, KEYD_KEY is not set" in incomplete.value.message
    assert "needs TLS" in none.value.message
    assert "client.toml" in none.value.hint


def test_the_users_profiles_win_over_the_systems(machine: Machine) -> None:
    machine.write(
        machine.system_profiles,
        'default = "a"\n[profile.a]\nendpoint = "unix:/sys"\n[profile.b]\nendpoint = "unix:/b"\n',
    )
    machine.write(machine.user_profiles, '[profile.a]\nendpoint = "unix:/mine"\n')

    assert machine.find().target == "unix:/mine"
    assert machine.find(profile="b").target == "unix:/b"


def test_an_unknown_profile_names_the_nearest_and_all(machine: Machine) -> None:
    machine.write(machine.user_profiles, '[profile.office]\nendpoint = "unix:/x"\n')

    with pytest.raises(ConfigError) as e:
        machine.find(profile="offcie")

    assert "no profile 'offcie' (--profile)" in e.value.message
    assert "did you mean 'office'?" in e.value.message
    assert e.value.hint == "known profiles: office"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[profile.a]\nendpont = "unix:/x"\n', 2, "unknown setting 'endpont'; did you mean 'endpo"),
        ('defualt = "a"\n', 1, "did you mean 'default'?"),
        ("[profile.a]\n", 1, "has no endpoint"),
        ('[profile.a]\nendpoint = "unix:/x"\ndeadline_s = "1"\n', 3, "number of seconds"),
        ('[profile.a]\nendpoint = "unix:/x"\nca = "x"\n', 1, "cert, key is missing"),
        ("[profile.a]\nendpoint = 7\n", 2, "text in quotes"),
        ('[profile]\na = "unix:/x"\n', 2, "is a table"),
        ("= \n", 1, "not valid TOML"),
    ],
)
def test_a_mistake_in_client_toml_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    file = tmp_path / "client.toml"
    file.write_text(text)

    with pytest.raises(ConfigError) as e:
        load_profiles([file])

    assert f"client.toml:{line}: " in e.value.message
    assert said in e.value.message


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("unix:/run/keyd.sock", "unix:/run/keyd.sock"),
        ("unix:///run/keyd.sock", "unix:/run/keyd.sock"),
        ("unix:keyd.sock", f"unix:{Path.cwd()}/keyd.sock"),
        ("dns:keyd.example:7443", "dns:keyd.example:7443"),
        ("dns:///keyd.example:7443", "dns:keyd.example:7443"),
        ("dns:[::1]:7443", "dns:[::1]:7443"),
    ],
)
def test_endpoints_are_read_as_grpc_writes_them(text: str, target: str) -> None:
    assert parse_target(text, "test") == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "dns:host",
        "dns::7443",
        "dns:host:0",
        "dns:host:65536",
        "dns:host:x",
        "dns:host:٣",
        "http://host:1",
        "host:7443",
        "/run/keyd.sock",
        f"unix:/{'x' * 120}",
    ],
)
def test_what_is_no_endpoint_is_refused_with_its_source(text: str) -> None:
    with pytest.raises(KeydError) as e:
        parse_target(text, "KEYD_ENDPOINT")

    assert "KEYD_ENDPOINT" in e.value.message


@contextmanager
def unreadable(file: Path) -> Iterator[None]:
    """Run as a user who may not read the file; the superuser reads everything."""
    file.chmod(0)
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if as_root:
            os.seteuid(0)


def test_a_system_client_toml_one_may_not_read_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "etc.toml"
    shared.write_text("default = 'office'\n")

    with caplog.at_level(logging.WARNING), unreadable(shared):
        found = load_profiles([shared, Path("/nowhere/client.toml")])

    assert (found.by_name, found.default) == ({}, "")
    assert f"going on without {shared}" in caplog.text
    assert f"{shared} (not readable)" in found.files


def test_ones_own_client_toml_has_to_be_readable(tmp_path: Path) -> None:
    own = tmp_path / "client.toml"
    own.write_text("default = 'office'\n")

    with unreadable(own), pytest.raises(ConfigError, match="cannot read"):
        load_profiles([Path("/nowhere/client.toml"), own])


def test_a_host_and_port_without_a_kind_get_the_right_hint() -> None:
    for text, meant in (("localhost:7443", "dns:localhost:7443"), ("/run/x", "unix:/run/x")):
        with pytest.raises(ConfigError) as caught:
            parse_target(text, "--endpoint")
        assert caught.value.hint == f"did you mean {meant}?"
