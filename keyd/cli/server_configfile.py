"""Which keyd.toml a keyd-server command means."""

from __future__ import annotations

import os
from pathlib import Path

import click

from keyd.errors import ConfigError

SYSTEM_CONFIG = Path("/etc/keyd-server/keyd.toml")


def default_config() -> Path:
    """The user's own configuration, as `init --user` writes it, if it is there; else the system's.
    Never root's own: root looks after the system's daemon."""
    home = os.environ.get("XDG_CONFIG_HOME") or f"{os.environ.get('HOME', '~')}/.config"
    own = Path(home).expanduser() / "keyd-server" / "keyd.toml"
    return own if os.geteuid() != 0 and own.is_file() else SYSTEM_CONFIG


def readable(config: Path) -> Path:
    """The file itself, unless it is there and closed to this user.

    Raises:
        ConfigError: it is.
    """
    if os.path.lexists(config) and not os.access(config, os.R_OK):
        raise ConfigError(
            f"{config}: this user may not read it",
            hint="use sudo, or for a daemon of your own: keyd-server init --user",
            file=config,
        )
    return config


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, readable=False),
    default=default_config,
    show_default=f"~/.config/keyd-server/keyd.toml if it is there, else {SYSTEM_CONFIG}",
    callback=lambda _context, _parameter, config: readable(config),
    help="The configuration file.",
)
