"""keyd.toml: parsed once, frozen, and strict: a setting that is not known stops the start."""

from keyd.config.listeners import (
    NotaryListenerSection,
    TcpListenerSection,
    UnixListenerSection,
)
from keyd.config.load import load_config, parse_config
from keyd.config.sections import (
    Config,
    LimitsSection,
    LogSection,
    MetricsSection,
    NotarySection,
    RotationSection,
    ServerSection,
    TokenSection,
)
from keyd.config.starter import Starter, starter_config

__all__ = [
    "Config",
    "LimitsSection",
    "LogSection",
    "MetricsSection",
    "NotaryListenerSection",
    "NotarySection",
    "RotationSection",
    "ServerSection",
    "Starter",
    "TcpListenerSection",
    "TokenSection",
    "UnixListenerSection",
    "load_config",
    "parse_config",
    "starter_config",
]
