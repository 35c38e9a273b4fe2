"""The gate: the exported graphs must answer as the trained model does, and a map must not be hot in one place.

A map that is hot in one place whatever a tile shows is stuck there, or drawn to the border."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from heatline.edge.bundle import GoldenTiles
from heatline.edge.bundle.manifest import Gate, MapCheck, MapChecks
from heatline.edge.errors import ExportError
from heatline.edge.inference import infer, open_engine
from heatline.edge.util.text import format_count
from heatline.train.models.explained import ExplainedClassifier

TOLERANCE = 1e-4
"""The largest difference, as a share of the output's scale: its largest absolute value over the golden tiles."""
MOST_ROUNDING = 0.5
"""Largest `map_rounding`, as a share of the maps' scale: beyond it, rounding could turn a map into any other."""
BATCHES = (1, 7)
"""The batch sizes, as a tile's answer must not depend on the other tiles; 7 leaves a partial batch at the end."""


def torch_answers(
    model: ExplainedClassifier, tiles: NDArray[np.uint8], difference: NDArray[np.uint8] | None = None
) -> GoldenTiles:
    """Return tiles [N, tile, tile, 3], their differences [N, cells, cells, channels] and the model's answers in f32."""
    inputs = [torch.from_numpy(each) for each in (tiles, difference) if each is not None]
    with torch.inference_mode():
        logit, maps = model.eval()(*inputs)
        rounding = model.map_rounding(inputs[0])
    return GoldenTiles(tiles, logit.numpy(), maps.numpy(), rounding.numpy() if rounding.any() else None, difference)


def pass_gate(golden: GoldenTiles, folder: Path, top_cells: int | None = None) -> Gate:
    """Check the graphs in `folder` by the golden tiles: ONNX Runtime and OpenVINO in f32, in batches of 1 and of many.

    Args:
        top_cells: from the manifest's identity: the logit is the mean of this many highest cells; None: of all.
    Raises:
        ExportError: an answer differs by more than the tolerance, the identity between map and logit does not hold, or
            rounding alone can move the maps too far.
    """
    if not golden.rounding <= MOST_ROUNDING:
        raise ExportError(
            f"rounding alone moves a map of this model by {golden.rounding:.2f} of the scale, expected at most "
            f"{MOST_ROUNDING:g}: its discard ratio chooses among entries that are equal but for their last digits; "
            "train longer, or with another model.discard_ratio or model.fusion"
        )
    largest: dict[str, float] = {}
    moved = np.zeros(len(golden.tiles), np.float32)
    one_by_one: dict[str, GoldenTiles] = {}
    for kind, batch, logit, maps in _answers(golden, folder):
        engine = f"{kind} in batches of {batch}" if batch else kind
        differences = golden.differences(logit, maps) | golden.off_identity(logit, maps, top_cells)
        moved = np.maximum(moved, np.abs(maps - golden.map).max(axis=(1, 2)) / golden.scale("map"))
        alone = one_by_one.setdefault(kind, replace(golden, logit=logit, map=maps))
        for name, difference in alone.differences(logit, maps).items():
            differences[name] = max(differences[name], difference)  # between many at once and one by one
        for name, difference in differences.items():
            if not difference <= TOLERANCE:  # a NaN does not pass either
                raise ExportError(
                    f"{engine} is off by {difference:.1e} of the scale in {name}, allowed is {TOLERANCE:.0e}; "
                    "this model must not be exported as it is"
                )
            largest[name] = max(largest.get(name, 0.0), difference)
    return Gate(
        tiles=len(golden.tiles),
        tolerance=TOLERANCE,
        largest_difference=largest,
        map_rounding=golden.rounding,
        maps_moved=int((moved > TOLERANCE).sum()),
        largest_move=float(moved.max()) if golden.rounding else 0.0,
    )


def _answers(golden: GoldenTiles, folder: Path) -> Iterator[tuple[str, int, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield each engine's name, batch size (0: PyTorch, all tiles at once), logits and maps."""
    yield "PyTorch itself", 0, golden.logit, golden.map
    tile_px = golden.tiles.shape[1]
    for kind in ("onnxruntime", "openvino"):
        for batch in BATCHES:
            with contextlib.closing(open_engine(kind, folder, tile_px, batch=batch)) as engine:
                yield kind, batch, *infer(engine, golden.tiles, golden.difference)


NEIGHBOURHOOD = 3
WARN, REFUSE = 0.25, 0.5
"""Limits of a share beyond chance; docs/bundle.md gives the reasons."""
ENOUGH_TILES = 50
"""Among fewer tiles, too many peaks lie together by chance."""
COARSE = 0.5
"""A larger share of the map is not a place: the border of fewer than 7x7 cells."""
TINY = 1e-30
MAP_ALLOWED = "; --allow map allowed it"
"""Ends the warning about a failed check that the user allowed."""


def reorient(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the tiles [N, tile, tile, 3], each in the next of the eight orientations of a square: otherwise parts that
    always lie in the same place would count as a stuck map.

    Differences to a reference [N, cells, cells, channels] are oriented as their tiles.
    """
    reoriented = np.empty_like(tiles)
    for number, tile in enumerate(tiles):
        reoriented[number] = np.rot90(tile if number % 8 < 4 else tile[:, ::-1], number)
    return reoriented


def check_maps(maps: NDArray[np.float32], *, allow: bool = False) -> MapChecks:
    """Check the maps [N, h, w] of reoriented good tiles.

    Raises:
        ExportError: far too much evidence lies in the same place; with `allow`, that is a warning.
    """
    if (count := effective_tiles(maps)) < ENOUGH_TILES:
        few = (
            f"the map is not checked: {format_count(len(maps), 'good tile')} "
            f"{'counts' if len(maps) == 1 else 'count'} as {count:.0f} that show evidence, expected at "
            f"least {ENOUGH_TILES}; validate on more good frames"
        )
        return MapChecks(len(maps), None, None, [few])
    checks = MapChecks(len(maps), stuck(maps), border(maps), [])
    for check, fault, subject in (
        (checks.stuck, "stuck", "peaks on {} good tiles lie in the same 3x3 cells"),
        (checks.border, "drawn to the border", "evidence on {} good tiles lies in the outermost cells"),
    ):
        if check is None or check.beyond_chance <= WARN:
            continue
        limit = REFUSE if check.beyond_chance > REFUSE else WARN
        sentence = (
            f"{fault}: {100 * check.share:.0f} % of the {subject.format(len(maps))}, which are "
            f"{100 * check.chance:.0f} % of the map; expected at most "
            f"{100 * (check.chance + limit * (1 - check.chance)):.0f} %; train longer, or on more good frames"
        )
        if limit == WARN:
            checks.warnings.append(f"the map may be {sentence}")
        elif allow:
            checks.warnings.append(f"the map is {sentence}{MAP_ALLOWED}")
        else:
            raise ExportError(f"the map is {sentence}, or allow it with --allow map")
    return checks


def stuck(maps: NDArray[np.float32]) -> MapCheck | None:
    """Return the share of the peaks of maps [N, h, w] in the most common neighbourhood; None if the map is too coarse.

    Equally hot cells share a peak. A peak counts by its evidence, as blank tiles all have the same flat map.
    """
    over = evidence(maps)
    at_peak = over == over.max(axis=(1, 2), keepdims=True)
    peaks = (over * at_peak / at_peak.sum(axis=(1, 2), keepdims=True)).sum(axis=0)
    if min(peaks.shape) < NEIGHBOURHOOD:
        return None
    most = sliding_window_view(peaks, (NEIGHBOURHOOD, NEIGHBOURHOOD)).sum(axis=(2, 3)).max()
    return _check(most, peaks.sum(), NEIGHBOURHOOD**2 / peaks.size)


def border(maps: NDArray[np.float32]) -> MapCheck | None:
    """Return the share of the evidence of maps [N, h, w] in the outermost cells; None if the map is too coarse."""
    over = evidence(maps).sum(axis=0)
    inside = over[1:-1, 1:-1]
    return _check(over.sum() - inside.sum(), over.sum(), 1 - inside.size / over.size)


def evidence(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the excess over the median of each map [N, h, w]."""
    return np.asarray(np.maximum(maps - np.median(maps, axis=(1, 2), keepdims=True), 0), np.float64)


def effective_tiles(maps: NDArray[np.float32]) -> float:
    """Return the number of tiles of equal evidence that would count as much: the effective sample size of L. Kish,
    Survey Sampling (1965).
    """
    if not len(maps):
        return 0.0
    weights = evidence(maps).max(axis=(1, 2))
    return float(weights.sum() ** 2 / max((weights**2).sum(), TINY))


def _check(part: np.float64, whole: np.float64, chance: float) -> MapCheck | None:
    return None if chance > COARSE else MapCheck(min(float(part / max(whole, TINY)), 1.0), chance)
