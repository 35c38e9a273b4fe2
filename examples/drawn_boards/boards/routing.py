"""A small maze router: it connects grid nodes by tracks at 45 and 90 degrees that keep a distance from each other.

One grid cell is one track pitch. Tracks on neighbouring nodes or diagonals do not touch if no track is wider than about
0.6 cells, so tracks drawn along these paths cause no accidental short.
"""

import heapq
from collections.abc import Iterable

Node = tuple[int, int]
"""A grid node as (row, column)."""

FREE = 0
WALL = -1

_STRAIGHT_COST = 10
_DIAGONAL_COST = 14
_TURN_COST = (0, 3, 16)
"""Cost of a turn by 0, 45 and 90 degrees; the router makes no sharper turn."""
_CROWDED_COST = 5
_SEARCH_LIMIT = 1500
"""Number of visited nodes after which the router gives up a connection."""


class Grid:
    """The owner of each node of the routing grid: `FREE`, `WALL` or a net number (1, 2, ...)."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns
        self._stride = columns + 2  # a wall around the grid replaces bounds checks
        self._owner = [WALL] * (self._stride * (rows + 2))
        self._is_pad = bytearray(len(self._owner))
        for row in range(rows):
            start = self._index((row, 0))
            self._owner[start : start + columns] = [FREE] * columns
        s = self._stride
        # Clockwise from east; the two neighbours of a diagonal in this ring are the corners that it passes between.
        self._steps = (1, s + 1, s, s - 1, -1, -s - 1, -s, -s + 1)

    def _index(self, node: Node) -> int:
        return (node[0] + 1) * self._stride + node[1] + 1

    def _node(self, index: int) -> Node:
        return index // self._stride - 1, index % self._stride - 1

    def owner(self, node: Node) -> int:
        """Return the owner of a node; nodes outside the grid are walls."""
        if not (0 <= node[0] < self.rows and 0 <= node[1] < self.columns):
            return WALL
        return self._owner[self._index(node)]

    def is_foreign_pad(self, node: Node, net: int) -> bool:
        """Return whether a pad of another net than `net` lies on this node."""
        if self.owner(node) == WALL:
            return False
        index = self._index(node)
        return bool(self._is_pad[index]) and self._owner[index] != net

    def claim(self, nodes: Iterable[Node], owner: int, *, pad: bool = False) -> None:
        """Set the owner of nodes; nodes outside the grid are ignored."""
        for node in nodes:
            if 0 <= node[0] < self.rows and 0 <= node[1] < self.columns:
                self._owner[self._index(node)] = owner
                self._is_pad[self._index(node)] = pad

    def free_nodes(self) -> list[Node]:
        """Return all free nodes, row by row."""
        return [self._node(index) for index, owner in enumerate(self._owner) if owner == FREE]

    def route(self, start: Node, goals: Iterable[Node]) -> list[Node] | None:
        """Return the track of lowest cost from `start` to one of `goals`, or None if the limited search finds no track.

        The track may cross free nodes and nodes of the two nets that it connects. The net of `start` then owns its free
        nodes.
        """
        net = self.owner(start)
        goal_indices = {self._index(goal) for goal in goals}
        path = self._search(self._index(start), goal_indices)
        if path is None:
            return None
        for index in path:
            if self._owner[index] == FREE:
                self._owner[index] = net
        return [self._node(index) for index in path]

    def merge(self, net: int, into: int) -> None:
        """Give all nodes of `net` to the net `into`."""
        self._owner = [into if owner == net else owner for owner in self._owner]

    def _search(self, start: int, goals: set[int]) -> list[int] | None:
        stride, owner, is_pad, steps = self._stride, self._owner, self._is_pad, self._steps
        own_nets = {owner[start], *(owner[goal] for goal in goals)} - {FREE}
        visits_left = _SEARCH_LIMIT
        top, bottom = min(g // stride for g in goals), max(g // stride for g in goals)
        left, right = min(g % stride for g in goals), max(g % stride for g in goals)

        def remaining(index: int) -> int:
            row, column = divmod(index, stride)
            dy = max(top - row, row - bottom, 0)
            dx = max(left - column, column - right, 0)
            return _STRAIGHT_COST * max(dx, dy) + (_DIAGONAL_COST - _STRAIGHT_COST) * min(dx, dy)

        def is_foreign_pad(index: int) -> bool:
            return bool(is_pad[index]) and owner[index] not in own_nets

        best = {start: 0}
        previous: dict[int, tuple[int, int]] = {}
        heap = [(remaining(start), 0, start, -1)]
        while heap and visits_left > 0:
            _, cost, current, heading = heapq.heappop(heap)
            if cost > best[current]:
                continue
            if current in goals:
                path = [current]
                while path[-1] != start:
                    path.append(previous[path[-1]][0])
                return path[::-1]
            visits_left -= 1
            for direction in range(8):
                turn = 0 if heading < 0 else min((direction - heading) % 8, (heading - direction) % 8)
                if turn > 2:
                    continue
                neighbour = current + steps[direction]
                if owner[neighbour] != FREE and owner[neighbour] not in own_nets:
                    continue
                step_cost = _STRAIGHT_COST
                if direction & 1:
                    one, other = current + steps[direction - 1], current + steps[(direction + 1) % 8]
                    # A diagonal would pass too close to a foreign pad, and must not cross a foreign diagonal.
                    if is_foreign_pad(one) or is_foreign_pad(other):
                        continue
                    if owner[one] == owner[other] and owner[one] > 0:
                        continue
                    step_cost = _DIAGONAL_COST
                elif (
                    is_foreign_pad(neighbour + 1)
                    or is_foreign_pad(neighbour - 1)
                    or is_foreign_pad(neighbour + stride)
                    or is_foreign_pad(neighbour - stride)
                ):
                    step_cost += _CROWDED_COST
                total = cost + step_cost + _TURN_COST[turn]
                if total < best.get(neighbour, 1 << 30):
                    best[neighbour] = total
                    previous[neighbour] = (current, direction)
                    heapq.heappush(heap, (total + remaining(neighbour), total, neighbour, direction))
        return None
