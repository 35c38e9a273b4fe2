"""`make power-cuts`: it counts what is missing, repeated and out of order, and a durable subscriber misses nothing."""

import msgspec
import pytest

from heatline.edge.bundle import Bundle
from tests.system.power_cuts import PowerCuts, faults, measure_power_cuts, verify


@pytest.mark.parametrize("cuts", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_durable_subscriber_misses_no_result_when_line_bridge_and_broker_die_together(
    bundle: Bundle, cuts: int
) -> None:
    output: list[str] = []
    found = measure_power_cuts(
        bundle,
        seed=3,
        cuts=cuts,
        rate_fps=20,
        autosave_s=1,
        republish_s=5,
        longest_life_s=6,
        report_line=output.append,
    )
    assert faults(found) == []
    assert (found.cuts, len(output)) == (cuts, cuts)
    assert found.results > 0


def test_what_is_missing_repeated_or_late_is_counted_and_a_repeated_result_is_not_late() -> None:
    received = [("left", 1, "j-1"), ("right", 4, "j-4"), ("left", 3, "j-3"), ("left", 1, "j-1"), ("left", 2, "j-2")]
    assert verify(["j-1", "j-2", "j-3", "j-4", "j-5"], received) == (1, 1, 1)
    found = PowerCuts(
        seed=1, autosave_s=1, republish_s=5, cuts=1, away_at_a_cut=0, results=5, missing=1, repeated=1, out_of_order=1
    )
    assert faults(found) == ["1 of 5 results are missing", "1 of 5 results came after a later one of their camera"]
    assert faults(msgspec.structs.replace(found, results=0, missing=0, out_of_order=0)) == ["no result was journalled"]
