"""The bundle, which export writes and the line PC loads. docs/bundle.md defines it."""

from edge.bundle.golden import GoldenTiles, check_golden
from edge.bundle.manifest import SCHEMA, Calibration, Manifest
from edge.bundle.store import Bundle, open_bundle, sign_bundle, write_bundle
from edge.bundle.verified_engine import VerifiedEngine, open_verified_engine

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
