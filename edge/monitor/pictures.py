"""Finds the picture of a verdict: in memory, or in the line's evidence store."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.images import read_image, read_rgb
from heatline.edge.inspection.verdict import TileScores
from heatline.edge.monitor.entry import EvidenceEntry, Tiles, day_of
from heatline.edge.monitor.held_picture import HeldPicture, PictureMemory, picture_id
from heatline.edge.monitor.memory import VerdictRow
from heatline.edge.monitor.picture import Evidence
from heatline.edge.monitor.review import Review
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.wire.events import VerdictEvent

logger = logging.getLogger(__name__)

OPENED = 4
"""Stored pictures that stay open: a page asks for several views of one."""


class Found(NamedTuple):
    """A picture, and where it is."""

    picture: HeldPicture
    source: Literal["memory", "evidence"]


class Pictures:
    """All pictures of a line. Any thread may use it, but not the event loop: it reads the disk.

    Args:
        store: None: the line stores no evidence.
    """

    def __init__(self, memory: PictureMemory, store: EvidenceStore | None) -> None:
        self._memory, self._store = memory, store
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, HeldPicture] = OrderedDict()

    def find(self, wanted: str) -> Found | None:
        """Return the picture with an id; None: there is none, or not any more.

        Raises:
            InputError: the evidence store cannot be read.
        """
        held = self._memory.get(wanted)
        if held is not None:
            return Found(held, "memory")
        with self._lock:
            stored = self._opened.pop(wanted, None) or self._open(wanted)
            if stored is None:
                return None
            self._opened[wanted] = stored
            if len(self._opened) > OPENED:
                self._opened.popitem(last=False)
        return Found(stored, "evidence")

    def is_stored(self, event: VerdictEvent) -> bool:
        """Return whether the evidence store has the picture of an event."""
        day = day_of(event.times.captured_at_ns)
        return self._store is not None and self._store.frame_path(picture_id(event), day) is not None

    def stored_review(self, event: VerdictEvent) -> Review | None:
        """Return the review of an event's picture in the evidence store; None: it has none."""
        store = self._store
        return None if store is None else store.review(picture_id(event), day_of(event.times.captured_at_ns))

    def located(self, rows: Sequence[VerdictRow]) -> list[VerdictRow]:
        """Return rows that say where their pictures are.

        Raises:
            InputError: the evidence store cannot be read.
        """
        held = self._memory.ids()
        return [msgspec.structs.replace(row, picture=self._place(row, held)) for row in rows]

    def _place(self, row: VerdictRow, held: set[str]) -> Literal["memory", "evidence"] | None:
        if row.id in held:
            return "memory"
        if row.picture is None or self._store is None:
            return None
        return None if self._store.frame_path(row.id, day_of(row.at_ns)) is None else "evidence"

    def _open(self, wanted: str) -> HeldPicture | None:
        entry = None if self._store is None else self._store.get(wanted)
        if entry is None or self._store is None:
            return None
        frame = self._store.frame_path(wanted, entry.day)
        if frame is None:  # it was deleted a moment ago
            return None
        return HeldPicture(entry.event, lambda: _read_frame(frame), _evidence(entry, self._store))


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
    if grey.shape != scale.hw or grey.dtype != np.uint8:
        logger.warning("picture %s is shown without its heatmap: %s is not the one of its entry", entry.picture, path)
        return None
    share = grey.astype(np.float32) / 255
    logits = (scale.logit_at_0 + share * (scale.logit_at_255 - scale.logit_at_0)).astype(np.float32)
    return Evidence(logits, scale.cell_px, (scale.logit_at_0, scale.logit_at_255), _tile_scores(tiles))


def _tile_scores(tiles: Tiles) -> TileScores:
    origins = np.array(tiles.origins_yx, np.int32).reshape(-1, 2)
    return TileScores(origins, np.array(tiles.logits, np.float32), tiles.tile_px)
