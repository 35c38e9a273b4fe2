"""What `line.toml` says, and what was tuned beside it. docs/config.md describes every key."""

from edge.config.line import (
    EventsConfig,
    JournalConfig,
    LineConfig,
    LineFile,
    TilesConfig,
    engine_keys_set,
    load_config,
)
from edge.config.products import ThresholdsConfig

__all__ = [
    "EventsConfig",
    "JournalConfig",
    "LineConfig",
    "LineFile",
    "ThresholdsConfig",
    "TilesConfig",
    "engine_keys_set",
    "load_config",
]
