"""keydctl: the command line of keyd."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from keyd import __version__
from keyd.cli import output
from keyd.cli.exits import Exit
from keyd.cli.lazy import LazyGroup
from keyd.cli.settings import Settings, shared_options
from keyd.errors import KeydError

_COMMANDS = {
    "status": ("keyd.cli.status:status", "Show how the daemon is, and what is wrong."),
    "whoami": ("keyd.cli.status:whoami", "Show who you are to the daemon, and your grants."),
    "key": ("keyd.cli.keys:key", "Create, show, rotate and retire keys."),
    "token": ("keyd.cli.tokens:token", "Show tokens, unlock and lock them."),
    "yubikey": ("keyd.cli.yubikey:yubikey", "Set up YubiKeys, and prove what they hold."),
    "sign": ("keyd.cli.sign:sign", "Sign a file or a digest."),
    "explain": ("keyd.cli.explain:explain", "Show what signing a file means, and if it may be."),
    "verify": ("keyd.cli.sign:verify", "Verify a signature over a file."),
    "approvals": ("keyd.cli.approvals:approvals", "List what waits for people's consent."),
    "approve": ("keyd.cli.approve:approve", "Look at what an approval is about, and consent."),
    "reject": ("keyd.cli.approve:reject", "Say no to an approval."),
    "watch": ("keyd.cli.approvals:watch", "Show approvals that wait for you, as they come."),
    "tuf": ("keyd.cli.tuf:tuf", "Make and keep TUF repositories."),
    "trust": ("keyd.cli.trust:trust", "Publish signed collections and image tags, as notary does."),
    "role": ("keyd.cli.role:role", "See what roles have come to, and put that right."),
    "notary": ("keyd.cli.notary:notary", "Look after keys that notary-server has made."),
    "audit": ("keyd.cli.audit:audit", "Read, prove and verify the audit log."),
    "policy": ("keyd.cli.policy:policy", "Ask a policy file what it would decide."),
    "tls": ("keyd.cli.tls:tls", "Get a client certificate."),
    "freeze": ("keyd.cli.freeze:freeze", "Stop signing with one key, or with all."),
    "unfreeze": ("keyd.cli.freeze:unfreeze", "Let a frozen key sign again."),
    "completion": ("keyd.cli.completion:completion", "Print the shell's completion script."),
}


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    params=list(shared_options()),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 needs people, 4 try again.",
)
@click.version_option(__version__, prog_name="keydctl", message="%(prog)s %(version)s")
def keydctl() -> None:
    """Talk to keyd, the signing daemon.

    The daemon is found by --endpoint, KEYD_ENDPOINT, --profile, KEYD_PROFILE, the default profile
    of client.toml, your own socket, or the system's socket.
    """


def run(args: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Says everything that has to be said."""
    settings = Settings()
    try:
        result = keydctl.main(
            list(sys.argv[1:] if args is None else args),
            prog_name=output.PROGRAM,
            standalone_mode=False,
            obj=settings,
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else Exit.DONE
    except KeydError as e:
        return output.complain(e, as_json=settings.json)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.UsageError as e:
        return _usage(e)
    except click.ClickException as e:
        output.note(f"error: {e.format_message()}")
        return Exit.FAILED
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except (output.ReaderGoneError, BrokenPipeError):
        # Without this the interpreter complains at its end that it cannot flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        output.note(f"error: {where}{e.strerror or e}")
        return Exit.FAILED


def _usage(error: click.UsageError) -> int:
    output.note(f"error: {error.format_message()}")
    path = error.ctx.command_path if error.ctx else output.PROGRAM
    output.note(f"hint: see {path} --help")
    return Exit.USAGE


def main() -> None:
    """Entry point."""
    sys.exit(run())


if __name__ == "__main__":
    main()
