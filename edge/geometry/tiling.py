"""The pixels of a frame to inspect, and the positions of the tiles that cover them. Neither holds pixels."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import GeometryError

TILE_PX = 224
OVERLAP_PX = 2
Point = tuple[int, int]
"""(x, y), px of the frame: the pixel in column x and row y."""


@dataclass(frozen=True)
class RegionOfInterest:
    """The union of `roi` minus the union of `exclude`, for frames of any size.

    A pixel belongs to a polygon if the point (x, y) of its column x and row y lies in it or on its border. So
    (0, 0), (223, 0), (223, 223), (0, 223) are the corners of the first 224 x 224 px. For a polygon that crosses itself,
    the even-odd rule applies. Parts outside the frame are cut off.

    Args:
        roi: polygons; an empty tuple: the whole frame.
        exclude: polygons; they take precedence.
    """

    roi: tuple[tuple[Point, ...], ...] = ()
    exclude: tuple[tuple[Point, ...], ...] = ()

    @classmethod
    def from_polygons(
        cls, roi: Iterable[Iterable[Point]] = (), exclude: Iterable[Iterable[Point]] = ()
    ) -> "RegionOfInterest":
        """Create a region from any iterables of polygons."""
        return cls(_frozen(roi), _frozen(exclude))

    def box(self, frame_hw: tuple[int, int]) -> tuple[slice, slice]:
        """Return rows and columns of the smallest rectangle around the `roi` polygons; `exclude` is ignored."""
        if not self.roi:
            return slice(0, frame_hw[0]), slice(0, frame_hw[1])
        x, y = zip(*(point for polygon in self.roi for point in polygon), strict=True)
        return slice(max(min(y), 0), max(max(y) + 1, 0)), slice(max(min(x), 0), max(max(x) + 1, 0))

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the pixels of the region, bool [H, W]."""
        inside = np.full(frame_hw, not self.roi, np.bool_)
        for polygon in self.roi:
            inside |= _pixels(polygon, frame_hw)
        for polygon in self.exclude:
            inside &= ~_pixels(polygon, frame_hw)
        return inside


WHOLE_FRAME = RegionOfInterest()


def _frozen(polygons: Iterable[Iterable[Point]]) -> tuple[tuple[Point, ...], ...]:
    return tuple(tuple((x, y) for x, y in polygon) for polygon in polygons)


def _pixels(polygon: tuple[Point, ...], frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of a polygon, bool [H, W]: those with an odd number of edges to their left or on an edge.

    The computation is exact, in integers. An edge counts for the rows from its upper end to just above its lower end.
    So a row that only touches the polygon at a corner meets both edges or neither, and a row that passes through the
    corner meets one.
    """
    height, width = frame_hw
    crossed = np.zeros((height, width + 1), np.bool_)  # the last column is for edges beyond the frame
    on_edge = np.zeros((height, width), np.bool_)
    for (x, y), (next_x, next_y) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        (top, top_x), (bottom, bottom_x) = sorted([(y, x), (next_y, next_x)])
        if top == bottom:
            if 0 <= top < height:
                on_edge[top, max(top_x, 0) : max(bottom_x + 1, 0)] = True
            continue
        rows = np.arange(max(top, 0), min(bottom, height - 1) + 1)
        across, remainder = np.divmod((rows - top) * (bottom_x - top_x), bottom - top)
        column = top_x + across + (remainder > 0)  # the first column that is not left of the edge
        met = (remainder == 0) & (column >= 0) & (column < width)
        on_edge[rows[met], column[met]] = True
        counts = rows < bottom
        crossed[rows[counts], np.clip(column[counts], 0, width)] ^= True
    return np.logical_xor.accumulate(crossed[:, :width], axis=1) | on_edge


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
        overlap_px: of neighbouring tiles; tiles moved back to the border overlap more.
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

    def __len__(self) -> int:
        """Return the number of tiles that are inspected."""
        return len(self.origins_yx)

    def cut(self, image: NDArray[np.uint8], out: NDArray[np.uint8], first: int = 0) -> None:
        """Copy tiles of an image [H, W, C] of the grid's frame size into `out` [n, tile_px, tile_px, C], from number
        `first` on.
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
    """Copy one tile, whose top left corner is (y, x), into `out` [tile, tile, C] or [tile, tile].

    Beyond the bottom or the right of the frame, its last row or column is repeated, which adds no structure.
    """
    part = image[y : y + out.shape[0], x : x + out.shape[1]]
    below, right = out.shape[0] - part.shape[0], out.shape[1] - part.shape[1]
    if below or right:
        part = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE).reshape(out.shape)  # type: ignore[assignment]
    out[:] = part
