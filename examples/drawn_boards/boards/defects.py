"""The six kinds of defects; each changes the copper or the drill layer.

A defect is a set of pixels that are flipped in one layer. A defect is proposed at a random site and accepted only if
it has the effect of its kind: an open circuit cuts a track, a short connects two nets, and so on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from .design import Layer
from .layers import Layers

DefectKind = Literal["missing_hole", "mouse_bite", "open_circuit", "short", "spur", "spurious_copper"]
DEFECT_KINDS: tuple[DefectKind, ...] = get_args(DefectKind)

_WINDOW_PX = 100
"""Half of the side of the window in which a defect is drawn."""
_EXTENT_PX = (24, 140)
_APART_PX = 76
"""Smallest distance between defects: more than the documented 64 px, as perspective may shrink distances."""
_TYPICAL_AREA_PX = 600
_FAINT_AREA_PX = 320
_FAINT_SHARE = 0.08
_ATTEMPTS_PER_KIND = 60

Vector = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class PlacedDefect:
    """A defect on the drawing plane: `pixels` [h, w] are flipped; their top left corner is `corner_xy_px`."""

    kind: DefectKind
    corner_xy_px: tuple[int, int]
    pixels: Layer

    @property
    def region(self) -> tuple[slice, slice]:
        """Rows and columns of the plane that `pixels` covers."""
        (x, y), (height, width) = self.corner_xy_px, self.pixels.shape
        return slice(y, y + height), slice(x, x + width)


def place_defects(rng: np.random.Generator, layers: Layers, count: int, border_px: int) -> tuple[PlacedDefect, ...]:
    """Place up to `count` defects; fewer if the board has no more sites.

    All defects lie at least `border_px` inside the plane, at a distance from each other. `layers` is not changed.
    """
    placer = _DefectPlacer(rng, layers, border_px)
    for _ in range(count):
        if not any(placer.try_to_place(DEFECT_KINDS[k]) for k in rng.permutation(len(DEFECT_KINDS))):
            break
    return tuple(placer.placed)


@dataclass(frozen=True)
class _Stretch:
    """A spot on a straight track: position, unit vectors along and across the track, its width and half its length."""

    centre_xy: Vector
    along: Vector
    across: Vector
    width_px: int
    half_length_px: float

    def at(self, along_px: float, across_px: float) -> Vector:
        """Return the point at these distances along and across the track."""
        point: Vector = self.centre_xy + self.along * along_px + self.across * across_px
        return point


class _DefectPlacer:
    """Proposes defects and accepts those that have the effect of their kind."""

    def __init__(self, rng: np.random.Generator, layers: Layers, border_px: int) -> None:
        self.placed: list[PlacedDefect] = []
        self._rng = rng
        self._layers = layers
        self._border_px = border_px
        _, self._net = cv2.connectedComponents(layers.copper, connectivity=8)
        self._copper_distance = cv2.distanceTransform(1 - layers.copper, cv2.DIST_L2, 3)
        rows, columns = np.nonzero((self._copper_distance > 15) & (self._copper_distance < 55))
        self._open_spots = rows[::16], columns[::16]
        self._makers: dict[DefectKind, Callable[[], tuple[Vector, Layer] | None]] = {
            "missing_hole": self._missing_hole,
            "mouse_bite": self._mouse_bite,
            "open_circuit": self._open_circuit,
            "short": self._short,
            "spur": self._spur,
            "spurious_copper": self._spurious_copper,
        }

    def try_to_place(self, kind: DefectKind) -> bool:
        """Place one defect of this kind; return False if a limited number of attempts finds no site."""
        smallest = _FAINT_AREA_PX if self._rng.random() < _FAINT_SHARE else _TYPICAL_AREA_PX
        for _ in range(_ATTEMPTS_PER_KIND):
            proposal = self._makers[kind]()
            if proposal is None:
                continue
            defect = self._trim(kind, *proposal)
            if defect is not None and np.count_nonzero(defect.pixels) >= smallest and self._fits(defect):
                self.placed.append(defect)
                return True
        return False

    def _trim(self, kind: DefectKind, centre_xy: Vector, flipped: Layer) -> PlacedDefect | None:
        """Cut the proposal to its bounding box; return None if it is not one connected component."""
        count, _ = cv2.connectedComponents(flipped, connectivity=8)
        if count != 2:
            return None
        x, y, width, height = cv2.boundingRect(flipped)
        left, top = self._window_corner(centre_xy)
        return PlacedDefect(kind, (left + x, top + y), flipped[y : y + height, x : x + width])

    def _fits(self, defect: PlacedDefect) -> bool:
        rows, columns = defect.region
        plane_h, plane_w = self._layers.copper.shape
        border = self._border_px
        if (
            rows.start < border
            or columns.start < border
            or rows.stop > plane_h - border
            or columns.stop > plane_w - border
        ):
            return False
        if not _EXTENT_PX[0] <= max(defect.pixels.shape) <= _EXTENT_PX[1]:
            return False
        flipped = defect.pixels > 0
        hidden = np.count_nonzero(self._layers.silk[defect.region][flipped])
        if hidden > 0.05 * np.count_nonzero(flipped) or not self._layers.board[defect.region][flipped].all():
            return False
        if defect.kind != "missing_hole" and (self._layers.drill | self._layers.dimple)[defect.region][flipped].any():
            return False
        return all(_gap_px(defect, other) >= _APART_PX for other in self.placed)

    # The window around a site

    def _window_corner(self, centre_xy: Vector) -> tuple[int, int]:
        return int(centre_xy[0]) - _WINDOW_PX, int(centre_xy[1]) - _WINDOW_PX

    def _window(self, layer: NDArray[Scalar], centre_xy: Vector) -> NDArray[Scalar]:
        left, top = self._window_corner(centre_xy)
        return layer[top : top + 2 * _WINDOW_PX, left : left + 2 * _WINDOW_PX]

    def _is_inside(self, centre_xy: Vector) -> bool:
        left, top = self._window_corner(centre_xy)
        plane_h, plane_w = self._layers.copper.shape
        return left >= 0 and top >= 0 and left + 2 * _WINDOW_PX <= plane_w and top + 2 * _WINDOW_PX <= plane_h

    def _polygon(self, centre_xy: Vector, corners_xy: list[Vector], roughness_px: float) -> Layer:
        """Draw a polygon with an uneven outline, as from etching, in the window around `centre_xy`."""
        outline: list[Vector] = []
        for a, b in zip(corners_xy, corners_xy[1:] + corners_xy[:1], strict=True):
            pieces = max(1, round(float(np.linalg.norm(b - a)) / 7))
            outline += [a + (b - a) * i / pieces for i in range(pieces)]
        points = np.array(outline) + self._rng.normal(0, roughness_px, (len(outline), 2))
        canvas = np.zeros((2 * _WINDOW_PX, 2 * _WINDOW_PX), np.uint8)
        cv2.fillPoly(canvas, [np.rint(points - self._window_corner(centre_xy)).astype(np.int32)], 1)
        return canvas

    # Sites

    def _stretch(self, needed_px: float) -> _Stretch | None:
        """Return a random spot in the middle of `needed_px` of straight track with no copper next to it, or None."""
        pieces = self._layers.tracks_px
        if not pieces:
            return None
        (x0, y0), (x1, y1), width = pieces[int(self._rng.integers(len(pieces)))]
        start, end = np.array([x0, y0], float), np.array([x1, y1], float)
        length = float(np.linalg.norm(end - start))
        if length < needed_px:
            return None
        along = (end - start) / length
        across = np.array([-along[1], along[0]]) * (1 if self._rng.random() < 0.5 else -1)
        centre = start + along * self._rng.uniform(needed_px / 2, length - needed_px / 2)
        stretch = _Stretch(centre, along, across, width, needed_px / 2)
        return stretch if self._is_inside(centre) and self._is_plain_track(stretch) else None

    def _is_plain_track(self, stretch: _Stretch) -> bool:
        """Return whether the spot is plain track: copper along the middle, no copper next to the track."""
        steps = np.linspace(-stretch.half_length_px, stretch.half_length_px, 15)
        outside_px = stretch.width_px / 2 + 4

        def has_copper(across_px: float) -> NDArray[np.bool_]:
            points = np.rint([stretch.at(step, across_px) for step in steps]).astype(int)
            copper: NDArray[np.bool_] = self._layers.copper[points[:, 1], points[:, 0]] > 0
            return copper

        return bool(has_copper(0).all() and not has_copper(outside_px).any() and not has_copper(-outside_px).any())

    # The defects

    def _missing_hole(self) -> tuple[Vector, Layer] | None:
        sites = self._layers.drill_sites
        if not sites:
            return None
        site = sites[int(self._rng.integers(len(sites)))]
        centre = np.array(site.centre_xy_px, float)
        if not self._is_inside(centre):
            return None
        canvas = np.zeros((2 * _WINDOW_PX, 2 * _WINDOW_PX), np.uint8)
        cv2.circle(canvas, (_WINDOW_PX, _WINDOW_PX), site.diameter_px // 2 + 1, 1, -1)
        return centre, canvas & self._window(self._layers.drill, centre)

    def _open_circuit(self) -> tuple[Vector, Layer] | None:
        """Propose a gap in a track; the ends of the track are uneven and slightly oblique."""
        rng = self._rng
        gap = float(rng.uniform(22, 85))
        s = self._stretch(gap + 40)
        if s is None:
            return None
        half, reach = gap / 2, s.width_px / 2 + 2
        skew = rng.uniform(-0.2, 0.2, 2) * s.width_px
        corners = [
            s.at(-half - skew[0], -reach),
            s.at(-half + skew[0], reach),
            s.at(half + skew[1], reach),
            s.at(half - skew[1], -reach),
        ]
        cut = self._polygon(s.centre_xy, corners, 1.8)
        return s.centre_xy, cut & self._window(self._layers.copper, s.centre_xy)

    def _mouse_bite(self) -> tuple[Vector, Layer] | None:
        """Propose a ragged bite out of one edge of a track; the track stays connected."""
        rng = self._rng
        length = float(rng.uniform(34, 100))
        s = self._stretch(length + 24)
        if s is None:
            return None
        half, edge = length / 2, s.width_px / 2
        deepest = float(rng.uniform(0.55, 0.85)) * (s.width_px - 3)
        positions = np.linspace(-half, half, max(5, round(length / 7)))
        profile = np.sqrt(np.clip(1 - (positions / half) ** 2, 0, 1)) ** 0.7
        depths = np.minimum(deepest * profile * rng.uniform(0.75, 1.15, positions.size), s.width_px - 4)
        corners = [s.at(-half, edge + 3), s.at(half, edge + 3)]
        corners += [s.at(p, edge - d) for p, d in zip(positions[::-1], depths[::-1], strict=True)]
        bite = self._polygon(s.centre_xy, corners, 0.6)
        return s.centre_xy, bite & self._window(self._layers.copper, s.centre_xy)

    def _short(self) -> tuple[Vector, Layer] | None:
        """Propose a ragged bridge of copper between two nets; it is wider where it touches them."""
        rng = self._rng
        width = float(rng.uniform(16, 46))
        s = self._stretch(width + 16)
        if s is None:
            return None
        gap = self._gap_across(s)
        if gap is None:
            return None
        edge, far = s.width_px / 2, s.width_px / 2 + gap
        shift = float(rng.uniform(-0.3, 0.3)) * min(gap, 30)
        flares = width / 2 + rng.uniform(2, 10, 4)
        waists = width / 2 * rng.uniform(0.7, 1.1, 2)
        corners = [
            s.at(-flares[0], edge - 3),
            s.at(shift / 2 - waists[0], edge + gap * float(rng.uniform(0.35, 0.65))),
            s.at(shift - flares[1], far + 4),
            s.at(shift + flares[2], far + 4),
            s.at(shift / 2 + waists[1], edge + gap * float(rng.uniform(0.35, 0.65))),
            s.at(flares[3], edge - 3),
        ]
        bridge = self._draw_added_copper(s, corners, 1.8)
        touched_nets = self._nets_near(s.centre_xy, bridge, 3)
        return (s.centre_xy, bridge) if len(touched_nets) == 2 else None

    def _gap_across(self, stretch: _Stretch) -> float | None:
        """Return the distance from the track's edge to the next copper of another net, px; None beyond 55 px."""
        own = self._net[tuple(np.rint(stretch.centre_xy[::-1]).astype(int))]
        for distance in range(8, 56):
            x, y = np.rint(stretch.at(0, stretch.width_px / 2 + distance)).astype(int)
            net = self._net[y, x]
            if net:
                return float(distance) if net != own else None
        return None

    def _spur(self) -> tuple[Vector, Layer] | None:
        """Propose a spike that sticks out from a track and touches no other copper."""
        rng = self._rng
        base = float(rng.uniform(18, 36))
        s = self._stretch(base + 20)
        if s is None:
            return None
        edge, length = s.width_px / 2, float(rng.uniform(26, 85))
        lean = float(rng.uniform(-0.5, 0.5)) * length
        tip = float(rng.uniform(0.2, 0.4)) * base
        corners = [
            s.at(-base / 2, edge - 2),
            s.at(lean - tip / 2, edge + length),
            s.at(lean + tip / 2, edge + length + 1),
            s.at(base / 2, edge - 2),
        ]
        spike = self._draw_added_copper(s, corners, 1.3)
        return (s.centre_xy, spike) if len(self._nets_near(s.centre_xy, spike, 8)) == 1 else None

    def _spurious_copper(self) -> tuple[Vector, Layer] | None:
        """Propose an island of copper that belongs to no net: a strip along the tracks, or a blot."""
        rng = self._rng
        rows, columns = self._open_spots
        if not rows.size:
            return None
        pick = int(rng.integers(rows.size))
        centre = np.array([columns[pick], rows[pick]], float)
        if not self._is_inside(centre):
            return None
        angle = float(rng.integers(4)) * np.pi / 4 + float(rng.normal(0, 0.06))
        length, width = (rng.uniform(45, 125), rng.uniform(13, 24)) if rng.random() < 0.5 else rng.uniform(28, 68, 2)
        angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        # A superellipse: a shape between a strip with round ends and a blot.
        shape = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        shape = np.sign(shape) * np.abs(shape) ** 0.6 * np.array([length, width]) / 2
        shape *= rng.uniform(0.85, 1.15, (14, 1))
        rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        island = self._polygon(centre, list(centre + shape @ rotation), 0.8)
        distances = self._window(self._copper_distance, centre)[island > 0]
        return (centre, island) if distances.min() > 7 else None

    def _draw_added_copper(self, stretch: _Stretch, corners_xy: list[Vector], roughness_px: float) -> Layer:
        shape = self._polygon(stretch.centre_xy, corners_xy, roughness_px)
        added: Layer = shape & (1 - self._window(self._layers.copper, stretch.centre_xy))
        return added

    def _nets_near(self, centre_xy: Vector, added: Layer, distance_px: int) -> set[int]:
        """Return the nets (connected copper) within `distance_px` of the added pixels."""
        side = 2 * distance_px + 1
        near = cv2.dilate(added, np.ones((side, side), np.uint8)) > 0
        return set(np.unique(self._window(self._net, centre_xy)[near])) - {0}


def _gap_px(a: PlacedDefect, b: PlacedDefect) -> int:
    """Return the distance between two bounding boxes along the axis on which it is larger, px."""
    (a_rows, a_columns), (b_rows, b_columns) = a.region, b.region
    gaps = (
        b_rows.start - a_rows.stop,
        a_rows.start - b_rows.stop,
        b_columns.start - a_columns.stop,
        a_columns.start - b_columns.stop,
    )
    return int(max(gaps))
