"""`heatline bench startup` times starts of the real service, and detects starts that skip a phase."""

from pathlib import Path

import msgspec
import pytest

from heatline.bench.startup import (
    AFTER_READY,
    BEFORE_FIRST_STATUS,
    PHASES,
    LineFile,
    Start,
    measure_startup,
)
from heatline.edge.bundle import Bundle
from heatline.edge.config import load_config
from heatline.edge.errors import BenchError

HW = (240, 300)
PHASES = [BEFORE_FIRST_STATUS, *PHASES, AFTER_READY]


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle) -> LineFile:
    return LineFile(tmp_path, bundle, "f32", HW)


def test_the_line_inspects_the_drawn_frame_without_a_plausibility_check(line: LineFile) -> None:
    assert load_config(line.path).thresholds.check_plausibility is False


def test_the_phases_of_a_start_add_up_to_its_total_times(line: LineFile) -> None:
    start = line.start(None)
    assert list(start.phases_s) == PHASES
    assert all(taken_s > 0 for taken_s in start.phases_s.values())
    assert sum(start.phases_s.values()) == pytest.approx(start.first_verdict_s)
    assert sum(start.phases_s.values()) - start.phases_s[AFTER_READY] == pytest.approx(start.ready_s)
    assert start.cpu_ready_s > 0


@pytest.mark.long
def test_starts_are_measured_under_every_condition(bundle: Bundle) -> None:
    found = measure_startup(bundle, "f32", frame_hw=HW, repetitions=1, report_line=print)
    assert [one.condition for one in found.conditions] == ["warm", "cached"]
    assert all(list(starts.phases_s) == PHASES for starts in found.conditions)


@pytest.mark.parametrize("compiles_again", [False, True])
def test_a_start_that_does_not_use_the_cache_is_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, compiles_again: bool
) -> None:
    made_start = Start(
        ready_s=2.0, first_verdict_s=3.0, cpu_ready_s=1.0, phases_s=dict.fromkeys(PHASES, 3.0 / len(PHASES))
    )  # fmt: skip

    def start(self: LineFile, cache: Path | None) -> Start:
        """Replaces a start of the service, which fills the cache."""
        if cache is not None and (compiles_again or not list(cache.iterdir())):
            (cache / f"{len(list(cache.iterdir()))}.blob").write_bytes(b"compiled")
        return msgspec.structs.replace(made_start, ready_s=2.0 if cache is None else 1.0)

    monkeypatch.setattr(LineFile, "start", start)
    if compiles_again:
        with pytest.raises(BenchError, match="a start that was to be cached compiled a graph"):
            measure_startup(bundle, "f32", frame_hw=HW, repetitions=2, report_line=print)
    else:
        found = measure_startup(bundle, "f32", frame_hw=HW, repetitions=2, report_line=print)
        assert {one.condition: one.ready_s.median for one in found.conditions} == {"warm": 2.0, "cached": 1.0}
