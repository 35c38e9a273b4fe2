"""The bare engine, and the verdicts of its bundle on each picture; both run in a process of their own."""

import logging
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heatline.bench.bare_engine import BareEngine, Settings, all_settings, find_wrong_answer, read_graph
from heatline.bench.end_to_end.line import Expected
from heatline.bench.engine_process import engine_in
from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.colour import to_rgb
from heatline.edge.errors import BenchError, InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import TileGrid
from heatline.edge.images import list_images, read_image
from heatline.edge.inference import Engine, Precision, infer
from heatline.edge.inspection.inspector import ANY_CAMERA, Inspector, product_references
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.util.text import utf8_safe

DEFECTIVE = 0.125
"""Share of the pictures that become DEFECT."""
FINALISTS, FINAL_ROUNDS = 4, 7
LEAST_TOLERANCE = 1e-3
"""Share of the largest logit: with other batches the engine adds up in another order."""


class Chosen(NamedTuple):
    """The fastest settings, and the results of all."""

    settings: Settings
    figure: float
    """Tiles per second, or ms per frame."""
    tried: list[tuple[Settings, float]]


class _Candidate:
    """The bare engine with one set of settings, warm."""

    def __init__(
        self,
        graph: Path,
        precision: Precision,
        tiles: NDArray[np.uint8],
        difference: NDArray[np.uint8] | None,
        logits: NDArray[np.float32],
        tolerance: float,
        settings: Settings,
    ) -> None:
        rows = np.arange(settings.batch) % len(tiles)
        self.settings, self._expected, self._tolerance = settings, logits[rows], tolerance
        threads = len(os.sched_getaffinity(0))
        inputs = tiles[rows], None if difference is None else difference[rows]
        self.engine = BareEngine(read_graph(graph), precision, *inputs, threads=threads, streams=settings.streams)
        self.engine.run(2 * settings.streams)

    def frame_ms(self, tiles: int) -> float:
        began = time.perf_counter()
        self.engine.run(math.ceil(tiles / self.settings.batch))
        return (time.perf_counter() - began) * 1e3

    def check(self) -> None:
        """Check the answers that were timed.

        Raises:
            BenchError: an answer is wrong.
        """
        if (fault := find_wrong_answer(self.engine, self._expected, self._tolerance)) is not None:
            raise BenchError(f"the bare engine with {self.settings} answers otherwise than the line's engine: {fault}")


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
        self._verified = engine_in(self._bundle, precision)
        self._candidates: list[_Candidate] = []
        self._tiles = 0

    def expect(self, pictures: Path, defective: float = DEFECTIVE) -> Expected:
        """Return what a line must report of a folder's pictures; what is timed later are the tiles of the first one.

        Args:
            defective: as of `expect`, as are the errors.
        """
        engine = self._verified.engine
        expected = expect(pictures, self._bundle, self._precision, engine, defective)
        self._tiles = expected.tiles
        inputs = _first_inputs(pictures, self._bundle)
        logits, _ = infer(engine, *inputs)
        engine.close()
        graph = self._bundle.path / self._bundle.graph_for(self._precision)
        off = tolerance(self._bundle, self._precision)
        self._new_candidate = partial(_Candidate, graph, self._precision, *inputs, logits, off)
        return expected

    def choose(self, seconds: float, rounds: int) -> Chosen:
        """Try all settings for some seconds a round; use those that infer most tiles per second from then on."""
        speeds = self._try_all(rounds, lambda candidate: candidate.engine.tiles_per_s(seconds))
        fastest = sorted(range(len(speeds)), key=speeds.__getitem__, reverse=True)[:FINALISTS]
        # The fastest of all was also lucky: the first few are tried again, in more rounds.
        finals = [
            [self._candidates[place].engine.tiles_per_s(seconds) for place in fastest] for _ in range(FINAL_ROUNDS)
        ]
        for place, of in zip(fastest, zip(*finals, strict=True), strict=True):
            speeds[place] = median(of)
        return self._chosen(max(fastest, key=speeds.__getitem__), speeds)

    def choose_for_frames(self, rounds: int) -> Chosen:
        """Try all settings; use those that infer a frame's tiles soonest from then on."""
        times = self._try_all(rounds, lambda candidate: candidate.frame_ms(self._tiles))
        return self._chosen(min(range(len(times)), key=times.__getitem__), times)

    def tiles_per_s(self, seconds: float) -> float:
        """Measure the rate while the engine is busy, with one request more than streams."""
        found = self._used.engine.tiles_per_s(seconds)
        self._used.check()
        return found

    def frame_ms(self) -> float:
        """Measure the time for the tiles of one frame."""
        found = self._used.frame_ms(self._tiles)
        self._used.check()
        return found

    def _try_all(self, rounds: int, measure: Callable[[_Candidate], float]) -> list[float]:
        """Return the median of each setting over interleaved rounds."""
        if not self._candidates:
            self._candidates = [self._new_candidate(each) for each in all_settings(len(os.sched_getaffinity(0)))]
        found = [[measure(candidate) for candidate in self._candidates] for _ in range(rounds)]
        for candidate in self._candidates:
            candidate.check()
        return [median(of) for of in zip(*found, strict=True)]

    def _chosen(self, place: int, found: list[float]) -> Chosen:
        self._used = self._candidates[place]
        tried = [(candidate.settings, one) for candidate, one in zip(self._candidates, found, strict=True)]
        return Chosen(self._used.settings, found[place], tried)


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
    manifest = bundle.manifest
    inspector = Inspector(manifest, engine, references=product_references(bundle))
    frames = {utf8_safe(path.name): Frame(Stamp("expected", 1), *read_image(path)) for path in list_images(folder)}
    sizes = {(frame.image.shape[0], frame.image.shape[1]) for frame in frames.values()}
    if len(sizes) > 1:
        raise BenchError(f"{folder} holds pictures of several sizes; expected one size, as a camera has")
    if len(frames) == 1:
        raise InputError(f"{folder} holds one picture; expected two at least, as a camera with one is frozen")
    (hw,) = sizes
    judged = {name: inspector.finish(inspector.start(frame)) for name, frame in frames.items()}
    for name, one in judged.items():
        if one.misaligned is not None:
            raise BenchError(f"{folder / name} cannot be compared with the reference: {one.misaligned}")
    scores = {name: one.score for name, one in judged.items()}
    score_threshold = threshold_for(sorted(scores.values()), defective)
    # Only frames that reach the score threshold have regions.
    inspector.thresholds = Thresholds.of(manifest.calibration, score_threshold)
    highest = {
        name: inspector.finish(inspector.start(frames[name])).regions[0].score
        for name, score in scores.items()
        if score >= score_threshold
    }
    off = tolerance(bundle, precision)
    return Expected(
        score_threshold=score_threshold,
        tolerance=off * max(1.0, *map(abs, scores.values())),
        tiles=len(inspector.stitcher(hw).grid),
        frame_hw=hw,
        scores=scores,
        evidence=highest,
        evidence_tolerance=off * max([1.0, *map(abs, highest.values())]),
        heatmap_hw=inspector.stitcher(hw).heatmap_hw,
        picture_bytes=sum(frame.image.nbytes for frame in frames.values()),
    )


def _first_inputs(folder: Path, bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Cut the first picture: [tiles, tile, tile, 3], and their differences, if the bundle compares."""
    rgb, of = to_rgb(*read_image(list_images(folder)[0])), bundle.manifest.grid
    grid = TileGrid((rgb.shape[0], rgb.shape[1]), of.tile_px, of.overlap_px)
    tiles = np.empty((len(grid), of.tile_px, of.tile_px, 3), np.uint8)
    grid.cut(rgb, tiles)
    reference = product_references(bundle).get(ANY_CAMERA)
    return tiles, None if reference is None else reference.compare(rgb, grid)


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
