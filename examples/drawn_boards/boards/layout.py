"""Random designs: components are placed on the grid and connected as on real boards."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, floor

import numpy as np

from .design import Design, Frame, Track, Via
from .footprints import Footprint, Pad, PadFamily, PadShape, draw_footprint
from .routing import FREE, WALL, Grid, Node

_SMALLEST_WHOLE_BOARD_PX = 700
"""A smaller picture shows a detail of a board: a whole board would be too small for components."""
GROUND = 1
"""Net number of the ground pour; routed nets have higher numbers."""


def draw_design(rng: np.random.Generator, plane_hw: tuple[int, int]) -> Design:
    """Draw a random design for a drawing plane of `plane_hw` pixels."""
    pitch = int(rng.integers(38, 51))
    frame = _draw_frame(rng, plane_hw)
    # A board that fills the picture extends beyond it, so the picture's edge cuts off components and tracks.
    inset = pitch // 4 - 2 * pitch if frame.edge_px is None else frame.edge_px + int(rng.integers(36, 60))
    rows, columns = (1 + (side - 2 * inset) // pitch for side in plane_hw)
    slack_y, slack_x = ((side - 2 * inset) % pitch // 2 for side in plane_hw)

    layout = _Layout(rng, Grid(rows, columns), pitch, poured=bool(rng.random() < 0.4))
    if frame.mounting_hole_px:
        layout.reserve_corners(2 + frame.mounting_hole_px // pitch)
    etched_title = layout.reserve_etched_title() if rng.random() < 0.3 else None
    layout.place_parts()
    layout.connect_parts()
    layout.add_test_points()
    layout.fill_with_tracks()
    layout.add_isolated_vias()
    return Design(
        frame=frame,
        pitch_px=pitch,
        origin_xy_px=(inset + slack_x, inset + slack_y),
        parts=tuple(layout.parts),
        part_names=tuple(layout.part_names()),
        ground_pads=frozenset(layout.ground_pads),
        tracks=tuple(layout.tracks()),
        vias=tuple(layout.vias),
        test_points=tuple(layout.test_points),
        fiducials=tuple(layout.fiducials),
        poured=layout.poured,
        pour_clearance_px=int(rng.integers(11, 17)),
        pour_meshed=bool(rng.random() < 0.25),
        teardrops=bool(rng.random() < 0.5),
        silk_line_px=int(rng.integers(2, 6)),
        silk_text_px=int(rng.integers(24, 40)),
        title=_draw_title(rng),
        etched_title_node=etched_title,
    )


def _draw_frame(rng: np.random.Generator, plane_hw: tuple[int, int]) -> Frame:
    edge, shows_edge = int(rng.integers(56, 90)), rng.random() < 0.55 and min(plane_hw) > _SMALLEST_WHOLE_BOARD_PX
    shows_holes = shows_edge and rng.random() < 0.7
    return Frame(
        plane_hw=plane_hw,
        edge_px=edge if shows_edge else None,
        corner_px=int(rng.integers(4, 40)),
        mounting_hole_px=int(rng.integers(58, 84)) if shows_holes else 0,
    )


def _draw_title(rng: np.random.Generator) -> str:
    name = str(
        rng.choice(["MOTOR CTRL", "PSU 5V", "RELAY IO", "SENSOR HUB", "LED DRIVER", "AMP", "USB-UART", "MCU BASE"])
    )
    return f"{name} {rng.choice(list('ABCD'))}{rng.integers(1, 9)}"


@dataclass
class _Layout:
    """A design in progress."""

    rng: np.random.Generator
    grid: Grid
    pitch_px: int
    poured: bool
    parts: list[Footprint] = field(default_factory=list)
    ground_pads: set[Node] = field(default_factory=set)
    vias: list[Via] = field(default_factory=list)
    test_points: list[Node] = field(default_factory=list)
    fiducials: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        shape: PadShape = "oval" if rng.random() < 0.4 else "round"
        drill = float(rng.uniform(28, 34)) / self.pitch_px
        self._family = PadFamily(shape, min(drill + float(rng.uniform(0.48, 0.6)), 1.28), drill)
        self._smd_share = float(rng.choice([0.0, 0.3, 0.6]))
        self._signal_cells = float(rng.uniform(0.42, 0.52))
        self._via_cells = float(rng.uniform(0.58, 0.7))
        self._tented = bool(rng.random() < 0.5)
        self._net_nodes: dict[int, list[Node]] = {}
        self._net_parts: dict[int, set[int]] = {}
        self._net_width: dict[int, float] = {}
        self._paths: list[tuple[int, list[Node]]] = []
        self._next_net = GROUND + 1
        self._occupied = np.zeros((self.grid.rows, self.grid.columns), bool)

    # Placement

    def reserve_corners(self, cells: int) -> None:
        """Reserve room for the mounting holes."""
        rows, columns = self.grid.rows, self.grid.columns
        for top in (0, rows - cells):
            for left in (0, columns - cells):
                self._reserve(top, left, top + cells - 1, left + cells - 1)

    def reserve_etched_title(self) -> Node | None:
        """Reserve room for a title etched in copper, and return its node; None if the title does not fit."""
        height, width = 1, 7
        if self.grid.rows < 14 or self.grid.columns < 20:
            return None
        row = int(self.rng.integers(3, self.grid.rows - height - 3))
        column = int(self.rng.integers(3, self.grid.columns - width - 3))
        self._reserve(row, column, row + height, column + width)
        return row, column

    def _reserve(self, top: int, left: int, bottom: int, right: int) -> None:
        self._occupied[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = True
        self.grid.claim(((r, c) for r in range(top, bottom + 1) for c in range(left, right + 1)), WALL)

    def place_parts(self) -> None:
        """Put components at random free places until the board is about as full as real boards."""
        rng, (rows, columns) = self.rng, self._occupied.shape
        target = rng.uniform(0.5, 0.85) * rows * columns
        for _ in range(400):
            if self._occupied.sum() >= target:
                break
            part = draw_footprint(rng, self._family, self._smd_share)
            height, width = part.extent_cells()
            if height + 4 > rows or width + 4 > columns:
                continue
            row, column = int(rng.integers(1, rows - height - 1)), int(rng.integers(1, columns - width - 1))
            if part.prefix in "JX" and rng.random() < 0.6:  # connectors lie along the edges
                if width > height:
                    row = 1 if rng.random() < 0.5 else rows - height - 2
                else:
                    column = 1 if rng.random() < 0.5 else columns - width - 2
            part = part.moved(row, column)
            top, left, bottom, right = part.outline_cells
            margin = int(rng.integers(1, 3))
            room = np.s_[
                max(0, min(row, floor(top)) - margin) : max(row + height, ceil(bottom)) + margin + 1,
                max(0, min(column, floor(left)) - margin) : max(column + width, ceil(right)) + margin + 1,
            ]
            if not self._occupied[room].any():
                self._occupied[room] = True
                self._add_part(part)

    def _add_part(self, part: Footprint) -> None:
        self.parts.append(part)
        for pad in part.pads:
            node = (pad.row, pad.column)
            ground = self.poured and self.rng.random() < 0.25
            net = GROUND if ground else self._new_net()
            if ground:
                self.ground_pads.add(node)
            self._net_nodes.setdefault(net, []).append(node)
            self._net_parts[net] = {len(self.parts)}
            self.grid.claim(_nodes_under(pad), net, pad=True)

    def part_names(self) -> list[str]:
        """Return the reference designators: prefix and running number."""
        counts: dict[str, int] = {}
        names = []
        for part in self.parts:
            counts[part.prefix] = counts.get(part.prefix, 0) + 1
            names.append(f"{part.prefix}{counts[part.prefix]}")
        return names

    # Connections

    def _new_net(self) -> int:
        self._next_net += 1
        power = self.rng.random() < 0.2
        self._net_width[self._next_net] = float(self.rng.uniform(0.55, 0.62)) if power else self._signal_cells
        return self._next_net

    def connect_parts(self) -> None:
        """Route buses between components first, then single connections, then short stubs to vias."""
        order = self.rng.permutation(len(self.parts))
        for index in order:
            part = self.parts[index]
            others = sorted((p for p in self.parts if p is not part), key=lambda other: _distance(part, other))
            if len(part.pads) >= 4 and others:
                self._connect_bus(part, next((o for o in others if len(o.pads) >= 4), others[0]))
        unconnected = [node for part in self.parts for node in part.pad_nodes()]
        unconnected = [node for node in unconnected if not self._is_connected(node)]
        for node in unconnected:
            draw = self.rng.random()
            if draw < 0.55:
                self._connect_to_near_pad(node)
            elif draw < 0.85:
                self._connect_to_via(node)

    def _connect_bus(self, part: Footprint, other: Footprint) -> None:
        count = min(len(part.pads), len(other.pads), int(self.rng.integers(4, 13)))
        own_pads = _pads_facing(part, other)[:count]
        other_pads = _pads_facing(other, part)[:count]
        for start, goal in zip(sorted(own_pads), sorted(other_pads), strict=True):
            self._connect(start, goal)

    def _connect_to_near_pad(self, node: Node) -> None:
        """Connect a node to a pad of another component nearby."""
        near = [(max(abs(r - node[0]), abs(c - node[1])), (r, c)) for part in self.parts for r, c in part.pad_nodes()]
        for _, other in sorted(near)[1:9]:
            if self._connect(node, other):
                return

    def _connect_to_via(self, node: Node) -> None:
        reach = int(self.rng.integers(2, 7))
        row, column = node
        goals = [
            (r, c)
            for r in range(row - reach, row + reach + 1)
            for c in range(column - reach, column + reach + 1)
            if max(abs(r - row), abs(c - column)) == reach and self._has_room_for_via((r, c))
        ]
        if goals:
            end = self._route(node, [goals[int(self.rng.integers(len(goals)))]])
            if end is not None:
                self._add_via(end)

    def fill_with_tracks(self) -> None:
        """Route buses from via to via through the empty areas, as nets of the other layer need them."""
        rng = self.rng
        target = rng.uniform(0.1, 0.4) * len(self.grid.free_nodes())
        for _ in range(40):
            free = self.grid.free_nodes()
            if len(free) < max(target, 2):
                return
            start = free[int(rng.integers(len(free)))]
            reach = int(rng.integers(5, 18))
            goals = [n for n in free if reach <= max(abs(n[0] - start[0]), abs(n[1] - start[1])) <= reach + 2]
            if not goals:
                continue
            goal = goals[int(rng.integers(len(goals)))]
            flat = abs(goal[1] - start[1]) >= abs(goal[0] - start[0])
            for i in range(int(rng.integers(1, 6))):
                # Every second track starts one cell further in, so that the vias have room.
                shift = (i, i % 2) if flat else (i % 2, i)
                self._route_between_vias(
                    (start[0] + shift[0], start[1] + shift[1]), (goal[0] + shift[0], goal[1] + shift[1])
                )

    def _route_between_vias(self, start: Node, goal: Node) -> None:
        if start == goal or not (self._has_room_for_via(start) and self._has_room_for_via(goal)):
            return
        net = self._new_net()
        self._net_nodes[net] = [start]
        self.grid.claim([start], net)
        if self._route(start, [goal]) is None:
            self.grid.claim([start], FREE)
        else:
            self._add_via(start)
            self._add_via(goal)

    def _is_connected(self, node: Node) -> bool:
        return self.grid.owner(node) == GROUND or len(self._net_nodes[self.grid.owner(node)]) > 1

    def _connect(self, start: Node, goal: Node) -> bool:
        """Route a track and merge the net of `goal` into the net of `start`; return False if there is no route.

        Two pads of one component are not connected: in a picture, the track would look like a short.
        """
        net, other = self.grid.owner(start), self.grid.owner(goal)
        if net == other or GROUND in (net, other) or self._net_parts[net] & self._net_parts[other]:
            return False
        if not self._route(start, self._net_nodes[other]):
            return False
        self.grid.merge(other, net)
        self._net_nodes[net] += self._net_nodes.pop(other)
        self._net_parts[net] |= self._net_parts.pop(other)
        self._paths = [(net if owner == other else owner, path) for owner, path in self._paths]
        return True

    def _route(self, start: Node, goals: Iterable[Node]) -> Node | None:
        """Route a track and return its far end; None if there is no route."""
        path = self.grid.route(start, goals)
        if path is None:
            return None
        net = self.grid.owner(start)
        self._paths.append((net, path))
        self._net_nodes[net].extend(path)
        return path[-1]

    # Vias and test points

    def _add_via(self, node: Node) -> None:
        tented = self._tented if self.rng.random() < 0.9 else not self._tented
        grounded = self.grid.owner(node) == GROUND
        self.vias.append(Via(node, self._via_cells, self._via_cells * 0.42, tented, grounded))

    def _has_room_for_via(self, node: Node) -> bool:
        row, column = node
        around = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        return self.grid.owner(node) == FREE and not any(self.grid.is_foreign_pad(other, FREE) for other in around)

    def add_test_points(self) -> None:
        """Add round test points without a hole, some connected and some isolated, and a few fiducials."""
        rng = self.rng
        for _ in range(int(rng.integers(3, 9))):
            node = self._open_node()
            if node is None:
                return
            self.grid.claim([node], self._new_net(), pad=True)
            self._net_nodes[self.grid.owner(node)] = [node]
            self._net_parts[self.grid.owner(node)] = set()
            self.test_points.append(node)
            if rng.random() < 0.6:
                self._connect_to_near_pad(node)
        for _ in range(int(rng.integers(0, 3))):
            node = self._open_node()
            if node is not None:
                row, column = node
                self.grid.claim([(r, c) for r in range(row - 1, row + 2) for c in range(column - 1, column + 2)], WALL)
                self.fiducials.append(node)

    def add_isolated_vias(self) -> None:
        """Add vias that no track on this layer reaches; in a pour, they connect it to the ground of other layers."""
        for _ in range(int(self.rng.integers(4, 16))):
            node = self._open_node()
            if node is not None:
                self.grid.claim([node], GROUND if self.poured else self._new_net())
                self._add_via(node)

    def _open_node(self) -> Node | None:
        """Return a random free node with free neighbours; None if a few tries find none."""
        free = self.grid.free_nodes()
        for _ in range(20 if free else 0):
            row, column = free[int(self.rng.integers(len(free)))]
            if all(
                self.grid.owner((r, c)) == FREE for r in range(row - 1, row + 2) for c in range(column - 1, column + 2)
            ):
                return row, column
        return None

    # Result

    def tracks(self) -> list[Track]:
        """Return all routed paths with their widths; a track is narrower next to a foreign pad."""
        tracks = []
        for net, path in self._paths:
            width = self._net_width[net]
            widths = []
            for row, column in path:
                around = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
                next_to_foreign_pad = any(self.grid.is_foreign_pad(node, net) for node in around)
                widths.append(min(width, 0.34) if next_to_foreign_pad else width)
            tracks.append(Track(tuple(path), tuple(widths)))
        return tracks


def _nodes_under(pad: Pad) -> list[Node]:
    """Return the grid nodes on which a track of another net would come too close to the pad."""
    down = int(pad.height_cells / 2 + 0.35)
    across = int(pad.width_cells / 2 + 0.35)
    return [(pad.row + r, pad.column + c) for r in range(-down, down + 1) for c in range(-across, across + 1)]


def _distance(part: Footprint, other: Footprint) -> float:
    a, b = _middle(part), _middle(other)
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _middle(part: Footprint) -> tuple[float, float]:
    top, left, bottom, right = part.outline_cells
    return (top + bottom) / 2, (left + right) / 2


def _pads_facing(part: Footprint, other: Footprint) -> list[Node]:
    """Return a component's pads, those nearest to the other component first."""
    row, column = _middle(other)
    nodes = part.pad_nodes()
    return sorted(nodes, key=lambda node: (node[0] - row) ** 2 + (node[1] - column) ** 2)
