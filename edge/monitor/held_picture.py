"""Holds judged frames for viewers, finds stored ones, and encodes each at most once, only if somebody looks."""

import contextlib
import copy
import logging
import threading
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Calibration
from heatline.edge.bundle.store import Bundle, read_manifest
from heatline.edge.config import load_config
from heatline.edge.errors import HeatlineError, InputError
from heatline.edge.images import read_image, read_rgb
from heatline.edge.inspection.verdict import TileScores
from heatline.edge.monitor.pictures import Evidence, Picture
from heatline.edge.monitor.store import EvidenceEntry, EvidenceStore
from heatline.edge.reference.alignment import Pose
from heatline.edge.reference.difference import to_grey
from heatline.edge.reference.reference import Reference
from heatline.edge.wire import events as wire
from heatline.edge.wire.events import StatusEvent, VerdictEvent

logger = logging.getLogger(__name__)

SHOWN_WIDTH_PX = 1600
JPEG_QUALITY = 85
MOST_CELLS = 16
UNMOVED = wire.Pose(x_px=0, y_px=0, degrees=0, confidence=0, error_px=0)
"""Of a misaligned frame: its own pose is not to be relied on."""


class Jpeg(NamedTuple):
    """An encoded picture."""

    data: bytes
    hw: tuple[int, int]
    """Its height and width, px."""


class HeldPicture:
    """A judged frame, grey [H, W] or RGB [H, W, 3], with what its verdict rests on. Any thread may use it.

    Args:
        size_bytes: of the arrays that this picture itself holds.
    """

    def __init__(
        self,
        event: VerdictEvent,
        load_image: Callable[[], NDArray[np.uint8]],
        evidence: Evidence | None,
        size_bytes: int = 0,
    ) -> None:
        self.event, self.evidence = event, evidence
        self.id, self.size_bytes = picture_id(event), size_bytes
        self._load_image = load_image
        self._lock = threading.Lock()

    @classmethod
    def copy_of(cls, picture: Picture) -> "HeldPicture":
        """Copy a picture out of the memory that it shares with the line."""
        image, evidence = picture.image.copy(), copy.deepcopy(picture.evidence)
        size_bytes = image.nbytes + (0 if evidence is None else evidence.heatmap.nbytes)
        return cls(picture.event, lambda: image, evidence, size_bytes)

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        return self._load_image()

    @property
    def shown(self) -> tuple[Jpeg, bytes | None]:
        """The frame as it is shown, and its heatmap as PNG; None if the frame was not judged."""
        with self._lock:  # a new picture is sent to all viewers at once
            return self._shown

    @cached_property
    def _shown(self) -> tuple[Jpeg, bytes | None]:
        return jpeg_of(self.image), None if self.evidence is None else self.evidence.png

    def highest_tiles(self) -> list[dict[str, object]]:
        """Return all inspected tiles, highest first: the top left corner of each, px of the frame, and its logit."""
        if self.evidence is None:
            return []
        tiles = self.evidence.tiles
        order = np.argsort(-tiles.logits, kind="stable")
        of_each = zip(tiles.origins_yx[order].tolist(), tiles.logits[order].tolist(), strict=True)
        return [{"yx": yx, "logit": logit} for yx, logit in of_each]

    def highest_cells(self) -> list[dict[str, object]]:
        """Return the cells with the highest evidence: the centre of each, px of the frame, and its logit."""
        if self.evidence is None:
            return []
        heatmap, cell = self.evidence.heatmap, self.evidence.scale.cell_px
        flat = np.where(np.isnan(heatmap), -np.inf, heatmap).ravel()
        count = min(MOST_CELLS, int(np.isfinite(flat).sum()))
        highest = np.argsort(-flat, kind="stable")[:count]
        ys, xs = np.unravel_index(highest, heatmap.shape)
        centres = zip((xs * cell + cell // 2).tolist(), (ys * cell + cell // 2).tolist(), strict=True)
        return [{"xy": xy, "logit": float(flat[i])} for xy, i in zip(centres, highest, strict=True)]


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


def picture_id(event: VerdictEvent) -> str:
    """Return the id under which a frame's picture is found, also if the event names none."""
    return event.picture or f"{event.boot_id[:8]}-{event.camera}-{event.frame_number}"


class PictureMemory:
    """The last pictures of each camera. Any thread may use it.

    Args:
        most_bytes: of all cameras; beyond it, the camera with the most bytes loses its oldest one. The newest of each
            camera always stays.
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
            while sum(each.size_bytes for held in self._pictures.values() for each in held) > self._most_bytes:
                largest = max(self._pictures.values(), key=lambda held: sum(each.size_bytes for each in held[:-1]))
                if len(largest) < 2:
                    break
                del largest[0]

    def newest(self) -> list[HeldPicture]:
        """Return the newest picture of each camera."""
        with self._lock:
            return [held[-1] for held in self._pictures.values()]

    def of(self, camera: str) -> list[HeldPicture]:
        """Return the pictures of a camera, oldest first."""
        with self._lock:
            return list(self._pictures.get(camera, ()))

    def all(self) -> dict[str, HeldPicture]:
        """Return all pictures by their ids."""
        with self._lock:
            return {each.id: each for held in self._pictures.values() for each in held}


def open_stored(wanted: str, *stores: EvidenceStore | None) -> HeldPicture:
    """Open a stored picture; a LookupError if there is none, which no cache holds."""
    for store in filter(None, stores):
        entry = store.find(wanted)
        frame = None if entry is None else store.frame_path(entry.picture, entry.day)
        if entry is not None and frame is not None:  # else it was deleted a moment ago
            return HeldPicture(entry.event, partial(_read_frame, frame), _evidence(entry, store))
    raise LookupError(wanted)


def _read_frame(path: Path) -> NDArray[np.uint8]:
    image, pixel_format = read_image(path)
    return image if pixel_format == "Mono8" else read_rgb(path)  # type: ignore[return-value]


def _evidence(entry: EvidenceEntry, store: EvidenceStore) -> Evidence | None:
    """Return the evidence of a stored frame; None: it has none, or its heatmap cannot be read, which is logged.

    The heatmap is as exact as its picture, 255 steps.
    """
    scale, tiles = entry.heatmap, entry.tiles
    path = store.heatmap_path(entry.picture, entry.day)
    if scale is None or tiles is None or path is None:
        return None
    try:
        grey, _ = read_image(path)
    except InputError as error:
        logger.warning("picture %s is shown without its heatmap: %s", entry.picture, error)
        return None
    share = grey.astype(np.float32) / 255
    logits = (scale.logit_at_0 + share * (scale.logit_at_255 - scale.logit_at_0)).astype(np.float32)
    origins = np.array(tiles.origins_yx, np.int32).reshape(-1, 2)
    scores = TileScores(origins, np.array(tiles.logits, np.float32), tiles.tile_px)
    return Evidence(logits, scale, scores)


class References:
    """The reference pictures of the bundles that a line's file names. Any thread may use it, but not the event loop: it
    reads the disk.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        # Of the bundle that was asked for last.
        self._bundle = lru_cache(1)(self._open)
        self._pictures = lru_cache(1)(lambda digest, product: self._bundle(digest, product).references())

    def calibration_of(self, status: StatusEvent) -> Calibration | None:
        """Return the calibration of the line's bundle, which is read once; None: the line's file names another."""
        with contextlib.suppress(HeatlineError, LookupError):  # the line itself reports it
            if status.bundle is not None:
                return self._bundle(status.bundle.digest, status.product).manifest.calibration
        return None

    def of(self, event: VerdictEvent) -> Reference | None:
        """Return what a frame was compared with; None: it was not compared, or the line uses another bundle now."""
        if event.pose is None or event.bundle is None:
            return None
        with contextlib.suppress(HeatlineError, LookupError):  # the line itself reports it
            found = self._pictures(event.bundle.digest, event.product)
            return found.get(event.camera) or found.get("")
        return None

    def _open(self, digest: str, product: str | None) -> Bundle:
        """Open the bundle that the line's file names; a LookupError if it has another digest."""
        path = load_config(self._file).of_product(product).require_bundle()
        manifest, found = read_manifest(path)
        if found != digest:
            raise LookupError(digest)
        return Bundle(path, manifest, found)

    def moved(self, picture: HeldPicture) -> NDArray[np.uint8] | None:
        """Return the reference as the frame shows it, RGB [H, W, 3], and the frame beyond it; None: as `of`."""
        if (reference := self.of(picture.event)) is None:
            return None
        image = picture.image
        rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
        matrix, size = _motion(picture.event, reference)
        moved = cv2.warpAffine(reference.rgb, matrix, size, dst=rgb, borderMode=cv2.BORDER_TRANSPARENT)
        return np.asarray(moved, np.uint8)

    def difference(self, picture: HeldPicture) -> NDArray[np.uint8] | None:
        """Return how far each px of the frame, in the reference's brightness, lies beyond its grey within 1 px: grey
        [H, W], 0 where the reference does not reach; None: as `of`.
        """
        if (reference := self.of(picture.event)) is None:
            return None
        grey = picture.image if picture.image.ndim == 2 else to_grey(picture.image)
        matched = cv2.convertScaleAbs(grey, alpha=(np.median(reference.grey) + 1) / (np.median(grey) + 1))
        matrix, size = _motion(picture.event, reference)
        low, high = (
            cv2.warpAffine(plane, matrix, size, borderValue=beyond)
            for plane, beyond in zip(reference.range.planes[0], (0, 255), strict=True)
        )
        return np.asarray(cv2.max(cv2.subtract(matched, high), cv2.subtract(low, matched)), np.uint8)


def _motion(event: VerdictEvent, reference: Reference) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return the matrix that moves the reference to where the frame shows it, and the frame's width and height."""
    pose = UNMOVED if event.pose is None or event.reason == "failed.misaligned" else event.pose
    height, width = reference.frame_hw
    return Pose(**msgspec.structs.asdict(pose)).matrix((height, width)), (width, height)
