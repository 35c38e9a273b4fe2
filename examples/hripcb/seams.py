"""What an overlap of 2 px costs at the seams, on real defects: each defect's highest tile logit on the line's grid, and
on one whose tiles overlap by half, so that every defect lies whole in some tile.

    python examples/hripcb/seams.py DATA/hripcb_subset BUNDLE:BOARD... --out seams.json

Each bundle was taught without its board. A defect is cut where no tile of the line's grid holds its box whole. The
defects that are not cut tell what a denser grid gives anyway, by mere number of looks.
"""

import argparse
import json
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.machine import machine
from edge.bundle import Bundle, open_bundle
from edge.frames import Frame, Stamp
from edge.geometry import TileGrid
from edge.inference import open_engine
from edge.inspection.inspector import Inspector
from train.evaluation.scoring import label_defects
from train.readers import read_folder

Box = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two are the first px outside."""


class Seen(msgspec.Struct, frozen=True):
    """One defect."""

    board: str
    image: str
    box: Box
    cut: bool
    """Whether no tile of the line's grid holds it whole."""
    logit: float
    """The highest of all tiles that hold some of it, on the line's grid."""
    logit_dense: float
    """The same on the grid that overlaps by half."""
    threshold: float


def main() -> None:
    """Write all defects and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("bundles", nargs="+", help="BUNDLE:BOARD")
    parser.add_argument("--out", type=Path, default=Path("seams.json"))
    asked = parser.parse_args()
    seen: list[Seen] = []
    for pair in asked.bundles:
        path, _, board = pair.rpartition(":")
        seen += defects_of(open_bundle(Path(path)), asked.data, board)
    report = {
        "machine": machine(),
        "boards": sorted({one.board for one in seen}),
        "cut": summary([one for one in seen if one.cut]),
        "whole": summary([one for one in seen if not one.cut]),
        "defects": seen,
    }
    asked.out.write_text(json.dumps(msgspec.to_builtins(report), indent=2) + "\n")
    print(json.dumps({key: report[key] for key in ("boards", "cut", "whole")}, indent=2))


def defects_of(bundle: Bundle, data: Path, board: str) -> list[Seen]:
    """All defects of a board, by its boxes."""
    grid_px = bundle.manifest.grid.tile_px
    engine = open_engine("openvino", bundle.path, grid_px)
    line = Inspector(bundle.manifest, engine)
    dense = Inspector(bundle.manifest, engine, overlap_px=grid_px // 2)
    seen = []
    for image in read_folder(data, "boxes", "board").images:
        if image.group != board:
            continue
        rgb = image.pixels()
        mask = image.mask((rgb.shape[0], rgb.shape[1]))
        assert mask is not None
        labels = label_defects(mask, 1)
        logits = []
        for inspector in (line, dense):
            pending = inspector.start(Frame(Stamp("seams", 1, image.path.name), rgb, "RGB8"))
            inspector.finish(pending)
            logits.append((pending.stitcher.grid, pending.logits))
        for defect in range(1, int(labels.max()) + 1):
            rows, columns = np.nonzero(labels == defect)
            box = int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1
            highest = [float(of[touching(grid, box)].max()) for grid, of in logits]
            cut = not holding(logits[0][0], box).any()
            seen.append(Seen(board, image.path.name, box, cut, *highest, line.thresholds.score))
    return seen


def touching(grid: TileGrid, box: Box) -> NDArray[np.bool_]:
    """The tiles that hold some of a box, [tiles]."""
    y, x = np.array(grid.origins_yx).T
    side = grid.tile_px
    return (y < box[2]) & (y + side > box[0]) & (x < box[3]) & (x + side > box[1])


def holding(grid: TileGrid, box: Box) -> NDArray[np.bool_]:
    """The tiles that hold all of a box, [tiles]."""
    y, x = np.array(grid.origins_yx).T
    side = grid.tile_px
    return (y <= box[0]) & (y + side >= box[2]) & (x <= box[1]) & (x + side >= box[3])


def summary(seen: list[Seen]) -> dict[str, float | int | None]:
    """What some defects come to."""
    gain = [one.logit_dense - one.logit for one in seen]
    return {
        "defects": len(seen),
        "missed": sum(one.logit < one.threshold for one in seen),
        "missed_dense": sum(one.logit_dense < one.threshold for one in seen),
        "logit_median": float(np.median([one.logit for one in seen])) if seen else None,
        "gain_median": float(np.median(gain)) if seen else None,
        "gain_largest": max(gain, default=None),
    }


if __name__ == "__main__":
    main()
