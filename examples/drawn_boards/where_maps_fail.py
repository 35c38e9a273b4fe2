"""Where a map cut off by the study's rule misleads: tiles of drawn boards, the best and one per way to fail.

    python examples/drawn_boards/where_maps_fail.py BUNDLE BOARDS --out docs/study-rule.jpg

From left to right: the tile with its defects outlined; the map stretched to its own range, as the study shows it, with
the study's mask outlined; the map on the line's one scale. Each is the tile, of all there are, that shows it the
most.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle import open_bundle
from edge.frames import Frame, Stamp
from edge.heatmap_picture import ColourScale, tint
from edge.inference import open_engine
from edge.inspection.inspector import Inspector
from train.evaluation.gallery import FOUND_RGB, TRUTH_RGB, TileView
from train.evaluation.observe import cut_mask
from train.evaluation.pixels import PixelCounts
from train.evaluation.scoring import peak_distance_px
from train.evaluation.study_rule import study_mask
from train.readers import read_folder
from train.tiles import DEFECTIVE_SHARE

GAP_PX, TEXT_PX, SCALE = 8, 44, 2
CLEAR = 3.0
"""A logit of which nobody would say that it was a near thing."""


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("boards", type=Path)
    parser.add_argument("--out", type=Path, default=Path("study-rule.jpg"))
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle)
    inspector = Inspector(bundle.manifest, open_engine("openvino", bundle.path, bundle.manifest.grid.tile_px))
    tiles = list(views(inspector, asked.boards))
    good = [tile for tile in tiles if not tile.truth.any()]
    defective = [tile for tile in tiles if tile.defective]
    small = [tile for tile in tiles if tile.truth.any() and not tile.defective]
    found = [tile for tile in defective if tile.logit > 0]
    usual = float(np.median([tile.logit for tile in good]))
    rows = [
        ("the best of all masks", max((t for t in found if t.logit > CLEAR), key=lambda tile: counts(tile).f1)),
        ("a good tile is hot by itself", min(good, key=lambda tile: abs(tile.logit - usual))),
        ("a defect below 0.5 has no mask", min(defective, key=lambda tile: tile.logit)),
        ("a defect below 1 % makes a good tile", max(small, key=lambda tile: tile.logit)),
        ("the mask is many times the defect", min(found, key=lambda tile: counts(tile).precision)),
        ("the peak lies beside the defect", max(found, key=lambda tile: peak_distance_px(tile.map, tile.truth))),
    ]
    scale = ColourScale.from_calibration(bundle.manifest.calibration, inspector.thresholds)
    drawn = [row(f"{name}: logit {tile.logit:+.1f}", tile, scale) for name, tile in rows]
    columns = [np.concatenate(drawn[start::2], axis=0) for start in (0, 1)]
    height = max(len(column) for column in columns)
    sheet = [np.pad(c, ((0, height - len(c)), (0, 24), (0, 0)), constant_values=255) for c in columns]
    picture = cv2.cvtColor(np.concatenate(sheet, axis=1), cv2.COLOR_RGB2BGR)
    smaller = cv2.resize(picture, None, fx=0.55, fy=0.55, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(asked.out), smaller, [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(f"{len(drawn)} of {len(tiles)} tiles are drawn in {asked.out}")


def views(inspector: Inspector, boards: Path) -> Iterator[TileView]:
    """All tiles of all boards."""
    for number, image in enumerate(read_folder(boards).images, start=1):
        rgb = image.pixels()
        pending = inspector.start(Frame(Stamp("boards", number, image.path.name), rgb, "RGB8"))
        inspector.finish(pending)
        grid = pending.stitcher.grid
        mask = image.mask(grid.frame_hw)
        assert mask is not None
        pixels = np.empty((len(grid), grid.tile_px, grid.tile_px, 3), np.uint8)
        grid.cut(rgb, pixels)
        for tile, truth in enumerate(cut_mask(mask, grid)):
            yield TileView(
                number,
                image.path.name,
                grid.origins_yx[tile],
                pixels[tile],
                truth,
                bool(truth.mean() > DEFECTIVE_SHARE),
                float(pending.logits[tile]),
                pending.maps[tile].copy(),
            )


def counts(tile: TileView) -> PixelCounts:
    """What the study's mask finds in a tile."""
    return PixelCounts.of(study_mask(tile.map, tile.logit, len(tile.pixels)), tile.truth)


def row(text: str, tile: TileView, scale: ColourScale) -> NDArray[np.uint8]:
    """One tile's three pictures under a line of text."""
    side = len(tile.pixels) * SCALE
    rgb = cv2.resize(tile.pixels, (side, side), interpolation=cv2.INTER_CUBIC)
    enlarged = np.asarray(cv2.resize(tile.map, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)
    stretched = tint(rgb, ColourScale(float(enlarged.min()), float(enlarged.max())).grey(enlarged), 1)
    pictures = [
        outlined(rgb, tile.truth, TRUTH_RGB),
        outlined(stretched, study_mask(tile.map, tile.logit, len(tile.pixels)), FOUND_RGB),
        tint(rgb, scale.grey(enlarged), 1),
    ]
    gap = np.full((side, GAP_PX, 3), 255, np.uint8)
    strip = np.concatenate([part for picture in pictures for part in (picture, gap)], axis=1)
    head = np.full((TEXT_PX, strip.shape[1], 3), 255, np.uint8)
    cv2.putText(head, text, (2, TEXT_PX - 14), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (0, 0, 0), 2, cv2.LINE_AA)
    return np.concatenate([head, strip], axis=0)


def outlined(rgb: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture with the outline of a mask of half its size."""
    picture = np.ascontiguousarray(rgb.copy())
    large = np.kron(mask, np.ones((SCALE, SCALE), np.uint8))
    contours, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, 2)
    return picture


if __name__ == "__main__":
    main()
