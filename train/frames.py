"""The cache of decoded frames, in memory-mapped files, and tables of their labelled tiles."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError, TrainingError
from heatline.edge.geometry.tiling import TileGrid, cut_tile
from heatline.train.config import TilesConfig
from heatline.train.progress import Track
from heatline.train.readers import LabelledImage

# Cutting one tile from a 6 MP JPEG requires decoding all of it, so frames are decoded once and stored on disk as raw
# bytes; the operating system keeps in memory what fits. A resumed training uses its cache again if pictures and labels
# have not changed. A finished training deletes it.

FILES = _PIXELS, _MASKS, _INDEX = "frames.u8", "masks.u8", "index.json"
"""Of a folder of decoded frames."""


class _Index(msgspec.Struct, frozen=True):
    fingerprint: str
    frames: list[tuple[int, int, int, int | None]]
    """Height, width and byte offsets of pixels and mask; no mask: no pixel is defective, or only the label is known."""


class FrameStore:
    """The pixels and masks of labelled pictures, by their index in `images`; made by `build`."""

    def __init__(self, folder: Path, images: Sequence[LabelledImage], index: _Index) -> None:
        self.images = tuple(images)
        self._entries = index.frames
        self._pixels = np.memmap(folder / _PIXELS, np.uint8, "r")
        has_masks = any(mask_at is not None for *_, mask_at in self._entries)
        self._masks = np.memmap(folder / _MASKS, np.uint8, "r") if has_masks else np.empty(0, np.uint8)

    @classmethod
    def build(cls, images: Sequence[LabelledImage], folder: Path, track: Track = iter) -> Self:
        """Decode all pictures into `folder`, or use the cache that an interrupted training left there.

        Raises:
            InputError: a picture or its annotation cannot be used.
            TrainingError: the disk is full.
        """
        current = fingerprint(images)
        index_file = folder / _INDEX
        with suppress(FileNotFoundError, msgspec.MsgspecError):  # none, damaged, or of another version: decode again
            index = msgspec.json.decode(index_file.read_bytes(), type=_Index)
            if index.fingerprint == current:
                return cls(folder, images, index)
        delete_frames(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            index = _Index(current, _decode(track(images), folder))
            index_file.write_bytes(msgspec.json.encode(index))  # last: a cache without it is incomplete
        except OSError as error:
            delete_frames(folder)
            raise TrainingError(
                f"frames cannot be decoded into {folder} ({error.strerror}); it needs 3 to 4 bytes per px of all "
                "pictures: make room, or choose another disk with out="
            ) from error
        return cls(folder, images, index)

    def __len__(self) -> int:
        return len(self.images)

    def frame_hw(self, frame: int) -> tuple[int, int]:
        return self._entries[frame][:2]

    def pixels(self, frame: int) -> NDArray[np.uint8]:
        """Return a frame's pixels, RGB uint8 [H, W, 3], as a view of the file."""
        height, width, start, _ = self._entries[frame]
        return np.asarray(self._pixels[start : start + height * width * 3]).reshape(height, width, 3)

    def is_unplaced(self, frame: int) -> bool:
        """Whether a picture is defective but its annotation marks nothing, so that its tiles' labels are unknown."""
        image = self.images[frame]
        return image.defective and not image.labels_only and self._entries[frame][3] is None

    def defect_px(self, frame: int, y: int, x: int, tile_px: int) -> int:
        """Count the defective pixels that the tile at (y, x) covers: all, if only the label is known and defective."""
        mask = self.mask(frame)
        if mask is None:
            image = self.images[frame]
            return tile_px**2 if image.labels_only and image.defective else 0
        return int(np.count_nonzero(mask[y : y + tile_px, x : x + tile_px]))

    def mask(self, frame: int) -> NDArray[np.bool_] | None:
        """Return a frame's marked defective pixels, bool [H, W]; None if there are none."""
        height, width, _, mask_at = self._entries[frame]
        if mask_at is None:
            return None
        return self._masks[mask_at : mask_at + height * width].reshape(height, width).view(np.bool_)

    def mask_tile(self, frame: int, y: int, x: int, tile_px: int) -> NDArray[np.bool_]:
        """Return the marked defective pixels of the tile at (y, x), bool [tile, tile]; beyond the frame, its edge."""
        mask = self.mask(frame)
        if mask is None:
            return np.zeros((tile_px, tile_px), np.bool_)
        part = mask[y : y + tile_px, x : x + tile_px]
        return np.pad(part, [(0, tile_px - length) for length in part.shape], mode="edge")


def delete_frames(folder: Path) -> None:
    """Delete the decoded frames in a folder, and the folder if it holds nothing else."""
    with suppress(OSError):  # it holds other files too, or is not there
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _decode(images: Iterable[LabelledImage], folder: Path) -> list[tuple[int, int, int, int | None]]:
    entries: list[tuple[int, int, int, int | None]] = []
    with (folder / _PIXELS).open("wb") as pixels_file, (folder / _MASKS).open("wb") as masks_file:
        for image in images:
            pixels = image.pixels()
            height, width, _ = pixels.shape
            mask = image.mask((height, width))
            if mask is not None and not mask.any():
                mask = None
            entries.append((height, width, pixels_file.tell(), None if mask is None else masks_file.tell()))
            pixels_file.write(np.ascontiguousarray(pixels).data)
            if mask is not None:
                masks_file.write(mask.view(np.uint8).data)
    return entries


def fingerprint(images: Sequence[LabelledImage]) -> str:
    """Return a digest of all that the cache depends on: path, size, modification time and labels of each file."""
    digest = sha256()
    for image in images:
        classes = None if image.annotation is None else image.annotation.classes
        labels = (
            image.defective, image.labels_only, type(image.annotation).__name__, classes and sorted(classes),
            image.reviewed,
        )  # fmt: skip
        for file in (image.path, *image.truth_files):
            try:
                stat = os.stat(file)
            except OSError as error:
                raise InputError(f"{file} cannot be read ({error.strerror}); restore it, or remove it") from error
            line = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{labels}\n"
            digest.update(line.encode(errors="surrogateescape"))  # file names may not be UTF-8
    return digest.hexdigest()


DEFECTIVE_SHARE = 0.01
"""A tile is defective if more than this share of its area is (the study's rule). Tiles with a smaller share above 0 are
ambiguous: the study's rule and evaluation count them as good; the recipe `finetune` does not train on them."""
_TRIES = 8
"""Number of random places that are tried before a tile stays at its own."""


def is_defective(defect_px: NDArray[np.int64], rule: TilesConfig) -> NDArray[np.bool_]:
    """Label tiles by their defective px; 1 % of 224x224 px are 501.76, so 501 is good and 502 defective."""
    return np.asarray(defect_px > rule.defective_share * rule.tile_px**2)


@dataclass(frozen=True)
class TileTable:
    """All grid tiles of some frames, as columns of equal length."""

    frame: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    defect_px: NDArray[np.int64]
    defective: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.frame)

    def place(self, row: int) -> tuple[int, int, int]:
        """Return the frame of a tile, and its top left corner y, x, px."""
        return int(self.frame[row]), int(self.y[row]), int(self.x[row])

    @property
    def ambiguous(self) -> NDArray[np.bool_]:
        """Which tiles have defective px, but too few to be defective."""
        return np.asarray((self.defect_px > 0) & ~self.defective)

    def drop_ambiguous(self) -> "TileTable":
        """Return the table without ambiguous tiles."""
        keep = ~self.ambiguous
        return TileTable(self.frame[keep], self.y[keep], self.x[keep], self.defect_px[keep], self.defective[keep])

    def counts(self) -> dict[str, int]:
        """Count the good, ambiguous and defective tiles."""
        defective, ambiguous = int(self.defective.sum()), int(self.ambiguous.sum())
        return {"good": len(self) - defective - ambiguous, "ambiguous": ambiguous, "defective": defective}


def grid_tiles(store: FrameStore, frames: Iterable[int], rule: TilesConfig) -> TileTable:
    """Return the grid tiles of those frames, frame by frame in the grid's order."""
    rows = []
    for frame in frames:
        grid = TileGrid(store.frame_hw(frame), rule.tile_px, rule.overlap_px)
        rows += [(frame, y, x, store.defect_px(frame, y, x, rule.tile_px)) for y, x in grid.origins_yx]
    frame_, y_, x_, defect_px = np.asarray(rows, np.int64).reshape(-1, 4).T
    return TileTable(frame_, y_, x_, defect_px, is_defective(defect_px, rule))


def move_tile(
    store: FrameStore,
    frame: int,
    yx: tuple[int, int],
    tile_px: int,
    reach_px: int,
    rng: np.random.Generator,
    accepts: Callable[[int], bool],
) -> tuple[int, int]:
    """Move a tile at random within its frame; return its new top left corner (y, x), or its own if none is accepted.

    Args:
        accepts: whether the tile may lie at a place, by the number of defective px that it covers there.
    """
    (low_y, high_y), (low_x, high_x) = (
        (max(0, start - reach_px), max(0, min(length - tile_px, start + reach_px)))
        for start, length in zip(yx, store.frame_hw(frame), strict=True)
    )
    if (low_y, low_x) == (high_y, high_x):
        return yx
    for _ in range(_TRIES):
        corner = int(rng.integers(low_y, high_y + 1)), int(rng.integers(low_x, high_x + 1))
        if accepts(store.defect_px(frame, *corner, tile_px)):
            return corner
    return yx


def cut(store: FrameStore, frame: int, y: int, x: int, out: NDArray[np.uint8]) -> None:
    """Copy the tile at (y, x) into `out` [tile, tile, 3], exactly as the line cuts it."""
    cut_tile(store.pixels(frame), y, x, out)
