"""`heatline bench reference`: what it costs to compare frames with a reference, by stage, on one core."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from heatline.bench.bare_engine import BareEngine, find_wrong_answer
from heatline.bench.changes import grain, scaled
from heatline.bench.markdown import markdown_table
from heatline.bench.pictures import draw_shapes
from heatline.bench.spread import Spread, time_interleaved
from heatline.bench.stages.prepared import size_of
from heatline.bench.stages.stage import require
from heatline.edge.errors import PrecisionError
from heatline.edge.geometry import TileGrid
from heatline.edge.inference import Precision
from heatline.edge.reference.alignment import Aligner, Pose
from heatline.edge.reference.difference import CELL_PX, differences, to_grey
from heatline.edge.reference.reference import Reference
from heatline.export.onnx_graph import to_graphs
from heatline.export.openvino_ir import to_ir
from heatline.export.quantise import Quantisation, quantise
from heatline.train.config import TrainConfig
from heatline.train.models.build import build_model
from heatline.train.models.dense import DenseClassifier

ROUNDS, RUNS = 15, 30
"""Interleaved rounds, and runs of a stage in a round."""
MOTION = Pose(9.0, -6.0, 0.4, 1.0, 0.0)
"""Of the frame, from the reference."""
DEFECT_PX = 24
NEAR_PX, NEAR_COARSE_PX, NEAR_DEGREES = 0.5, 12.0, 0.5
"""How exactly the motion must be found, by the whole alignment and by its coarse search alone."""
OFF: Mapping[Precision, float] = {"f32": 1e-3, "bf16": 0.1, "int8": 0.3}
"""Allowed difference of a logit from PyTorch's."""
GREY, COARSE, ANCHORS, ALIGNMENT = "grey", "coarse search", "anchors", "alignment, both"
DIFFERENCES, IN_ALL = "differences", "in all"
STAGES = (GREY, COARSE, ANCHORS, ALIGNMENT, DIFFERENCES, IN_ALL)
GRAPH, COMPARING = "graph", "comparing graph"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of a stage of a frame, or of a graph for one tile."""

    of: str
    """The frame's size; or `GRAPH`, or `COMPARING` for that with the second input."""
    stage: str
    """Of a graph: its precision."""
    tiles: int
    ms: Spread
    """Per frame, or per tile of a graph."""
    shares: dict[str, Spread]
    """Per tile, of a tile's time in the graph without the second input, by its precision and by rounds."""


class ReferenceCosts(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    model: str
    rounds: int
    runs: int
    """Of a stage in a round."""
    rows: list[Row]


class CoarseAligner(Aligner):
    """Does not refine what it finds by the coarse search."""

    def _refined(self, work: NDArray[np.uint8], shift: NDArray[np.float64], degrees: float, most: int = 0) -> Pose:
        x, y = shift * self._factor
        return Pose(float(x), float(y), degrees, 1.0, 0.0)


class Compared:
    """A frame that lies beside its reference and is darker, with a defect in the middle."""

    def __init__(self, hw: tuple[int, int], tile_px: int, overlap_px: int) -> None:
        shown, self.middle_yx = draw_shapes(hw, seed=0), (hw[0] // 2, hw[1] // 2)
        moved = cv2.warpAffine(shown, MOTION.matrix(hw), hw[::-1], borderMode=cv2.BORDER_REFLECT_101)
        self.rgb = grain(scaled(np.asarray(moved, np.uint8), 0.9), np.random.default_rng(0), 2)
        place = tuple(slice(at - DEFECT_PX // 2, at + DEFECT_PX // 2) for at in self.middle_yx)
        self.rgb[place] = 255 - np.indices((DEFECT_PX,) * 2).sum(axis=0)[..., None] // DEFECT_PX * 255
        self.reference, self.grid, self.size = Reference(shown), TileGrid(hw, tile_px, overlap_px), size_of(hw)

    def stages(self) -> dict[str, Callable[[], Any]]:
        """Return what is timed, by its name."""
        reference, grid, grey = self.reference, self.grid, to_grey(self.rgb)
        coarse, aligner = CoarseAligner(reference.grey), reference.aligner
        corners = aligner.find(grey).corners(grid.origins, grid.tile_px, grid.frame_hw)
        return {
            GREY: lambda: to_grey(self.rgb),
            COARSE: lambda: coarse.find(grey),
            ALIGNMENT: lambda: aligner.find(grey),
            DIFFERENCES: lambda: differences(grey, reference.range, grid.origins_yx, corners, grid.tile_px),
            IN_ALL: lambda: reference.compare(self.rgb, grid),
        }

    def check(self, last: Mapping[str, Any]) -> None:
        """Check the last result of each stage.

        Raises:
            BenchError: one is wrong.
        """
        expected = self.rgb @ np.array([0.299, 0.587, 0.114])
        require(bool(np.abs(last[GREY] - expected).max() <= 1), "that the frame became grey")
        for stage, near_px in ((COARSE, NEAR_COARSE_PX), (ALIGNMENT, NEAR_PX)):
            pose = last[stage]
            off_px = float(np.hypot(pose.x_px - MOTION.x_px, pose.y_px - MOTION.y_px))
            near = off_px <= near_px and abs(pose.degrees - MOTION.degrees) <= NEAR_DEGREES
            require(near, f"that {stage} finds the motion (off by {off_px:.1f} px)")
        found = last[DIFFERENCES]
        require(np.array_equal(found, last[IN_ALL]), "that the stages together give the differences")
        tile, *cell, _ = np.unravel_index(found.argmax(), found.shape)
        at_yx = np.array(self.grid.origins_yx[tile]) + np.array(cell) * CELL_PX
        require(bool(np.abs(at_yx - self.middle_yx).max() <= DEFECT_PX), "that the frame differs most at its defect")


def measure(
    config: TrainConfig,
    precisions: Sequence[Precision],
    sizes: Sequence[tuple[int, int]],
    report_line: Callable[[str], None],
    rounds: int = ROUNDS,
) -> ReferenceCosts:
    """Time all stages of frames of all sizes, and the graph with and without the second input, in interleaved rounds.

    Args:
        config: of the recipe `heatline`, for model and tiles.
        sizes: of frames, height and width, px.
        report_line: takes a line of progress.
    Raises:
        BenchError: a result is wrong.
        WeightsError, ExportError: the model cannot be made.
    """
    cv2.setNumThreads(1)
    frames = [Compared(hw, config.tiles.tile_px, config.tiles.overlap_px) for hw in sizes]
    report_line("exporting the graphs")
    engines, expected = _engines(config, precisions, frames[-1], report_line)
    last: dict[str, dict[str, Any]] = {frame.size: {} for frame in frames}

    def repeated(size: str, stage: str, run: Callable[[], Any]) -> Callable[[int], None]:
        def run_several(runs: int) -> None:
            for _ in range(runs):
                last[size][stage] = run()

        return run_several

    timed = {
        (each.size, name): repeated(each.size, name, run) for each in frames for name, run in each.stages().items()
    }
    timed |= {key: engine.run for key, engine in engines.items()}
    report_line(f"timing {len(timed)} stages in {rounds} interleaved rounds")
    seconds = time_interleaved(timed, rounds, RUNS)
    for frame in frames:
        frame.check(last[frame.size])
    for (of, precision), engine in engines.items():
        fault = find_wrong_answer(engine, expected[of], OFF[precision])
        require(fault is None, f"that the {of} in {precision} gives the model's logits ({fault})")
    ms = {key: np.array(each) * 1e3 / RUNS for key, each in seconds.items()}
    ms |= {(each.size, ANCHORS): ms[each.size, ALIGNMENT] - ms[each.size, COARSE] for each in frames}
    made = [precision for of, precision in engines if of == GRAPH]
    keys = [(each.size, stage, len(each.grid)) for each in frames for stage in STAGES]
    keys += [(of, precision, 1) for of in (GRAPH, COMPARING) for precision in made]
    return ReferenceCosts(
        model=config.model.name,
        rounds=rounds,
        runs=RUNS,
        rows=[
            Row(
                of=of,
                stage=stage,
                tiles=tiles,
                ms=Spread.of(ms[of, stage].tolist()),
                shares={each: Spread.of((ms[of, stage] / tiles / ms[GRAPH, each]).tolist()) for each in made},
            )
            for of, stage, tiles in keys
        ],
    )


def _engines(
    config: TrainConfig, precisions: Sequence[Precision], frame: Compared, report_line: Callable[[str], None]
) -> tuple[dict[tuple[str, Precision], BareEngine], dict[str, NDArray[np.float32]]]:
    """Return engines that infer the tile with the defect, and the model's logits for it, with and without its
    difference."""
    torch.manual_seed(0)
    model, _ = build_model(config.model, config.tiles.tile_px)
    assert isinstance(model, DenseClassifier), "the recipe made the model one with a dense head"
    difference = frame.stages()[DIFFERENCES]()
    tiles, at = frame.grid.tiles(frame.rgb), np.unravel_index(difference.argmax(), difference.shape)[0]
    engines: dict[tuple[str, Precision], BareEngine] = {}
    expected = {}
    for of, inputs in ((GRAPH, (tiles,)), (COMPARING, (tiles, difference))):
        model.head = model.head.untrained(compares=of == COMPARING)
        ir = to_ir(to_graphs(model.eval(), config.tiles.tile_px).for_openvino)
        one = [each[at : at + 1] for each in inputs]
        with torch.inference_mode():
            expected[of] = model(*map(torch.from_numpy, one))[0].numpy()
        for precision in precisions:
            graph = ir
            if precision == "int8":
                with redirect_stderr(io.StringIO()):  # NNCF draws bars
                    graph = quantise(ir, inputs, Quantisation(), transformer=False)
            try:
                engines[of, precision] = BareEngine(graph.read(), precision, *one, threads=1, streams=1)
            except PrecisionError as error:
                report_line(f"left out: {error}")
    return engines, expected


def table(found: ReferenceCosts) -> str:
    """Write the result as Markdown: a row per stage and frame, and per graph and precision."""
    precisions = list(found.rows[0].shares)
    rows = [["", "stage, precision", "ms", *(f"per tile, of the graph in {each}" for each in precisions)]]
    for one in found.rows:
        of = f"{one.of}, {one.tiles} tiles" if one.tiles > 1 else one.of
        rows.append([of, one.stage, f"{one.ms:.2f}", *(f"{one.shares[each]:.3f}" for each in precisions)])
    return markdown_table(rows)
