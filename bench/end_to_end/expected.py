"""What a line must say of pictures: each is inspected once by the same bundle."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.end_to_end.requests import Expected
from edge.bundle import Bundle
from edge.colour import to_rgb
from edge.errors import BenchError, InputError
from edge.frames import Frame, Stamp
from edge.geometry import TileGrid
from edge.images import list_images, read_image
from edge.inference import Engine, Precision
from edge.inspection.inspector import Inspector
from edge.inspection.verdict import Thresholds
from edge.text import sayable

LEAST_TOLERANCE = 1e-3
"""Of the largest logit: the engine adds up in another order where tiles go through it by other batches."""


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
    scores: dict[str, float] = {}
    sizes: set[tuple[int, int]] = set()
    picture_bytes = 0
    for number, path in enumerate(list_images(folder)):
        image, pixel_format = read_image(path)
        sizes.add((image.shape[0], image.shape[1]))
        if len(sizes) > 1:
            raise BenchError(f"{folder} holds pictures of several sizes; expected one size, as a camera has")
        pending = inspector.start(Frame(Stamp("expected", number), image, pixel_format))
        scores[sayable(path.name)] = inspector.finish(pending).score
        picture_bytes += image.nbytes
    if len(scores) == 1:
        raise InputError(f"{folder} holds one picture; expected two at least: a camera that shows but one is frozen")
    (hw,) = sizes
    score_threshold = threshold_for(sorted(scores.values()), defective)
    # Regions are looked for where the score threshold is reached: they can be told only now.
    inspector.thresholds = Thresholds(score_threshold, evidence_threshold)
    highest: dict[str, float] = {}
    for number, path in enumerate(list_images(folder)):
        if scores[sayable(path.name)] >= score_threshold:
            image, pixel_format = read_image(path)
            pending = inspector.start(Frame(Stamp("expected", number), image, pixel_format))
            highest[sayable(path.name)] = inspector.finish(pending).regions[0].score
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
        picture_bytes=picture_bytes,
    )


def first_tiles(folder: Path, bundle: Bundle) -> NDArray[np.uint8]:
    """Those of the first picture: [tiles, tile, tile, 3]."""
    image, pixel_format = read_image(list_images(folder)[0])
    rgb = to_rgb(image, pixel_format)
    of = bundle.manifest.grid
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
