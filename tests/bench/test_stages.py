"""`heatline bench stages`: each stage does what the line does, is found out where it does not, and counts its bytes."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.spread import Spread
from bench.stages.cost import Recorder
from bench.stages.infer import BareEngine, require_answers
from bench.stages.judge import Judge
from bench.stages.prepared import Prepared, prepare
from bench.stages.stage import Moved, Stage
from bench.stages.stages import STACKED, STAGES, measure_stages, steps, to_facts
from bench.stages.stitch import Stitch
from bench.stages.tile import Tile
from bench.stages.tile_counts import hw_of
from bench.stages.whole import Whole
from edge.bundle import Bundle
from edge.bundle.proven_engine import open_proven_engine
from edge.errors import BenchError
from edge.geometry import TileGrid
from edge.inference import infer
from tests import oracles
from tests.small_bundle import CELLS, TILE, dark_square, white_frame

HW = (210, 500)
"""Lower than a tile, so that some of each tile is padding; three tiles."""
OVERLAP, CELL_PX = 2, 4


def squares(bundle: Bundle, hw: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Dark squares, over and over until the frame is full."""
    once = dark_square(dark_square(white_frame((250, 250)), 20, 30), 150, 90, side=20)
    return np.ascontiguousarray(once[np.arange(hw[0])[:, None] % 250, np.arange(hw[1]) % 250])


@pytest.fixture(scope="module")
def prepared(bundle: Bundle) -> Iterator[Prepared]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.stages.prepared.golden_mosaic", squares)
        yield prepare(bundle, open_proven_engine(bundle), HW)


# What each stage does.


def test_tiles_heatmap_and_regions_are_those_of_the_whole_way(prepared: Prepared) -> None:
    stage = Tile(prepared)
    stage.run()
    cut = [tile for _, _, tile in oracles.tiles_of(prepared.picture, TILE, OVERLAP)]
    for place, tile in {number % len(stage.inputs): tile for number, tile in enumerate(cut)}.items():
        assert np.array_equal(stage.inputs[place, 0], tile)
    expected, stitch, judge = prepared.judgement(prepared.defective), Stitch(prepared), Judge(prepared, defects=True)
    stitch.run()
    judge.run()
    assert stitch.heatmap is not None
    assert np.array_equal(stitch.heatmap, expected.heatmap)
    assert judge.judgement is not None
    assert judge.judgement.regions == expected.regions
    whole = Whole(prepared, defects=True)
    whole.run()
    whole.expected = prepared.judgement(prepared.good)
    with pytest.raises(BenchError, match="that the frame is judged as it was before"):
        whole.check()


def test_the_bare_engine_answers_for_tiles_of_the_frame_and_for_no_others(prepared: Prepared) -> None:
    tiles = np.stack([tile for _, _, tile in oracles.tiles_of(prepared.picture, TILE, OVERLAP)])
    logits, others = infer(prepared.engine, tiles)[0], np.full((8, TILE, TILE, 3), 255, np.uint8)
    bare = BareEngine(prepared)
    infer(prepared.engine, others)
    bare.infer(6)
    assert all(np.isclose(one, logits).any() for one in bare.logits)
    require_answers(bare.logits, prepared, frames=2)
    with pytest.raises(BenchError, match="answered 6 tiles of 3"):
        require_answers(bare.logits, prepared)
    with pytest.raises(BenchError, match="otherwise than it had for the same tiles"):
        require_answers([*bare.logits[:2], logits[0] + 1], prepared)
    infer(prepared.engine, others)  # others used its inputs
    bare.refill()
    bare.infer(6)
    require_answers(bare.logits, prepared, frames=2)


# What it moves, and whether it is found out.


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_moves_what_is_counted_by_hand_and_a_run_that_did_not_happen_is_found_out(
    prepared: Prepared, name: str, tmp_path: Path
) -> None:
    height, width = HW
    tiles = len(oracles.starts(height, TILE, OVERLAP)) * len(oracles.starts(width, TILE, OVERLAP))
    cells, answers = -(-height // CELL_PX) * -(-width // CELL_PX), tiles * 4 * (1 + CELLS * CELLS)
    by_hand = {
        "grab": Moved(height * width, height * width * 3),
        "tile": Moved(tiles * height * TILE * 3, tiles * TILE * TILE * 3),
        "infer": Moved(tiles * TILE * TILE * 3, answers),
        "stitch": Moved(tiles * CELLS * CELLS * 4, cells * 4),
        "judge (good)": Moved(answers, 0),
        "judge (defects)": Moved(answers + cells * 4, 0),
    }
    with closing(STAGES[name](prepared, tmp_path)) as stage:
        assert stage.timed() > 0
        assert stage.moved() == by_hand.get(name, stage.moved())
        if name.startswith("publish"):
            assert stage.moved().read == stage.moved().written > 0
        stage.check()
        with pytest.raises(BenchError):
            stage.check()
        stage.run()
        stage.check()


# What it costs.


SPIN_NS = 20_000_000


def spin() -> None:
    began_ns = time.thread_time_ns()
    while time.thread_time_ns() - began_ns < SPIN_NS:
        pass


class Made(Stage):
    """A stage whose n-th run takes n ms per frame, and leaves a thread behind that takes processor time."""

    name = "made"

    def __init__(self, frames: int = 1, *, spins: bool = False) -> None:
        self.frames, self.checked, self.runs, self._spins = frames, 0, 0, spins
        self._thread = threading.Thread(target=lambda: None)
        self._thread.start()

    def run(self) -> None:
        self.runs += 1
        np.empty((2, 250))
        if self._spins:
            self._thread = threading.Thread(target=spin)
            self._thread.start()

    def timed(self) -> float:
        self.run()
        return 0.001 * self.runs * self.frames

    def check(self) -> None:
        assert not self._spins or not self._thread.is_alive(), "it is waited for"
        self.checked += 1

    def moved(self) -> Moved:
        return Moved(1, 2)


def test_a_cost_is_of_all_rounds_without_settling_and_per_frame() -> None:
    stage, rounds = Made(), []
    recorder = Recorder(stage, lambda: rounds.append(stage.runs))
    recorder.settle()
    for frames in (3, 2):
        recorder(frames)
    assert (rounds, stage.checked) == ([3, 6, 8], 3)
    cost = recorder.cost()
    assert cost.ms == pytest.approx(Spread(6.25, 5.0, 7.5))
    assert cost.p99_ms == pytest.approx(np.percentile([4, 5, 6, 7, 8], 99))
    assert (cost.bytes_read, cost.bytes_written) == (1, 2)
    assert (cost.allocations, cost.allocated_bytes) == (1, 4000)
    assert 4000 <= cost.peak_bytes < 8000

    several = Recorder(Made(frames=4), lambda: None)
    for _ in range(2):
        several(9)  # two whole runs of four frames
    assert several.cost().ms == pytest.approx(Spread(2.5, 1.5, 3.5))
    assert several.cost().allocated_bytes == 1000

    spinning = Recorder(Made(spins=True), lambda: None)
    for _ in range(3):
        spinning(2)
    assert float(np.median([one.cpu_s for one in spinning.rounds])) >= SPIN_NS / 1e9


# All of it.


@given(tiles=st.integers(1, 600), tile_px=st.integers(2, 300), data=st.data())
def test_a_frame_is_made_that_has_so_many_tiles(tiles: int, tile_px: int, data: st.DataObject) -> None:
    overlap_px = data.draw(st.integers(0, tile_px - 1))
    height, width = hw_of(tiles, tile_px, overlap_px)
    assert height <= width
    found = len(oracles.starts(height, tile_px, overlap_px)) * len(oracles.starts(width, tile_px, overlap_px))
    assert found == tiles == len(TileGrid((height, width), tile_px, overlap_px))


@pytest.mark.usefixtures("prepared")
def test_the_picture_of_a_frame_adds_up(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.stages.tile_counts.TILES_PER_RUN", 15)
    told: list[None] = []
    found = measure_stages(
        bundle, "f32", sizes=[HW], tile_counts=[2, 6], rounds=1, frames=2, folder=tmp_path, say=lambda line: None,
        done=lambda: told.append(None),
    )  # fmt: skip
    assert len(told) == steps([HW], [2, 6], rounds=1)
    assert [f"{row.stage} ({row.variant})" if row.variant else row.stage for row in found.rows] == list(STAGES)
    assert len([row for row in found.rows if row.stacked]) == len(STACKED)
    assert {(row.size, row.tiles, row.ms.median > 0) for row in found.rows} == {("500x210", 3, True)}
    times = {(row.stage, row.variant): row.ms.median for row in found.rows}
    assert [way.variant for way in found.whole] == ["good", "defects"]
    for way in found.whole:
        parts = [times["tile", ""], times["infer", ""], times["stitch", ""], times["judge", way.variant]]
        assert way.stages_ms == pytest.approx(sum(parts))
        assert way.stages_ms + way.hand_offs_ms.median == pytest.approx(way.ms.median)
        assert (way.regions > 0) == (way.variant == "defects")
    assert [(one.tiles, one.size, one.frames) for one in found.cost_per_tile] == [(2, "446x224", 8), (6, "668x446", 6)]
    costs = [one.whole_ms_per_tile.median for one in found.cost_per_tile]
    for one in found.cost_per_tile:
        assert one.over_bare.median == pytest.approx(one.whole_ms_per_tile.median / one.bare_ms_per_tile.median)
    assert found.cost_per_tile_spread == pytest.approx(max(costs) / min(costs) - 1)
    assert {"500x210: grab", "6 tiles a frame"} <= to_facts(found).keys()
