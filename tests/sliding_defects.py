"""A drawn defect that is slid across the seam between two tiles, pixel by pixel.

The board stays and the camera moves: windows two tiles wide are cut from a board so that the defect crosses the place
where the tiles meet.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from examples.drawn_boards.boards import DrawnBoard, DrawnDefect, draw_board
from heatline.edge.bundle import Bundle
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import Stitcher
from heatline.edge.inference import Engine, open_engine
from heatline.edge.inspection.inspector import Inspector

REACH_PX = 72
"""How far to both sides of the seam the defect's middle goes."""
NEAR_PX = 64
"""How far from a defect its peak is looked for: farther than it may stray, nearer than other evidence mostly is."""


@dataclass(frozen=True)
class Slide:
    """One defect, slid across one seam."""

    overlap_px: int
    peak_off_px: float
    """Farthest that the heatmap's peak near the defect was from its pixels, over all places, judged DEFECT or not."""
    missed_share: float
    """Of places at which no tile reached the score threshold."""


def slide_defects(bundle: Bundle, defects: int, seed: int, *, step_px: int) -> Iterator[Slide]:
    """Slide defects, each across a seam of the bundle's overlap and across one of the defect's own size."""
    manifest = bundle.manifest
    engine = open_engine("openvino", bundle.path, manifest.grid.tile_px)
    found = 0
    for number in count():
        board = draw_board((seed, number), defects=1)
        defect = board.defects[0]
        if not _has_room(board, defect, manifest.grid.tile_px):
            continue
        left, top, right, bottom = defect.box_xyxy
        for overlap_px in (manifest.grid.overlap_px, max(right - left, bottom - top)):
            yield _slide(board, defect, bundle, engine, overlap_px, step_px)
        found += 1
        if found == defects:
            return


def _slide(
    board: DrawnBoard, defect: DrawnDefect, bundle: Bundle, engine: Engine, overlap_px: int, step_px: int
) -> Slide:
    inspector = Inspector(bundle.manifest, engine, overlap_px=overlap_px)
    tile_px = bundle.manifest.grid.tile_px
    width = 2 * tile_px - overlap_px
    left, top, right, bottom = defect.box_xyxy
    y = (top + bottom - tile_px) // 2
    logits, off = [], []
    for shift in range(-REACH_PX, REACH_PX + 1, step_px):
        x = (left + right - width) // 2 - shift
        window = np.s_[y : y + tile_px, x : x + width]
        frame = Frame(Stamp("slide", shift), np.ascontiguousarray(board.image[window]), "RGB8")
        pending = inspector.start(frame)
        judgement = inspector.finish(pending)
        logits.append(judgement.score)
        off.append(_peak_off_px(judgement.heatmap, pending.stitcher, board.mask[window]))
    return Slide(overlap_px, max(off), sum(logit < inspector.thresholds.score for logit in logits) / len(logits))


def _has_room(board: DrawnBoard, defect: DrawnDefect, tile_px: int) -> bool:
    left, top, right, bottom = defect.box_xyxy
    height, width = board.mask.shape
    reach = tile_px + REACH_PX
    middle_y, middle_x = (top + bottom) // 2, (left + right) // 2
    return bool(tile_px // 2 <= middle_y < height - tile_px // 2 and reach < middle_x < width - reach)


def _peak_off_px(heatmap: NDArray[np.float32], stitcher: Stitcher, mask: NDArray[np.bool_]) -> float:
    """How far the heatmap's highest place within `NEAR_PX` of the defect is from its pixels, px."""
    rows, columns = np.nonzero(mask)
    y, x = stitcher.centres_y[:, None], stitcher.centres_x[None, :]
    near = (
        (y >= rows.min() - NEAR_PX) & (y <= rows.max() + NEAR_PX)
        & (x >= columns.min() - NEAR_PX) & (x <= columns.max() + NEAR_PX)
    )  # fmt: skip
    row, column = np.unravel_index(int(np.where(near, heatmap, -np.inf).argmax()), heatmap.shape)
    away = (rows + 0.5 - y[row, 0]) ** 2 + (columns + 0.5 - x[0, column]) ** 2
    return float(np.sqrt(away.min()))
