"""keyd-server: starts the daemon, and looks after its configuration and state."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from keyd import __version__
from keyd.cli.exits import Exit
from keyd.cli.server_configfile import config_option, default_config, readable
from keyd.cli.server_doctor_command import doctor
from keyd.cli.server_speech import PROGRAM, complain, note, say
from keyd.cli.server_tls import tls
from keyd.errors import KeydError

_EXTRA = ("pydantic", "sqlalchemy", "prometheus_client", "grpc_health", "pkcs11")
"""Packages of the `server` extra; the base install has this command but not them."""


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 needs people, 4 try again.",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def keyd_server(context: click.Context) -> None:
    """The signing daemon. Without a command: run."""
    if context.invoked_subcommand is None:
        context.invoke(run_command, config=readable(default_config()))


@keyd_server.command("run")
@config_option
def run_command(config: Path) -> None:
    """Run the daemon until SIGTERM.

    SIGHUP reads policy.toml again.
    """
    from keyd.cli.server_run import run_daemon
    from keyd.config import load_config

    run_daemon(load_config(config))


@keyd_server.command()
@click.option(
    "--dir",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Everything is made under this folder, and used again the next time.",
)
@click.option("--tcp", metavar="HOST:PORT", help="Listen there too, with mutual TLS.")
@click.option("--hosts", type=click.IntRange(1, 32), default=1, help="Token host processes.")
@click.option(
    "--person",
    "persons",
    multiple=True,
    metavar="NAME",
    help="Listen at DIR/run/NAME.sock too: somebody whose consent counts.",
)
def dev(folder: Path, tcp: str | None, hosts: int, persons: tuple[str, ...]) -> None:
    """Run a daemon for development, all in one folder.

    It makes a SoftHSM token and one socket; there is nothing to set up.

    Keys on a SoftHSM token are files: never sign anything real with it.
    """
    from keyd.cli.server_dev import make_folder
    from keyd.cli.server_run import run_daemon
    from keyd.config import load_config

    made = make_folder(folder, tcp=tcp, hosts=hosts, now=datetime.now(UTC), persons=persons)
    if made.warning:
        note(f"warning: {made.warning}")

    def ready() -> None:
        say(f"{PROGRAM}: development daemon is ready; in another shell:")
        say(f"  export KEYD_ENDPOINT=unix:{made.socket}")
        for person in persons:
            say(f"  for {person}: KEYD_ENDPOINT=unix:{made.socket.with_name(person)}.sock")

    run_daemon(load_config(made.config), dev=True, ready=ready)


@keyd_server.command()
@config_option
def check(config: Path) -> None:
    """Check configuration, policy and TLS files.

    Starts nothing and asks no token.
    """
    from keyd.cli.server_check import check_all

    findings = check_all(config, datetime.now(UTC))
    for line in findings.lines:
        say(line)
    if findings.errors:
        for error in findings.errors:
            complain(error)
        raise click.exceptions.Exit(int(Exit.USAGE))
    say("everything is in order")


keyd_server.add_command(doctor)


@keyd_server.command()
@config_option
def migrate(config: Path) -> None:
    """Bring the database to this version's form.

    A copy is put beside it first. The daemon does the same at its start.
    """
    from keyd.cli.server_state import migrate_state
    from keyd.config import load_config

    say(migrate_state(load_config(config)))


@keyd_server.command()
@click.argument("file", type=click.Path(path_type=Path))
@config_option
def backup(file: Path, config: Path) -> None:
    """Write the state to a new FILE.

    Also while the daemon runs.
    """
    from keyd.cli.server_doctor_backup import Backup, record_backup
    from keyd.config import load_config
    from keyd.store.backup import backup as write_backup

    state_dir = load_config(config).server.state_dir
    begun = datetime.now(UTC)
    size = write_backup(state_dir, file)
    try:
        record_backup(state_dir, Backup(begun, size, str(file.absolute())))
    except OSError as e:
        note(f"the backup is good, but {state_dir} does not take a note of it: {e.strerror}")
    say(f"{file}: state with a log of {size} entries; private keys stay on their tokens")


@keyd_server.command()
@click.argument("file", type=click.Path(path_type=Path))
@config_option
def restore(file: Path, config: Path) -> None:
    """Put a backup into an empty state folder.

    The log is marked as restored.
    """
    from keyd.cli.server_state import owned_by_service
    from keyd.config import load_config
    from keyd.store.backup import restore as restore_backup

    state_dir = load_config(config).server.state_dir
    with owned_by_service(state_dir):
        size = restore_backup(file, state_dir, datetime.now(UTC))
    say(f"{state_dir}: restored, the log has {size} entries")
    say("what was signed after the backup is not in it: see docs/operations.md before signing")


@keyd_server.group()
def clock() -> None:
    """What the daemon thinks of the clock."""


@clock.command("accept")
@config_option
def clock_accept(config: Path) -> None:
    """Say that the clock is right, after the daemon stopped what depends on it."""
    from keyd.cli.server_state import accept
    from keyd.config import load_config

    say(accept(load_config(config), "clock"))


@keyd_server.group()
def checkpoint() -> None:
    """A log that is shorter than its checkpoints."""


@checkpoint.command("accept")
@click.option("--reason", default="", help="Why, for the log.")
@config_option
def checkpoint_accept(reason: str, config: Path) -> None:
    """Accept that entries are lost: bound keys sign again.

    The log goes on under a new origin. The daemon has to be stopped; of one that runs, ask for it
    with keydctl role accept. Read docs/operations.md first.
    """
    from keyd.cli.server_state import accept
    from keyd.config import load_config

    say(accept(load_config(config), "checkpoint", reason))


@keyd_server.group("log-key", invoke_without_command=True)
@config_option
@click.pass_context
def log_key(context: click.Context, config: Path) -> None:
    """Print the keys that verify checkpoints.

    One C2SP verifier key a line; also while the daemon runs.
    """
    if context.invoked_subcommand is not None:
        return
    from keyd.cli.server_state import verifier_keys
    from keyd.config import load_config

    for line in verifier_keys(load_config(config)):
        say(line)


@log_key.command("replace")
@click.option("--reason", default="", help="Why, for the log.")
@config_option
def log_key_replace(reason: str, config: Path) -> None:
    """Have a new log key made, the old one's token being lost. The daemon has to be stopped."""
    from keyd.cli.server_state import replace_log_key
    from keyd.config import load_config

    say(replace_log_key(load_config(config), reason))


keyd_server.add_command(tls)


@keyd_server.command()
@click.option("--user", is_flag=True, help="For yourself on this machine, with a user unit.")
@click.option("--token-module", type=click.Path(path_type=Path), help="The PKCS#11 library.")
@click.option("--token-label", help="The token's label, as its own tool shows it.")
@click.option("--token-name", help="What keyd calls the token; by default made from its label.")
@click.option(
    "--pin",
    "pin_source",
    metavar="SOURCE",
    default="prompt",
    show_default=True,
    help="prompt, credential:NAME or file:PATH; never the PIN itself.",
)
def init(
    user: bool,
    token_module: Path | None,
    token_label: str | None,
    token_name: str | None,
    pin_source: str,
) -> None:
    """Write the first keyd.toml and policy.toml.

    Both are commented; the next three commands are printed.
    """
    from keyd.cli.server_init import NewToken, initialise

    if (token_module is None or token_label is None) and not sys.stdin.isatty():
        raise click.UsageError("name your token with --token-module and --token-label")
    if token_module is None:
        token_module = click.prompt(
            "PKCS#11 library of your token", type=click.Path(path_type=Path)
        )
    if token_label is None:
        token_label = click.prompt("The token's label")
    token = NewToken(token_module, token_label, token_name or "", pin_source)
    for line in initialise(user=user, token=token):
        say(line)


def run(args: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Says everything that has to be said."""
    try:
        result = keyd_server.main(
            list(sys.argv[1:] if args is None else args),
            prog_name=PROGRAM,
            standalone_mode=False,
        )
        return result if isinstance(result, int) else Exit.DONE
    except KeydError as e:
        return complain(e)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.UsageError as e:
        note(f"error: {e.format_message()}")
        note(f"hint: see {e.ctx.command_path if e.ctx else PROGRAM} --help")
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except ModuleNotFoundError as e:
        if e.name is None or e.name.partition(".")[0] not in _EXTRA:
            raise
        note(f"error: the daemon needs the package {e.name.partition('.')[0]}")
        note("hint: install keyd with its server extra: pip install 'keyd[server]'")
        return Exit.FAILED
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        note(f"error: {where}{e.strerror or e}")
        return Exit.FAILED


def main() -> None:
    """Entry point."""
    sys.exit(run())


if __name__ == "__main__":
    main()
