"""keyd.toml: what it means, and what is said when it is wrong."""

from __future__ import annotations

import stat
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from keyd.config import (
    Config,
    Starter,
    TcpListenerSection,
    load_config,
    parse_config,
    starter_config,
)
from keyd.config.reference import SECTIONS, tables
from keyd.device.settings import TokenConfig
from keyd.errors import ConfigError
from keyd.server.limits import Limits
from keyd.server.listeners import TcpListener, UnixListener
from keyd.server.tls import TlsFiles

GOOD = """\
[server]
state_dir = "state"
policy = "policy.toml"

[log]
origin = "keyd.example.org/test"
token = "online"
checkpoint_file = "checkpoint"

[[listener]]
kind = "unix"
path = "run/keyd.sock"
principal = "socket:dev"

[[listener]]
kind = "tcp"
address = "127.0.0.1:7443"
cert = "server.pem"
key = "server.key"
client_ca = "ca.pem"

[[token]]
name = "online"
module = "/usr/lib/softhsm/libsofthsm2.so"
label = "keyd-online"
pin = "credential:pin_online"

[limits]
max_batch_items = 100

[metrics]
address = "127.0.0.1:0"
"""
DOCS = Path(__file__).parents[2] / "docs"


def test_settings_reach_their_rooms() -> None:
    config = parse_config(GOOD, base=Path("/etc/keyd-server"))

    etc = Path("/etc/keyd-server")
    assert config.server.state_dir == etc / "state"
    assert [listener.settings() for listener in config.listeners] == [
        UnixListener(etc / "run/keyd.sock", "socket:dev"),
        TcpListener(
            "127.0.0.1",
            7443,
            TlsFiles(etc / "server.pem", etc / "server.key", etc / "ca.pem", None),
        ),
    ]
    assert [token.settings() for token in config.tokens] == [
        TokenConfig(
            name="online",
            module=Path("/usr/lib/softhsm/libsofthsm2.so"),
            label="keyd-online",
            pin_source="credential:pin_online",
        )
    ]
    assert config.call_limits() == Limits(max_batch_items=100)
    assert config.transport().max_connections == 1000
    assert config.metrics is not None


def test_defaults_are_those_of_the_rooms() -> None:
    config = parse_config(GOOD.replace("[limits]\nmax_batch_items = 100\n", ""))

    assert config.call_limits() == Limits()
    assert config.server.destroy_wait_days == 7
    assert config.server.drain_timeout_s == 30.0


def test_a_config_is_frozen() -> None:
    config = parse_config(GOOD)

    with pytest.raises(ValidationError):
        config.server.destroy_wait_days = 1


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("state_dir", "state_dri", 2, "unknown setting 'state_dri' in [server]; did you mean 'st"),
        ("pin =", "pin_flie =", 26, "unknown setting 'pin_flie' in [[token]]; did you mean 'pi"),
        ("client_ca", "client_cas", 20, "unknown setting 'client_cas' in [[listener]]; did you m"),
        ("[server]", "[sever]", 1, "unknown setting 'sever' in keyd.toml; did you mean 'server'"),
        ('kind = "unix"', 'knid = "unix"', 10, 'kind = "unix" or kind = "tcp"'),
        ('kind = "unix"', 'kind = "quic"', 11, 'kind = "unix" or kind = "tcp"'),
        ('principal = "socket:dev"\n', "", 10, "[[listener]] needs principal"),
        ('"socket:dev"', '"dev"', 13, "principal should be socket:NAME"),
        ('"socket:dev"', '"uri:spiffe://acme/admin"', 13, "principal should be socket:NAME"),
        ('"socket:dev"', '"socket:dev"\nmode = "0777"', 14, 'mode should be "0600"'),
        ('"socket:dev"', '"socket:dev"\nmode = 600', 14, 'mode should be "0600"'),
        ('"socket:dev"', '"socket:dev"\ngroup = "ci"', 14, 'socket of mode "0600"; say "0660"'),
        ('"127.0.0.1:7443"', '"localhost:7443"', 17, "address should be an IP address"),
        ('"127.0.0.1:7443"', '"127.0.0.1:70000"', 17, "address should be an IP address"),
        ('"127.0.0.1:7443"', '"::1:7443"', 17, "address should be an IP address"),
        ('"127.0.0.1:0"', '"0.0.0.0:0"', 32, "address should be a loopback address"),
        ("= 100", '= "100"', 29, "max_batch_items should be a valid integer"),
        ("= 100", "= true", 29, "max_batch_items should be a valid integer"),
        ("= 100", "= 0", 29, "max_batch_items should be greater than or equal to 1"),
        ("= 100", "= 10001", 29, "max_batch_items should be less than or equal to 10000"),
        ("max_batch_items = 100", "max_message_bytes = 40_000_000", 29, "above max_request_bytes"),
        ('label = "keyd-online"\n', "", 22, "token online needs its label or its serial"),
        ('name = "online"', 'name = "On line"', 23, "not a valid name"),
        ('token = "online"', 'token = "onlin"', 7, "no [[token]] is named 'onlin'; did you mean"),
        ('"checkpoint"', '"state/checkpoint"', 8, "must lie outside state_dir"),
        ('"checkpoint"', '"state/../x/../state/c"', 8, "must lie outside state_dir"),
        ('"keyd.example.org/test"', '"a b"', 6, "origin should be 1 to 200"),
        ('"keyd.example.org/test"', '"a+b"', 6, "origin should be 1 to 200"),
        (
            "[limits]",
            '[[token]]\nname = "online"\nmodule = "m"\nlabel = "l"\n[limits]',
            29,
            "token online exists already",
        ),
        (
            "[limits]",
            '[[listener]]\nkind = "unix"\npath = "x"\nprincipal = "socket:dev"\n[limits]',
            31,
            "another listener has the principal socket:dev",
        ),
        (
            "[limits]",
            '[[listener]]\nkind = "unix"\npath = "run/keyd.sock"\nprincipal = "socket:x"\n[limits]',
            30,
            "another listener has the path",
        ),
        ("[server]", "server = 5\n[x]", 1, "server is a section: [server]"),
        ("[[token]]", "[token]", 22, "token is a section: [[token]]"),
        ("[log]", "[log", 5, "not valid TOML"),
        ("= 100", "= inf", 29, "max_batch_items should be"),
    ],
)
def test_a_mistake_is_refused_with_its_line(old: str, new: str, line: int, says: str) -> None:
    assert GOOD.count(old) == 1, old

    with pytest.raises(ConfigError) as e:
        parse_config(GOOD.replace(old, new), "keyd.toml")

    assert says in e.value.message
    assert f"keyd.toml:{line}: " in e.value.message


def test_every_mistake_is_told_at_once_in_the_order_of_lines() -> None:
    text = GOOD.replace("state_dir", "stat_dir").replace("= 100", "= 0")

    with pytest.raises(ConfigError) as e:
        parse_config(text, "keyd.toml")

    assert [line.split(" ")[0] for line in e.value.message.splitlines()] == [
        "keyd.toml:2:",
        "keyd.toml:29:",
    ]
    assert e.value.facts["line"] == "2"


def test_an_unknown_setting_is_answered_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"allowed here: kind, address, cert, key, client_ca"):
        parse_config(GOOD.replace("client_ca", "xyz"))


@pytest.mark.parametrize("section", ["log", "listener", "token"])
def test_what_nothing_works_without_is_asked_for(section: str) -> None:
    blocks = [b for b in GOOD.split("\n\n") if not b.lstrip("[").startswith(section)]

    with pytest.raises(ConfigError, match=section):
        parse_config("\n\n".join(blocks))


@pytest.mark.parametrize("section", ["listener", "token"])
def test_an_empty_list_is_none_of_them(section: str) -> None:
    blocks = [b for b in GOOD.split("\n\n") if not b.lstrip("[").startswith(section)]

    with pytest.raises(ConfigError, match="keyd"):
        parse_config(f"{section} = []\n" + "\n\n".join(blocks))


SECRET = "73914682"


@pytest.mark.parametrize(
    "line",
    [
        f'pin = "{SECRET}"',
        f"pin = {SECRET}",
        f'pin = ["{SECRET}"]',
        f'pin = {{ value = "{SECRET}" }}',
        f'pin = "credential:{SECRET}"',
        f'pin = "file:{SECRET}"',
        f'pin = "pin:{SECRET}"',
        f'pin = "prompt:{SECRET}"',
        f'pin = "PROMPT {SECRET}"',
        f'user_pin = "{SECRET}"',
        f"password = {SECRET}",
        f'pin = "{SECRET}',
        f"pin = {SECRET}abc",
        f'pin = "prompt"\npin = "{SECRET}"',
    ],
)
def test_a_pin_in_the_file_is_refused_and_never_repeated(line: str) -> None:
    text = GOOD.replace('pin = "credential:pin_online"', line)

    with pytest.raises(ConfigError) as e:
        parse_config(text)

    everything = "".join(traceback.format_exception(e.value)) + repr(e.value) + str(e.value.facts)
    assert SECRET not in everything
    assert e.value.__context__ is None
    assert "keyd.toml:2" in e.value.message


def test_a_pin_as_value_is_answered_with_the_sources() -> None:
    with pytest.raises(ConfigError) as e:
        parse_config(GOOD.replace("credential:pin_online", SECRET))

    for source in ("credential:NAME", "file:PATH", "prompt"):
        assert source in e.value.message


def test_a_pin_file_is_found_from_the_folder_of_the_config() -> None:
    config = parse_config(
        GOOD.replace("credential:pin_online", "file:pins/online"), base=Path("/etc/keyd-server")
    )

    assert config.tokens[0].pin == "file:/etc/keyd-server/pins/online"


def write(folder: Path, text: str = GOOD) -> Path:
    for name in ("policy.toml", "server.pem", "server.key", "ca.pem", "module.so"):
        (folder / name).write_text("")
    file = folder / "keyd.toml"
    file.write_text(text.replace("/usr/lib/softhsm/libsofthsm2.so", "module.so"))
    return file


def test_a_file_is_loaded_with_paths_from_its_own_folder(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))

    assert config.tokens[0].module == tmp_path / "module.so"
    assert isinstance(config.listeners[1], TcpListenerSection)
    assert config.listeners[1].cert == tmp_path / "server.pem"


@pytest.mark.parametrize(
    ("name", "line"),
    [("policy.toml", 3), ("server.pem", 18), ("server.key", 19), ("ca.pem", 20), ("module.so", 24)],
)
def test_a_missing_file_is_named_with_the_line_that_names_it(
    name: str, line: int, tmp_path: Path
) -> None:
    file = write(tmp_path)
    (tmp_path / name).unlink()

    with pytest.raises(ConfigError) as e:
        load_config(file)

    assert f"keyd.toml:{line}: " in e.value.message
    assert f"{name}: no such file" in e.value.message


def test_a_folder_in_the_place_of_a_module_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path)
    (tmp_path / "module.so").unlink()
    (tmp_path / "module.so").mkdir()

    with pytest.raises(ConfigError, match="not a file"):
        load_config(file)


def test_a_config_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as e:
        load_config(tmp_path / "keyd.toml")
    assert "keyd-server init" in e.value.hint

    (tmp_path / "keyd.toml").write_bytes(b"[server]\n\xff")
    with pytest.raises(ConfigError, match=r"keyd\.toml:2: not UTF-8"):
        load_config(tmp_path / "keyd.toml")


def a_starter(**changes: object) -> Starter:
    fields: dict[str, object] = {
        "state_dir": Path("/var/lib/keyd-server"),
        "run_dir": Path("/run/keyd-server"),
        "policy": Path("/etc/keyd-server/policy.toml"),
        "checkpoint_file": Path("/var/log/keyd-server/checkpoint"),
        "socket": Path("/run/keyd-server/keyd.sock"),
        "principal": "socket:system",
        "origin": "keyd.example.org/prod",
        "token": "online",
        "module": Path("/usr/lib/softhsm/libsofthsm2.so"),
        "label": "keyd-online",
    }
    return Starter(**(fields | changes))  # type: ignore[arg-type]


def test_the_starter_parses_to_what_was_asked_for() -> None:
    config = parse_config(starter_config(a_starter(group="signers", pin="credential:pin_online")))

    listener = config.listeners[0].settings()
    assert isinstance(listener, UnixListener)
    assert (listener.group, stat.filemode(listener.mode), listener.is_group) == (
        "signers",
        "?rw-rw----",
        True,
    )
    assert config.tokens[0].label == "keyd-online"
    assert config.tokens[0].pin == "credential:pin_online"
    assert config.server.state_dir == Path("/var/lib/keyd-server")


def test_the_starter_explains_itself() -> None:
    text = starter_config(a_starter())

    assert text.count("#") > 15
    assert "PIN itself never stands here" in text


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "käse", "a\x7fb", "a\nb = 1"])
def test_odd_paths_survive_the_starter(odd: str) -> None:
    config = parse_config(starter_config(a_starter(module=Path("/opt") / odd)))

    assert config.tokens[0].module == Path("/opt") / odd


def test_the_starter_takes_no_pin() -> None:
    with pytest.raises(ConfigError) as e:
        starter_config(a_starter(pin=SECRET))

    assert SECRET not in e.value.message


def test_the_examples_in_the_starter_parse_when_their_comment_sign_is_taken_away() -> None:
    text = starter_config(a_starter())
    lines = [
        line.removeprefix("# ") if line.startswith("# [") or " = " in line[:22] else line
        for line in text.splitlines()
    ]

    config = parse_config("\n".join(lines))

    assert isinstance(config.listeners[1], TcpListenerSection)
    assert config.metrics is not None


def test_the_reference_is_what_the_code_says() -> None:
    text = (DOCS / "configuration.md").read_text()

    assert text.endswith(tables()), "run: python -m keyd.config.reference"


def test_every_section_of_the_file_is_in_the_reference_and_every_setting_is_explained() -> None:
    named = {title.strip("[").split("]")[0] for title, _ in SECTIONS}

    assert named == {field.alias or name for name, field in Config.model_fields.items()}
    for _, model in SECTIONS:
        for name, field in model.model_fields.items():
            assert field.description, name


def test_the_smallest_complete_file_of_the_docs_is_complete() -> None:
    text = (DOCS / "configuration.md").read_text()
    example = text.split("```toml\n")[1].split("```")[0]

    assert parse_config(example).tokens[0].pin == "credential:pin_online"
