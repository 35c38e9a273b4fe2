"""Where the tiles of a frame lie. A grid is immutable and holds no pixels."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import GeometryError
from edge.geometry.region_of_interest import WHOLE_FRAME, RegionOfInterest

TILE_PX = 224
OVERLAP_PX = 2


def tile_origins(length_px: int, tile_px: int, overlap_px: int) -> list[int]:
    """Start of each tile along one axis, px. The last is moved back to the border, so that all have one length.

    An axis shorter than a tile has one tile, at 0, which sticks out of the frame.

    >>> tile_origins(512, 256, 64)
    [0, 192, 256]
    """
    if length_px <= tile_px:
        return [0]
    last = length_px - tile_px
    return [*range(0, last, tile_px - overlap_px), last]


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a frame of one size that are looked at, numbered row by row.

    A tile is looked at if one of its pixels belongs to the region of interest, and then it is inspected whole. So what
    the area leaves out can cause a false reject where it shares a tile with the part, but never an escape: all tiles
    that show any of the area are inspected, just as without an area. The other tiles are not in the grid: they have no
    number, and are neither cut nor inferred.

    Args:
        frame_hw: frame height and width, px.
        tile_px: side of a tile, px.
        overlap_px: what neighbouring tiles share, px; tiles moved back to the border share more.
        area: what of the frame is to be inspected.
    Raises:
        GeometryError: a frame without pixels, an overlap that would leave no step between tiles, or an area that no
            pixel of the frame belongs to.
    """

    frame_hw: tuple[int, int]
    tile_px: int = TILE_PX
    overlap_px: int = OVERLAP_PX
    area: RegionOfInterest = WHOLE_FRAME

    def __post_init__(self) -> None:
        if min(self.frame_hw) < 1:
            raise GeometryError(f"a frame of {self.frame_hw} px cannot be tiled; expected at least 1x1")
        if self.tile_px < 1 or not 0 <= self.overlap_px < self.tile_px:
            raise GeometryError(
                f"an overlap of {self.overlap_px} px does not fit tiles of {self.tile_px} px; "
                f"expected 0 to {self.tile_px - 1}"
            )
        if self.area != WHOLE_FRAME and not self.origins_yx:
            height, width = self.frame_hw
            raise GeometryError(
                f"no pixel of a frame of {width}x{height} px is to be looked at; expected polygons of [x, y] in px of "
                "the frame: draw roi into it, and have exclude leave some of it"
            )

    @cached_property
    def rows_y(self) -> tuple[int, ...]:
        """Top of each row of tiles, px, whether any tile in it is looked at or not."""
        return tuple(tile_origins(self.frame_hw[0], self.tile_px, self.overlap_px))

    @cached_property
    def columns_x(self) -> tuple[int, ...]:
        """Left of each column of tiles, px, whether any tile in it is looked at or not."""
        return tuple(tile_origins(self.frame_hw[1], self.tile_px, self.overlap_px))

    @cached_property
    def origins_yx(self) -> tuple[tuple[int, int], ...]:
        """Top left corner of each tile that is looked at, px."""
        origins = tuple((y, x) for y in self.rows_y for x in self.columns_x)
        if self.area == WHOLE_FRAME:
            return origins
        side, mask = self.tile_px, self.area.mask(self.frame_hw)
        return tuple((y, x) for y, x in origins if mask[y : y + side, x : x + side].any())

    @property
    def covers_whole_frame(self) -> bool:
        """Whether all tiles of the frame are looked at."""
        return len(self) == len(self.rows_y) * len(self.columns_x)

    def __len__(self) -> int:
        """How many tiles are looked at."""
        return len(self.origins_yx)

    def cut(self, image: NDArray[np.uint8], out: NDArray[np.uint8], first: int = 0) -> None:
        """Copy the tiles from number `first` on into `out`, as many as it holds.

        Args:
            image: [H, W, C] of the grid's frame size.
            out: [n, tile_px, tile_px, C].
        """
        if image.shape[:2] != self.frame_hw:
            raise GeometryError(f"the image is {image.shape[:2]} px, the grid was made for {self.frame_hw}")
        for tile, (y, x) in zip(out, self.origins_yx[first : first + len(out)], strict=True):
            cut_tile(image, y, x, tile)


def cut_tile(image: NDArray[np.uint8], y: int, x: int, out: NDArray[np.uint8]) -> None:
    """Copy one tile, whose top left corner is (y, x), into `out` [tile, tile, C].

    What sticks out at the bottom or the right repeats the frame's last row or column: that invents no structure.
    """
    part = image[y : y + out.shape[0], x : x + out.shape[1]]
    below, right = out.shape[0] - part.shape[0], out.shape[1] - part.shape[1]
    if below or right:
        part = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE).reshape(out.shape)  # type: ignore[assignment]
    out[:] = part
