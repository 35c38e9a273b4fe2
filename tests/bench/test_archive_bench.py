"""The bench of archives: what it computes from what it observes."""

import pytest

from heatline.bench.archive import Watch, _result, _Run
from heatline.edge.errors import BenchError


def test_a_rate_counts_from_the_moment_when_all_workers_inspect() -> None:
    watch = Watch(2)
    for pictures, workers in ((0, 0), (0, 1), (8, 1), (8, 2), (16, 2), (24, 1)):
        watch.progress(pictures, 24, 0, workers)
    assert watch.start_s > 0
    assert watch.per_s * (watch._last_at[0] - watch._began_s - watch.start_s) == pytest.approx(16)
    assert watch.others_mib > 0


def test_workers_that_never_worked_together_end_the_bench() -> None:
    watch = Watch(2)
    for pictures in (0, 8, 16):
        watch.progress(pictures, 16, 0, 1)
    with pytest.raises(BenchError, match="2 workers never worked together"):
        _ = watch.per_s


def test_the_share_and_the_overhead_are_of_each_round() -> None:
    def run(per_s: float) -> _Run:
        return _Run(per_s, ["GOOD"], driver_ms_per_part=2.0)

    runs = {"one process": [run(10), run(20)], "one worker": [run(9), run(20)], "1": [run(9)], "2": [run(17)]}
    found = _result({**runs, "4": [run(18)]}, 1, (10, 10))
    assert (found.share.lowest, found.share.highest) == (0.9, 1.0)
    assert found.overhead_ms.highest == pytest.approx(1000 / 9 - 100)
    assert found.by_workers_per_s["2"].median == 17
    assert found.saturation_per_s == pytest.approx(256 / 0.002)
