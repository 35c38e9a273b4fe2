"""Ground pours: copper that fills the area between tracks and pads."""

from math import ceil

import cv2
import numpy as np

from .design import Design, Layer, as_layer
from .footprints import Pad

_SMALLEST_POUR_PX = 15_000
"""Area of the smallest part of a pour; board design programs remove smaller parts, which look like spurious copper."""


def pour_ground(design: Design, copper: Layer, ground: Layer, board: Layer) -> None:
    """Fill the free area of `ground` with copper, and connect the ground pads to it by thermal spokes."""
    clearance = design.pour_clearance_px
    room = _farther_than(copper | ground, clearance)
    if design.frame.edge_px is not None:
        room &= as_layer(cv2.erode(board, np.ones((31, 31), np.uint8)))
    for node in design.fiducials:
        cv2.circle(room, design.pixel_xy(*node), round(0.9 * design.pitch_px), 0, -1)
    if design.etched_title_node is not None:
        row, column = design.etched_title_node
        cv2.rectangle(room, design.pixel_xy(row - 0.5, column - 0.5), design.pixel_xy(row + 1.5, column + 7.5), 0, -1)
    solid = _opened(room, 9)
    count, label, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
    large = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= _SMALLEST_POUR_PX)
    keep = np.zeros(count, np.uint8)
    keep[large[large > 0]] = 1
    pour = keep[label]
    if design.pour_meshed:
        pour &= 1 - _mesh_windows(design, pour)
    pads = {(pad.row, pad.column): pad for pad in design.pads()}
    for via in design.vias:
        if via.grounded:
            cv2.circle(ground, design.pixel_xy(*via.node), round(via.diameter_cells * design.pitch_px / 2), 1, -1)
    for node in design.ground_pads:
        _draw_thermal_spokes(design, ground, pour, pads[node])
    ground |= pour


def _draw_thermal_spokes(design: Design, ground: Layer, pour: Layer, pad: Pad) -> None:
    x, y = design.pixel_xy(pad.row, pad.column)
    width = max(9, round(0.24 * design.pitch_px))
    for dx, dy, size in (
        (1, 0, pad.width_cells),
        (-1, 0, pad.width_cells),
        (0, 1, pad.height_cells),
        (0, -1, pad.height_cells),
    ):
        reach = ceil(size * design.pitch_px / 2) + design.pour_clearance_px + 7
        end_x, end_y = x + dx * reach, y + dy * reach
        inside = 0 <= end_x < pour.shape[1] and 0 <= end_y < pour.shape[0]
        if inside and pour[end_y, end_x]:
            cv2.line(ground, (x, y), (end_x, end_y), 1, width)


def _mesh_windows(design: Design, pour: Layer) -> Layer:
    """Return the small square windows of a hatched pour; its rim stays solid."""
    step = max(16, design.pitch_px // 3)
    rows, columns = (np.arange(side) % step < step - 7 for side in pour.shape)
    inner = cv2.distanceTransform(pour, cv2.DIST_L2, 3) > 12
    return (rows[:, None] & columns[None, :] & inner).astype(np.uint8)


def _farther_than(layer: Layer, distance_px: float) -> Layer:
    distance = cv2.distanceTransform(1 - layer, cv2.DIST_L2, 3)
    return (distance > distance_px).astype(np.uint8)


def _opened(layer: Layer, radius_px: float) -> Layer:
    """Return the layer without parts that are thinner than twice the radius."""
    core = (cv2.distanceTransform(layer, cv2.DIST_L2, 3) > radius_px).astype(np.uint8)
    return (cv2.distanceTransform(1 - core, cv2.DIST_L2, 3) <= radius_px).astype(np.uint8) & layer
