"""The map gate: compares a precision's verdicts and maps with those of the model itself.

A quantised classifier can retain its accuracy and still lose its map: the noise of int8 cancels in the mean over the
map, but not in each cell. So the gate limits the change of the regions, and not only the number of flipped verdicts.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.difference import correlation
from heatline.edge.bundle.manifest import Agreement
from heatline.edge.errors import EngineError
from heatline.edge.inference import Engine, infer
from heatline.edge.inference.engine import Precision
from heatline.edge.util.text import format_count
from heatline.export.validation_tiles import ValidationTiles

LIMITS: dict[Precision, dict[str, float]] = {
    "f32": {"flips": 0.005, "iou_median": 0.99, "near_p5": 0.95, "map_correlation": 0.9999},
    "bf16": {"flips": 0.005, "iou_median": 0.97, "near_p5": 0.95, "map_correlation": 0.999},
    "int8": {"flips": 0.005, "iou_median": 0.90, "near_p5": 0.90, "map_correlation": 0.99},
}
"""Largest share of tiles whose verdict flips, smallest overlap of regions, and smallest correlation of the maps if no
tile has a region; docs/precisions.md gives the reasons."""
NO_REGION = (
    "no validation tile has a region, so the gate compares no regions: it checks the correlation of the maps instead; "
    "validate on more defective frames"
)


def measure_agreement(validation: ValidationTiles, engine: Engine) -> Agreement:
    """Measure how far an engine's answers differ from the model's.

    Raises:
        EngineError: the engine does not answer, or an answer is not finite.
    """
    logit, maps = infer(engine, validation.tiles, validation.difference)
    if not (np.isfinite(logit).all() and np.isfinite(maps).all()):
        raise EngineError("the answers to some tiles are not finite")
    regions = validation.regions[validation.with_region], validation.find_regions(maps[validation.with_region])
    overlap, near = overlaps(*regions), nearness(*regions)
    threshold = validation.score_threshold
    flips = ((logit >= threshold) != (validation.logit >= threshold)) & validation.settled
    return Agreement(
        batch=engine.batch,
        logit_difference=float(np.abs(logit - validation.logit).max()),
        flips=int(flips.sum()),
        map_correlation=correlation(validation.map, maps),
        iou_median=float(np.median(overlap)) if overlap.size else None,
        iou_p5=float(np.percentile(overlap, 5)) if overlap.size else None,
        near_p5=float(np.percentile(near, 5)) if near.size else None,
    )


def describe_missed_limits(
    precision: Precision, validation: ValidationTiles, figures: Sequence[Agreement]
) -> list[str]:
    """Describe the limits that the worst batch size misses."""
    limits, tiles, missed = LIMITS[precision], len(validation.tiles), []
    flips = max(each.flips for each in figures)
    if flips > limits["flips"] * tiles:
        missed.append(f"{flips} of {format_count(tiles, 'verdict')} differ; at most {100 * limits['flips']:.1f} % may")
    for key, template in (
        ("iou_median", "regions overlap by {:.3f} at the median"),
        ("near_p5", "{:.3f} of the regions lie within a cell of each other at the 5th percentile"),
    ):
        values = [value for each in figures if (value := getattr(each, key)) is not None]
        if values and min(values) < limits[key]:
            missed.append(f"{template.format(min(values))}, expected at least {limits[key]:g}")
    if not validation.with_region.any():
        # Constant maps have no correlation.
        least = min(0.0 if each.map_correlation is None else each.map_correlation for each in figures)
        if least < limits["map_correlation"]:
            missed.append(
                f"no tile has a region, and the maps correlate by {least:.4f}, expected at least "
                f"{limits['map_correlation']:g}"
            )
    return missed


def overlaps(reference: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the intersection over union [N] of regions [N, rows, columns]; each reference has at least one cell."""
    both, either = (reference & found).sum(axis=(1, 2)), (reference | found).sum(axis=(1, 2))
    return np.asarray(both / either, np.float64)


def nearness(reference: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share [N] of the cells of both regions [N, rows, columns] that lie in the other region or are
    neighbours of its cells, also diagonally; each reference has at least one cell.

    For small regions the overlap means little: if one cell becomes two, it is a half.
    """
    near = (reference & _dilate(found)).sum(axis=(1, 2)) + (found & _dilate(reference)).sum(axis=(1, 2))
    return np.asarray(near / (reference.sum(axis=(1, 2)) + found.sum(axis=(1, 2))), np.float64)


def _dilate(regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add all neighbouring cells to the regions."""
    neighbourhood = np.ones((3, 3), np.uint8)
    dilated = [cv2.dilate(region.view(np.uint8), neighbourhood).view(np.bool_) for region in regions]
    return np.stack(dilated) if dilated else regions
