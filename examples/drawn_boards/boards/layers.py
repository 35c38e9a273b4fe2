"""Rasters of a design: the pixels of the drawing plane with copper, drill holes, print and so on.

All layers are uint8 arrays [H, W] of 0 and 1 on the drawing plane, without anti-aliasing. Defects are therefore exact
sets of pixels, and the camera's blur smooths the edges of intact copper and of defects in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

import cv2
import numpy as np

from .design import Design, Layer, as_layer
from .footprints import Pad
from .pour import pour_ground
from .silkscreen import draw_print

_MASK_EXPANSION_PX = 4


@dataclass(frozen=True)
class DrillSite:
    """A component's drilled pad: centre and hole diameter, in pixels of the plane."""

    centre_xy_px: tuple[int, int]
    diameter_px: int


@dataclass(frozen=True)
class Layers:
    """The rasters of one board, and the geometry that the placing of defects needs."""

    copper: Layer
    opening: Layer
    """Openings of the solder mask."""
    drill: Layer
    silk: Layer
    dimple: Layer
    """Holes that solder mask covers."""
    board: Layer
    tracks_px: tuple[tuple[tuple[int, int], tuple[int, int], int], ...]
    """Straight pieces of track: (x, y) of both ends, and the width."""
    drill_sites: tuple[DrillSite, ...]


def rasterise(design: Design) -> Layers:
    """Draw all layers of a design."""
    plane = design.frame.plane_hw
    copper, opening, drill, dimple, printed = (np.zeros(plane, np.uint8) for _ in range(5))
    ground = np.zeros(plane, np.uint8)
    sites = []
    for pad in design.pads():
        is_ground = (pad.row, pad.column) in design.ground_pads
        _draw_pad(design, ground if is_ground else copper, pad, 0)
        _draw_pad(design, opening, pad, _MASK_EXPANSION_PX)
        if pad.drill_cells:
            x, y = design.pixel_xy(pad.row, pad.column)
            diameter = round(pad.drill_cells * design.pitch_px)
            cv2.circle(drill, (x, y), diameter // 2, 1, -1)
            sites.append(DrillSite((x, y), diameter))
    tracks = _draw_tracks(design, copper)
    _draw_small_pads(design, copper, opening, drill, dimple)
    _draw_etched_title(design, copper)
    board = _board_area(design)
    if design.poured:
        pour_ground(design, copper, ground, board)
    copper |= ground
    _draw_mounting_holes(design, copper, opening, drill)
    if design.frame.edge_px is not None:
        copper &= board
    draw_print(design, printed, opening)
    printed[cv2.dilate(opening | drill, np.ones((7, 7), np.uint8)) > 0] = 0
    printed &= as_layer(cv2.erode(board, np.ones((9, 9), np.uint8)))
    return Layers(copper, opening, drill, printed, dimple, board, tuple(tracks), tuple(sites))


def _draw_pad(design: Design, layer: Layer, pad: Pad, grow_px: int) -> None:
    x, y = design.pixel_xy(pad.row, pad.column)
    height = round(pad.height_cells * design.pitch_px) + 2 * grow_px
    width = round(pad.width_cells * design.pitch_px) + 2 * grow_px
    if pad.shape == "square":
        left, top = x - width // 2, y - height // 2
        cv2.rectangle(layer, (left, top), (left + width - 1, top + height - 1), 1, -1)
    else:
        thin, reach_x, reach_y = min(height, width), max(width - height, 0) // 2, max(height - width, 0) // 2
        cv2.line(layer, (x - reach_x, y - reach_y), (x + reach_x, y + reach_y), 1, thin)


def _draw_tracks(design: Design, copper: Layer) -> list[tuple[tuple[int, int], tuple[int, int], int]]:
    pads = {(pad.row, pad.column): pad for pad in design.pads()}
    pieces = []
    for track in design.tracks:
        points = [design.pixel_xy(*node) for node in track.nodes]
        widths = [round(width * design.pitch_px) for width in track.widths_cells]
        for i in range(len(points) - 1):
            _draw_tapered(copper, points[i], points[i + 1], widths[i], widths[i + 1])
        pieces += _straight_pieces(points, widths)
        if design.teardrops:
            for end, neighbour in ((0, 1), (-1, -2)):
                pad = pads.get(track.nodes[end])
                if pad is not None and pad.drill_cells:
                    base = round(min(pad.width_cells, pad.height_cells) * design.pitch_px * 0.85)
                    _draw_tapered(copper, points[end], points[neighbour], base, widths[neighbour])
    return pieces


def _straight_pieces(
    points: Sequence[tuple[int, int]], widths: Sequence[int]
) -> list[tuple[tuple[int, int], tuple[int, int], int]]:
    """Cut the path where it turns or changes its width."""
    pieces = []
    start = 0
    for i in range(1, len(points)):
        last = i == len(points) - 1
        if not last:
            before = points[i][0] - points[i - 1][0], points[i][1] - points[i - 1][1]
            after = points[i + 1][0] - points[i][0], points[i + 1][1] - points[i][1]
        if last or before != after or widths[i] != widths[start]:
            if widths[i] == widths[start]:
                pieces.append((points[start], points[i], widths[start]))
            start = i
    return pieces


def _draw_tapered(layer: Layer, a: tuple[int, int], b: tuple[int, int], width_a: int, width_b: int) -> None:
    """Draw a piece of track with round ends, which may differ in width."""
    if width_a == width_b:
        cv2.line(layer, a, b, 1, width_a)
        return
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = max(hypot(dx, dy), 1.0)
    normal = np.array([-dy / length, dx / length])
    corners = [
        np.array(a) + normal * width_a / 2,
        np.array(b) + normal * width_b / 2,
        np.array(b) - normal * width_b / 2,
        np.array(a) - normal * width_a / 2,
    ]
    cv2.fillConvexPoly(layer, np.rint(corners).astype(np.int32), 1)
    cv2.circle(layer, a, width_a // 2, 1, -1)
    cv2.circle(layer, b, width_b // 2, 1, -1)


def _draw_small_pads(design: Design, copper: Layer, opening: Layer, drill: Layer, dimple: Layer) -> None:
    """Draw vias, test points and fiducials."""
    pitch = design.pitch_px
    for via in design.vias:
        centre = design.pixel_xy(*via.node)
        if not via.grounded:
            cv2.circle(copper, centre, round(via.diameter_cells * pitch / 2), 1, -1)
        hole = round(via.drill_cells * pitch / 2)
        cv2.circle(dimple if via.tented else drill, centre, hole, 1, -1)
        if not via.tented:
            cv2.circle(opening, centre, round(via.diameter_cells * pitch / 2) + 2, 1, -1)
    for node in design.test_points:
        centre = design.pixel_xy(*node)
        cv2.circle(copper, centre, round(0.36 * pitch), 1, -1)
        cv2.circle(opening, centre, round(0.36 * pitch) + 2, 1, -1)
    for node in design.fiducials:
        centre = design.pixel_xy(*node)
        cv2.circle(copper, centre, round(0.3 * pitch), 1, -1)
        cv2.circle(opening, centre, round(0.75 * pitch), 1, -1)


def _draw_etched_title(design: Design, copper: Layer) -> None:
    if design.etched_title_node is not None:
        row, column = design.etched_title_node
        text = design.title.split()[-1]
        cv2.putText(
            copper,
            text,
            design.pixel_xy(row + 1, column),
            cv2.FONT_HERSHEY_SIMPLEX,
            design.pitch_px / 20,
            1,
            4,
            cv2.LINE_8,
        )


def _board_area(design: Design) -> Layer:
    plane_h, plane_w = design.frame.plane_hw
    edge = design.frame.edge_px
    if edge is None:
        return np.ones((plane_h, plane_w), np.uint8)
    board = np.zeros((plane_h, plane_w), np.uint8)
    r = design.frame.corner_px
    cv2.rectangle(board, (edge + r, edge), (plane_w - edge - r, plane_h - edge), 1, -1)
    cv2.rectangle(board, (edge, edge + r), (plane_w - edge, plane_h - edge - r), 1, -1)
    for x in (edge + r, plane_w - edge - r):
        for y in (edge + r, plane_h - edge - r):
            cv2.circle(board, (x, y), r, 1, -1)
    return board


def _draw_mounting_holes(design: Design, copper: Layer, opening: Layer, drill: Layer) -> None:
    frame = design.frame
    if not frame.mounting_hole_px or frame.edge_px is None:
        return
    inset = frame.edge_px + round(frame.mounting_hole_px * 1.1)
    plane_h, plane_w = frame.plane_hw
    for x in (inset, plane_w - inset):
        for y in (inset, plane_h - inset):
            cv2.circle(copper, (x, y), round(frame.mounting_hole_px * 0.85), 1, -1)
            cv2.circle(opening, (x, y), round(frame.mounting_hole_px * 0.85) + 3, 1, -1)
            cv2.circle(drill, (x, y), frame.mounting_hole_px // 2, 1, -1)
