"""The bare engine, and the verdicts of its bundle on each picture; both run in a process of their own."""

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from heatline.bench.end_to_end.line import Expected
from heatline.bench.engines import BareEngine, Settings, all_settings, engine_in, find_wrong_answer, read_graph
from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.colour import to_rgb
from heatline.edge.errors import BenchError, InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import TileGrid
from heatline.edge.images import list_images, read_image
from heatline.edge.inference import Engine, Precision, infer
from heatline.edge.inspection.inspector import ANY_CAMERA, Inspector, product_references
from heatline.edge.util.text import utf8_safe

DEFECTIVE = 0.125
"""Share of the pictures that become DEFECT."""
LEAST_TOLERANCE = 1e-3
"""Share of the largest logit: with other batches the engine adds up in another order."""


class Bare:
    """The bare engine of a bundle, which is loaded into the process that makes this object.

    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        BenchError: it cannot be used in that precision; later: an answer of the bare engine is not that of the line's
            engine.
    """

    def __init__(self, path: Path, precision: Precision) -> None:
        logging.disable()  # the error says what a warning of a fall back would
        self._bundle, self._precision = open_bundle(path), precision
        self._engine = engine_in(self._bundle, precision).engine
        self._candidates: dict[Settings, BareEngine] = {}

    def expect(self, pictures: Path, defective: float = DEFECTIVE) -> Expected:
        """Return what a line must report of a folder's pictures; what is timed later are the tiles of the first one.

        Args:
            defective: as of `expect`, as are the errors.
        """
        expected = expect(pictures, self._bundle, self._precision, self._engine, defective)
        self._tiles, self._inputs = expected.tiles, _first_inputs(pictures, self._bundle)
        self._logits, _ = infer(self._engine, *self._inputs)
        self._engine.close()
        return expected

    def choose(self, seconds: float, rounds: int) -> tuple[Settings, float]:
        """Use the settings that infer most tiles per second from then on; return them and their median rate."""
        settings, cost = self._choose(rounds, lambda engine: 1 / engine.tiles_per_s(seconds))
        return settings, 1 / cost

    def choose_for_frames(self, rounds: int) -> tuple[Settings, float]:
        """Use the settings that infer a frame's tiles soonest from then on; return them and their median time, ms."""
        return self._choose(rounds, self._frame_ms)

    def tiles_per_s(self, seconds: float) -> float:
        """Measure the rate while the engine is busy, with one request more than streams."""
        found = self._candidates[self._used].tiles_per_s(seconds)
        self._check(self._used)
        return found

    def frame_ms(self) -> float:
        """Measure the time for the tiles of one frame."""
        found = self._frame_ms(self._candidates[self._used])
        self._check(self._used)
        return found

    def _frame_ms(self, engine: BareEngine) -> float:
        began = time.perf_counter()
        engine.run(math.ceil(self._tiles / engine.batch))
        return (time.perf_counter() - began) * 1e3

    def _choose(self, rounds: int, cost: Callable[[BareEngine], float]) -> tuple[Settings, float]:
        """Try all settings in interleaved rounds; use those of the lowest median cost from then on."""
        if not self._candidates:
            self._candidates = {one: self._opened(one) for one in all_settings(len(os.sched_getaffinity(0)))}
        costs: dict[Settings, list[float]] = {one: [] for one in self._candidates}
        for _ in range(rounds):
            for one, engine in self._candidates.items():
                costs[one].append(cost(engine))
                self._check(one)
        self._used = min(costs, key=lambda one: median(costs[one]))
        return self._used, median(costs[self._used])

    def _opened(self, settings: Settings) -> BareEngine:
        graph = self._bundle.path / self._bundle.graph_for(self._precision)
        rows, (tiles, difference) = self._rows(settings), self._inputs
        inputs = tiles[rows], None if difference is None else difference[rows]
        threads = len(os.sched_getaffinity(0))
        engine = BareEngine(read_graph(graph), self._precision, *inputs, threads=threads, streams=settings.streams)
        engine.run(2 * settings.streams)
        return engine

    def _rows(self, settings: Settings) -> NDArray[np.int64]:
        return np.arange(settings.batch) % len(self._inputs[0])

    def _check(self, settings: Settings) -> None:
        """Raise a BenchError if an answer that was timed is wrong."""
        expected, off = self._logits[self._rows(settings)], tolerance(self._bundle, self._precision)
        if (fault := find_wrong_answer(self._candidates[settings], expected, off)) is not None:
            raise BenchError(f"the bare engine with {settings} answers otherwise than the line's engine: {fault}")


def tolerance(bundle: Bundle, precision: Precision) -> float:
    """Return the share of the largest logit by which a graph's answers may differ between batches and streams.

    It is twice what the bundle allows in that precision, as both answers may have that error.
    """
    return max(LEAST_TOLERANCE, 2 * bundle.manifest.tolerances[precision])


def expect(folder: Path, bundle: Bundle, precision: Precision, engine: Engine, defective: float) -> Expected:
    """Inspect every picture.

    Args:
        defective: share of the pictures that become DEFECT by the score threshold, which is set between their scores.
    Raises:
        BenchError: the pictures are not all of one size; or one cannot be compared with the bundle's reference.
        InputError: one of them cannot be read, or there are fewer than two.
        EngineError: the engine has no usable answer to one.
    """
    inspector = Inspector(bundle.manifest, engine, references=product_references(bundle))
    frames = {utf8_safe(path.name): Frame(Stamp("expected", 1), *read_image(path)) for path in list_images(folder)}
    sizes = {frame.image.shape[:2] for frame in frames.values()}
    if len(sizes) > 1:
        raise BenchError(f"{folder} holds pictures of several sizes; expected one size, as a camera has")
    if len(frames) == 1:
        raise InputError(f"{folder} holds one picture; expected two at least, as a camera with one is frozen")
    ((height, width),) = sizes
    scores: dict[str, float] = {}
    for name, frame in frames.items():
        judged = inspector.finish(inspector.start(frame))
        if judged.misaligned is not None:
            raise BenchError(f"{folder / name} cannot be compared with the reference: {judged.misaligned}")
        scores[name] = judged.score
    stitcher = inspector.stitcher((height, width))
    return Expected(
        score_threshold=threshold_for(sorted(scores.values()), defective),
        tolerance=tolerance(bundle, precision) * max(1.0, *map(abs, scores.values())),
        tiles=len(stitcher.grid),
        frame_hw=(height, width),
        scores=scores,
        heatmap_hw=stitcher.heatmap_hw,
    )


def _first_inputs(folder: Path, bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Cut the first picture: [tiles, tile, tile, 3], and their differences, if the bundle compares."""
    rgb, of = to_rgb(*read_image(list_images(folder)[0])), bundle.manifest.grid
    grid = TileGrid((rgb.shape[0], rgb.shape[1]), of.tile_px, of.overlap_px)
    reference = product_references(bundle).get(ANY_CAMERA)
    return grid.tiles(rgb), None if reference is None else reference.compare(rgb, grid)


def threshold_for(scores: list[float], defective: float) -> float:
    """Return a threshold in the middle between two scores.

    Args:
        scores: ascending.
        defective: share of them that reach the threshold.

    >>> threshold_for([1.0, 2.0, 4.0, 8.0], 0.25)
    6.0
    """
    good = len(scores) - round(defective * len(scores))
    if good == len(scores):
        return scores[-1] + 1.0
    return scores[0] - 1.0 if good == 0 else (scores[good - 1] + scores[good]) / 2
