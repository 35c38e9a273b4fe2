"""Measures the scale of a camera from a picture of a grid, or from two points with a known distance."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.geometry.scale import Scale, undistorted
from heatline.edge.util.text import utc_now

MOST_ERROR = 0.05
"""A point of a grid that lies flat is not farther from its place, as a share of the grid's pitch."""
TOLERATED_PX, STEP, ROUNDS = 0.5, 1e-3, 10
"""Distortion is corrected if it shifts a point of the grid by more; of its search: step of the derivative, rounds."""


def find_grid(grey: NDArray[Any], grid: str, columns: int, rows: int) -> NDArray[np.float64]:
    """Return the points of a grid, `checkerboard` or `dots`, row by row, (x, y) px, [rows * columns, 2]; InputError:
    the picture does not show all of it.
    """
    if grid == "checkerboard":
        what, flags = "inner corners of a checkerboard", cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_EXHAUSTIVE
        found, points = cv2.findChessboardCornersSB(grey, (columns, rows), flags=flags)
    else:
        what, blobs = "dark dots on a bright ground", cv2.SimpleBlobDetector.Params()
        blobs.maxArea = grey.size / (columns * rows)  # of one dot, px
        detector = cv2.SimpleBlobDetector.create(blobs)
        flags = cv2.CALIB_CB_SYMMETRIC_GRID
        found, points = cv2.findCirclesGrid(grey, (columns, rows), flags=flags, blobDetector=detector)
    if not found:
        raise InputError(
            f"no whole grid of {columns} x {rows} {what} is seen; count them, and show all sharp with a bright margin"
        )
    if grid == "checkerboard":  # exact to a tenth of a px only then, also where rows of px are parallel to the grid
        apart = np.linalg.norm(np.diff(points.reshape(rows, columns, 2), axis=1), axis=2).min()
        points = cv2.cornerSubPix(grey, points, (max(2, int(apart / 4)),) * 2, (-1, -1), (3, 50, 1e-3))
    xy = np.asarray(points.reshape(-1, 2), np.float64)
    if grid == "dots" and _more_beside(xy, columns, detector.detect(grey)):
        raise InputError(f"more dots continue the grid of {columns} x {rows}; count all columns and rows")
    return xy if xy[0].sum() < xy[-1].sum() else xy[::-1]  # a turned grid looks the same


def _more_beside(xy: NDArray[np.float64], columns: int, blobs: Sequence[Any]) -> bool:
    """Return whether blobs of a picture continue a grid of points [rows * columns, 2] by a whole row or column."""
    places = np.stack(np.divmod(np.arange(len(xy)), columns)[::-1], 1).astype(np.float64)
    seen = np.array([[each.pt] for each in blobs], np.float64)
    at, end = cv2.perspectiveTransform(seen, cv2.findHomography(xy, places)[0])[:, 0], places.max(axis=0)
    is_beside = ((at > -1.2) & (at < end + 1.2)).all(axis=1) & ((at < -0.8) | (at > end + 0.8)).any(axis=1)
    return bool((is_beside & (abs(at - at.round()) < 0.2).all(axis=1)).sum() > end.min())


def scale_of_grid(points: NDArray[np.float64], columns: int, pitch_mm: float, size: tuple[int, int]) -> Scale:
    """Fit a scale to the points of `find_grid` in a picture of this width and height, by least squares in mm. An
    InputError: they are no flat grid; a ValueError: the plane ends in the picture.

    For each distortion, the best homography is known, so that one number is searched for (variable projection).
    """
    grid = np.stack(np.divmod(np.arange(len(points)), columns)[::-1], 1) * pitch_mm

    def fit(distortion: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the best homography, and the residuals [points, 2], mm."""
        moved = undistorted(points, size, distortion)
        homography = cv2.findHomography(moved, grid)[0]
        return homography, cv2.perspectiveTransform(moved[:, None], homography)[:, 0] - grid

    distortion = 0.0
    for _ in range(ROUNDS):
        slope = (fit(distortion + STEP)[1] - fit(distortion - STEP)[1]) / (2 * STEP)
        distortion -= float((slope * fit(distortion)[1]).sum() / (slope**2).sum())
    shift_px = float(np.linalg.norm(undistorted(points, size, distortion) - points, axis=1).max())
    applied = distortion if shift_px > TOLERATED_PX else 0.0
    homography, residuals = fit(applied)
    rows: Any = tuple(map(tuple, homography.tolist()))
    error_mm = float(np.linalg.norm(residuals, axis=1).max())
    if error_mm > MOST_ERROR * pitch_mm:
        raise InputError(f"its points lie up to {error_mm:.2g} mm from a flat grid; lay it flat, and count them again")
    return Scale(
        size=size,
        homography=rows,
        distortion=applied,
        distortion_px=shift_px,
        error_mm=error_mm,
        measured_at=utc_now(),
    )


def scale_of_points(xyxy: Sequence[float], mm: float, size: tuple[int, int]) -> Scale:
    """Return the scale by the distance of two points, each known to 1 px. Mm begin at the picture's corner, half a px
    before the centre of the first px. InputError: a point lies outside the picture, or both at one place.
    """
    apart = math.dist(xyxy[:2], xyxy[2:])
    if not (apart >= 1 and all(0 <= at < side for at, side in zip(xyxy, (*size, *size), strict=True))):
        raise InputError("{:g},{:g} and {:g},{:g} are not two points of {}x{} px; name two apart".format(*xyxy, *size))
    px_mm = mm / apart
    homography = ((px_mm, 0.0, px_mm / 2), (0.0, px_mm, px_mm / 2), (0.0, 0.0, 1.0))
    return Scale(size=size, homography=homography, error_mm=px_mm, measured_at=utc_now())
