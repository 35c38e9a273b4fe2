"""`heatline bench stages`: each stage does the line's work, and its check detects a wrong output."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.bench.stages import STAGES, Prepared, Stage, inference, judging, measure_stages, prepare, run_round, tile
from heatline.edge.bundle import Bundle
from heatline.edge.bundle.verified_engine import open_verified_engine
from heatline.edge.errors import BenchError
from heatline.edge.reference.reference import Reference
from heatline.edge.wire.events import Message, to_frames
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
        patch.setattr("heatline.bench.stages.golden_mosaic", squares)
        yield prepare(bundle, open_verified_engine(bundle), HW)


# Work of the stages.


def test_tiles_and_regions_agree_with_a_whole_inspection(prepared: Prepared) -> None:
    with ExitStack() as at_end:
        stage = tile(prepared, at_end)
        stage.run()
        cut = [each for _, _, each in oracles.tiles_of(prepared.picture, TILE, OVERLAP)]
        assert np.array_equal(prepared.stitcher.grid.tiles(prepared.picture), np.stack(cut))
        assert judging(prepared, at_end).run().regions == prepared.judgement().regions


def test_a_graph_that_compares_infers_the_same(tmp_path: Path) -> None:
    bundle = board_bundle(tmp_path / "boards.bundle", {"": Reference(board())})
    verified = open_verified_engine(bundle)
    prepared = prepare(bundle, verified, (446, 668))
    for name in ("infer", "whole inspection"):
        stage = STAGES[name](prepared, ExitStack())
        stage.check(stage.run())
    with pytest.raises(BenchError, match="cannot be aligned even with itself"):
        prepare(bundle, verified, (60, 60))


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
        if name in ("grab", "tile"):  # each run of the other stages has the same output
            with pytest.raises(BenchError, match="time counts for nothing"):
                stage.check(first)


def test_a_wrong_output_of_a_stage_is_detected(prepared: Prepared) -> None:
    good = replace(prepared.judgement(), verdict="GOOD", regions=[])
    logits, maps = inference(prepared, ExitStack()).run()
    sent = prepared.message()
    without_regions = Message(msgspec.structs.replace(sent.event, regions=[]), sent.png)
    with ExitStack() as at_end:
        for name, wrong in (
            ("judge", good),
            ("whole inspection", good),
            ("infer", (logits + 1, maps)),
            ("encode", to_frames(without_regions)),
        ):
            with pytest.raises(BenchError, match="counts for nothing"):
                STAGES[name](prepared, at_end).check(wrong)


def test_each_run_of_a_round_is_timed_and_the_last_one_is_checked() -> None:
    runs, checked = iter((1, 2, 3, 4, 5)), list[int]()
    made = Stage(lambda: next(runs), checked.append, seconds=lambda number: 0.001 * number)
    assert [run_round(made, 3), run_round(made, 2)] == [[0.001, 0.002, 0.003], [0.004, 0.005]]
    assert checked == [3, 5]


@pytest.mark.usefixtures("prepared")
def test_every_stage_has_its_time_per_frame(bundle: Bundle) -> None:
    found = measure_stages(bundle, "f32", sizes=[HW], rounds=1, frames=2, report_line=print)
    assert [row.stage for row in found.rows] == list(STAGES)
    assert {(row.size, row.tiles, row.ms.median > 0) for row in found.rows} == {("500x210", 3, True)}
