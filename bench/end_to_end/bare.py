"""The bare engine, and what its bundle says of each picture by itself: for a process of their own."""

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

from bench.bare_engine import BareEngine, Settings, all_settings, read_graph, unlike
from bench.end_to_end.line import Expected
from bench.engine_process import engine_in
from edge.bundle import Bundle, open_bundle
from edge.colour import to_rgb
from edge.errors import BenchError, InputError
from edge.frames import Frame, Stamp
from edge.geometry import TileGrid
from edge.images import list_images, read_image
from edge.inference import Engine, Precision, infer
from edge.inspection.inspector import Inspector
from edge.inspection.verdict import Thresholds
from edge.util.text import utf8_safe

DEFECTIVE = 0.125
"""Share of the pictures that are to be judged DEFECT."""
FINALISTS, FINAL_ROUNDS = 4, 7
LEAST_TOLERANCE = 1e-3
"""Of the largest logit: the engine adds up in another order where tiles go through it by other batches."""


class Chosen(NamedTuple):
    """Settings that were fastest, and what all of them came to."""

    settings: Settings
    figure: float
    """Tiles a second, or ms a frame."""
    tried: list[tuple[Settings, float]]


class _Alone:
    """The bare engine with one set of settings, warm."""

    def __init__(
        self,
        graph: Path,
        precision: Precision,
        tiles: NDArray[np.uint8],
        logits: NDArray[np.float32],
        tolerance: float,
        settings: Settings,
    ) -> None:
        rows = np.arange(settings.batch) % len(tiles)
        self.settings, self._expected, self._tolerance = settings, logits[rows], tolerance
        threads = len(os.sched_getaffinity(0))
        self.engine = BareEngine(read_graph(graph), precision, tiles[rows], threads=threads, streams=settings.streams)
        self.engine.run(2 * settings.streams)

    def frame_ms(self, tiles: int) -> float:
        began = time.perf_counter()
        self.engine.run(math.ceil(tiles / self.settings.batch))
        return (time.perf_counter() - began) * 1e3

    def check(self) -> None:
        """See that it did what it was timed for.

        Raises:
            BenchError: it answers something else.
        """
        if (why := unlike(self.engine, self._expected, self._tolerance)) is not None:
            raise BenchError(f"the bare engine with {self.settings} does not do what the line's does: {why}")


class Bare:
    """The bare engine of a bundle, in whichever process this is made.

    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        BenchError: nor in that precision; later: the bare engine's answers are not those of the line's engine.
    """

    def __init__(self, path: Path, precision: Precision) -> None:
        logging.disable()  # of a fall back it would warn beside the sentence that says it
        self._bundle, self._precision = open_bundle(path), precision
        self._verified = engine_in(self._bundle, precision)
        self._all: list[_Alone] = []
        self._tiles = 0

    def look(self, pictures: Path, defective: float = DEFECTIVE) -> Expected:
        """What a line must say of the pictures in a folder; the first one's tiles are inferred from then on.

        Args:
            defective: as in `expect`, as are errors.
        """
        engine = self._verified.engine
        expected = expect(pictures, self._bundle, self._precision, engine, defective)
        self._tiles = expected.tiles
        tiles = _first_tiles(pictures, self._bundle)
        logits, _ = infer(engine, tiles)
        engine.close()
        graph = self._bundle.path / self._bundle.graph_for(self._precision)
        off = tolerance(self._bundle, self._precision)
        self._alone_with = partial(_Alone, graph, self._precision, tiles, logits, off)
        return expected

    def choose(self, seconds: float, rounds: int) -> Chosen:
        """Try all settings in turns, so long each, and use those from then on that infer most tiles a second."""
        speeds = self._turns(rounds, lambda alone: alone.engine.tiles_per_s(seconds))
        fastest = sorted(range(len(speeds)), key=speeds.__getitem__, reverse=True)[:FINALISTS]
        # The fastest of all was lucky as well: the first few are tried anew, and longer.
        anew = [[self._all[place].engine.tiles_per_s(seconds) for place in fastest] for _ in range(FINAL_ROUNDS)]
        for place, of in zip(fastest, zip(*anew, strict=True), strict=True):
            speeds[place] = median(of)
        return self._chosen(max(fastest, key=speeds.__getitem__), speeds)

    def choose_for_frames(self, rounds: int) -> Chosen:
        """The same by who has a frame's tiles ready soonest."""
        times = self._turns(rounds, lambda alone: alone.frame_ms(self._tiles))
        return self._chosen(min(range(len(times)), key=times.__getitem__), times)

    def tiles_per_s(self, seconds: float) -> float:
        """Kept busy for so long, with a request more than streams."""
        found = self._used.engine.tiles_per_s(seconds)
        self._used.check()
        return found

    def frame_ms(self) -> float:
        """For the tiles of one frame."""
        found = self._used.frame_ms(self._tiles)
        self._used.check()
        return found

    def _turns(self, rounds: int, measure: Callable[[_Alone], float]) -> list[float]:
        """Medians of all settings, tried in turns."""
        self._all = self._all or [self._alone_with(each) for each in all_settings(len(os.sched_getaffinity(0)))]
        found = [[measure(alone) for alone in self._all] for _ in range(rounds)]
        for alone in self._all:
            alone.check()
        return [median(of) for of in zip(*found, strict=True)]

    def _chosen(self, place: int, found: list[float]) -> Chosen:
        self._used = self._all[place]
        tried = [(alone.settings, one) for alone, one in zip(self._all, found, strict=True)]
        return Chosen(self._used.settings, found[place], tried)


def tolerance(bundle: Bundle, precision: Precision) -> float:
    """Share of the largest logit by which one graph's answers may differ between batches and streams.

    Twice what the bundle allows in that precision, as either may be off by that.
    """
    return max(LEAST_TOLERANCE, 2 * bundle.manifest.tolerances[precision])


def expect(folder: Path, bundle: Bundle, precision: Precision, engine: Engine, defective: float) -> Expected:
    """Inspect every picture.

    Args:
        defective: share of the pictures that are to be judged DEFECT: the score threshold is set between their scores.
    Raises:
        BenchError: the pictures are not all of one size.
        InputError: one of them cannot be read, or there are fewer than two.
        EngineError: the engine has no usable answer to one.
    """
    evidence_threshold = bundle.manifest.calibration.evidence_threshold
    inspector = Inspector(bundle.manifest, engine, thresholds=Thresholds(0.0, evidence_threshold))
    frames = {utf8_safe(path.name): Frame(Stamp("expected", 1), *read_image(path)) for path in list_images(folder)}
    sizes = {(frame.image.shape[0], frame.image.shape[1]) for frame in frames.values()}
    if len(sizes) > 1:
        raise BenchError(f"{folder} holds pictures of several sizes; expected one size, as a camera has")
    if len(frames) == 1:
        raise InputError(f"{folder} holds one picture; expected two at least: a camera that shows but one is frozen")
    (hw,) = sizes
    scores = {name: inspector.finish(inspector.start(frame)).score for name, frame in frames.items()}
    score_threshold = threshold_for(sorted(scores.values()), defective)
    # Regions are looked for where the score threshold is reached: they can be told only now.
    inspector.thresholds = Thresholds(score_threshold, evidence_threshold)
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


def _first_tiles(folder: Path, bundle: Bundle) -> NDArray[np.uint8]:
    """Those of the first picture: [tiles, tile, tile, 3]."""
    rgb, of = to_rgb(*read_image(list_images(folder)[0])), bundle.manifest.grid
    grid = TileGrid((rgb.shape[0], rgb.shape[1]), of.tile_px, of.overlap_px)
    tiles = np.empty((len(grid), of.tile_px, of.tile_px, 3), np.uint8)
    grid.cut(rgb, tiles)
    return tiles


def threshold_for(scores: list[float], defective: float) -> float:
    """In the middle between two scores.

    Args:
        scores: in order.
        defective: share of them that are to reach it.

    >>> threshold_for([1.0, 2.0, 4.0, 8.0], 0.25)
    6.0
    """
    good = len(scores) - round(defective * len(scores))
    if good == len(scores):
        return scores[-1] + 1.0
    return scores[0] - 1.0 if good == 0 else (scores[good - 1] + scores[good]) / 2
