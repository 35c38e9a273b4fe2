"""The configuration in `line.toml`. docs/config.md describes every key."""

from heatline.edge.config.line import (
    CollectConfig,
    EventsConfig,
    EvidenceConfig,
    JournalConfig,
    LineConfig,
    PartConfig,
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
    "PartConfig",
    "SecurityConfig",
    "ThresholdsConfig",
    "TilesConfig",
    "WebConfig",
    "load_config",
]
