"""Whether a frame shows the product at all, in focus and in its light.

A classifier knows good and defective; what it says of a black picture, or of another product, means nothing. So
calibration notes what frames of the product look like as a whole, and a frame that looks otherwise gets no verdict:

- their size in px, brightness, contrast and sharpness;
- where the graph gives features of tiles: how far these are from those of the product's tiles, by Mahalanobis'
  distance. A frame's distance is the median of its tiles', so that a defect, which is in few of them, does not count.

The highest distance that is plausible comes from frames whose own group was left out, as frames on the line are new;
with few groups it is wider, as the next ones may lie beyond all that came so far.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Plausible
from edge.bundle.stored_arrays import StoredArrays
from edge.errors import BundleError
from edge.util.plain_file import open_plain

SAMPLED_PX = 1 << 16
"""Of a frame, that brightness, contrast and sharpness are taken from."""
TILES_OF_FRAME = 16
"""Of a frame, whose features are used to know the product."""
FOLDS = 5
FEWEST_TO_STAND_OUT = 5
"""Of fewer frames, nobody can tell which one is the odd one."""
FEWEST_GROUPS = 3
"""With fewer groups of frames nothing is said of features."""
RIDGE = 0.05
"""Share of the correlation of features that is replaced by none, as few tiles cannot show all of it."""
SLACK = {"brightness": 0.4, "contrast": 0.5, "sharpness": 0.4}
"""How much lower than the lowest, as a share of it, is plausible; of brightness, how much higher than the highest too.
Contrast and sharpness have no upper end: a defect on an even surface adds to both."""
SIZE_SLACK = 0.2
"""The same of a side, where frames are not all of one size."""
FARTHEST = 1e6
"""The highest distance that a bundle states: frames that are identical but for one would give any number."""
FAR_PX, FLAT = 8, 0.1
"""Of sharpness: the distance that neighbours are compared with, and the mean square step below which all is flat."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Vitals:
    """Of a frame's grey values, 0 to 255."""

    brightness: float
    """Mean."""
    contrast: float
    """Standard deviation."""
    sharpness: float
    """Mean square difference of neighbours in a row, over that of pixels 8 px apart: 1 for noise, 1/8 for sharp edges,
    1/64 where all is smooth. It depends neither on contrast nor on how many edges there are.
    """

    @classmethod
    def of(cls, rgb: NDArray[np.uint8]) -> "Vitals":
        """Of RGB uint8 [H, W, 3]; of a large frame, of some of its rows."""
        rows = rgb[:: max(1, rgb.shape[0] * rgb.shape[1] // SAMPLED_PX)]
        grey = cv2.cvtColor(np.ascontiguousarray(rows), cv2.COLOR_RGB2GRAY)
        mean, deviation = (float(each[0, 0]) for each in cv2.meanStdDev(grey))
        near, far = _mean_square_step(grey, 1), _mean_square_step(grey, FAR_PX)
        return cls(mean, deviation, (near + FLAT) / (far + FLAT * FAR_PX**2))


@dataclass(frozen=True)
class Appearance:
    """What a frame looks like as a whole."""

    frame_hw: tuple[int, int]
    vitals: Vitals
    features: Floats | None
    """[tiles, c], of the tiles that were looked at; None: the graph gives none."""

    def thinned(self) -> "Appearance":
        """With the features of some tiles, evenly chosen: enough to know the product by many frames."""
        if self.features is None or len(self.features) <= TILES_OF_FRAME:
            return self
        some = np.linspace(0, len(self.features) - 1, TILES_OF_FRAME).astype(int)
        return replace(self, features=self.features[some])


@dataclass(frozen=True, eq=False)
class ProductTiles:
    """The features of the product's tiles, as a normal distribution."""

    mean: Floats
    """[c]"""
    whitening: Floats
    """[c, c]"""

    @classmethod
    def of(cls, features: Floats) -> "ProductTiles":
        """From features [n, c]."""
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        deviation = deviation + 1e-3 * float(deviation.mean()) + 1e-12
        scaled = (features - mean) / deviation
        correlation = (1 - RIDGE) * scaled.T @ scaled / max(len(scaled) - 1, 1) + RIDGE * np.eye(len(mean))
        variance, axes = np.linalg.eigh(correlation)
        whitening = axes / np.sqrt(np.maximum(variance, RIDGE)) / deviation[:, None]
        return cls(mean.astype(np.float32), whitening.astype(np.float32))

    @classmethod
    def load(cls, path: Path, channels: int) -> "ProductTiles":
        """The features in a file. What they claim to be is looked at before memory is taken for them.

        Raises:
            BundleError: they are none, or of another number of channels.
        """
        expected = {"mean": (channels,), "whitening": (channels, channels)}
        try:
            with open_plain(path) as file, StoredArrays(file, at_most=4 * channels * (channels + 1)) as stored:
                for name, shape in expected.items():
                    if stored.shape(name) != shape or stored.dtype(name) != np.float32:
                        raise ValueError(f"{name} of shape {stored.shape(name)}, expected float32 of shape {shape}")
                found = cls(**{name: stored.read(name) for name in expected})
        except Exception as error:  # zip, zlib, npy headers, memory: what a damaged file raises has no common base
            raise BundleError(f"{path} holds no features of tiles ({error}); export the bundle again") from error
        if not (np.isfinite(found.mean).all() and np.isfinite(found.whitening).all()):
            raise BundleError(f"{path} holds numbers that are not finite; export the bundle again")
        return found

    def to_bytes(self) -> bytes:
        """The contents of their file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, mean=self.mean, whitening=self.whitening)
        return buffer.getvalue()

    def distance(self, features: Floats) -> float:
        """Median of the distances of tiles [n, c], in standard deviations of the product's tiles."""
        whitened = (features - self.mean) @ self.whitening
        return float(np.median(np.sqrt((whitened**2).mean(axis=1))))


@dataclass(frozen=True, eq=False)
class Plausibility:
    """What is plausible, and how a frame is held to it."""

    plausible: Plausible
    tiles: ProductTiles | None = field(default=None)
    """None where `plausible.distance` is."""

    def objection(self, appearance: Appearance) -> str | None:
        """Why a frame is not plausible, in words with its numbers; None where it is."""
        found = self.deviations(appearance)
        return f"it does not look like the product: {'; '.join(found)}" if found else None

    def deviations(self, appearance: Appearance) -> list[str]:
        """What of a frame is not plausible, each in words with its numbers."""
        wanted, vitals = self.plausible, appearance.vitals
        found = []
        for name, came, (low, high) in (
            ("height", appearance.frame_hw[0], wanted.height_px),
            ("width", appearance.frame_hw[1], wanted.width_px),
        ):
            if not low <= came <= high:
                found.append(f"{name} {came} px, expected {_range(low, high)}")
        for name in SLACK:
            low, high = getattr(wanted, name)
            came = getattr(vitals, name)
            if not low <= came <= (math.inf if high is None else high):
                upper = "or more" if high is None else f"to {high:.3g}"
                found.append(f"{name} {came:.3g}, expected {low:.3g} {upper}")
        if self.tiles is not None and wanted.distance is not None:
            features = appearance.features
            distance = math.nan if features is None else self.tiles.distance(features)
            if not distance <= wanted.distance:  # what is not known is not plausible either
                found.append(f"features {distance:.3g} from the product's, expected up to {wanted.distance:.3g}")
        return found


def know_product(appearances: Sequence[Appearance], groups: Sequence[str] | None = None) -> Plausibility:
    """What is plausible, from frames of the product; defective ones may be among them.

    Args:
        appearances: at least one.
        groups: of each; frames of one group show the same thing. None: frames that follow each other do.
    """
    count = len(appearances)
    sizes = np.array([each.frame_hw for each in appearances])
    vitals = {name: [getattr(each.vitals, name) for each in appearances] for name in SLACK}
    lowest = {name: min(values) * (1 - SLACK[name]) for name, values in vitals.items()}
    brightest = min(max(vitals["brightness"]) * (1 + SLACK["brightness"]), 255.0)
    tiles, farthest = _know_tiles(appearances, np.arange(count).astype(str) if groups is None else np.array(groups))
    return Plausibility(
        Plausible(
            frames=count,
            height_px=_sides(sizes[:, 0]),
            width_px=_sides(sizes[:, 1]),
            distance=farthest,
            brightness=(lowest["brightness"], brightest),
            contrast=(lowest["contrast"], None),
            sharpness=(lowest["sharpness"], None),
        ),
        tiles,
    )


def outliers(appearances: Sequence[Appearance]) -> dict[int, str]:
    """Frames that are implausible by all the others, by their places, and why in words; none of fewer than 5 frames.

    Two frames that look alike are no outliers: each shows that the other is no accident.
    """
    if len(appearances) < FEWEST_TO_STAND_OUT:
        return {}
    ends = {  # a frame between the lowest and the highest of all measures hardly can be one
        end(range(len(appearances)), key=values.__getitem__)
        for values in _measures(appearances)
        if min(values) < max(values)
        for end in (min, max)
    }
    found = {}
    for place in sorted(ends):
        others = know_product([*appearances[:place], *appearances[place + 1 :]])
        if deviations := others.deviations(appearances[place]):
            found[place] = "; ".join(deviations)
    return found


def _measures(appearances: Sequence[Appearance]) -> list[list[float]]:
    """All that frames are held to, each of every frame."""
    found = [[getattr(each.vitals, name) for each in appearances] for name in SLACK]
    found += [[float(each.frame_hw[axis]) for each in appearances] for axis in (0, 1)]
    features = [each.features for each in map(Appearance.thinned, appearances) if each.features is not None]
    if len(features) == len(appearances):
        known = ProductTiles.of(np.concatenate(features))
        found.append([known.distance(each) for each in features])
    return found


def _know_tiles(
    appearances: Sequence[Appearance], groups: NDArray[np.str_]
) -> tuple[ProductTiles | None, float | None]:
    """The features of the product's tiles, and how far from them a frame may be."""
    some = [each.features for each in map(Appearance.thinned, appearances) if each.features is not None]
    number = {name: place for place, name in enumerate(dict.fromkeys(groups.tolist()))}
    if len(some) < len(groups) or len(number) < FEWEST_GROUPS:
        return None, None
    fold = np.array([number[name] * FOLDS // len(number) for name in groups.tolist()])
    farthest = 0.0
    for left_out in np.unique(fold).tolist():
        known = ProductTiles.of(np.concatenate([some[place] for place in np.flatnonzero(fold != left_out)]))
        for place in np.flatnonzero(fold == left_out).tolist():
            farthest = max(farthest, known.distance(some[place]))
    return ProductTiles.of(np.concatenate(some)), min(farthest * margin(len(number)), FARTHEST)


def margin(groups: int) -> float:
    """By how much a new frame may lie beyond the farthest of so many groups; docs/bundle.md has what it was set by."""
    return 1 + min(1.5, 6 / math.sqrt(groups))


def _mean_square_step(grey: NDArray[Any], px: int) -> float:
    """Of grey values [h, w] so far apart in a row."""
    if grey.shape[1] <= px:
        return 0.0
    mean, deviation = cv2.meanStdDev(cv2.absdiff(grey[:, px:], grey[:, :-px]))
    return float(mean[0, 0] ** 2 + deviation[0, 0] ** 2)


def _sides(px: NDArray[np.int64]) -> tuple[int, int]:
    low, high = int(px.min()), int(px.max())
    if low == high:
        return low, high
    return max(1, math.floor(low * (1 - SIZE_SLACK))), math.ceil(high * (1 + SIZE_SLACK))


def _range(low: int, high: int) -> str:
    return f"{low} px" if low == high else f"{low} to {high} px"
