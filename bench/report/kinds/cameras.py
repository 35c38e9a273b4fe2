"""Rates that cameras may have, and how soon a line gets over their deaths."""

from collections.abc import Sequence

from bench.cameras import FAULT_COLUMNS, RATE_COLUMNS, CamerasBench, fault_row, rate_row
from bench.report.content import Block, Column, table
from bench.report.files import Result

WORDS = ("cameras", "camera", "way", "CPU ms/frame", "limited by", "fault", "noticed as", "counted from")
"""Columns that hold no single number."""


def blocks(result: Result) -> list[Block]:
    """Both tables of `heatline bench cameras`."""
    return [
        Block(
            f"{found.model} in {found.precision}",
            ("Medians (lowest to highest).", *(f"Left out: {what}: {why}." for what, why in found.left_out.items())),
            tables=(
                table(_columns(RATE_COLUMNS), [rate_row(rate) for rate in found.rates], "Rates"),
                table(_columns(FAULT_COLUMNS), [fault_row(fault) for fault in found.faults], "Faults"),
            ),
        )
        for found in result.decoded(CamerasBench)
    ]


def _columns(names: Sequence[str]) -> list[Column]:
    return [Column(name, name in WORDS) for name in names]
