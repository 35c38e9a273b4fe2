"""The bundle, which export writes and the line PC loads. docs/bundle.md defines it."""

from heatline.edge.bundle.golden import GoldenTiles, check_golden
from heatline.edge.bundle.manifest import SCHEMA, Calibration, Manifest
from heatline.edge.bundle.store import (
    Bundle,
    VerifiedEngine,
    open_bundle,
    open_verified_engine,
    sign_bundle,
    write_bundle,
)

__all__ = [
    "SCHEMA",
    "Bundle",
    "Calibration",
    "GoldenTiles",
    "Manifest",
    "VerifiedEngine",
    "check_golden",
    "open_bundle",
    "open_verified_engine",
    "sign_bundle",
    "write_bundle",
]
