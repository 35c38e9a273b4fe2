"""Holds a judged frame for viewers, and encodes it at most once, only if somebody looks."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.heatmap_picture import ColourScale, png
from heatline.edge.inspection.verdict import TileScores
from heatline.edge.monitor.picture import Evidence, Picture
from heatline.edge.wire.events import HeatmapPng, VerdictEvent

SHOWN_WIDTH_PX = 1600
JPEG_QUALITY = 85
MOST_CELLS = 16


class Tile(msgspec.Struct, frozen=True):
    """An inspected tile."""

    yx: tuple[int, int]
    """Top left corner, px of the frame."""
    logit: float


class Cell(msgspec.Struct, frozen=True):
    """A cell of the heatmap."""

    xy: tuple[int, int]
    """Centre, px of the frame."""
    logit: float


class HeldPicture:
    """A judged frame with what its verdict rests on. Any thread may use it.

    Args:
        load_image: returns the frame, grey [H, W] or RGB [H, W, 3].
    """

    def __init__(self, event: VerdictEvent, load_image: Callable[[], NDArray[np.uint8]], evidence: Evidence | None):
        self.event = event
        self.evidence = evidence
        self.size_bytes = 0
        """Of the arrays that this picture itself holds."""
        self._load_image = load_image
        self._lock = threading.Lock()

    @classmethod
    def copy_of(cls, picture: Picture) -> "HeldPicture":
        """Copy a picture out of the memory that it shares with the line."""
        image = picture.image.copy()
        evidence = picture.evidence
        if evidence is not None:
            tiles = evidence.tiles
            own_tiles = TileScores(tiles.origins_yx.copy(), tiles.logits.copy(), tiles.tile_px)
            evidence = Evidence(evidence.heatmap.copy(), evidence.cell_px, evidence.scale, own_tiles)
        held = cls(picture.event, lambda: image, evidence)
        held.size_bytes = image.nbytes + (0 if evidence is None else evidence.heatmap.nbytes)
        return held

    @property
    def id(self) -> str:
        return picture_id(self.event)

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        return self._load_image()

    def jpeg(self) -> "Jpeg":
        """Return the frame as it is shown."""
        with self._lock:
            return self._jpeg

    def heatmap_png(self) -> bytes | None:
        """Return the heatmap, one grey pixel per cell; None if the frame was not judged."""
        with self._lock:
            return self._heatmap_png

    def heatmap(self) -> HeatmapPng | None:
        """Return the scale of the heatmap's picture."""
        return None if self.evidence is None else self.evidence.png_scale

    def png(self) -> bytes:
        """Return the frame in full resolution."""
        return png(self.image)

    def highest_tiles(self) -> list[Tile]:
        """Return all inspected tiles, highest first."""
        if self.evidence is None:
            return []
        tiles = self.evidence.tiles
        order = np.argsort(-tiles.logits, kind="stable")
        return [Tile((int(tiles.origins_yx[i][0]), int(tiles.origins_yx[i][1])), float(tiles.logits[i])) for i in order]

    def highest_cells(self) -> list[Cell]:
        """Return the cells with the highest evidence, highest first."""
        if self.evidence is None:
            return []
        heatmap, cell = self.evidence.heatmap, self.evidence.cell_px
        flat = np.where(np.isnan(heatmap), -np.inf, heatmap).ravel()
        count = min(MOST_CELLS, int(np.isfinite(flat).sum()))
        highest = np.argsort(-flat, kind="stable")[:count]
        ys, xs = np.unravel_index(highest, heatmap.shape)
        centres = zip((xs * cell + cell // 2).tolist(), (ys * cell + cell // 2).tolist(), strict=True)
        return [Cell(xy, float(flat[i])) for xy, i in zip(centres, highest, strict=True)]

    @cached_property
    def _jpeg(self) -> "Jpeg":
        return jpeg_of(self.image)

    @cached_property
    def _heatmap_png(self) -> bytes | None:
        return None if self.evidence is None else png(ColourScale(*self.evidence.scale).grey(self.evidence.heatmap))


@dataclass(frozen=True)
class Jpeg:
    """An encoded picture."""

    data: bytes
    hw: tuple[int, int]
    """Its height and width, px."""


def jpeg_of(image: NDArray[np.uint8]) -> Jpeg:
    """Encode a picture, grey [H, W] or RGB [H, W, 3], as frames are shown."""
    height, width = image.shape[:2]
    if width > SHOWN_WIDTH_PX:
        # OpenCV averages areas 20 times as fast if their size is whole; a factor below 2 needs no average.
        whole = width // SHOWN_WIDTH_PX
        if whole > 1:
            small = (width // whole, max(1, height // whole))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        height = max(1, round(height * SHOWN_WIDTH_PX / width))
        width = SHOWN_WIDTH_PX
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)  # type: ignore[assignment]
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return Jpeg(encoded.tobytes(), (height, width))


def png_of(image: NDArray[np.uint8], box_xyxy: tuple[int, int, int, int]) -> bytes:
    """Encode the part of a picture in a box.

    Raises:
        ValueError: no part of the box lies in the picture.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (max(0, each) for each in box_xyxy)
    part = image[y0 : min(y1, height), x0 : min(x1, width)]
    if not part.size:
        raise ValueError(
            f"the box {list(box_xyxy)} has no pixel of the frame; expected x0 < x1 <= {width} and y0 < y1 <= {height}"
        )
    return png(part)


def picture_id(event: VerdictEvent) -> str:
    """Return the id under which a frame's picture is found, also if the event names none."""
    return event.picture or f"{event.boot_id[:8]}-{event.camera}-{event.frame_number}"


class PictureMemory:
    """The last pictures of each camera. Any thread may use it.

    Args:
        per_camera: pictures to hold of each camera. The page shows a place on 20 of them, as the oldest may be gone
            before they are loaded.
        most_bytes: bytes to hold of all cameras; beyond it, the camera with the most bytes loses its oldest one. The
            newest of each camera always stays.
    """

    def __init__(self, per_camera: int = 25, most_bytes: int = 400 << 20) -> None:
        self._per_camera, self._most_bytes = per_camera, most_bytes
        self._lock = threading.Lock()
        self._pictures: dict[str, list[HeldPicture]] = {}

    def add(self, picture: HeldPicture) -> None:
        """Hold a picture as the newest one of its camera."""
        with self._lock:
            held = self._pictures.setdefault(picture.event.camera, [])
            held.append(picture)
            del held[: -self._per_camera]
            while self._size_bytes() > self._most_bytes:
                largest = max(self._pictures.values(), key=lambda each: _size_bytes(each[:-1]))
                if len(largest) < 2:
                    break
                del largest[0]

    def newest(self) -> list[HeldPicture]:
        """Return the newest picture of each camera."""
        with self._lock:
            return [held[-1] for held in self._pictures.values()]

    def all(self) -> list[HeldPicture]:
        """Return all pictures."""
        with self._lock:
            return [each for held in self._pictures.values() for each in held]

    def get(self, wanted: str) -> HeldPicture | None:
        """Return the picture with an id."""
        with self._lock:
            return next((each for held in self._pictures.values() for each in held if each.id == wanted), None)

    def ids(self) -> set[str]:
        """Return the ids of all pictures."""
        with self._lock:
            return {each.id for held in self._pictures.values() for each in held}

    def _size_bytes(self) -> int:
        return sum(map(_size_bytes, self._pictures.values()))


def _size_bytes(pictures: Sequence[HeldPicture]) -> int:
    return sum(each.size_bytes for each in pictures)
