"""The configuration in `line.toml`, and the tuned settings beside it. docs/config.md describes every key."""

from heatline.edge.config.line import (
    EventsConfig,
    EvidenceConfig,
    JournalConfig,
    LineConfig,
    LineFile,
    TilesConfig,
    WebConfig,
    engine_keys_set,
    load_config,
)
from heatline.edge.config.products import ThresholdsConfig

__all__ = [
    "EventsConfig",
    "EvidenceConfig",
    "JournalConfig",
    "LineConfig",
    "LineFile",
    "ThresholdsConfig",
    "TilesConfig",
    "WebConfig",
    "engine_keys_set",
    "load_config",
]
