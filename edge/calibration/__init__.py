"""Thresholds from good frames, what so many of them show, and bundles that are calibrated again on the line."""

from edge.calibration.thresholds import (
    GoodFrame,
    calibrate,
    coldest_of,
    describe_support,
    may_reach,
    rejected,
    score_threshold,
    threshold,
)

__all__ = [
    "GoodFrame",
    "calibrate",
    "coldest_of",
    "describe_support",
    "may_reach",
    "rejected",
    "score_threshold",
    "threshold",
]
