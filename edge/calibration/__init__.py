"""Thresholds from good frames, how reliable they are, and the recalibration of a bundle on the line."""

from heatline.edge.calibration.thresholds import (
    EVIDENCE_QUANTILE,
    STRONG_SHARE,
    GoodFrame,
    calibrate,
    cases_of_new_group,
    count_allowed_rejects,
    count_rejected,
    describe_support,
    divide,
    lowest_defect_of,
    score_threshold,
    set_thresholds,
    threshold,
)

__all__ = [
    "EVIDENCE_QUANTILE",
    "STRONG_SHARE",
    "GoodFrame",
    "calibrate",
    "cases_of_new_group",
    "count_allowed_rejects",
    "count_rejected",
    "describe_support",
    "divide",
    "lowest_defect_of",
    "score_threshold",
    "set_thresholds",
    "threshold",
]
