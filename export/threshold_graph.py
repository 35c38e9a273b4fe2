"""The lowest entry that a discard ratio keeps, in ONNX nodes: two ways to the same float32, as engines differ.

Both take the entries [layers, N, tokens * tokens] and how many of them go, and give three tensors [layers, N]: the
lowest entry to keep, the next float32 above it, and how many entries are lower. Entries are attention: from 0 to 1.
"""

from collections.abc import Callable

import numpy as np

from export.nodes import Nodes

FindThreshold = Callable[[Nodes, str, int, int], tuple[str, str, str]]
"""From nodes, entries, tokens and the number of entries to discard."""

EXPONENT_BITS, MANTISSA_BITS = 5, 23
LOWEST = 2.0**-30
"""Attention below counts as none: a whole row of such entries is 2e-7 for 197 tokens, where all of a row is 1."""


def by_counting(nodes: Nodes, entries: str, tokens: int, discarded: int) -> tuple[str, str, str]:
    """For OpenVINO: the threshold is built bit by bit from the top, each bit by one count of the entries below.

    It is the largest float32 that at most `discarded` entries lie below, so it is the very entry that a sort would
    find; and it takes as long for any picture. Counts add up parts of a matrix before they reduce them, as a node costs
    what it writes. All steps have the same constants, so that the engine compiles a step once for all 28.
    """
    parts, first = _parts(nodes, entries, tokens * tokens)
    zero = nodes.add("Mul", first, nodes.number(0.0))  # (layers, N)

    def count_below(candidate: str) -> str:
        beside = nodes.add("Reshape", candidate, nodes.ints(0, 0, 1))  # keeps its arithmetic out of the large node
        total = nodes.add("ReduceSum", _sum(nodes, parts, beside), nodes.ints(2), keepdims=0)
        if tokens % 2 == 0:
            return total
        return nodes.add("Add", total, nodes.truth(nodes.add("Less", first, candidate)))

    found, below = nodes.add("Add", zero, nodes.number(LOWEST)), zero

    def raise_to(candidate: str) -> None:
        nonlocal found, below
        lower = count_below(candidate)
        fits = nodes.add("LessOrEqual", lower, nodes.number(float(discarded)))
        found, below = nodes.add("Where", fits, candidate, found), nodes.add("Where", fits, lower, below)

    factor = nodes.add("Add", zero, nodes.number(2.0**2 ** (EXPONENT_BITS - 1)))
    for _ in range(EXPONENT_BITS):
        raise_to(nodes.add("Mul", found, factor))
        factor = nodes.add("Sqrt", factor)  # exact: 2^16, 2^8, ... 2
    power = step = found
    for _ in range(MANTISSA_BITS):
        step = nodes.add("Mul", step, nodes.number(0.5))
        raise_to(nodes.add("Add", found, step))
    return found, nodes.add("Add", found, nodes.add("Mul", power, nodes.number(2.0**-MANTISSA_BITS))), below


def _parts(nodes: Nodes, entries: str, count: int) -> tuple[list[str], str]:
    """Eight or four parts of equal size, and the first entry [layers, N], which the parts of an odd square leave out.

    An odd square leaves 1 when it is divided by 8, an even one 0 when it is divided by 4.
    """
    size = 8 if count % 8 <= 1 else 4
    parts = nodes.split(entries, [count % size] * (count % size) + [count // size] * size, axis=2)
    first = nodes.add("Slice", entries, nodes.ints(0), nodes.ints(1), nodes.ints(2))
    return parts[-size:], nodes.add("Reshape", first, nodes.ints(0, -1))


def _sum(nodes: Nodes, parts: list[str], candidate: str) -> str:
    """In how many parts the entry at each place is below the candidate."""
    below = [nodes.truth(nodes.add("Less", part, candidate)) for part in parts]
    while len(below) > 1:
        below = [nodes.add("Add", one, other) for one, other in zip(below[::2], below[1::2], strict=True)]
    return below[0]


def by_selection(nodes: Nodes, entries: str, tokens: int, discarded: int) -> tuple[str, str, str]:
    """For ONNX Runtime, which writes every step of a count to memory: the end that is nearer, by TopK, unsorted."""
    kept = tokens * tokens - discarded
    if kept <= discarded:
        nearer = nodes.add_first_of(2, "TopK", entries, nodes.ints(kept), axis=2, largest=1, sorted=0)
        found = nodes.add("ReduceMin", nearer, nodes.ints(2), keepdims=0)
    else:
        nearer = nodes.add_first_of(2, "TopK", entries, nodes.ints(discarded + 1), axis=2, largest=0, sorted=0)
        found = nodes.add("ReduceMax", nearer, nodes.ints(2), keepdims=0)
    below = nodes.count(nodes.add("Less", entries, nodes.add("Reshape", found, nodes.ints(0, -1, 1))), 2)
    return found, nodes.add("Mul", found, nodes.number(1 + float(np.finfo(np.float32).eps))), below
