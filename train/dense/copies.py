"""Augmented copies of tiles, with and without synthetic defects, which are drawn once, before the training.

Numbers describe a copy fully: where it is cut and how it is drawn. They are its key in the feature cache, so another
training finds the copy there, whatever its labels and seed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.train.batches import augment, rotate
from heatline.train.config import AugmentConfig, DenseRecipeConfig
from heatline.train.dense.cache import key_of
from heatline.train.dense.tiles import DenseTiles, LabelKind, defective_share, share_of_marks
from heatline.train.frames import FrameStore, cut, move_tile
from heatline.train.readers import LabelledImage
from heatline.train.synthetic import draw_defect, draw_shape, move, transplant

VERSION = 3
"""Version of how copies are drawn; part of the cache key, so features of other versions are not used."""


class Kind(IntEnum):
    """Kind of a sample."""

    TILE = 0
    """The grid tile as it is."""
    COPY = 1
    """An augmented copy: moved, rotated, mirrored, and changed in brightness, noise or blur."""
    SYNTHETIC = 2
    """A copy of a good tile with a synthetic defect."""
    TRANSPLANT = 3
    """A copy of a good tile with the defects of another tile."""


@dataclass(frozen=True)
class Sample:
    """One tile or copy."""

    row: int
    """Row of its tile in the tile table."""
    kind: Kind
    yx: tuple[int, int]
    """Top left corner in the frame, px."""
    seed: int
    """Seed of its augmentation."""
    donor: int = -1
    """Row of the tile whose texture or defects are used; -1: none."""


def grid_samples(tiles: DenseTiles) -> list[Sample]:
    """Return the grid tiles as samples, in their order."""
    places = zip(tiles.table.y.tolist(), tiles.table.x.tolist(), strict=True)
    return [Sample(row, Kind.TILE, place, 0) for row, place in enumerate(places)]


def digest_pictures(images: Iterable[LabelledImage]) -> list[str]:
    """Return the SHA-256 of each picture file's content."""
    return [sha256(image.path.read_bytes()).hexdigest() for image in images]


def plan_copies(
    tiles: DenseTiles, store: FrameStore, digests: Sequence[str], recipe: DenseRecipeConfig, tile_px: int
) -> list[Sample]:
    """Plan the copies of these tiles.

    A copy's random numbers depend only on its tile and number. So if labels are added or groups left out, all other
    copies stay the same, and their features are in the cache.

    Args:
        digests: digest of each picture's content, by its index.
    """
    table = tiles.table
    places = list(zip(table.frame.tolist(), table.y.tolist(), table.x.tolist(), strict=True))
    masked, located, good = tiles.of(LabelKind.MASKED), tiles.located, tiles.of(LabelKind.GOOD)
    most = recipe.copies.most

    def seed_of(row: int, kind: Kind, number: int = 0) -> int:
        frame, y, x = places[row]
        return int.from_bytes(key_of(digests[frame], y, x, VERSION, int(kind), number)[:4], "little")

    def choose(rows: NDArray[np.int64], kind: Kind, count: int) -> list[int]:
        """Choose at most `count` tiles; other tiles in `rows` influence the choice as little as possible."""
        return sorted(sorted(rows.tolist(), key=lambda row: seed_of(row, kind))[:count])

    def copy(row: int, kind: Kind, number: int = 0) -> Sample:
        seed = seed_of(row, kind, number)
        place = _place(tiles, store, row, recipe.jitter_px, tile_px, np.random.default_rng((seed, 1)))
        return Sample(row, kind, place, seed)

    def with_donor(sample: Sample, donors: NDArray[np.int64]) -> Sample:
        return replace(sample, donor=_choose(donors, ids[donors], sample.seed))

    ids = np.array([seed_of(row, Kind.TILE) for row in range(len(tiles))], np.uint64)
    each = min(recipe.copies.defective, max(1, most // max(1, len(located))))
    defective = choose(located, Kind.COPY, most // max(1, each))
    samples = [copy(row, Kind.COPY, number) for row in defective for number in range(each)]
    samples += [copy(row, Kind.COPY) for row in choose(good, Kind.COPY, most)]
    of_group = {group: good[tiles.group[good] == group] for group in np.unique(tiles.group[good]).tolist()}
    for row in choose(good, Kind.SYNTHETIC, most):  # the donor is of the same group, so that folds stay separate
        samples.append(with_donor(copy(row, Kind.SYNTHETIC), of_group[int(tiles.group[row])]))
    if len(masked):
        samples += [with_donor(copy(row, Kind.TRANSPLANT), masked) for row in choose(good, Kind.TRANSPLANT, most)]
    return samples


def _choose(rows: NDArray[np.int64], ids: NDArray[np.uint64], seed: int) -> int:
    """Choose one of the rows at random; an added row changes only the choices that it wins.

    This is rendezvous hashing (Thaler & Ravishankar 1998), with the mixer of splitmix64.
    """
    mixed = (ids << np.uint64(32)) ^ np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return int(rows[np.argmax(mixed ^ (mixed >> np.uint64(31)))])


def _place(
    tiles: DenseTiles, store: FrameStore, row: int, reach: int, tile_px: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Draw the top left corner (y, x) of a copy, px, within the frame.

    The copy keeps more than half of its tile's defective px; the copy of a tile without any has none. That of a tile
    with people's marks stays in its place: the extent of the defect is not known.
    """
    frame, y, x = (int(column[row]) for column in (tiles.table.frame, tiles.table.y, tiles.table.x))
    if tiles.known[row] == LabelKind.POINTED:
        return y, x
    own_px = int(tiles.table.defect_px[row])
    accepts = (lambda defect_px: defect_px > 0.5 * own_px) if own_px else (lambda defect_px: defect_px == 0)
    return move_tile(store, frame, (y, x), tile_px, reach, rng, accepts)


class Painter:
    """Draws the pixels of samples and the masks of their defects.

    Args:
        digests: digest of each picture's content, by its index.
        cells: side of the map, cells.
    """

    def __init__(
        self,
        store: FrameStore,
        tiles: DenseTiles,
        digests: list[str],
        config: AugmentConfig,
        tile_px: int,
        cells: int,
    ) -> None:
        self._store, self._tiles, self._digests, self._config = store, tiles, digests, config
        self._tile_px, self._cells = tile_px, cells

    def key(self, sample: Sample) -> bytes:
        """Return the sample's key in the feature cache."""
        table = self._tiles.table
        picture = self._digests[int(table.frame[sample.row])]
        if sample.kind == Kind.TILE:
            return key_of(picture, *sample.yx)
        how = VERSION, repr(self._config), int(sample.kind), sample.seed
        drawn: list[str | int | bytes] = [picture, *sample.yx, *how]
        if sample.donor >= 0:
            row = sample.donor
            drawn += [self._digests[int(table.frame[row])], int(table.y[row]), int(table.x[row])]
            if sample.kind == Kind.TRANSPLANT:
                drawn.append(np.packbits(self._mask(row, self._corner_of(row))).tobytes())
        return key_of(*drawn)

    def paint(self, sample: Sample, out: NDArray[np.uint8]) -> None:
        """Write the sample's pixels to `out`, RGB uint8 [tile, tile, 3]."""
        self.draw(sample, out)
        out[:] = self.orient(out, sample)

    def draw(self, sample: Sample, out: NDArray[np.uint8]) -> None:
        """Write the sample's pixels to `out`, RGB uint8 [tile, tile, 3], before they are rotated and mirrored."""
        cut(self._store, int(self._tiles.table.frame[sample.row]), *sample.yx, out)
        if sample.kind == Kind.TILE:
            return
        rng = np.random.default_rng(sample.seed)
        tile = out
        if sample.kind in (Kind.SYNTHETIC, Kind.TRANSPLANT):
            donor = np.empty_like(out)
            cut(self._store, int(self._tiles.table.frame[sample.donor]), *self._corner_of(sample.donor), donor)
            if sample.kind == Kind.SYNTHETIC:
                tile, _ = draw_defect(tile, donor, rng)
            else:
                mask = self._mask(sample.donor, self._corner_of(sample.donor))
                tile, _ = transplant(tile, donor, mask, rng)
        out[:] = augment(tile, msgspec.structs.replace(self._config, flips=False, rotate=False), rng)

    def defective_share(self, sample: Sample) -> NDArray[np.float32]:
        """Return the defective share of each map cell of a sample, 0..1 [cells, cells]; see `share_of_marks`."""
        reviewed = self._store.images[int(self._tiles.table.frame[sample.row])].reviewed
        if reviewed and sample.kind in (Kind.TILE, Kind.COPY) and self._tiles.known[sample.row] == LabelKind.POINTED:
            share = share_of_marks(reviewed, sample.yx, self._tile_px, self._cells)
            return np.asarray(self.orient(share[..., None], sample)[..., 0], np.float32)
        rng = np.random.default_rng(sample.seed)
        match sample.kind:
            case Kind.SYNTHETIC:
                _, mask = draw_shape(rng, self._tile_px)
            case Kind.TRANSPLANT:
                mask = move(self._mask(sample.donor, self._corner_of(sample.donor)), rng)
            case _:
                mask = self._mask(sample.row, sample.yx)
        return defective_share(self.orient(mask, sample), self._cells)

    def _corner_of(self, row: int) -> tuple[int, int]:
        return int(self._tiles.table.y[row]), int(self._tiles.table.x[row])

    def _mask(self, row: int, yx: tuple[int, int]) -> NDArray[np.bool_]:
        return self._store.mask_tile(int(self._tiles.table.frame[row]), *yx, self._tile_px)

    def orient(self, tile: NDArray[Any], sample: Sample) -> NDArray[Any]:
        """Rotate and mirror a square tile, mask or map as this sample; its seed chooses one of the eight symmetries."""
        if sample.kind == Kind.TILE:
            return tile
        pixels = tile.view(np.uint8)  # OpenCV copies faster than NumPy, but no bool
        if self._config.rotate:
            pixels = rotate(pixels, -sample.seed)
        if self._config.flips and (sample.seed // 4) % 2:
            pixels = np.asarray(cv2.flip(pixels, 1), np.uint8)
        return pixels.view(tile.dtype)
