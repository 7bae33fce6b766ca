"""keyd.toml and its sections; those of listeners are in listeners.py.

The descriptions of the settings are the reference in docs/configuration.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from keyd.audit.checkpointer import CheckpointSettings
from keyd.audit.log import LogSettings
from keyd.config.listeners import ListenerSection
from keyd.config.values import (
    ConfigPath,
    GunPattern,
    LogOrigin,
    LoopbackAddress,
    PinSourceText,
    Section,
    TokenName,
)
from keyd.device.settings import MAX_HOSTS, TokenConfig
from keyd.notaryplaces import Place
from keyd.server.limits import MIB, Limits
from keyd.server.listeners import Transport


class ServerSection(Section):
    """The daemon itself."""

    state_dir: ConfigPath = Field(
        Path("/var/lib/keyd-server"), description="Folder of the database; no two daemons share it."
    )
    run_dir: ConfigPath = Field(
        Path("/run/keyd-server"), description="Folder of what ends with the daemon."
    )
    policy: ConfigPath = Field(
        Path("/etc/keyd-server/policy.toml"),
        description="Who may do what: docs/policy.md. Read again on SIGHUP.",
    )
    drain_timeout_s: float = Field(
        30.0,
        ge=0,
        le=600,
        description="Seconds that calls in progress get to finish at SIGTERM. Keep it below the "
        "unit's TimeoutStopSec.",
    )
    attestation_roots: Annotated[tuple[ConfigPath, ...], Field(strict=False)] = Field(
        (),
        description="PEM files of certificates that count for what YubiKeys say of their keys, "
        "besides Yubico's own: self-signed ones as roots, others as intermediates.",
    )
    destroy_wait_days: int = Field(
        7, ge=1, le=3650, description="Days between scheduling a destruction and being able to."
    )


class LogSection(Section):
    """The audit log."""

    origin: LogOrigin = Field(
        description="The log's name in its checkpoints, unique in the world and for ever the same, "
        "like `keyd.example.org/prod`."
    )
    token: TokenName = Field(
        description="Name of the token on which the log key is made; it should sign without a "
        "touch and without a person."
    )
    checkpoint_file: ConfigPath = Field(
        Path("/var/log/keyd-server/checkpoint"),
        description="The newest checkpoint is also written here. It must lie outside `state_dir`, "
        "since it shows whether an old copy of that was put back.",
    )
    checkpoint_interval_s: float = Field(
        1.0, ge=0.1, le=3600, description="Seconds that an entry waits for a checkpoint at most."
    )
    checkpoint_entries: int = Field(
        1000, ge=1, le=1_000_000, description="Entries after which a checkpoint does not wait."
    )
    max_uncheckpointed: int = Field(
        100_000,
        ge=1000,
        le=100_000_000,
        description="Entries without a checkpoint, the log's token being away, at which signing "
        "stops.",
    )
    refusal_reserve_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        description="Bytes of free disk below which refusals are no longer written, so that "
        "nobody can stop signing by knocking.",
    )

    def settings(self) -> LogSettings:
        """As the audit room takes it."""
        return LogSettings(
            max_uncheckpointed=self.max_uncheckpointed, reserve_bytes=self.refusal_reserve_bytes
        )

    def checkpoint_settings(self) -> CheckpointSettings:
        """What of it is about checkpoints, as the audit room takes it."""
        return CheckpointSettings(
            origin=self.origin,
            file=self.checkpoint_file,
            interval_s=self.checkpoint_interval_s,
            entries=self.checkpoint_entries,
        )


class LimitsSection(Section):
    """What is taken on at once. Beyond, callers get RESOURCE_EXHAUSTED or UNAVAILABLE and a time to
    come back."""

    max_message_bytes: int = Field(
        8 * MIB, ge=1024, le=64 * MIB, description="Bytes of one message to sign."
    )
    max_request_bytes: int = Field(
        32 * MIB, ge=4096, le=256 * MIB, description="Bytes of one request, batches included."
    )
    max_bytes_in_flight: int = Field(
        256 * MIB, ge=MIB, description="Bytes of all requests in progress together."
    )
    max_batch_items: int = Field(10_000, ge=1, le=10_000, description="Items of one `SignBatch`.")
    max_concurrent_calls: int = Field(
        512, ge=1, le=100_000, description="Calls in progress, all callers together."
    )
    max_concurrent_calls_per_principal: int = Field(
        256, ge=1, le=100_000, description="Calls in progress of one principal."
    )
    max_streams: int = Field(
        64, ge=1, le=10_000, description="Open `TailEntries`, all callers together."
    )
    max_streams_per_principal: int = Field(
        8, ge=1, le=10_000, description="Open `TailEntries` of one principal."
    )
    max_connections: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="Open connections of one listener. All listeners together should stay well "
        "below the limit on open files.",
    )
    max_connection_age_s: float = Field(
        3600.0,
        ge=1,
        description="Seconds after which a connection is renewed. Certificates are checked on each "
        "call in any case.",
    )


class NotarySection(Section):
    """Where keys for notary-server are made. The first section that fits a GUN decides; for a GUN
    that fits none no keys are made."""

    guns: Annotated[tuple[GunPattern, ...], Field(strict=False, min_length=1)] = Field(
        description="Names of collections; `*` is any run of characters, `?` is one."
    )
    token: TokenName = Field(description="Name of the token that holds their keys.")
    keys_per_hour: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="New keys that one principal gets made in an hour, on average; a collection "
        "takes two. A key that has signed nothing is handed out again and does not count.",
    )
    keys_at_once: int = Field(
        50, ge=2, le=1_000_000, description="New keys that one principal gets made without a wait."
    )

    def place(self) -> Place:
        """As the domain takes it."""
        return Place(self.guns, self.token, self.keys_per_hour, self.keys_at_once)


class TokenSection(Section):
    """A PKCS#11 token."""

    name: TokenName = Field(description="What keyd calls the token, for ever.")
    module: ConfigPath = Field(description="The vendor's PKCS#11 library (a `.so`).")
    label: str | None = Field(
        None, min_length=1, max_length=32, description="The token's label; or give its serial."
    )
    serial: str | None = Field(
        None, min_length=1, max_length=16, description="The token's serial number."
    )
    pin: PinSourceText = Field(
        "prompt",
        description="Where the PIN comes from: `credential:NAME` (systemd's LoadCredential), "
        "`file:PATH` (readable by its owner only) or `prompt` (a person unlocks the token). Never "
        "the PIN itself.",
    )
    hosts: int = Field(
        1,
        ge=1,
        le=MAX_HOSTS,
        description="Processes logged in at once: more of them sign more in a second.",
    )
    token_timeout_s: float = Field(
        30.0,
        ge=0.1,
        le=600,
        description="Seconds one operation may take before its process is replaced; more than "
        "a touch needs.",
    )
    queue_limit: int = Field(
        20_000, ge=1, le=1_000_000, description="Signatures that may wait for this token."
    )
    softhsm_conf: ConfigPath | None = Field(
        None, description="For SoftHSM: its configuration file (SOFTHSM2_CONF)."
    )

    def settings(self) -> TokenConfig:
        """As the device room takes it."""
        return TokenConfig(
            name=self.name,
            module=self.module,
            label=self.label,
            serial=self.serial,
            pin_source=self.pin,
            hosts=self.hosts,
            token_timeout_s=self.token_timeout_s,
            queue_limit=self.queue_limit,
            softhsm_conf=self.softhsm_conf,
        )


class MetricsSection(Section):
    """Prometheus metrics; without this section there are none."""

    address: LoopbackAddress = Field(
        description="Loopback address and port: `127.0.0.1:9464`; port 0 takes a free one."
    )


class RotationSection(Section):
    """Keys with a rotation period, when that is nearly over."""

    ahead_days: float = Field(
        14.0,
        ge=0,
        le=366,
        description="Days before a rotation is due at which it is told (status, log) and may be "
        "prepared; a tenth of the key's period where that is shorter.",
    )
    prepare: bool = Field(
        False,
        description="Prepare what is due: generate the new version on the token, staged, draft "
        "the next root and open the ceremony that waits for its holders. Nothing is signed, "
        "activated or published by itself: docs/ceremonies.md.",
    )


class Config(Section):
    """All of keyd.toml."""

    server: ServerSection = ServerSection()  # type: ignore[call-arg]
    log: LogSection
    limits: LimitsSection = LimitsSection()  # type: ignore[call-arg]
    metrics: MetricsSection | None = None
    rotation: RotationSection = RotationSection()  # type: ignore[call-arg]
    listeners: Annotated[tuple[ListenerSection, ...], Field(strict=False)] = Field(alias="listener")
    tokens: Annotated[tuple[TokenSection, ...], Field(strict=False)] = Field(alias="token")
    notary: Annotated[tuple[NotarySection, ...], Field(strict=False)] = ()

    def call_limits(self) -> Limits:
        """The bounds on calls, as the server room takes them."""
        limits = self.limits
        return Limits(
            max_calls=limits.max_concurrent_calls,
            max_calls_per_principal=limits.max_concurrent_calls_per_principal,
            max_streams=limits.max_streams,
            max_streams_per_principal=limits.max_streams_per_principal,
            max_request_bytes=limits.max_request_bytes,
            max_bytes_in_flight=limits.max_bytes_in_flight,
            max_message_bytes=limits.max_message_bytes,
            max_batch_items=limits.max_batch_items,
        )

    def transport(self) -> Transport:
        """The bounds on connections, as the server room takes them."""
        return Transport(
            max_connections=self.limits.max_connections,
            max_connection_age_s=self.limits.max_connection_age_s,
        )
