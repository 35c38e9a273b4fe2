"""The map-aware gate: whether a precision decides and shows what the model itself does.

A classifier that keeps its accuracy when it is quantised may well lose its map: the noise of int8 that a mean over the
map cancels stays in each cell. So each precision is held to its regions too, and not to flipped verdicts alone.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle.difference import correlation
from edge.bundle.manifest import Agreement
from edge.errors import EngineError
from edge.inference import Engine, infer
from edge.inference.engine import Precision
from edge.util.text import format_count
from export.validation_tiles import ValidationTiles

LIMITS: dict[Precision, dict[str, float]] = {
    "f32": {"flips": 0.005, "iou_median": 0.99, "near_p5": 0.95, "map_correlation": 0.9999},
    "bf16": {"flips": 0.005, "iou_median": 0.97, "near_p5": 0.95, "map_correlation": 0.999},
    "int8": {"flips": 0.005, "iou_median": 0.90, "near_p5": 0.90, "map_correlation": 0.99},
}
"""Largest share of tiles whose verdict flips, least overlap of regions, and least correlation of the maps where no tile
has a region; docs/precisions.md defends them."""
NO_REGION = (
    "no validation tile has a region, so the gate compares no regions: it holds each precision to the correlation of "
    "the maps instead; validate on more defective frames"
)


def agreement(held: ValidationTiles, engine: Engine) -> Agreement:
    """How far an engine's answers are from the model's.

    Raises:
        EngineError: it does not answer, or with what is no number.
    """
    logit, maps = infer(engine, held.tiles)
    if not (np.isfinite(logit).all() and np.isfinite(maps).all()):
        raise EngineError("some tiles are answered with what is no number")
    regions = held.regions[held.with_region], held.find_regions(maps[held.with_region])
    overlap, near = overlaps(*regions), nearness(*regions)
    flips = ((logit >= held.score_threshold) != (held.logit >= held.score_threshold)) & held.settled
    return Agreement(
        batch=engine.batch,
        logit_difference=float(np.abs(logit - held.logit).max()),
        flips=int(flips.sum()),
        map_correlation=correlation(held.map, maps),
        iou_median=float(np.median(overlap)) if overlap.size else None,
        iou_p5=float(np.percentile(overlap, 5)) if overlap.size else None,
        near_p5=float(np.percentile(near, 5)) if near.size else None,
    )


def missed(precision: Precision, held: ValidationTiles, figures: Sequence[Agreement]) -> list[str]:
    """The limits that the worst batch size misses, in words."""
    limits, tiles, found = LIMITS[precision], len(held.tiles), []
    flips = max(each.flips for each in figures)
    if flips > limits["flips"] * tiles:
        found.append(f"{flips} of {format_count(tiles, 'verdict')} flip, allowed are {limits['flips']:.1%}")
    for key, words in (
        ("iou_median", "regions overlap by {:.3f} at the median"),
        ("near_p5", "{:.3f} of the regions lie within a cell of each other at the 5th percentile"),
    ):
        values = [value for each in figures if (value := getattr(each, key)) is not None]
        if values and min(values) < limits[key]:
            found.append(f"{words.format(min(values))}, expected at least {limits[key]:g}")
    if not held.with_region.any():
        # Maps that are the same everywhere have no correlation.
        least = min(0.0 if each.map_correlation is None else each.map_correlation for each in figures)
        if least < limits["map_correlation"]:
            found.append(
                f"no tile has a region, and the maps correlate by {least:.4f}, expected at least "
                f"{limits['map_correlation']:g}"
            )
    return found


def overlaps(reference: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union [N] of regions [N, rows, columns]; each reference holds a cell."""
    both, either = (reference & found).sum(axis=(1, 2)), (reference | found).sum(axis=(1, 2))
    return np.asarray(both / either, np.float64)


def nearness(reference: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share [N] of the cells of both regions [N, rows, columns] that lie in the other, or beside a cell of it, also
    across a corner; each reference holds a cell.

    An overlap says little of small regions: of one cell that becomes two it is a half.
    """
    near = (reference & _grown(found)).sum(axis=(1, 2)) + (found & _grown(reference)).sum(axis=(1, 2))
    return np.asarray(near / (reference.sum(axis=(1, 2)) + found.sum(axis=(1, 2))), np.float64)


def _grown(regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With all cells beside them."""
    beside = np.ones((3, 3), np.uint8)
    grown = [cv2.dilate(one.view(np.uint8), beside).view(np.bool_) for one in regions]
    return np.stack(grown) if grown else regions
