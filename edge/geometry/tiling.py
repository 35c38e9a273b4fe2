"""Positions of the tiles of a frame. A grid is immutable and holds no pixels."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import GeometryError
from heatline.edge.geometry.region_of_interest import WHOLE_FRAME, RegionOfInterest

TILE_PX = 224
OVERLAP_PX = 2


def tile_origins(length_px: int, tile_px: int, overlap_px: int) -> list[int]:
    """Return the start of each tile along one axis, px. The last is moved back to the border: all have one length.

    An axis shorter than a tile has one tile, at 0, which extends beyond the frame.

    >>> tile_origins(512, 256, 64)
    [0, 192, 256]
    """
    if length_px <= tile_px:
        return [0]
    last = length_px - tile_px
    return [*range(0, last, tile_px - overlap_px), last]


@dataclass(frozen=True)
class TileGrid:
    """The tiles that are inspected in a frame of one size, numbered row by row.

    A tile is inspected, completely, if one of its pixels belongs to the region of interest. So pixels outside the
    region can cause a false reject where they share a tile with the part, but never an escape: all tiles that show any
    pixel of the region are inspected, as they are without a region. The other tiles are not in the grid: they have no
    number, and are neither cut nor inferred.

    Args:
        frame_hw: frame height and width, px.
        tile_px: side of a tile, px.
        overlap_px: overlap of neighbouring tiles, px; tiles moved back to the border overlap more.
        region_of_interest: the region of the frame to inspect.
    Raises:
        GeometryError: the frame has no pixels, the overlap leaves no step between tiles, or no pixel of the frame
            belongs to the region of interest.
    """

    frame_hw: tuple[int, int]
    tile_px: int = TILE_PX
    overlap_px: int = OVERLAP_PX
    region_of_interest: RegionOfInterest = WHOLE_FRAME

    def __post_init__(self) -> None:
        if min(self.frame_hw) < 1:
            raise GeometryError(f"a frame of {self.frame_hw} px cannot be tiled; expected at least 1x1")
        if self.tile_px < 1 or not 0 <= self.overlap_px < self.tile_px:
            raise GeometryError(
                f"an overlap of {self.overlap_px} px does not fit tiles of {self.tile_px} px; "
                f"expected 0 to {self.tile_px - 1}"
            )
        if self.region_of_interest != WHOLE_FRAME and not self.origins_yx:
            height, width = self.frame_hw
            raise GeometryError(
                f"no pixel of a frame of {width}x{height} px is in the region of interest; expected polygons of [x, y] "
                "in px of the frame: draw roi within the frame, and let exclude leave some of it"
            )

    @cached_property
    def rows_y(self) -> tuple[int, ...]:
        """Top of each row of tiles, px, whether or not a tile in it is inspected."""
        return tuple(tile_origins(self.frame_hw[0], self.tile_px, self.overlap_px))

    @cached_property
    def columns_x(self) -> tuple[int, ...]:
        """Left of each column of tiles, px, whether or not a tile in it is inspected."""
        return tuple(tile_origins(self.frame_hw[1], self.tile_px, self.overlap_px))

    @cached_property
    def origins_yx(self) -> tuple[tuple[int, int], ...]:
        """Top left corner of each tile that is inspected, px."""
        origins = tuple((y, x) for y in self.rows_y for x in self.columns_x)
        if self.region_of_interest == WHOLE_FRAME:
            return origins
        side, mask = self.tile_px, self.region_of_interest.mask(self.frame_hw)
        return tuple((y, x) for y, x in origins if mask[y : y + side, x : x + side].any())

    @cached_property
    def origins(self) -> NDArray[np.int32]:
        """`origins_yx` as an array [tiles, 2]."""
        return np.array(self.origins_yx, np.int32)

    @property
    def covers_whole_frame(self) -> bool:
        """Whether all tiles of the frame are inspected."""
        return len(self) == len(self.rows_y) * len(self.columns_x)

    def __len__(self) -> int:
        """Return the number of tiles that are inspected."""
        return len(self.origins_yx)

    def cut(self, image: NDArray[np.uint8], out: NDArray[np.uint8], first: int = 0) -> None:
        """Copy tiles into `out`, from number `first` on, as many as it holds.

        Args:
            image: [H, W, C] of the grid's frame size.
            out: [n, tile_px, tile_px, C].
        """
        if image.shape[:2] != self.frame_hw:
            raise GeometryError(f"the image is {image.shape[:2]} px, the grid was made for {self.frame_hw}")
        for tile, (y, x) in zip(out, self.origins_yx[first : first + len(out)], strict=True):
            cut_tile(image, y, x, tile)

    def tiles(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return all tiles [n, tile_px, tile_px, C] of an image [H, W, C]; errors as `cut`."""
        tiles = np.empty((len(self), self.tile_px, self.tile_px, image.shape[2]), np.uint8)
        self.cut(image, tiles)
        return tiles


def cut_tile(image: NDArray[np.uint8], y: int, x: int, out: NDArray[np.uint8]) -> None:
    """Copy one tile, whose top left corner is (y, x), into `out` [tile, tile, C].

    Beyond the bottom or the right of the frame, its last row or column is repeated, which adds no structure.
    """
    part = image[y : y + out.shape[0], x : x + out.shape[1]]
    below, right = out.shape[0] - part.shape[0], out.shape[1] - part.shape[1]
    if below or right:
        part = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE).reshape(out.shape)  # type: ignore[assignment]
    out[:] = part
