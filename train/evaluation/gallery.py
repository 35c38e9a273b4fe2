"""Gallery of an evaluation: the worst frames and tiles, and example tiles that are the same for every model.

The gallery is collected during the evaluation, so that no picture is read twice.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Calibration
from heatline.edge.errors import InputError
from heatline.edge.heatmap_picture import ColourScale, draw_outlines, overlay, png, tint
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.util.text import utf8_safe
from heatline.train.evaluation.result import GalleryItem, Kind
from heatline.train.evaluation.scoring import enlarged, study_mask
from heatline.train.evaluation.sweep import FUSIONS, SweepTiles
from heatline.train.files import write_atomically
from heatline.train.models.vit import Fusion

T = TypeVar("T")

EXAMPLES = 5
FAILURES = 5
FRAMES = 6
"""Frames of each kind."""
FRAME_PX = 900
"""Longest side of each of a frame's two pictures."""
TRUTH_RGB = (0, 230, 255)
FOUND_RGB = (255, 255, 255)
GAP_PX = 6
ROLLOUTS_OF = 2
"""Number of examples whose rollouts by fusion and by discard ratio are drawn."""
RATIO_OF_FUSIONS = 0.8
"""Discard ratio of the study's Fig. 3.11, which shows fusions."""
RATIOS_OF_MEAN = (0.0, 0.2, 0.6, 0.8)
"""Discard ratios by mean fusion; the study's Fig. 3.12 shows three of them."""
TRIPTYCH = "tile; true defects; map, outlined where the study's rule finds a defect"
LINE_TRIPTYCH = "tile; true defects; map, outlined where it reaches the evidence threshold"
WHOLE_FRAME = "frame with its true defects; its heatmap with the regions found"
WITH_REFERENCE = "frame with its true defects; its reference; its heatmap with the regions found"


class TileView(NamedTuple):
    """One tile with its truth and its map."""

    group: int
    """Number of its group; tiles of one group may show the same defect."""
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
    def rank(self) -> float:
        """Pseudo-random number 0..1 from its name only, so that all models show the same examples."""
        return int.from_bytes(sha256(utf8_safe(f"{self.image}:{self.yx}").encode()).digest()[:6]) / 2**48

    def detached(self) -> "TileView":
        """Return a copy that does not keep the frame's arrays in memory."""
        return self._replace(pixels=self.pixels.copy(), truth=self.truth.copy(), map=self.map.copy())


class FrameView(NamedTuple):
    """One frame with its truth and its heatmap."""

    path: Path
    pixels: NDArray[np.uint8]
    """RGB [H, W, 3]."""
    truth: NDArray[np.bool_] | None
    """[H, W]; None if the place of the defect is not known."""
    defective: bool
    judgement: Judgement
    cell_px: int
    """Side of a cell of its heatmap, px."""
    reference: NDArray[np.uint8] | None = None
    """What the reference shows at the same place, RGB [H, W, 3]; None: the frame is compared with none."""


class Gallery:
    """Picks the tiles to show by one truth.

    Args:
        groups: number of groups of the pictures. With enough groups, each gives at most one tile of a kind.
    """

    def __init__(self, groups: int, examples: int = EXAMPLES, failures: int = FAILURES) -> None:
        self.examples, self.missed, self.false = (
            _Lowest[TileView](size, spread=groups >= 2 * size) for size in (examples, failures, failures)
        )

    def add(self, views: Iterable[TileView]) -> None:
        """Offer the tiles of a frame."""
        for view in views:
            if view.defective:
                self.examples.offer(view.rank, view.group, view.detached)
                self.missed.offer(view.logit, view.group, view.detached)
            elif (
                not view.truth.any()
            ):  # a tile with a small defect is good by the 1 % rule, but a hot map there is right
                self.false.offer(-view.logit, view.group, view.detached)


_Drawn = tuple[GalleryItem, NDArray[np.uint8]]
"""An item without a file name, and its picture."""


class FrameGallery:
    """Picks the defective frames of the lowest scores and the good frames of the highest scores.

    A frame is drawn when it is picked, so that no full-size frame stays in memory.

    Args:
        calibration: gives the colour scale of the line, in which good frames are cold.
        folder: of the pictures; frames are named by their paths below it.
        size: number of frames of each kind.
    """

    def __init__(self, calibration: Calibration, folder: Path, size: int = FRAMES) -> None:
        self._scale = ColourScale.around(calibration.evidence_threshold, calibration.background)
        self._folder = folder
        self._escaped, self._rejected = (_Lowest[_Drawn](size, spread=False) for _ in range(2))

    def add(self, view: FrameView) -> None:
        """Offer a frame."""
        score = view.judgement.score
        kind: Kind = "escaped" if view.defective else "rejected"
        picked, key = (self._escaped, score) if view.defective else (self._rejected, -score)

        def draw() -> _Drawn:
            picture = draw_frame(view, self._scale)
            caption = WHOLE_FRAME if view.reference is None else WITH_REFERENCE
            return GalleryItem(kind, "", relative_name(self._folder, view.path), None, score, caption), picture

        picked.offer(key, 0, draw)

    def write(self, folder: Path) -> list[GalleryItem]:
        """Write the pictures into `folder`/pictures; return their items, the worst of each kind first.

        Raises:
            InputError, TrainingError: the folder or a picture cannot be written.
        """
        return _write([*self._escaped.items(), *self._rejected.items()], "frame", folder)


class _Lowest(Generic[T]):
    """Collects the items of the lowest keys.

    Args:
        size: highest number of items.
        spread: whether each group gives at most one item.
    """

    def __init__(self, size: int, *, spread: bool) -> None:
        self._size, self._spread = size, spread
        self._entries: list[tuple[float, int, T]] = []

    def offer(self, key: float, group: int, make: Callable[[], T]) -> None:
        """Call `make` and add its item if the key is among the lowest so far."""
        if len(self._entries) == self._size and key >= self._entries[-1][0]:
            return
        same = [entry for entry in self._entries if self._spread and entry[1] == group]
        if same and key >= same[0][0]:
            return
        rest = [entry for entry in self._entries if not any(entry is other for other in same)]
        self._entries = sorted([*rest, (key, group, make())], key=lambda entry: entry[0])[: self._size]

    def items(self) -> list[T]:
        """Return the items, lowest key first."""
        return [item for _, _, item in self._entries]


def draw_gallery(
    gallery: Gallery, truth: str, calibration: Calibration, sweep: SweepTiles | None, folder: Path
) -> list[GalleryItem]:
    """Write the pictures of a gallery into `folder`/pictures; return their items.

    Args:
        calibration: gives the colour scale of the line, in which good tiles are cold.
        sweep: computes rollouts by fusion and ratio, for a ViT's run.
    Raises:
        InputError, TrainingError: the folder or a picture cannot be written.
    """
    scale = ColourScale.around(calibration.evidence_threshold, calibration.background)
    drawn: list[_Drawn] = []

    def draw(kind: Kind, view: TileView, picture: NDArray[np.uint8], caption: str) -> None:
        drawn.append((GalleryItem(kind, "", utf8_safe(view.image), view.yx, view.logit, caption), picture))

    def triptych(view: TileView, found: NDArray[np.bool_]) -> NDArray[np.uint8]:
        heat = tint(view.pixels, scale.grey(enlarged(view.map, len(view.pixels))), 1)
        return _join([view.pixels, _outline(view.pixels, view.truth, TRUTH_RGB), _outline(heat, found, FOUND_RGB)])

    examples = gallery.examples.items()
    for view in examples:
        draw("example", view, triptych(view, study_mask(view.map, view.logit, len(view.pixels))), TRIPTYCH)
    failures: list[tuple[Kind, list[TileView]]] = [("missed", gallery.missed.items()), ("false", gallery.false.items())]
    for kind, views in failures:
        for view in views:
            found = enlarged(view.map, len(view.pixels)) >= calibration.evidence_threshold
            draw(kind, view, triptych(view, found), LINE_TRIPTYCH)
    if sweep is not None:
        for view in examples[:ROLLOUTS_OF]:
            for kind, picture, caption in _rollouts(view, sweep):
                draw(kind, view, picture, caption)
    return _write(drawn, truth, folder)


def relative_name(folder: Path, path: Path) -> str:
    """Return a picture's name for reports: its path below the folder of pictures, or its file name."""
    return utf8_safe(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name)


def draw_frame(view: FrameView, scale: ColourScale) -> NDArray[np.uint8]:
    """Draw the frame with its truth outlined, its reference if it has one, and the frame under its heatmap, RGB.

    They stand side by side; those of a wide frame stand one below the other. Each is at most `FRAME_PX` long.
    """
    height, width = view.pixels.shape[:2]
    thick = max(2, round(max(height, width) / 200))
    truth = view.pixels if view.truth is None else _outline(view.pixels, view.truth, TRUTH_RGB, thick)
    heat = overlay(view.pixels, view.judgement.heatmap, view.cell_px, view.judgement.regions, scale)
    shrink = min(1.0, FRAME_PX / max(height, width))
    size_wh = max(1, round(width * shrink)), max(1, round(height * shrink))
    pictures = [each for each in (truth, view.reference, heat) if each is not None]
    small = [np.asarray(cv2.resize(each, size_wh, interpolation=cv2.INTER_AREA), np.uint8) for each in pictures]
    return _join(small, axis=0 if width > 1.4 * height else 1)


def _write(drawn: Sequence[_Drawn], name: str, folder: Path) -> list[GalleryItem]:
    """Write pictures into `folder`/pictures; files are named by `name`, their number and their kind."""
    try:
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder / 'pictures'} cannot be made ({error.strerror}); check the disk and the permissions"
        ) from error
    gallery = []
    for number, (item, picture) in enumerate(drawn):
        file = f"pictures/{name}-{number:02d}-{item.kind}.png"
        write_atomically(folder / file, partial(Path.write_bytes, data=png(picture)))
        gallery.append(msgspec.structs.replace(item, file=file))
    return gallery


def _rollouts(view: TileView, sweep: SweepTiles) -> Iterator[tuple[Kind, NDArray[np.uint8], str]]:
    """Draw the tile with its truth, and its rollouts, each tinted on its own scale, as rollouts are usually shown."""
    import torch

    ratios = tuple(sorted({RATIO_OF_FUSIONS, *RATIOS_OF_MEAN}))
    logits, maps = sweep(torch.from_numpy(view.pixels[None].copy()), FUSIONS, ratios)
    relevance = (maps[0] * logits.sign()).cpu().numpy()  # [fusions, ratios, h, w]
    truth = _outline(view.pixels, view.truth, TRUTH_RGB)

    def tinted(fusion: Fusion, ratio: float) -> NDArray[np.uint8]:
        large = enlarged(relevance[FUSIONS.index(fusion), ratios.index(ratio)], len(view.pixels))
        scale = ColourScale(float(large.min()), float(max(large.max(), large.min() + 1e-12)))
        return tint(view.pixels, scale.grey(large), 1)

    fusions = f"{', '.join(FUSIONS)} fusion at discard ratio {RATIO_OF_FUSIONS:g}"
    yield "fusions", _join([truth, *(tinted(each, RATIO_OF_FUSIONS) for each in FUSIONS)]), _captioned(fusions)
    of_mean = f"mean fusion at discard ratios {', '.join(f'{ratio:g}' for ratio in RATIOS_OF_MEAN)}"
    yield "ratios", _join([truth, *(tinted("mean", ratio) for ratio in RATIOS_OF_MEAN)]), _captioned(of_mean)


def _captioned(rollouts: str) -> str:
    return f"truth; {rollouts}, each on its own scale"


def _outline(
    rgb: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int], thick: int = 2
) -> NDArray[np.uint8]:
    picture = np.ascontiguousarray(rgb.copy())
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    draw_outlines(picture, [np.asarray(contour, np.int32) for contour in contours], colour, thick)
    return picture


def _join(pictures: Sequence[NDArray[np.uint8]], axis: int = 1) -> NDArray[np.uint8]:
    """Join pictures of one size side by side (axis 1) or one below the other (axis 0), with a white gap."""
    padding = [(0, 0), (0, 0), (0, 0)]
    padding[axis] = (0, GAP_PX)
    parts = [np.pad(picture, padding, constant_values=255) for picture in pictures[:-1]]
    return np.concatenate([*parts, pictures[-1]], axis=axis)
