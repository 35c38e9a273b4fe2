"""What is trained on besides the tiles themselves: copies of them, moved, turned and disturbed, and synthetic defects.

Features are extracted once, so copies are drawn once, before the training, and not anew for every step. A copy is fully
described by numbers: where it is cut, how it is drawn. These are its key in the feature cache, so that another training
finds it there, whatever its labels and seed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from train.augment import augment
from train.config import AugmentConfig, DenseRecipeConfig
from train.dense.tiles import DenseTiles, Known, defective_share
from train.features.cache import key_of
from train.frames import FrameStore
from train.readers import LabelledImage
from train.synthetic import draw_defect, draw_shape, move, transplant
from train.tiles import cut, move_tile

VERSION = 2
"""Of how copies are drawn: features of another version are not found in the cache."""


class Kind(IntEnum):
    TILE = 0
    """The grid tile as it is."""
    COPY = 1
    """Moved, turned, mirrored and disturbed."""
    SYNTHETIC = 2
    """A copy of a good tile with a synthetic defect."""
    TRANSPLANT = 3
    """A copy of a good tile with the defects of another tile."""


@dataclass(frozen=True)
class Sample:
    """One tile or copy."""

    row: int
    """Of the tile that it comes from."""
    kind: Kind
    yx: tuple[int, int]
    """Where it is cut, px."""
    seed: int
    """Of all that is drawn."""
    donor: int = -1
    """Row of the tile that lends its texture or its defects."""


def grid_samples(tiles: DenseTiles) -> list[Sample]:
    """The grid tiles themselves, in their order."""
    places = zip(tiles.table.y.tolist(), tiles.table.x.tolist(), strict=True)
    return [Sample(row, Kind.TILE, place, 0) for row, place in enumerate(places)]


def digest_pictures(images: Iterable[LabelledImage]) -> list[str]:
    """Of each picture's content, SHA-256."""
    return [sha256(image.path.read_bytes()).hexdigest() for image in images]


def plan_copies(
    tiles: DenseTiles, store: FrameStore, digests: Sequence[str], recipe: DenseRecipeConfig, tile_px: int
) -> list[Sample]:
    """The copies for these tiles.

    All that is drawn of a copy is drawn from its tile and number. So where labels are added or groups are left out, all
    other copies stay what they are, and their features are in the cache.

    Args:
        digests: of each picture's content, by its number.
    """
    table = tiles.table
    places = list(zip(table.frame.tolist(), table.y.tolist(), table.x.tolist(), strict=True))
    masked, located, good = tiles.of(Known.MASKED), tiles.located, tiles.of(Known.GOOD)
    most = recipe.copies.most

    def seed_of(row: int, kind: Kind, number: int = 0) -> int:
        frame, y, x = places[row]
        return int.from_bytes(key_of(digests[frame], y, x, VERSION, int(kind), number)[:4], "little")

    def some(rows: NDArray[np.int64], kind: Kind, count: int) -> list[int]:
        """At most so many tiles, the same ones whatever other tiles there are, as far as their number allows."""
        return sorted(sorted(rows.tolist(), key=lambda row: seed_of(row, kind))[:count])

    def copy(row: int, kind: Kind, number: int = 0) -> Sample:
        seed = seed_of(row, kind, number)
        place = _place(tiles, store, row, recipe.jitter_px, tile_px, np.random.default_rng((seed, 1)))
        return Sample(row, kind, place, seed)

    def with_donor(sample: Sample, donors: NDArray[np.int64]) -> Sample:
        return replace(sample, donor=_choose(donors, ids[donors], sample.seed))

    ids = np.array([seed_of(row, Kind.TILE) for row in range(len(tiles))], np.uint64)
    each = min(recipe.copies.defective, max(1, most // max(1, len(located))))
    defective = some(located, Kind.COPY, most // max(1, each))
    samples = [copy(row, Kind.COPY, number) for row in defective for number in range(each)]
    samples += [copy(row, Kind.COPY) for row in some(good, Kind.COPY, most)]
    of_group = {group: good[tiles.group[good] == group] for group in np.unique(tiles.group[good]).tolist()}
    for row in some(good, Kind.SYNTHETIC, most):  # by a donor of its group, so that no fold sees another's
        samples.append(with_donor(copy(row, Kind.SYNTHETIC), of_group[int(tiles.group[row])]))
    if len(masked):
        samples += [with_donor(copy(row, Kind.TRANSPLANT), masked) for row in some(good, Kind.TRANSPLANT, most)]
    return samples


def _choose(rows: NDArray[np.int64], ids: NDArray[np.uint64], seed: int) -> int:
    """One of the rows, by chance; another row that comes takes its share and changes no other choice.

    Rendezvous hashing (Thaler & Ravishankar 1998), by the mixer of splitmix64.
    """
    mixed = (ids << np.uint64(32)) ^ np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return int(rows[np.argmax(mixed ^ (mixed >> np.uint64(31)))])


def _place(
    tiles: DenseTiles, store: FrameStore, row: int, reach: int, tile_px: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Top left corner (y, x) of a copy, px: in its frame, and with as much of the defects as its tile, or none."""
    frame, y, x = (int(column[row]) for column in (tiles.table.frame, tiles.table.y, tiles.table.x))
    own = int(tiles.table.defect_px[row])
    may_be = (lambda defect_px: defect_px > 0.5 * own) if own else (lambda defect_px: defect_px == 0)
    return move_tile(store, frame, (y, x), tile_px, reach, rng, may_be)


class Painter:
    """Draws samples, and says where they are defective.

    Args:
        digests: of each picture's content, by its number.
        cells: side of the map, cells.
    """

    def __init__(
        self,
        store: FrameStore,
        tiles: DenseTiles,
        digests: list[str],
        how: AugmentConfig,
        tile_px: int,
        cells: int,
    ) -> None:
        self._store, self._tiles, self._digests, self._tile_px, self._cells = store, tiles, digests, tile_px, cells
        self._turns = how.rotate, how.flips
        self._disturb = msgspec.structs.replace(how, flips=False, rotate=False)
        self._how = repr(how)

    def key(self, sample: Sample) -> bytes:
        """What the features of a sample are found by."""
        table = self._tiles.table
        picture = self._digests[int(table.frame[sample.row])]
        if sample.kind == Kind.TILE:
            return key_of(picture, *sample.yx)
        drawn: list[str | int | bytes] = [picture, *sample.yx, VERSION, self._how, int(sample.kind), sample.seed]
        if sample.donor >= 0:
            row = sample.donor
            drawn += [self._digests[int(table.frame[row])], int(table.y[row]), int(table.x[row])]
            if sample.kind == Kind.TRANSPLANT:
                drawn.append(np.packbits(self._mask(row, self._place_of(row))).tobytes())
        return key_of(*drawn)

    def paint(self, sample: Sample, out: NDArray[np.uint8]) -> None:
        """Write a sample's pixels to `out`, RGB uint8 [tile, tile, 3]."""
        cut(self._store, int(self._tiles.table.frame[sample.row]), *sample.yx, out)
        if sample.kind == Kind.TILE:
            return
        rng = np.random.default_rng(sample.seed)
        tile = out
        if sample.kind in (Kind.SYNTHETIC, Kind.TRANSPLANT):
            donor = np.empty_like(out)
            cut(self._store, int(self._tiles.table.frame[sample.donor]), *self._place_of(sample.donor), donor)
            if sample.kind == Kind.SYNTHETIC:
                tile, _ = draw_defect(tile, donor, rng)
            else:
                mask = self._mask(sample.donor, self._place_of(sample.donor))
                tile, _ = transplant(tile, donor, mask, rng)
        out[:] = self._turn(augment(tile, self._disturb, rng), sample.seed)

    def defective_share(self, sample: Sample) -> NDArray[np.float32]:
        """The share of each map cell of a sample that is defective, [cells, cells]."""
        rng = np.random.default_rng(sample.seed)
        match sample.kind:
            case Kind.SYNTHETIC:
                _, mask = draw_shape(rng, self._tile_px)
            case Kind.TRANSPLANT:
                mask = move(self._mask(sample.donor, self._place_of(sample.donor)), rng)
            case _:
                mask = self._mask(sample.row, sample.yx)
        if sample.kind != Kind.TILE:
            mask = self._turn(mask, sample.seed)
        return defective_share(mask, self._cells)

    def _place_of(self, row: int) -> tuple[int, int]:
        return int(self._tiles.table.y[row]), int(self._tiles.table.x[row])

    def _mask(self, row: int, yx: tuple[int, int]) -> NDArray[np.bool_]:
        return self._store.mask_tile(int(self._tiles.table.frame[row]), *yx, self._tile_px)

    def _turn(self, tile: NDArray[Any], seed: int) -> NDArray[Any]:
        """One of the eight ways to lay a square, by the seed."""
        rotate, flip = self._turns
        turned = np.rot90(tile, seed % 4) if rotate else tile
        return turned[:, ::-1] if flip and (seed // 4) % 2 else turned
