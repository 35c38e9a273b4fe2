"""`heatline bench stages`: each stage does the line's work, and its check detects a wrong output."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.bench.stages import STAGES, Prepared, inference, measure_stages, prepare
from heatline.bench.startup import AFTER_READY, BEFORE_FIRST_STATUS, PHASES, LineFile, Start, measure_startup
from heatline.edge.bundle import Bundle, open_verified_engine
from heatline.edge.errors import BenchError
from heatline.edge.wire.events import Message, to_frames
from tests.small_bundle import dark_square, white_frame

HW = (210, 500)
"""Three tiles; the frame is lower than a tile, so each tile has padding."""


def squares(bundle: Bundle, hw: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Return a frame full of dark squares, in a repeated pattern."""
    once = dark_square(dark_square(white_frame((250, 250)), 20, 30), 150, 90, side=20)
    return np.ascontiguousarray(once[np.arange(hw[0])[:, None] % 250, np.arange(hw[1]) % 250])


@pytest.fixture(scope="module")
def prepared(bundle: Bundle) -> Iterator[Prepared]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heatline.bench.stages.golden_mosaic", squares)
        yield prepare(bundle, open_verified_engine(bundle), HW)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_passes_its_check_and_an_old_output_fails_it(prepared: Prepared, name: str) -> None:
    with ExitStack() as at_end:
        stage = STAGES[name](prepared, at_end)
        first = stage.run()
        stage.check(first)
        again = stage.run()
        assert stage.seconds is None or stage.seconds(again) > 0
        stage.check(again)
        if name in ("grab", "tile"):  # each run of the other stages has the same output
            with pytest.raises(BenchError, match="time counts for nothing"):
                stage.check(first)


def test_a_wrong_output_of_a_stage_is_detected(prepared: Prepared) -> None:
    good = replace(prepared.judgement(), verdict="GOOD", regions=[])
    logits, maps = inference(prepared, ExitStack()).run()
    sent = prepared.message()
    without_regions = to_frames(Message(msgspec.structs.replace(sent.event, regions=[]), sent.png))
    with ExitStack() as at_end:
        for name, wrong in (("judge", good), ("infer", (logits + 1, maps)), ("encode", without_regions)):
            with pytest.raises(BenchError, match="counts for nothing"):
                STAGES[name](prepared, at_end).check(wrong)


@pytest.mark.usefixtures("prepared")
def test_every_stage_has_its_time_per_frame(bundle: Bundle) -> None:
    found = measure_stages(bundle, "f32", sizes=[HW], rounds=1, frames=2, report_line=print)
    assert [row.stage for row in found.rows] == list(STAGES)
    assert {(row.size, row.tiles, row.ms.median > 0) for row in found.rows} == {("500x210", 3, True)}


SMALL = (240, 300)
ALL_PHASES = [BEFORE_FIRST_STATUS, *PHASES, AFTER_READY]


def test_the_phases_of_a_start_add_up_to_its_total_times(tmp_path: Path, bundle: Bundle) -> None:
    start = LineFile(tmp_path, bundle, "f32", SMALL).start(None)
    assert list(start.phases_s) == ALL_PHASES
    assert all(taken_s > 0 for taken_s in start.phases_s.values())
    assert sum(start.phases_s.values()) == pytest.approx(start.first_verdict_s)
    assert sum(start.phases_s.values()) - start.phases_s[AFTER_READY] == pytest.approx(start.ready_s)
    assert start.cpu_ready_s > 0


@pytest.mark.long
def test_starts_are_measured_under_every_condition(bundle: Bundle) -> None:
    found = measure_startup(bundle, "f32", frame_hw=SMALL, repetitions=1, report_line=print)
    assert [one.condition for one in found.conditions] == ["warm", "cached"]
    assert all(list(starts.phases_s) == ALL_PHASES for starts in found.conditions)


def test_a_start_that_does_not_use_the_cache_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Start(ready_s=2.0, first_verdict_s=3.0, cpu_ready_s=1.0, phases_s=dict.fromkeys(ALL_PHASES, 0.1))

    def start(self: LineFile, cache: Path | None) -> Start:
        """Replaces a start of the service, which compiles each time."""
        if cache is not None:
            (cache / f"{len(list(cache.iterdir()))}.blob").write_bytes(b"compiled")
        return made

    monkeypatch.setattr(LineFile, "start", start)
    with pytest.raises(BenchError, match="a start that was to be cached compiled a graph"):
        measure_startup(bundle, "f32", frame_hw=SMALL, repetitions=2, report_line=print)
