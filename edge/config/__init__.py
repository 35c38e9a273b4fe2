"""The configuration in `line.toml`. docs/config.md describes every key."""

from heatline.edge.config.line import (
    CollectConfig,
    EventsConfig,
    EvidenceConfig,
    JournalConfig,
    LineConfig,
    SecurityConfig,
    TilesConfig,
    WebConfig,
    load_config,
)
from heatline.edge.config.products import ThresholdsConfig

__all__ = [
    "CollectConfig",
    "EventsConfig",
    "EvidenceConfig",
    "JournalConfig",
    "LineConfig",
    "SecurityConfig",
    "ThresholdsConfig",
    "TilesConfig",
    "WebConfig",
    "load_config",
]
