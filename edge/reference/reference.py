"""A reference: the picture of a good part that frames are compared with, and how it is made from good frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.colour import to_rgb
from heatline.edge.errors import BundleError, GeometryError, InputError
from heatline.edge.geometry import TileGrid
from heatline.edge.images import read_image
from heatline.edge.reference.alignment import Aligner, Pose
from heatline.edge.reference.difference import Grey, GreyRange, differences, to_grey

MOST_FRAMES = 12
"""More frames hardly change their median."""
MOST_LEFT_OUT = 0.25
"""Share of the pictures that may not fit the first; these are left out."""
MOST_UNKNOWN = 0.1
"""Share of a bundle's reference of which it may be unknown what a good part shows."""
MOST_FIRST = 3
"""So many pictures are tried as the first, as one with a stain or a glare may fit no other."""
GHOST = 48
"""Excess of grey over the reference's range by which a frame shows something else; as `GreyRange` measures it."""
ROWS_AT_A_TIME = 64
"""Rows of all frames whose median is computed at once: it bounds the memory."""


class Alignment(NamedTuple):
    """How a frame lies on its reference."""

    pose: Pose | None
    """Where the frame shows what the reference shows; None: it has another size, or there is no reference."""
    misaligned: str | None
    """Why the frame cannot be compared, in one sentence; None: it is aligned."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The picture of a good part."""

    rgb: NDArray[np.uint8]
    """[H, W, 3]"""
    frames: int = 1
    """The number of frames that it was made from."""
    made_of: str = "one picture"
    """A description of these frames."""
    unknown: NDArray[np.bool_] | None = None
    """[H, W], px that none of these frames shows free of defects: frames are not compared there; None: no px."""

    @cached_property
    def grey(self) -> Grey:
        return to_grey(self.rgb)

    @cached_property
    def aligner(self) -> Aligner:
        return Aligner(self.grey)

    @cached_property
    def range(self) -> GreyRange:
        return GreyRange(self.grey, self.unknown)

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Size of the frames that it is compared with, px."""
        return self.rgb.shape[0], self.rgb.shape[1]

    def pose_of(self, rgb: NDArray[np.uint8]) -> Alignment:
        """Align an RGB uint8 frame [H, W, 3] of any size."""
        return self.align(to_grey(rgb))

    def align(self, grey: Grey) -> Alignment:
        """Align a grey frame [H, W] of any size."""
        hw = grey.shape[0], grey.shape[1]
        if hw != self.frame_hw:
            return Alignment(
                None,
                f"the frame has {hw[1]}x{hw[0]} px, its reference {self.frame_hw[1]}x{self.frame_hw[0]}; expected "
                "equal sizes",
            )
        pose = self.aligner.find(grey)
        return Alignment(pose, self.aligner.reject_reason(pose))

    def difference_of(self, grey: Grey, pose: Pose, grid: TileGrid) -> Callable[[slice], NDArray[np.uint8]]:
        """Return a function of a slice of the grid's tiles of a frame [H, W] of this pose: what these show beyond the
        reference, see `differences`.
        """
        corners = pose.corners(grid.origins, grid.tile_px, grid.frame_hw)  # once: a line asks tile by tile
        return lambda tiles: differences(grey, self.range, grid.origins_yx[tiles], corners[tiles], grid.tile_px)

    def compare(self, rgb: NDArray[np.uint8], grid: TileGrid) -> NDArray[np.uint8] | None:
        """Return the differences of all tiles of an RGB uint8 frame [H, W, 3]; None: it is misaligned."""
        grey = to_grey(rgb)
        pose, misaligned = self.align(grey)
        return None if pose is None or misaligned is not None else self.difference_of(grey, pose, grid)(slice(None))

    def moved_to(self, pose: Pose) -> NDArray[np.uint8]:
        """Return the reference as a frame of this pose shows it, uint8 [H, W, 3]; black where it shows nothing."""
        return np.asarray(cv2.warpAffine(self.rgb, pose.matrix(self.frame_hw), self.frame_hw[::-1]), np.uint8)

    @classmethod
    def of(
        cls,
        pictures: Sequence[NDArray[np.uint8]],
        made_of: str,
        masks: Sequence[NDArray[np.bool_] | None] | None = None,
    ) -> "Reference":
        """Make a reference: the median of pictures of the part, each moved to where the first shows it; or, where the
        first is odd, the second or the third.

        Args:
            pictures: RGB uint8 [H, W, 3], at most `MOST_FRAMES`, of good parts.
            masks: px of each picture that do not count, bool [H, W]; None: all count.
        Raises:
            InputError: the pictures differ in size, do not show the same part in about the same place, show nothing
                that can be aligned, or disagree about what a good part looks like.
        """
        masks = masks or [None] * len(pictures)
        refusals = []
        for at in range(min(MOST_FIRST, len(pictures))):
            order = [at, *(other for other in range(len(pictures)) if other != at)]
            try:
                return cls._of([pictures[each] for each in order], made_of, [masks[each] for each in order])
            except InputError as error:
                refusals.append(error)
        raise refusals[0]

    @classmethod
    def _of(
        cls, pictures: Sequence[NDArray[np.uint8]], made_of: str, masks: Sequence[NDArray[np.bool_] | None]
    ) -> "Reference":
        first = cls(pictures[0], 1, made_of)
        if first.aligner.reject_reason(first.aligner.find(first.grey)) is not None:
            raise InputError(
                f"{made_of} cannot be a reference, as frames cannot be aligned by what it shows (it is blank, repeats "
                "itself, or is smaller than a tile); choose pictures of the part that show edges all over"
            )
        moved, unseen = [first.rgb], [np.zeros(first.frame_hw, np.bool_) if masks[0] is None else masks[0]]
        left_out = 0
        for number, (picture, mask) in enumerate(zip(pictures[1:], masks[1:], strict=True), start=2):
            pose, misaligned = first.pose_of(picture)
            if pose is None or misaligned is not None:
                left_out += 1
                if left_out > MOST_LEFT_OUT * len(pictures):
                    raise InputError(
                        f"of {made_of}, picture {number} does not fit the first: {misaligned}; expected one part "
                        "in one pose"
                    )
                continue
            matrix = pose.matrix(first.frame_hw)
            size, flags = first.frame_hw[::-1], cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
            moved.append(cv2.warpAffine(picture, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))  # type: ignore[arg-type]
            seen = np.full(first.frame_hw, 255, np.uint8) if mask is None else np.where(mask, 0, 255).astype(np.uint8)
            unseen.append(cv2.warpAffine(seen, matrix, size, flags=cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST) == 0)
        unknown = np.logical_and.reduce(unseen)
        found = cls(_median(moved, unseen), len(moved), made_of, unknown if unknown.any() else None)
        if len(moved) == 1:
            return found
        # Nothing may be shown that half of the pictures lack: the median would show its ghost.
        low, high = found.range.planes[-1]
        other = np.zeros(found.frame_hw, np.uint8)
        for picture, hidden in zip(moved, unseen, strict=True):
            grey = to_grey(picture)
            beyond = (np.maximum(cv2.subtract(grey, high), cv2.subtract(low, grey)) > GHOST) & ~hidden
            other += cv2.dilate(beyond.astype(np.uint8), np.ones((5, 5), np.uint8))  # type: ignore[arg-type]
        if 2 * int(other.max()) >= len(moved):
            y, x = np.unravel_index(int(other.argmax()), other.shape)
            raise InputError(
                f"{made_of} make no reference: {int(other.max())} of {len(moved)} look different at x {x}, y {y}, "
                "so their median would show a ghost there; choose pictures of good parts of one design only"
            )
        return found

    def to_png(self) -> bytes:
        """Return the content of its file; unknown px are transparent."""
        bgr = cv2.cvtColor(self.rgb, cv2.COLOR_RGB2BGR)
        if self.unknown is not None:
            bgr = np.dstack([bgr, np.where(self.unknown, 0, 255).astype(np.uint8)])
        return cv2.imencode(".png", bgr)[1].tobytes()

    @classmethod
    def load(cls, path: Path, frame_hw: tuple[int, int], frames: int = 1, made_of: str = "one picture") -> "Reference":
        """Read the picture in a bundle's file; raise a BundleError if it holds none of this size."""
        try:
            image, pixel_format = read_image(path)
            rgb = to_rgb(image, pixel_format)
        except (InputError, GeometryError) as error:
            raise BundleError(f"{path} holds no reference ({error}); export the bundle again") from error
        if (rgb.shape[0], rgb.shape[1]) != frame_hw:
            raise BundleError(
                f"{path} is a picture of {rgb.shape[1]}x{rgb.shape[0]} px, the manifest says {frame_hw[1]}x"
                f"{frame_hw[0]}; export the bundle again"
            )
        unknown = image[..., 3] == 0 if pixel_format == "BGRA8" else None
        if unknown is not None and unknown.mean() > MOST_UNKNOWN:
            raise BundleError(
                f"{path} knows {1 - unknown.mean():.0%} of the part, expected at least {1 - MOST_UNKNOWN:.0%}; make "
                "a new one with heatline bundle set-reference"
            )
        return cls(rgb, frames, made_of, unknown)


def _median(pictures: Sequence[NDArray[np.uint8]], unseen: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Return the median of each px over the pictures that show it; where none does, the first picture's px."""
    if len(pictures) == 1:
        return pictures[0]
    out = np.empty_like(pictures[0])
    for top in range(0, len(out), ROWS_AT_A_TIME):
        rows = slice(top, top + ROWS_AT_A_TIME)
        stack = np.stack([picture[rows] for picture in pictures])
        out[rows] = _middle([*stack])
        gone = np.stack([hidden[rows] for hidden in unseen])
        y, x = np.nonzero(gone.any(axis=0))
        if len(y):
            values = stack[:, y, x].astype(np.float32)
            values[gone[:, y, x]] = np.nan
            known = ~gone[:, y, x].all(axis=0)
            out[rows][y[known], x[known]] = np.nanmedian(values[:, known], axis=0)
            out[rows][y[~known], x[~known]] = stack[0, y[~known], x[~known]]
    return out


def _middle(planes: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the median of uint8 planes of one shape, rounded down: a twelfth of the time of np.median for 12 of them.

    It sorts each px by exchanges, until the lower half is in order.
    """
    count = len(planes)
    for lowest in range(count // 2 + 1):
        for at in range(count - 1, lowest, -1):
            low, high = cv2.min(planes[at - 1], planes[at]), cv2.max(planes[at - 1], planes[at])
            planes[at - 1], planes[at] = np.asarray(low, np.uint8), np.asarray(high, np.uint8)
    below, above = planes[(count - 1) // 2], planes[count // 2]
    return (below & above) + ((below ^ above) >> 1)
