"""Tiles to look at: some chosen by their names, the same for every model, and the worst failures.

Kept while a pass goes on, so that no picture is read twice: a few tiles at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle import Calibration
from edge.errors import InputError
from edge.heatmap_picture import ColourScale, png, tint
from edge.inspection.verdict import Thresholds
from train.evaluation.result import Exhibit, Kind
from train.evaluation.study_rule import study_mask
from train.evaluation.sweep import FUSIONS, SweepTiles
from train.files import write_whole

EXAMPLES = 5
FAILURES = 5
TRUTH_RGB = (0, 255, 160)
FOUND_RGB = (255, 255, 255)
GAP_PX = 6
ROLLOUTS_OF = 2
"""Of so many examples, rollouts by fusion and by discard ratio are drawn."""
RATIO_OF_FUSIONS = 0.8
"""At which the study's Fig. 3.11 shows fusions."""
RATIOS_OF_MEAN = (0.0, 0.2, 0.6, 0.8)
"""Three of which the study's Fig. 3.12 shows, by mean fusion."""
TRIPTYCH = "tile; truth; map on the line's scale, outlined: found by the study's rule"


class TileView(NamedTuple):
    """One tile with all there is to show of it."""

    group: int
    """Tiles of one group may show the same defect again."""
    image: str
    yx: tuple[int, int]
    pixels: NDArray[np.uint8]
    """RGB [tile, tile, 3]."""
    truth: NDArray[np.bool_]
    """[tile, tile]"""
    defective: bool
    logit: float
    map: NDArray[np.float32]
    """[h, w]"""

    @property
    def lot(self) -> float:
        """0..1, by its name alone, so that all models draw the same tiles."""
        return int.from_bytes(sha256(f"{self.image}:{self.yx}".encode()).digest()[:6]) / 2**48

    def kept(self) -> "TileView":
        """A copy that does not hold its frame's arrays."""
        return self._replace(pixels=self.pixels.copy(), truth=self.truth.copy(), map=self.map.copy())


class Gallery:
    """Picks the tiles of one truth while they pass.

    Args:
        groups: how many the pictures have; where there are enough, each gives one tile of a kind at most.
    """

    def __init__(self, groups: int, examples: int = EXAMPLES, failures: int = FAILURES) -> None:
        self.examples, self.missed, self.false = (
            _Lowest(size, spread=groups >= 2 * size) for size in (examples, failures, failures)
        )

    def see(self, views: Iterable[TileView]) -> None:
        for view in views:
            if view.defective:
                self.examples.offer(view.lot, view)
                self.missed.offer(view.logit, view)
            elif not view.truth.any():  # a tile with a small defect is good by the rule, and no failure if it is hot
                self.false.offer(-view.logit, view)


class _Lowest:
    """Keeps the few views of the lowest keys.

    Args:
        size: how many.
        spread: at most one of each group.
    """

    def __init__(self, size: int, *, spread: bool) -> None:
        self._size, self._spread = size, spread
        self._kept: list[tuple[float, TileView]] = []

    def offer(self, key: float, view: TileView) -> None:
        if len(self._kept) == self._size and key >= self._kept[-1][0]:
            return
        same = [entry for entry in self._kept if self._spread and entry[1].group == view.group]
        if same and key >= same[0][0]:
            return
        rest = [entry for entry in self._kept if not any(entry is one for one in same)]
        self._kept = sorted([*rest, (key, view.kept())], key=lambda entry: entry[0])[: self._size]

    def views(self) -> list[TileView]:
        """Lowest key first."""
        return [view for _, view in self._kept]


def draw_gallery(
    gallery: Gallery, truth: str, calibration: Calibration, sweep: SweepTiles | None, folder: Path
) -> list[Exhibit]:
    """Write the pictures of a gallery into `folder`/pictures, and list them.

    Args:
        calibration: its colour scale is that of the line: good tiles are cold.
        sweep: of a ViT's run, what gives rollouts by fusion and ratio.
    Raises:
        InputError, TrainingError: the folder or a picture cannot be written.
    """
    thresholds = Thresholds(calibration.score_threshold, calibration.evidence_threshold)
    scale = ColourScale.of(calibration, thresholds)
    examples = gallery.examples.views()
    by_kind: list[tuple[Kind, list[TileView]]] = [
        ("example", examples),
        ("missed", gallery.missed.views()),
        ("false", gallery.false.views()),
    ]
    drawn = [(kind, view, _triptych(view, scale), TRIPTYCH) for kind, views in by_kind for view in views]
    if sweep is not None:
        for view in examples[:ROLLOUTS_OF]:
            drawn += [(kind, view, picture, caption) for kind, picture, caption in _rollouts(view, sweep)]
    try:
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder / 'pictures'} cannot be made ({error.strerror}); check the disk and the permissions"
        ) from error
    exhibits = []
    for number, (kind, view, picture, caption) in enumerate(drawn):
        file = f"pictures/{truth}-{number:02d}-{kind}.png"
        data = png(picture)
        write_whole(folder / file, lambda place, data=data: place.write_bytes(data))  # type: ignore[misc]
        exhibits.append(Exhibit(kind, file, view.image, view.yx, view.logit, caption))
    return exhibits


def _triptych(view: TileView, scale: ColourScale) -> NDArray[np.uint8]:
    tile_px = len(view.pixels)
    enlarged = cv2.resize(view.map, (tile_px, tile_px), interpolation=cv2.INTER_LINEAR)
    heat = tint(view.pixels, scale.grey(np.asarray(enlarged, np.float32)), 1)
    found = study_mask(view.map, view.logit, tile_px)
    return _side_by_side(
        [view.pixels, _outlined(view.pixels, view.truth, TRUTH_RGB), _outlined(heat, found, FOUND_RGB)]
    )


def _rollouts(view: TileView, sweep: SweepTiles) -> Iterator[tuple[Kind, NDArray[np.uint8], str]]:
    import torch

    ratios = tuple(sorted({RATIO_OF_FUSIONS, *RATIOS_OF_MEAN}))
    logits, maps = sweep(torch.from_numpy(view.pixels[None].copy()), FUSIONS, ratios)
    looked = (maps[0] * logits.sign()).cpu().numpy()  # [fusions, ratios, h, w]
    of = {
        (fusion, ratio): looked[row, column]
        for row, fusion in enumerate(FUSIONS)
        for column, ratio in enumerate(ratios)
    }
    truth = _outlined(view.pixels, view.truth, TRUTH_RGB)
    by_fusion = [_relative(view.pixels, of[fusion, RATIO_OF_FUSIONS]) for fusion in FUSIONS]
    yield (
        "fusions",
        _side_by_side([truth, *by_fusion]),
        f"truth; {', '.join(FUSIONS)} fusion at discard ratio {RATIO_OF_FUSIONS:g}, each on its own scale",
    )
    by_ratio = [_relative(view.pixels, of["mean", ratio]) for ratio in RATIOS_OF_MEAN]
    yield (
        "ratios",
        _side_by_side([truth, *by_ratio]),
        f"truth; mean fusion at discard ratios {', '.join(f'{ratio:g}' for ratio in RATIOS_OF_MEAN)}, each on its own "
        "scale",
    )


def _relative(pixels: NDArray[np.uint8], tile_map: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The tile under its map, from the map's lowest to its highest value: how a rollout is usually shown."""
    tile_px = len(pixels)
    enlarged = cv2.resize(tile_map, (tile_px, tile_px), interpolation=cv2.INTER_LINEAR)
    scale = ColourScale(float(enlarged.min()), float(max(enlarged.max(), enlarged.min() + 1e-12)))
    return tint(pixels, scale.grey(np.asarray(enlarged, np.float32)), 1)


def _outlined(rgb: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    picture = np.ascontiguousarray(rgb.copy())
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, 1)
    return picture


def _side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((len(pictures[0]), GAP_PX, 3), 255, np.uint8)
    parts: list[NDArray[np.uint8]] = []
    for picture in pictures:
        parts += [gap, picture] if parts else [picture]
    return np.concatenate(parts, axis=1)
