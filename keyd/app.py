"""Builds a running daemon from a Config: with rooms.py the only file that knows all rooms."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc

from keyd import __version__, sdnotify
from keyd.attestation import Trust
from keyd.audit.checkpointer import Checkpointer
from keyd.audit.log import Log, boot_time_s
from keyd.config import Config, NotaryListenerSection
from keyd.config.values import split_address
from keyd.device.pool import DevicePool
from keyd.device.yubikeys import PoolYubiKeys
from keyd.enrolment import Enrolment
from keyd.errors import ConfigError, KeydError
from keyd.gate import Gate
from keyd.journal import set_up_logging
from keyd.logkey import LogKey
from keyd.logreads import LogReads
from keyd.logsigners import LogSigners
from keyd.machine import SystemClock, make_folder, raise_open_files
from keyd.model import SYSTEM, Caller, EntryDraft, Outcome
from keyd.policy import FilePolicy
from keyd.report import NOT_SIGNING, Report
from keyd.rooms import Core, build_look_ahead, build_notary_signer, build_rooms
from keyd.server.http import Pages
from keyd.server.listeners import Door, open_door
from keyd.server.metrics import Metrics
from keyd.server.notary import add_notary_services
from keyd.server.notaryhealth import NotaryHealth
from keyd.server.services import Services, add_services, build_services
from keyd.slots import keys_on
from keyd.store.store import Store, open_store
from keyd.tending import Tending
from keyd.tokenwatch import TokenWatch
from keyd.unbroken import Unbroken

log = logging.getLogger("keyd")

_CHECK_THREADS = 2
_FIRST_SETTLE_S = 5.0
"""What a crash left on the tokens is settled before callers are let in, unless that takes longer;
it then goes on beside them."""


async def serve(
    config: Config, *, dev: bool = False, ready: Callable[[], None] | None = None
) -> None:
    """Run a daemon until SIGTERM or SIGINT, then drain; SIGHUP reads the policy again.

    ``dev``: offer reflection too. ``ready`` is called once callers are let in. Call it on the main
    thread: token hosts die with the thread that started them.

    Raises:
        ConfigError: why it cannot start; nothing is left behind.
    """
    set_up_logging()
    raise_open_files()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Until the daemon can reload: else a SIGHUP that comes early would end it.
    reload_asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, reload_asked.set)
    async with contextlib.AsyncExitStack() as stack:
        daemon = Daemon(config, stack, dev=dev)
        await daemon.start()
        loop.add_signal_handler(signal.SIGHUP, daemon.reload_soon)
        if reload_asked.is_set():
            daemon.reload_soon()
        log.info("serving", extra={"version": __version__, "at": ", ".join(daemon.addresses)})
        if ready is not None:
            ready()
        sdnotify.notify(sdnotify.READY)
        await stop.wait()
        sdnotify.notify(sdnotify.STOPPING)
        log.info("draining")


class Daemon:
    """One daemon, put together room by room; what is started is ended by the stack in reverse."""

    def __init__(self, config: Config, stack: contextlib.AsyncExitStack, *, dev: bool) -> None:
        self._config = config
        self._stack = stack
        self._dev = dev
        self._clock = SystemClock()
        self._metrics = Metrics()
        self._policy = FilePolicy(config.server.policy)
        self._doors: list[Door] = []
        self._servers: list[grpc.aio.Server] = []
        self._background = Unbroken()

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as gRPC targets."""
        return [door.address for door in self._doors]

    async def start(self) -> None:
        """Bring up everything, and let callers in last.

        Raises:
            ConfigError: why it cannot start.
        """
        config = self._config
        make_folder(config.server.run_dir)
        make_folder(config.log.checkpoint_file.parent)
        store = open_store(config.server.state_dir, clock=self._clock)
        self._stack.callback(store.close)
        for listener in config.listeners:
            door = open_door(listener.settings(), self._clock)
            self._stack.callback(door.close)
            self._doors.append(door)

        # Ended after the drain, so that systemd's watchdog is fed as long as that takes.
        self._stack.callback(self._background.cancel)
        await self._build(store)
        # Ended after the log, whose last checkpoint is signed on a token.
        self._stack.push_async_callback(self._device.stop)
        await self._log.start()
        self._stack.push_async_callback(self._log.stop)
        await self._record("start", f"keyd {__version__}, policy {self._policy.hash[:16]}")
        self._stack.push_async_callback(self._record, "stop", "drained")
        self._stack.push_async_callback(self._watch.idle)
        self._stack.push_async_callback(self._look_ahead.stop)
        await self._device.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_SETTLE_S):
                await self._watch.idle()

        self._look_ahead.look()
        await self._open(self._services(store))
        if config.metrics is not None:
            pages = Pages(self._metrics, self._report.healthy)
            host, port = split_address(config.metrics.address)
            taken = await pages.start(host, port)
            self._stack.push_async_callback(pages.stop)
            log.info("metrics", extra={"at": f"http://{host}:{taken}/metrics"})
        tending = Tending(
            set_health=self._set_health,
            catch_up=self._watch.catch_up,
            look_ahead=self._look_ahead.look,
            refusals=self._log.refusals,
            metrics=self._metrics,
        )
        self._background.start(tending.run())

    async def _build(self, store: Store) -> None:
        config = self._config
        checkpointer = Checkpointer(
            store,
            self._clock,
            config.log.checkpoint_settings(),
            elapsed_s=boot_time_s,
        )
        self._log = Log(store, self._clock, checkpointer, config.log.settings())
        self._device = DevicePool(
            [token.settings() for token in config.tokens],
            store.pin_attempts,
            run_dir=config.server.run_dir,
            on_event=lambda event: self._watch.on_event(event),
            on_signed=self._metrics.token_frame,
            known_keys=partial(keys_on, store.registry),
        )
        registry = store.registry
        self._gate = Gate(self._policy, self._log, registry)
        self._enrolment = Enrolment(
            device=self._device, audit=self._log, registry=registry, clock=self._clock
        )
        log_key = LogKey(
            token=config.log.token,
            registry=registry,
            device=self._device,
            enrolment=self._enrolment,
            clock=self._clock,
            get_flag=store.get_flag,
        )
        signers = LogSigners(self._log, log_key, origin=config.log.origin)
        self._watch = TokenWatch(
            audit=self._log,
            enrolment=self._enrolment,
            log_key=log_key,
            log_key_made=signers.log_key_made,
            tokens=self._device.tokens,
            metrics=self._metrics,
        )
        self._core = Core(
            store=store,
            log=self._log,
            policy=self._policy,
            gate=self._gate,
            device=self._device,
            enrolment=self._enrolment,
            clock=self._clock,
            yubikeys=PoolYubiKeys(self._device, store.pin_attempts, self._clock.now),
            trust=Trust.of_files(*config.server.attestation_roots),
        )
        self._look_ahead = build_look_ahead(
            self._core,
            ahead_s=config.rotation.ahead_days * 86_400,
            prepare=config.rotation.prepare,
        )
        self._report = Report(
            log=self._log,
            registry=registry,
            device=self._device,
            policy=self._policy,
            look_ahead=self._look_ahead,
            clock=self._clock,
        )
        self._metrics.watch(self._report.gauges, self._device.tokens)
        # Known before the log starts: it compares itself with the checkpoint file by this key.
        signers.set()

    def _services(self, store: Store) -> Services:
        workers = ThreadPoolExecutor(_CHECK_THREADS, thread_name_prefix="keyd-check")
        self._stack.callback(workers.shutdown)
        wait_s = self._config.server.destroy_wait_days * 86_400
        rooms = build_rooms(self._core, workers, destroy_wait_s=wait_s)
        self._background.start(rooms.approvals.tend())
        to_drain = (
            rooms.approvals,
            rooms.signing,
            self._enrolment,
            rooms.keys,
            rooms.tokens,
            rooms.yubikeys,
        )
        for room in to_drain:
            self._stack.push_async_callback(room.drain)
        places = [section.place() for section in self._config.notary]
        self._notary = build_notary_signer(self._core, rooms, places, elapsed_s=time.monotonic)
        self._stack.push_async_callback(self._notary.drain)
        return build_services(
            signing=rooms.signing,
            keys=rooms.keys,
            tokens=rooms.tokens,
            yubikeys=rooms.yubikeys,
            approvals=rooms.approvals,
            ceremonies=rooms.ceremonies,
            roles=rooms.roles,
            audit=LogReads(self._log, store),
            authorize=self._gate.authorize,
            policy=lambda: self._policy,
            report=self._report.status,
            newest_checkpoint=self._newest_checkpoint,
            clock=self._clock,
            limits=self._config.call_limits(),
            metrics=self._metrics,
            server_version=__version__,
        )

    async def _open(self, services: Services) -> None:
        """Bind every door, start its server, then let callers in."""
        limits, transport = self._config.call_limits(), self._config.transport()
        for door, listener in zip(self._doors, self._config.listeners, strict=True):
            server = grpc.aio.server(options=[*limits.transport_options, *transport.options])
            if isinstance(listener, NotaryListenerSection):
                self._offer_notary(server, services, door, listener.deadline_s)
            else:
                add_services(server, services, door.identity, reflection=self._dev)
            door.bind(server)
            self._servers.append(server)
        self._stack.push_async_callback(
            services.drain, self._servers, self._config.server.drain_timeout_s
        )
        for server in self._servers:
            await server.start()
        self._health = services.health
        self._set_health()
        for door in self._doors:
            door.expose()

    def _offer_notary(
        self, server: grpc.aio.Server, services: Services, door: Door, deadline_s: float
    ) -> None:
        tokens = {section.token for section in self._config.notary}
        add_notary_services(
            server,
            self._notary,
            services.calls,
            NotaryHealth(lambda: self._report.can_sign_on(tokens)),
            door.identity,
            limits=self._config.call_limits(),
            metrics=self._metrics,
            deadline_s=deadline_s,
        )

    def _newest_checkpoint(self) -> str:
        newest = self._log.checkpointer.newest
        return newest.note if newest else ""

    # ------------------------------------------------------------------------------- while it runs

    def reload_soon(self) -> None:
        """SIGHUP: read the policy again; TLS files are read again whenever they change."""
        self._background.start(self._reload())

    async def _reload(self) -> None:
        sdnotify.notify(sdnotify.RELOADING)
        try:
            changed = self._policy.reload()
            what = "changed" if changed else "is the same"
            message = f"policy {what}, {self._policy.hash[:16]}"
            await self._record("policy-reload", message)
            log.info(message)
        except ConfigError as e:
            log.error("the old policy stays in force", extra={"why": e.message})
            await self._record("policy-reload", e.message, error=e)
        finally:
            sdnotify.notify(sdnotify.READY)

    def _set_health(self) -> None:
        self._health.set_serving(daemon=True, signing=self._report.health() != NOT_SIGNING)

    async def _record(self, action: str, message: str, *, error: KeydError | None = None) -> None:
        entry = EntryDraft(
            action=action,
            outcome=Outcome.FAILED if error else Outcome.ALLOWED,
            caller=Caller(SYSTEM, action),
            policy_hash=self._policy.hash,
            message=message,
            reason_code=error.reason if error else "",
            alert=error is not None,
        )
        try:
            await self._log.record(entry)
        except KeydError as e:
            log.error("%s is not in the audit log", action, extra={"why": e.message})
