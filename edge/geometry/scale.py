"""The scale of a camera: a map from its pixels to the millimetres of the part's plane."""

import math
from typing import Annotated

import cv2
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from heatline.edge.wire.events import Millimetres, Region

Row = tuple[float, float, float]
Side = Annotated[int, Meta(ge=1, le=65535)]
LEAST_DISTORTION = -1 / 3
"""With less, r (1 + distortion r^2) falls before r = 1, the corners: two px would be one place."""
PIXEL_CORNERS = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])


class Scale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A camera's scale, as `heatline calibrate scale` measures and writes it."""

    size: tuple[Side, Side]
    """Width and height of the picture that it was measured in, px. Frames of another size get no mm."""
    homography: tuple[Row, Row, Row]
    """From px (x, y, 1), without distortion, to mm of the part's plane."""
    distortion: float = 0.0
    """A point at distance r from the picture's centre, in half diagonals, is moved to r (1 + distortion r^2) first.
    At least -1/3: with less, it folds."""
    distortion_px: float = 0.0
    """Largest shift of a point by the lens that was measured, px. Positions are corrected only if it is above 0.5."""
    error_mm: Annotated[float, Meta(ge=0)]
    """Largest distance of a point of the grid from where it should be, mm; of two points, 1 px."""
    measured_at: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]
    """When, UTC, as a bundle says when it was made. What moved the camera later is not in the scale."""

    def __post_init__(self) -> None:
        matrix, (width, height) = np.array(self.homography), self.size
        # Where the third coordinate is 0, the plane ends: it must do so outside the picture.
        corners = np.array([(x, y) for x in (-0.5, width) for y in (-0.5, height)])
        depth = undistorted(corners, self.size, self.distortion) @ matrix[2, :2] + matrix[2, 2]
        is_finite = np.isfinite([*matrix.flat, self.distortion, self.error_mm]).all()
        if not (is_finite and abs(np.linalg.det(matrix)) > 1e-12 and depth.min() * depth.max() > 0):
            raise ValueError("scale is zero, infinite or ends in the picture; measure it by heatline calibrate scale")
        if self.distortion < LEAST_DISTORTION:
            raise ValueError(
                f"distortion is {self.distortion:.2f}, and below -0.33 the picture's corners fold; measure it by "
                "heatline calibrate scale with a grid that fills the picture, or use a lens that distorts less"
            )

    def to_mm(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return places in mm, [points, 2], of places in px, [points, 2]; (0, 0) is the centre of the first px."""
        moved = undistorted(xy, self.size, self.distortion)
        return cv2.perspectiveTransform(moved[:, None], np.array(self.homography))[:, 0].astype(np.float64)

    def measure(self, region: Region) -> Millimetres:
        """Return what a region measures, by the outer corners of the px of its outline. A length has the largest error
        of a point at both ends.
        """
        outline = self.to_mm((np.array(region.contour_xy)[:, None] + PIXEL_CORNERS).reshape(-1, 2))
        low, high = outline.min(0), outline.max(0)
        hull = cv2.convexHull((outline - low).astype(np.float32))[:, 0]
        extent = np.linalg.norm(hull[:, None] - hull, axis=2).max()
        px = self.to_mm(np.reshape(region.box_xyxy, (2, 2)).mean(0) - 0.5 + PIXEL_CORNERS)  # in the middle of the box
        area = region.area_px * abs(np.linalg.det(px[2:] - px[:2])) / 2  # by the px's diagonals
        values = (*low, *(high - low), *px.mean(0), extent, area, 2 * self.error_mm)
        left, top, width, height, x, y, *others = (round(float(value), 4) for value in values)
        return Millimetres((left, top, width, height), (x, y), *others)


def undistorted(xy: NDArray[np.float64], size: tuple[int, int], distortion: float) -> NDArray[np.float64]:
    """Return px, [points, 2], as a lens without the radial distortion would show them."""
    offset = xy - (np.array(size) - 1) / 2
    squared = ((2 * offset / math.hypot(*size)) ** 2).sum(1, keepdims=True)
    return np.asarray(xy + offset * distortion * squared, np.float64)
