"""`make power-cuts`: no result is missing, and what is missing is counted."""

import msgspec
import pytest

from heatline.edge.bundle import Bundle
from tests.system.power_cuts import PowerCuts, measure_power_cuts, verify
from tests.system.power_cuts import faults as cut_faults


@pytest.mark.parametrize(("cuts", "life_s"), [(2, 2.0), pytest.param(20, 6.0, marks=pytest.mark.long)])
def test_a_subscriber_misses_no_result_when_line_and_broker_die(bundle: Bundle, cuts: int, life_s: float) -> None:
    found = measure_power_cuts(
        bundle, seed=3, cuts=cuts, rate_fps=20, autosave_s=1, republish_s=5, longest_life_s=life_s
    )
    assert (cut_faults(found), found.cuts) == ([], cuts)
    assert found.results > 0


def test_what_is_missing_repeated_or_late_is_counted_and_a_repeated_result_is_not_late() -> None:
    received = [("left", 1, "j-1"), ("right", 4, "j-4"), ("left", 3, "j-3"), ("left", 1, "j-1"), ("left", 2, "j-2")]
    assert verify(["j-1", "j-2", "j-3", "j-4", "j-5"], received) == (1, 1, 1)
    found = PowerCuts(
        seed=1, autosave_s=1, republish_s=5, cuts=1, away_at_a_cut=0, results=5, missing=1, repeated=1, out_of_order=1
    )
    assert cut_faults(found) == ["1 of 5 results are missing", "1 of 5 results came after a later one of their camera"]
    nothing = msgspec.structs.replace(found, results=0, missing=0, out_of_order=0)
    assert cut_faults(nothing) == ["no result was journalled"]
