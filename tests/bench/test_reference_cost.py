"""`heatline bench reference`: what it times, on small frames, and that a wrong result has no time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatline.bench.machine import machine
from heatline.bench.reference_cost import (
    ALIGNMENT,
    ANCHORS,
    COARSE,
    COMPARING,
    DIFFERENCES,
    GRAPH,
    GREY,
    IN_ALL,
    MOTION,
    STAGES,
    Compared,
    measure,
    table,
)
from heatline.bench.report.write import make_report
from heatline.bench.result_file import keep, new_report
from heatline.edge.errors import BenchError
from heatline.edge.reference.alignment import Pose
from heatline.train.compose import compose

HW = (446, 560)
pytestmark = pytest.mark.usefixtures("one_thread")


def test_stages_and_graphs_are_timed_in_the_same_rounds(tmp_path: Path, tiny_trunk: tuple[str, str]) -> None:
    config = compose(["data=.", "recipe=heatline", "tiles.tile_px=64", *tiny_trunk])
    lines: list[str] = []
    found = measure(config, ("f32",), (HW,), lines.append, rounds=2)
    assert lines[-1] == "timing 7 stages in 2 interleaved rounds"
    assert [(one.of, one.stage) for one in found.rows] == [
        *(("560x446", stage) for stage in STAGES),
        (GRAPH, "f32"),
        (COMPARING, "f32"),
    ]
    rows = {(one.of, one.stage): one for one in found.rows}
    assert rows[GRAPH, "f32"].shares["f32"].median == 1
    frame, plain = rows["560x446", IN_ALL], rows[GRAPH, "f32"].ms
    assert frame.tiles == 72
    assert frame.ms.lowest / 72 / plain.highest <= frame.shares["f32"].median <= frame.ms.highest / 72 / plain.lowest
    parts = sum(rows["560x446", stage].ms.median for stage in (COARSE, ANCHORS))
    assert parts == pytest.approx(rows["560x446", ALIGNMENT].ms.median), "of two rounds, the median is the mean"
    lines = table(found).splitlines()
    assert lines[0] == "|  | stage, precision | ms | per tile, of the graph in f32 |"
    assert lines[2].startswith("| 560x446, 72 tiles | grey | ")
    keep(tmp_path / "reference.json", new_report("reference", machine(), found))
    assert "What a reference costs" in make_report([tmp_path]).tables


@pytest.mark.parametrize(
    ("stage", "wrong", "expected"),
    [
        (GREY, np.zeros(HW, np.uint8), "became grey"),
        (COARSE, Pose(0.0, 30.0, 0.0, 1.0, 0.0), "coarse search finds the motion"),
        (ALIGNMENT, Pose(MOTION.x_px, MOTION.y_px, 2.0, 1.0, 0.0), "alignment, both finds the motion"),
        (DIFFERENCES, np.zeros((6, 28, 28, 8), np.uint8), "together give the differences"),
        (IN_ALL, None, "together give the differences"),
        (None, np.zeros((6, 28, 28, 8), np.uint8), "differs most at its defect"),
    ],
)
def test_a_stage_that_does_not_do_its_work_has_no_time(stage: str | None, wrong: Any, expected: str) -> None:
    frame = Compared(HW, 224, 2)
    last = {name: run() for name, run in frame.stages().items()}
    frame.check(last)
    last |= {DIFFERENCES: wrong, IN_ALL: wrong} if stage is None else {stage: wrong}
    with pytest.raises(BenchError, match=expected):
        frame.check(last)
