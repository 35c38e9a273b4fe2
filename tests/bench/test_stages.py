"""`heatline bench stages`: each stage does the line's work, and its check detects a wrong output."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.bench.spread import Spread
from heatline.bench.stages.inspecting import ReadyInputs, encode, judging, require_answers, stitch, tile, whole
from heatline.bench.stages.prepared import Prepared, prepare
from heatline.bench.stages.stage import Recorder, Stage
from heatline.bench.stages.stages import STACKED, STAGES, measure_stages, steps, to_facts
from heatline.bench.stages.tile_counts import hw_of
from heatline.edge.bundle import Bundle
from heatline.edge.bundle.verified_engine import open_verified_engine
from heatline.edge.errors import BenchError
from heatline.edge.geometry import TileGrid
from heatline.edge.inference import infer
from heatline.edge.reference.reference import Reference
from tests import oracles
from tests.edge.boards import board, board_bundle
from tests.small_bundle import TILE, dark_square, white_frame

HW = (210, 500)
"""Three tiles; the frame is lower than a tile, so each tile has padding."""
OVERLAP, CELL_PX = 2, 4


def squares(bundle: Bundle, hw: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Return a frame full of dark squares, in a repeated pattern."""
    once = dark_square(dark_square(white_frame((250, 250)), 20, 30), 150, 90, side=20)
    return np.ascontiguousarray(once[np.arange(hw[0])[:, None] % 250, np.arange(hw[1]) % 250])


@pytest.fixture(scope="module")
def prepared(bundle: Bundle) -> Iterator[Prepared]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heatline.bench.stages.prepared.golden_mosaic", squares)
        yield prepare(bundle, open_verified_engine(bundle), HW)


# Work of the stages.


def test_tiles_heatmap_and_regions_agree_with_a_whole_inspection(prepared: Prepared) -> None:
    inputs = tile(prepared).run()
    cut = [each for _, _, each in oracles.tiles_of(prepared.picture, TILE, OVERLAP)]
    for place, each in {number % len(inputs): each for number, each in enumerate(cut)}.items():
        assert np.array_equal(inputs[place, 0], each)
    expected = prepared.judgement(prepared.defective)
    assert np.array_equal(stitch(prepared).run(), expected.heatmap)
    assert judging(prepared, defects=True).run().regions == expected.regions


def test_the_engine_alone_infers_exactly_the_tiles_of_the_frame(prepared: Prepared) -> None:
    tiles = np.stack([each for _, _, each in oracles.tiles_of(prepared.picture, TILE, OVERLAP)])
    logits, others = infer(prepared.engine, tiles)[0], np.full((8, TILE, TILE, 3), 255, np.uint8)
    ready = ReadyInputs(prepared)
    infer(prepared.engine, others)
    found = ready.infer(6)
    assert all(np.isclose(one, logits).any() for one in found)
    require_answers(found, prepared, frames=2)
    with pytest.raises(BenchError, match="answered 6 tiles of 3"):
        require_answers(found, prepared)
    with pytest.raises(BenchError, match="the engine's answers for the same tiles changed"):
        require_answers([*found[:2], logits[0] + 1], prepared)
    infer(prepared.engine, others)  # overwrites the inputs of the engine
    ready.refill()
    require_answers(ready.infer(6), prepared, frames=2)


def test_a_graph_that_compares_infers_the_same_with_its_inputs_ready(tmp_path: Path) -> None:
    bundle = board_bundle(tmp_path / "boards.bundle", {"": Reference(board())})
    prepared = prepare(bundle, open_verified_engine(bundle), (446, 668))
    others = np.full((8, TILE, TILE, 3), 255, np.uint8), np.full((8, 28, 28, 8), 255, np.uint8)
    infer(prepared.engine, *others)
    for stage in (STAGES["infer"](prepared, ExitStack()), whole(prepared, defects=True)):
        stage.check(stage.run())
    with pytest.raises(BenchError, match="cannot be aligned even with itself"):
        prepare(bundle, prepared.verified, (60, 60))


# Checks of the outputs.


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_passes_its_check_and_an_old_output_fails_it(prepared: Prepared, name: str) -> None:
    with ExitStack() as at_end:
        stage = STAGES[name](prepared, at_end)
        first = stage.run()
        stage.check(first)
        again = stage.run()
        assert stage.seconds is None or stage.seconds(again) > 0
        stage.check(again)
        if name.startswith(("grab", "publish", "tile")):  # each run of the other stages has the same output
            with pytest.raises(BenchError, match="so its time counts for nothing"):
                stage.check(first)


def test_a_wrong_output_of_a_stage_is_detected(prepared: Prepared) -> None:
    good, defects = (judging(prepared, defects=has_any) for has_any in (False, True))
    with_map, without = (encode(prepared, heatmap=has_one) for has_one in (True, False))
    for stage, made in (
        (good, defects.run()),
        (defects, good.run()),
        (whole(prepared, defects=True), prepared.judgement(prepared.good)),
        (stitch(prepared), prepared.heatmap + np.float32(1)),
        (with_map, without.run()),
        (without, with_map.run()),
        (STAGES["infer"](prepared, ExitStack()), []),
    ):
        with pytest.raises(BenchError, match="counts for nothing"):
            stage.check(made)


# Cost.


class CountingStage:
    """A stage whose n-th run reports n ms per frame and returns n."""

    def __init__(self) -> None:
        self.runs, self.checked = 0, list[int]()
        self.stage = Stage("made", self.run, self.checked.append, seconds=lambda number: 0.001 * number)

    def run(self) -> int:
        self.runs += 1
        return self.runs


def test_the_cost_per_frame_covers_all_rounds_but_the_warm_up() -> None:
    made, rounds = CountingStage(), list[int]()
    recorder = Recorder(made.stage, lambda: rounds.append(made.runs))
    recorder.settle()
    for frames in (3, 2):
        recorder(frames)
    assert rounds == made.checked == [3, 6, 8], "the last run of each round is checked"
    cost = recorder.cost()
    assert cost.ms == pytest.approx(Spread(6.25, 5.0, 7.5))
    assert cost.p99_ms == pytest.approx(np.percentile([4, 5, 6, 7, 8], 99))


def test_processor_time_is_measured_per_frame() -> None:
    def spin() -> None:
        began_ns = time.thread_time_ns()
        while time.thread_time_ns() - began_ns < 20_000_000:
            pass

    recorder = Recorder(Stage("spins", spin, lambda _: None), lambda: None)
    recorder(6)
    assert recorder.cost().cpu_ms >= 20.0


# Whole runs.


@given(tiles=st.integers(1, 600), tile_px=st.integers(2, 300), data=st.data())
def test_the_frame_size_gives_the_requested_number_of_tiles(tiles: int, tile_px: int, data: st.DataObject) -> None:
    overlap_px = data.draw(st.integers(0, tile_px - 1))
    height, width = hw_of(tiles, tile_px, overlap_px)
    assert height <= width
    found = len(oracles.starts(height, tile_px, overlap_px)) * len(oracles.starts(width, tile_px, overlap_px))
    assert found == tiles == len(TileGrid((height, width), tile_px, overlap_px))


@pytest.mark.usefixtures("prepared")
def test_the_stages_add_up_to_the_whole_inspection(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatline.bench.stages.tile_counts.TILES_PER_RUN", 15)
    finished_steps: list[None] = []
    found = measure_stages(
        bundle, "f32", sizes=[HW], tile_counts=[2, 6], rounds=1, frames=2, report_line=lambda line: None,
        done=lambda: finished_steps.append(None),
    )  # fmt: skip
    assert len(finished_steps) == steps([HW], [2, 6], rounds=1)
    assert [f"{row.stage} ({row.variant})" if row.variant else row.stage for row in found.rows] == list(STAGES)
    assert len([row for row in found.rows if row.stacked]) == len(STACKED)
    assert {(row.size, row.tiles, row.ms.median > 0) for row in found.rows} == {("500x210", 3, True)}
    times = {(row.stage, row.variant): row.ms.median for row in found.rows}
    assert [inspection.variant for inspection in found.whole] == ["good", "defects"]
    for inspection in found.whole:
        parts = [times["tile", ""], times["infer", ""], times["stitch", ""], times["judge", inspection.variant]]
        assert inspection.stages_ms == pytest.approx(sum(parts))
        assert inspection.stages_ms + inspection.hand_offs_ms.median == pytest.approx(inspection.ms.median)
        assert (inspection.regions > 0) == (inspection.variant == "defects")
    assert [(one.tiles, one.size, one.frames) for one in found.cost_per_tile] == [(2, "446x224", 8), (6, "668x446", 6)]
    costs = [one.whole_ms_per_tile.median for one in found.cost_per_tile]
    for one in found.cost_per_tile:
        assert one.over_bare.median == pytest.approx(one.whole_ms_per_tile.median / one.bare_ms_per_tile.median)
    assert found.cost_per_tile_spread == pytest.approx(max(costs) / min(costs) - 1)
    assert {"500x210: grab", "6 tiles a frame"} <= to_facts(found).keys()
