"""Areas of a frame that the product cannot show: a lost or torn transfer, a hand, a label, another product's part.

The limits come from good frames. Cells are compared with those of frames whose own group was left out, as frames on the
line are new.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.appearance import Appearance, Floats
from heatline.edge.bundle.lines import LineMeasure, fit_lines
from heatline.edge.bundle.manifest import Areas
from heatline.edge.bundle.product_cells import PROTOTYPES, ProductCells, cell_map, largest_area
from heatline.edge.wire.events import ForeignArea

FOLDS = 5
FEWEST_GROUPS = 3
"""With fewer groups of frames, features are not used."""
FEWEST_CELLS = 10 * PROTOTYPES
"""With fewer cells of all frames, prototypes would be single cells."""
FEWEST_FOREIGN = 4
"""An area has at least so many cells: in a small region of interest, a single unusual cell is a large share."""
CELL_QUANTILE, CELL_MARGIN = 0.99, 1.1
"""A cell is foreign beyond this quantile of good cells, times the margin."""
AREA_QUANTILE, AREA_MARGIN, SMALLEST_AREA = 0.99, 1.5, 0.02
"""The largest plausible area is this quantile of the groups' largest areas, times the margin; at least this share of
what is inspected."""


def find_areas(appearance: Appearance, limits: Areas, cells: ProductCells | None) -> list[ForeignArea]:
    """Return the areas of a frame beyond the limits, each with its place.

    Args:
        cells: None: only lines are compared.
    """
    height, width = appearance.frame_hw
    left, top, right, bottom = appearance.measured_xyxy or (0, 0, width, height)
    areas = []
    for name, stretch in (appearance.lines or {}).items():
        limit = limits.lines.get(name)
        if limit is None or stretch.value <= limit:
            continue
        first, end = (side + (top if name.endswith("rows") else left) for side in (stretch.first_px, stretch.end_px))
        why = _describe_lines(name, first, end - 1, stretch.value, limit)
        areas.append(
            ForeignArea((left, first, right, end) if name.endswith("rows") else (first, top, end, bottom), why)
        )
    if cells is None or limits.cell is None or limits.share is None:
        return areas
    if appearance.cells is None or appearance.grid is None:
        return areas
    share, box = largest_area(cell_map(cells.distances(appearance.cells), appearance.grid), limits.cell, FEWEST_FOREIGN)
    if share > limits.share:
        px = appearance.grid.tile_px // appearance.cells.shape[1]
        x0, y0, x1, y1 = (min(side * px, end) for side, end in zip(box, (width, height) * 2, strict=True))
        why = (
            f"x {x0} to {x1}, y {y0} to {y1} px does not look like the product: {_percent(share)} of the inspected "
            f"area, expected up to {_percent(limits.share)}"
        )
        areas.insert(0, ForeignArea((x0, y0, x1, y1), why))  # it says more than the seams at its sides
    return areas


def fit_areas(appearances: Sequence[Appearance], groups: NDArray[np.str_]) -> tuple[Areas | None, ProductCells | None]:
    """Return the limits of areas, and the cells of the product, from the frames that have cells, or from all.

    Args:
        groups: the group of each frame.
    """
    known = [index for index, each in enumerate(appearances) if each.cells is not None]
    used = [appearances[index] for index in known] or appearances
    lines = [each.lines for each in used if each.lines is not None]
    if not lines:
        return None, None
    areas = Areas(lines=fit_lines(lines), frames=len(lines))
    fold, number = folds(groups[known])
    frames = [(each.cells, each.grid) for each in used if each.cells is not None and each.grid is not None]
    if number < FEWEST_GROUPS or sum(np.isfinite(cells[..., 0]).sum() for cells, _ in frames) < FEWEST_CELLS:
        return areas, None
    maps: dict[int, Floats] = {}
    for left_out in np.unique(fold).tolist():
        others = ProductCells.of([cells for (cells, _), of in zip(frames, fold, strict=True) if of != left_out])
        for index in np.flatnonzero(fold == left_out).tolist():
            cells, grid = frames[index]
            maps[index] = cell_map(others.distances(cells), grid)
    limit = CELL_MARGIN * float(np.nanquantile(np.concatenate([each.ravel() for each in maps.values()]), CELL_QUANTILE))
    largest: dict[str, float] = {}
    for index, name in enumerate(groups[known].tolist()):
        largest[name] = max(largest.get(name, 0.0), largest_area(maps[index], limit, FEWEST_FOREIGN)[0])
    share = min(1.0, max(SMALLEST_AREA, AREA_MARGIN * float(np.quantile(list(largest.values()), AREA_QUANTILE))))
    refused = sum(each > share for each in largest.values())
    areas = msgspec.structs.replace(areas, cell=limit, share=share, groups=number, refused=refused)
    return areas, ProductCells.of([cells for cells, _ in frames])


def _describe_lines(name: LineMeasure, first: int, last: int, value: float, limit: float) -> str:
    kind, lines = name.split("_")
    if kind == "torn":
        at = f"{lines.removesuffix('s')} {last}"
        return f"the picture has a seam at {at}: a step {value:.1f} times the usual, expected up to {limit:.1f}"
    side = "height" if lines == "rows" else "width"
    return (
        f"{lines} {first} to {last} repeat the one before: {_percent(value)} of the {side}, expected up to "
        f"{_percent(limit)}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def folds(groups: NDArray[np.str_]) -> tuple[NDArray[np.int64], int]:
    """Return the fold of each frame, which is the same for all of a group, and the number of groups."""
    number = {name: index for index, name in enumerate(dict.fromkeys(groups.tolist()))}
    return np.array([number[name] * FOLDS // len(number) for name in groups.tolist()], np.int64), len(number)
