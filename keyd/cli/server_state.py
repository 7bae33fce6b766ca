"""What keyd-server does to the state of a daemon that is not running."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from keyd.audit.checkpointer import Checkpointer, CheckpointSettings
from keyd.audit.log import Log, LogSettings, boot_time_s
from keyd.audit.note import VerifierKey
from keyd.audit.origins import ORIGINS, Origins, under_all
from keyd.config import Config
from keyd.errors import ConfigError
from keyd.logkey import REPLACE, log_public_keys
from keyd.machine import SystemClock
from keyd.model import Caller, EntryDraft, Outcome, Principal, Registry, SetFlag
from keyd.store.database import sqlite_engine
from keyd.store.key_rows import load_snapshot
from keyd.store.registry import KeyRegistry
from keyd.store.schema import SCHEMA_VERSION
from keyd.store.state_folder import DATABASE
from keyd.store.store import Store, open_store


@contextmanager
def owned_by_service(state_dir: Path) -> Iterator[None]:
    """What root writes into the state folder inside this block becomes the folder's owner's;
    else the daemon could not open it."""
    try:
        yield
    finally:
        if os.geteuid() == 0 and state_dir.is_dir():
            owner = state_dir.stat()
            for path in state_dir.iterdir():
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextmanager
def stopped_store(config: Config) -> Iterator[Store]:
    """The store of a daemon that is not running.

    Raises:
        ConfigError: it is running (fact ``pid``), or there is no state yet.
    """
    state_dir = config.server.state_dir
    if not (state_dir / DATABASE).exists():
        raise _no_state(state_dir)
    with owned_by_service(state_dir):
        store = open_store(state_dir, clock=SystemClock())
        try:
            yield store
        finally:
            store.close()


def migrate_state(config: Config) -> str:
    """Bring the database to this version's form; say where it stands.

    Raises:
        ConfigError: the daemon runs, or the database is newer.
    """
    with stopped_store(config) as store:
        head = store.head()
    return (
        f"{config.server.state_dir / DATABASE}: schema {SCHEMA_VERSION}, "
        f"a log of {head.size} entries"
    )


def accept(config: Config, what: str, said: str = "") -> str:
    """Write a person's acceptance of the ``clock``, or of a ``checkpoint`` the log is behind of.

    The daemon has to be stopped: what it thinks of clock and log, it holds in memory.

    Raises:
        ConfigError: the daemon runs.
        KeydError: the log cannot be written.
    """
    with stopped_store(config) as store:
        return asyncio.run(_accept(config, store, what, said))


def replace_log_key(config: Config, said: str) -> str:
    """Ask for a new log key; the daemon makes it when the log's token is ready.

    Raises:
        ConfigError: the daemon runs.
        KeydError: the log cannot be written.
    """
    with stopped_store(config) as store:
        return asyncio.run(_replace_log_key(config, store, said))


async def _replace_log_key(config: Config, store: Store, said: str) -> str:
    async with _open_log(config, store) as log:
        entry = EntryDraft(
            "log-key-replace",
            Outcome.ALLOWED,
            _who(),
            said=said,
            token=config.log.token,
            message="a new log key is made when the token is ready; old keys still verify",
            alert=True,
        )
        receipt = await log.record(entry, [SetFlag(REPLACE, said or "asked for")])
    return (
        f"entry {receipt.index} of the log says so; the new key is made on token "
        f"{config.log.token} when the daemon has it ready"
    )


def _who() -> Caller:
    uid = os.environ.get("SUDO_UID") or os.getuid()
    return Caller(Principal(f"system:uid-{uid}", "system"), "keyd-server")


@asynccontextmanager
async def _open_log(config: Config, store: Store) -> AsyncIterator[Log]:
    clock = SystemClock()
    checkpointer = Checkpointer(
        store,
        clock,
        CheckpointSettings(config.log.origin, config.log.checkpoint_file),
        elapsed_s=boot_time_s,
        older_keys=_verifier_keys(config, store.registry),
    )
    log = Log(store, clock, checkpointer, LogSettings())
    await log.start()
    try:
        yield log
    finally:
        # Without the log key there is no checkpoint to wait for; the daemon signs the next one.
        await log.stop(checkpoint_timeout_s=0.1)


async def _accept(config: Config, store: Store, what: str, said: str) -> str:
    async with _open_log(config, store) as log:
        found = (log.clock_suspect if what == "clock" else log.loss) or ""
        if not found:
            return f"nothing to accept: all is well with the {what}"
        accept_it = log.accept_clock if what == "clock" else log.accept_checkpoint
        receipt = await accept_it(_who(), said)
        assert receipt is not None  # something was found
        goes_on = f"; the log goes on as {log.checkpointer.origin}" if what != "clock" else ""
    return f"accepted ({found}); entry {receipt.index} of the log says so{goes_on}"


def verifier_keys(config: Config) -> list[str]:
    """The log's verifier keys, newest last; reads the database of a running daemon too.

    Raises:
        ConfigError: there is no state or no log key yet.
    """
    file = config.server.state_dir / DATABASE
    if not file.exists():
        raise _no_state(config.server.state_dir)
    engine = sqlite_engine(file, read_only=True)
    try:
        with engine.connect() as connection:
            snapshot = load_snapshot(connection)
    except SQLAlchemyError as e:
        raise ConfigError(f"{file} cannot be read", file=file) from e
    finally:
        engine.dispose()
    origins = Origins.read(config.log.origin, snapshot.flags.get(ORIGINS))
    keys = _verifier_keys(config, KeyRegistry(snapshot))
    # Oldest name first: what verifies the newest checkpoints comes last.
    found = [str(key) for key in under_all(keys, reversed(origins.names))]
    if not found:
        raise ConfigError(
            "there is no log key yet",
            hint=f"it is made when token {config.log.token} is ready: keydctl token list",
        )
    return found


def _no_state(state_dir: Path) -> ConfigError:
    return ConfigError(
        f"{state_dir} has no database yet",
        hint="the daemon makes it at its first start",
        file=state_dir,
    )


def _verifier_keys(config: Config, registry: Registry) -> list[VerifierKey]:
    return [
        VerifierKey.from_public_key(config.log.origin, key) for key in log_public_keys(registry)
    ]
