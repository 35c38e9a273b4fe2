"""The samples of a dense head's training: grid tiles, and augmented copies of them, with and without synthetic defects.

Copies are drawn once, before the training. Numbers describe a copy fully: where it is cut and how it is drawn. They are
its key in the feature cache, so another training finds the copy there, whatever its labels and seed. A sampler draws
each step's samples.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from hashlib import sha256
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import TrainingError
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
    return [Sample(row, Kind.TILE, tiles.table.place(row)[1:], 0) for row in range(len(tiles))]


def digest_pictures(images: Iterable[LabelledImage]) -> list[str]:
    """Return the SHA-256 of each picture file's content."""
    return [sha256(image.path.read_bytes()).hexdigest() for image in images]


def plan_copies(
    tiles: DenseTiles, store: FrameStore, digests: Sequence[str], recipe: DenseRecipeConfig, tile_px: int
) -> list[Sample]:
    """Plan the copies of these tiles.

    A copy's random numbers depend only on its tile and number. So if labels are added or groups left out, all other
    copies stay the same, and their features are in the cache.

    A copy keeps more than half of its tile's defective px; the copy of a tile without any has none. That of a tile with
    people's marks stays in its place: the extent of the defect is not known.
    """
    table = tiles.table
    masked, located, good = tiles.of(LabelKind.MASKED), tiles.located, tiles.of(LabelKind.GOOD)
    most = recipe.copies.most

    def seed_of(row: int, kind: Kind, number: int = 0) -> int:
        frame, y, x = table.place(row)
        return int.from_bytes(key_of(digests[frame], y, x, VERSION, int(kind), number)[:4], "little")

    def choose(rows: NDArray[np.int64], kind: Kind, count: int) -> list[int]:
        """Choose at most `count` tiles; other tiles in `rows` influence the choice as little as possible."""
        return sorted(sorted(rows.tolist(), key=lambda row: seed_of(row, kind))[:count])

    def copy(row: int, kind: Kind, number: int = 0) -> Sample:
        seed, own_px, (frame, y, x) = seed_of(row, kind, number), int(table.defect_px[row]), table.place(row)
        reach = 0 if tiles.known[row] == LabelKind.POINTED else recipe.jitter_px
        accepts = (lambda defect_px: defect_px > 0.5 * own_px) if own_px else (lambda defect_px: defect_px == 0)
        place = move_tile(store, frame, (y, x), tile_px, reach, np.random.default_rng((seed, 1)), accepts)
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
            frame, *corner = table.place(sample.donor)
            drawn += [self._digests[frame], *corner]
            if sample.kind == Kind.TRANSPLANT:
                drawn.append(np.packbits(self._mask(sample.donor)).tobytes())
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
            cut(self._store, *self._tiles.table.place(sample.donor), donor)
            if sample.kind == Kind.SYNTHETIC:
                tile, _ = draw_defect(tile, donor, rng)
            else:
                tile, _ = transplant(tile, donor, self._mask(sample.donor), rng)
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
                mask = move(self._mask(sample.donor), rng)
            case _:
                mask = self._mask(sample.row, sample.yx)
        return defective_share(self.orient(mask, sample), self._cells)

    def _mask(self, row: int, yx: tuple[int, int] | None = None) -> NDArray[np.bool_]:
        """Return the mask of the tile at (y, x) of a row's frame; default: where the row's tile is."""
        frame, y, x = self._tiles.table.place(row)
        return self._store.mask_tile(frame, *(yx or (y, x)), self._tile_px)

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


REVIEWED_AS_OFTEN, REVIEWED_AT_MOST = 4.0, 1 / 3
"""A reviewed tile is drawn so many times as often as another one, but at most this share of the draws are of reviewed
tiles: a few among thousands would otherwise be drawn once or twice."""
MARKED = (LabelKind.MASKED, LabelKind.BOXED, LabelKind.POINTED)


@dataclass(frozen=True)
class Samples:
    """Columns of equal length; the grid tiles come first, in their order."""

    kind: NDArray[np.int8]
    """[N], of `Kind`."""
    known: NDArray[np.int8]
    """[N], of `LabelKind`; synthetic and transplanted defects are MASKED."""
    groups: NDArray[np.int64]
    """[N, 2], group of the tile and of the donor: a sample belongs to both."""
    frame: NDArray[np.int64]
    """[N], index of the tile's frame."""
    share: NDArray[np.float16]
    """[N, cells, cells], defective share of each cell, 0..1."""
    reviewed: NDArray[np.bool_]
    """[N], whether the tile is of a reviewed frame."""

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def tiles(self) -> int:
        """Number of grid tiles."""
        return int((self.kind == Kind.TILE).sum())

    @cached_property
    def log_odds(self) -> float | None:
        """Natural log-odds that a grid tile is defective; a bag counts as one positive. None: one class is missing."""
        known = self.known[self.kind == Kind.TILE]
        bags = len(np.unique(self.frame[self.known == LabelKind.BAGGED]))
        positives, good = int(np.isin(known, MARKED).sum()) + bags, int((known == LabelKind.GOOD).sum())
        return float(np.log(positives / good)) if positives and good else None


def gather_samples(tiles: DenseTiles, samples: Sequence[Sample], painter: Painter) -> Samples:
    """Collect the columns of these samples."""
    row = np.array([sample.row for sample in samples])
    donor = np.array([sample.donor if sample.donor >= 0 else sample.row for sample in samples])
    kind = np.array([sample.kind for sample in samples], np.int8)
    pasted = np.isin(kind, (Kind.SYNTHETIC, Kind.TRANSPLANT))
    return Samples(
        kind=kind,
        known=np.where(pasted, LabelKind.MASKED, tiles.known[row]).astype(np.int8),
        groups=np.stack([tiles.group[row], tiles.group[donor]], axis=1),
        frame=tiles.table.frame[row],
        share=np.stack([painter.defective_share(sample) for sample in samples]).astype(np.float16),
        reviewed=tiles.reviewed[row],
    )


@dataclass(frozen=True)
class Draw:
    """The samples of one step, by index."""

    located: NDArray[np.int64]
    """Tiles with marked defects, and copies of them."""
    good: NDArray[np.int64]
    synthetic: NDArray[np.int64]
    """Good tiles with a synthetic or transplanted defect."""
    bags: list[NDArray[np.int64]]
    """All tiles of each bag."""


class Sampler:
    """Draws the samples of each step as a function of seed and step.

    Args:
        trained: bool [groups], whether the samples of a group are drawn.
    Raises:
        TrainingError: there is no good tile, or nothing but good tiles and no synthetic defect.
    """

    def __init__(self, samples: Samples, trained: NDArray[np.bool_], recipe: DenseRecipeConfig, seed: int) -> None:
        self._recipe, self._seed = recipe, seed
        usable = trained[samples.groups].all(axis=1)

        def pool(known: tuple[LabelKind, ...], *kinds: Kind) -> NDArray[np.int64]:
            return np.flatnonzero(usable & np.isin(samples.known, known) & np.isin(samples.kind, kinds))

        self._located = [pool(MARKED, Kind.TILE), pool(MARKED, Kind.COPY)]
        self._good = [pool((LabelKind.GOOD,), Kind.TILE), pool((LabelKind.GOOD,), Kind.COPY)]
        self._located_reviewed, self._good_reviewed = (
            [pool[samples.reviewed[pool]] for pool in pools] for pools in (self._located, self._good)
        )
        self._synthetic = [pool(MARKED, Kind.SYNTHETIC), pool(MARKED, Kind.TRANSPLANT)]
        bagged = pool((LabelKind.BAGGED,), Kind.TILE)
        self._bags = [bagged[samples.frame[bagged] == frame] for frame in np.unique(samples.frame[bagged])]
        if not len(self._good[0]):
            raise TrainingError(
                "no tile of the training is known to be good, and the map needs good tiles; add good pictures, "
                "or annotations that show which part of the defective ones is good"
            )
        if not len(self._located[0]) + len(self._bags) and not recipe.synthetic * sum(map(len, self._synthetic)):
            key = "copies.most" if recipe.synthetic else "synthetic"
            raise TrainingError(
                f"there is no defective picture, and recipe.{key} is 0; add defective pictures, or let the recipe "
                "draw synthetic defects"
            )
        self._bag_share = min(1.0, len(self._bags) / max(1, len(self._located[0])))
        """Share of `recipe.bags` that a step draws on average: a few bags among many marked tiles are not repeated."""
        self._located_share = min(1.0, math.sqrt(len(self._located[0]) / len(self._bags))) if self._bags else 1.0
        """Share of `recipe.located`, likewise: the head would overfit few marked tiles among many bags."""

    def draw(self, step: int) -> Draw:
        """Draw the samples of step number `step`; the same step always gives the same samples."""
        rng = np.random.default_rng((self._seed, step))
        recipe = self._recipe
        located = recipe.located if self._located_share == 1 else rng.binomial(recipe.located, self._located_share)
        bags = rng.choice(len(self._bags), rng.binomial(recipe.bags, self._bag_share)).tolist() if self._bags else []
        return Draw(
            located=_draw_with_reviewed(self._located, self._located_reviewed, located, rng),
            good=_draw_with_reviewed(self._good, self._good_reviewed, recipe.good, rng),
            synthetic=_draw_evenly(self._synthetic, recipe.synthetic, rng),
            bags=[self._bags[bag] for bag in bags],
        )

    def choose_tiles(self, count: int) -> NDArray[np.int64]:
        """Choose at most `count` of the grid tiles that may be drawn; return their indices, sorted."""
        tiles = np.concatenate([self._located[0], self._good[0], *self._bags])
        return np.sort(np.random.default_rng(self._seed).permutation(tiles)[:count])


def _draw_with_reviewed(
    pools: list[NDArray[np.int64]], reviewed: list[NDArray[np.int64]], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `count` samples as `_draw_evenly`, reviewed ones more often than others."""
    weight = REVIEWED_AS_OFTEN * sum(map(len, reviewed))
    if not weight:
        return _draw_evenly(pools, count, rng)
    own = int(rng.binomial(count, min(REVIEWED_AT_MOST, weight / (weight + sum(map(len, pools))))))
    return np.concatenate([_draw_evenly(reviewed, own, rng), _draw_evenly(pools, count - own, rng)])


def _draw_evenly(pools: list[NDArray[np.int64]], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` samples with replacement, evenly from the pools that are not empty."""
    filled = [pool for pool in pools if len(pool)]
    if not filled or not count:
        return np.empty(0, np.int64)
    parts = [count * (number + 1) // len(filled) - count * number // len(filled) for number in range(len(filled))]
    return np.concatenate([rng.choice(pool, part) for pool, part in zip(filled, parts, strict=True)])
