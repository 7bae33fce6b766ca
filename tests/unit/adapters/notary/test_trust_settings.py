"""Where the server is and who logs in: notary's and docker's files."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from keyd.adapters.notary import credentials, settings, web
from keyd.adapters.notary.cache import Cache
from keyd.adapters.notary.settings import TlsFiles
from keyd.errors import ConfigError, ConflictError


def write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def test_without_anything_it_is_as_docker_has_it(tmp_path: Path) -> None:
    found = settings.load({}, home=tmp_path)

    assert found.trust_dir == tmp_path / ".docker/trust"
    assert found.server_of("docker.io/library/alpine") == "https://notary.docker.io"
    assert found.server_of("localhost:5000/app") == "https://localhost:5000"


def test_notarys_file_is_read_and_options_win(tmp_path: Path) -> None:
    file = write(
        tmp_path / "n/config.json",
        {
            "trust_dir": "trust",
            "remote_server": {"url": "https://one/", "root_ca": "ca.crt"},
            "trust_pinning": {
                "disable_tofu": True,
                "certs": {"localhost/*": ["ab"]},
                "ca": {"localhost/": "pin.pem"},
            },
        },
    )

    found = settings.load({}, home=tmp_path, config_file=file)
    other = settings.load(
        {"DOCKER_CONTENT_TRUST_SERVER": "https://two"}, home=tmp_path, config_file=file
    )
    third = settings.load(
        {"DOCKER_CONTENT_TRUST_SERVER": "https://two"}, home=tmp_path, server="https://three"
    )

    assert found.server_of("localhost/app") == "https://one"
    assert found.trust_dir == tmp_path / "n/trust"
    assert found.tls.ca == (tmp_path / "n/ca.crt",)
    assert found.pinning.certs == {"localhost/*": frozenset({"ab"})}
    assert found.pinning.cas == {"localhost/": tmp_path / "n/pin.pem"}
    assert not found.pinning.is_first_use_trusted
    assert (other.server_url, third.server_url) == ("https://two", "https://three")


def test_dockers_certificates_are_found_by_host(tmp_path: Path) -> None:
    folder = tmp_path / "d/tls/localhost:14443"
    folder.mkdir(parents=True)
    for name in ("ca.crt", "me.cert", "me.key"):
        (folder / name).touch()

    found = settings.load({"DOCKER_CONFIG": str(tmp_path / "d")}, home=tmp_path)

    assert found.tls_for("https://localhost:14443") == TlsFiles(
        (folder / "ca.crt",),
        folder / "me.cert",
        folder / "me.key",
        is_system_believed=True,
        folder=folder,
    )
    named = settings.load(
        {"DOCKER_CONFIG": str(tmp_path / "d")}, home=tmp_path, ca=tmp_path / "only.pem"
    )
    assert named.tls_for("https://localhost:14443") == TlsFiles(
        (tmp_path / "only.pem",), folder / "me.cert", folder / "me.key"
    )
    assert found.tls_for("https://elsewhere") == TlsFiles(folder=tmp_path / "d/tls/elsewhere")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"trust_dir": 1},
        {"remote_server": []},
        {"trust_pinning": {"certs": {"g": "ab"}}},
        {"trust_pinning": {"disable_tofu": "yes"}},
    ],
)
def test_a_file_of_another_shape_is_told(tmp_path: Path, content: object) -> None:
    file = write(tmp_path / "config.json", content)

    with pytest.raises(ConfigError) as error:
        settings.load({}, home=tmp_path, config_file=file)

    assert str(file) in error.value.message


# ------------------------------------------------------------------------------ logins


def auth(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def test_dockers_logins_are_found(tmp_path: Path) -> None:
    hub = {"https://index.docker.io/v1/": {"auth": auth("alice", "s:cret")}}
    write(tmp_path / "config.json", {"auths": {**hub, "localhost:5000": {"identitytoken": "t"}}})

    login = credentials.find_login(tmp_path, "docker.io")

    assert login is not None
    assert login.basic == f"Basic {auth('alice', 's:cret')}"
    assert "s:cret" not in repr(login)
    token = credentials.find_login(tmp_path, "localhost:5000")
    assert token is not None
    assert token.identity_token == "t"
    assert credentials.find_login(tmp_path, "elsewhere") is None
    assert credentials.find_login(tmp_path / "none", "elsewhere") is None


HELPER = """#!/bin/sh
read server
case "$server" in
  localhost:5000) echo '{"Username":"bob","Secret":"hidden"}' ;;
  broken) echo "no keyring" >&2; exit 1 ;;
  *) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


def test_credential_helpers_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/docker-credential-test"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    write(tmp_path / "config.json", {"credsStore": "test", "credHelpers": {"gone": "missing"}})

    login = credentials.find_login(tmp_path, "localhost:5000")

    assert login is not None
    assert (login.user, login.password) == ("bob", "hidden")
    assert credentials.find_login(tmp_path, "unknown") is None
    with pytest.raises(ConfigError, match="no keyring"):
        credentials.find_login(tmp_path, "broken")
    with pytest.raises(ConfigError, match="docker-credential-missing"):
        credentials.find_login(tmp_path, "gone")


@pytest.mark.parametrize("text", ["!", base64.b64encode(b"nocolon").decode()])
def test_a_login_that_is_none_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        credentials.from_basic(text)

    assert text not in error.value.message


# ------------------------------------------------------------------------------ URLs


@pytest.mark.parametrize(
    "url",
    [
        "http://registry.example.org",
        "http://10.0.0.1:5000",
        "http://localhost.example.org",
        "ftp://localhost",
        "localhost:5000",
        "https://alice:secret@localhost",
        "https://",
    ],
)
def test_only_tls_or_this_machine(url: str) -> None:
    with pytest.raises(ConfigError):
        web.check_url(url)


@pytest.mark.parametrize("url", ["http://localhost:5000", "http://127.0.0.1", "http://[::1]:5000"])
def test_plain_http_is_for_loopback(url: str) -> None:
    web.check_url(url)


def test_only_a_server_that_somebody_named_is_told_notarys_own_login(tmp_path: Path) -> None:
    """Not one that the name of an image leads to, which anybody may have chosen."""
    unset = settings.load({}, home=tmp_path)
    named = settings.load({settings.SERVER_VARIABLE: "https://notary.example.org"}, home=tmp_path)

    assert not unset.is_server_named(unset.server_of("evil.example.org/app"))
    assert unset.is_server_named(unset.server_of("docker.io/library/alpine"))
    assert named.is_server_named(named.server_of("evil.example.org/app"))


# ------------------------------------------------------------------------------ the folder


def test_a_collection_below_another_keeps_its_own_files(tmp_path: Path) -> None:
    above, below = Cache(tmp_path, "localhost/app"), Cache(tmp_path, "localhost/app/metadata")
    above.write({"root": b"1", "targets/releases": b"2"})
    below.write({"root": b"3"})

    assert above.read() == {"root": b"1", "targets/releases": b"2"}
    above.forget()
    assert above.read() == {}
    assert below.read() == {"root": b"3"}


def test_a_role_that_would_lie_where_another_collection_does_leaves_that_alone(
    tmp_path: Path,
) -> None:
    """Whoever owns app could else have others forget, or mistake, what they saw of the other."""
    above = Cache(tmp_path, "localhost/app")
    below = Cache(tmp_path, "localhost/app/metadata/targets")
    below.write({"root": b"3", "targets": b"4"})

    above.write({"root": b"1", "targets/metadata/root": b"5", "targets/metadata": b"6"})
    assert above.read() == {"root": b"1", "targets/metadata": b"6"}
    above.write({"root": b"2"})
    above.forget()

    assert below.read() == {"root": b"3", "targets": b"4"}


def test_what_was_seen_of_a_role_stays_while_somebody_delegates_to_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "localhost/app")
    cache.write({"root": b"1", "targets/a": b"2", "targets/b": b"3"})
    cache.write({"root": b"1"}, {"targets/a"})

    assert cache.read() == {"root": b"1", "targets/a": b"2"}


def test_roles_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "localhost/app")
    cache.write({"root": b"1", "targets/a": b"2"})
    cache.write({"root": b"1"})

    assert cache.read() == {"root": b"1"}


def test_only_one_works_on_a_collection_and_leftovers_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "localhost/app")
    with cache.locked():
        leftover = cache.staging / ".keyd-tmp-x"
        leftover.touch()
        with pytest.raises(ConflictError), Cache(tmp_path, "localhost/app").locked(0):
            pass
    with cache.locked():
        assert not leftover.exists()


def test_what_somebody_writes_in_a_collection_below_is_no_leftover(tmp_path: Path) -> None:
    above = Cache(tmp_path, "localhost/app")
    below = [Cache(tmp_path, f"localhost/app/{name}") for name in ("tool", "metadata/targets")]
    leftover = above.metadata / "targets" / ".keyd-tmp-x"
    written = [folder / ".keyd-tmp-y" for each in below for folder in (each.metadata, each.staging)]
    for file in (leftover, *written):
        file.parent.mkdir(parents=True)
        file.touch()

    with above.locked():
        assert not leftover.exists()
        assert all(file.exists() for file in written)
