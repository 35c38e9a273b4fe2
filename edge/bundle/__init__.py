"""The bundle: what export makes and the line PC loads. docs/bundle.md is the authority."""

from edge.bundle.golden import GoldenTiles, check_golden
from edge.bundle.manifest import SCHEMA, Calibration, Manifest
from edge.bundle.proven_engine import ProvenEngine, open_proven_engine
from edge.bundle.store import Bundle, open_bundle, sign_bundle, write_bundle

__all__ = [
    "SCHEMA",
    "Bundle",
    "Calibration",
    "GoldenTiles",
    "Manifest",
    "ProvenEngine",
    "check_golden",
    "open_bundle",
    "open_proven_engine",
    "sign_bundle",
    "write_bundle",
]
