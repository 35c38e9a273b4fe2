"""A small maze router: joins grid nodes by 45/90 degree tracks that keep clear of each other.

One grid cell is one track pitch, so two tracks on neighbouring nodes, or on neighbouring diagonals, never touch as long
as no track is wider than about 0.6 cells. Everything drawn along these paths is therefore free of accidental shorts.
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
"""Price of turning by 0, 45 and 90 degrees; sharper turns are not made."""
_CROWDED_COST = 5
_SEARCH_LIMIT = 1500
"""Nodes looked at before a connection is given up."""


class Grid:
    """Who owns which node of the routing grid: `FREE`, `WALL` or a net number (1, 2, ...)."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns
        self._stride = columns + 2  # a wall all around spares every bounds check
        self._owner = [WALL] * (self._stride * (rows + 2))
        self._is_pad = bytearray(len(self._owner))
        for row in range(rows):
            start = self._index((row, 0))
            self._owner[start : start + columns] = [FREE] * columns
        s = self._stride
        # Clockwise from east; for a diagonal, its two neighbours in this ring are the corners it squeezes between.
        self._steps = (1, s + 1, s, s - 1, -1, -s - 1, -s, -s + 1)

    def _index(self, node: Node) -> int:
        return (node[0] + 1) * self._stride + node[1] + 1

    def _node(self, index: int) -> Node:
        return index // self._stride - 1, index % self._stride - 1

    def owner(self, node: Node) -> int:
        """The owner of a node; nodes outside the grid are walls."""
        if not (0 <= node[0] < self.rows and 0 <= node[1] < self.columns):
            return WALL
        return self._owner[self._index(node)]

    def is_foreign_pad(self, node: Node, net: int) -> bool:
        """Whether a pad of another net than `net` sits on this node."""
        if self.owner(node) == WALL:
            return False
        index = self._index(node)
        return bool(self._is_pad[index]) and self._owner[index] != net

    def claim(self, nodes: Iterable[Node], owner: int, *, pad: bool = False) -> None:
        """Give nodes to an owner; nodes outside the grid are ignored."""
        for node in nodes:
            if 0 <= node[0] < self.rows and 0 <= node[1] < self.columns:
                self._owner[self._index(node)] = owner
                self._is_pad[self._index(node)] = pad

    def free_nodes(self) -> list[Node]:
        """All nodes nothing has been put on, row by row."""
        return [self._node(index) for index, owner in enumerate(self._owner) if owner == FREE]

    def route(self, start: Node, goals: Iterable[Node]) -> list[Node] | None:
        """The cheapest track from `start` to one of `goals`, or None if a reasonable search finds none.

        The track may run over free nodes and over nodes of the two nets it joins; its free nodes become the start's.
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
        """Make one net of two."""
        self._owner = [into if owner == net else owner for owner in self._owner]

    def _search(self, start: int, goals: set[int]) -> list[int] | None:
        stride, owner, is_pad, steps = self._stride, self._owner, self._is_pad, self._steps
        ours = {owner[start], *(owner[goal] for goal in goals)} - {FREE}
        effort = _SEARCH_LIMIT
        top, bottom = min(g // stride for g in goals), max(g // stride for g in goals)
        left, right = min(g % stride for g in goals), max(g % stride for g in goals)

        def remaining(index: int) -> int:
            row, column = divmod(index, stride)
            dy = max(top - row, row - bottom, 0)
            dx = max(left - column, column - right, 0)
            return _STRAIGHT_COST * max(dx, dy) + (_DIAGONAL_COST - _STRAIGHT_COST) * min(dx, dy)

        best = {start: 0}
        came: dict[int, tuple[int, int]] = {}
        heap = [(remaining(start), 0, start, -1)]
        while heap and effort > 0:
            _, cost, here, heading = heapq.heappop(heap)
            if cost > best[here]:
                continue
            if here in goals:
                path = [here]
                while path[-1] != start:
                    path.append(came[path[-1]][0])
                return path[::-1]
            effort -= 1
            for direction in range(8):
                turn = 0 if heading < 0 else min((direction - heading) % 8, (heading - direction) % 8)
                if turn > 2:
                    continue
                there = here + steps[direction]
                if owner[there] != FREE and owner[there] not in ours:
                    continue
                price = _STRAIGHT_COST
                if direction & 1:
                    one, other = here + steps[direction - 1], here + steps[(direction + 1) % 8]
                    # A diagonal passes too close to a foreign pad, and may not cross a foreign diagonal.
                    if any(is_pad[corner] and owner[corner] not in ours for corner in (one, other)):
                        continue
                    if owner[one] == owner[other] and owner[one] > 0:
                        continue
                    price = _DIAGONAL_COST
                elif any(is_pad[there + s] and owner[there + s] not in ours for s in (1, -1, stride, -stride)):
                    price += _CROWDED_COST
                total = cost + price + _TURN_COST[turn]
                if total < best.get(there, 1 << 30):
                    best[there] = total
                    came[there] = (here, direction)
                    heapq.heappush(heap, (total + remaining(there), total, there, direction))
        return None
