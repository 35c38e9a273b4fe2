"""The lowest entry that a discard ratio keeps, in ONNX nodes that OpenVINO runs fast: found by counting, bit by bit."""

import math
from dataclasses import dataclass

from export.nodes import Nodes


@dataclass(frozen=True)
class Digits:
    """Binary digits of a threshold, each of which costs one pass over the entries."""

    exponent: int
    mantissa: int

    @property
    def lowest(self) -> float:
        """Attention below counts as none; with all digits, 2^-126, where float32 begins to lose digits itself."""
        return math.ldexp(1.0, 2 - 2**self.exponent)


EXACT = Digits(exponent=7, mantissa=23)
"""All that a float32 from 0 to 1 has: the threshold is the very entry that a sort would find."""
UNDER_BF16 = Digits(exponent=5, mantissa=9)
"""Where attention comes of products in bf16, which keep 8 digits. The softmax is float32 there too, so entries have all
their digits, most of them without a meaning.
"""


@dataclass(frozen=True)
class Threshold:
    """Tensors [layers, N]. The lowest entry to keep lies in [found, above); with all bits it is `found`."""

    found: str
    above: str
    below: str
    """How many entries are lower than `found`."""


def by_counting(nodes: Nodes, entries: str, tokens: int, discarded: int, digits: Digits) -> Threshold:
    """The threshold is built bit by bit from the top, each bit by one count of the entries below.

    It is the largest number of so many bits that at most `discarded` entries lie below, and takes as long for any
    picture. Counts add up parts of a matrix before they reduce them, as a node costs what it writes. All steps have the
    same constants, so that the engine compiles a step once for all.

    Args:
        entries: attention [layers, N, tokens * tokens], from 0 to 1.
        discarded: how many of them go, from 1 to one less than all.
    """
    parts, first = _parts(nodes, entries, tokens * tokens)
    zero = nodes.add("Mul", first, nodes.number(0.0))  # (layers, N)

    def count_below(candidate: str) -> str:
        beside = nodes.add("Reshape", candidate, nodes.ints(0, 0, 1))  # keeps its arithmetic out of the large node
        total = nodes.add("ReduceSum", _sum(nodes, parts, beside), nodes.ints(2), keepdims=0)
        if tokens % 2 == 0:
            return total
        return nodes.add("Add", total, nodes.truth(nodes.add("Less", first, candidate)))

    found, below = nodes.add("Add", zero, nodes.number(digits.lowest)), zero

    def raise_to(candidate: str) -> None:
        nonlocal found, below
        lower = count_below(candidate)
        fits = nodes.add("LessOrEqual", lower, nodes.number(float(discarded)))
        found, below = nodes.add("Where", fits, candidate, found), nodes.add("Where", fits, lower, below)

    factor = nodes.add("Add", zero, nodes.number(2.0**2 ** (digits.exponent - 1)))
    for _ in range(digits.exponent):
        raise_to(nodes.add("Mul", found, factor))
        factor = nodes.add("Sqrt", factor)  # exact: 2^64, 2^32, ... 2
    power = step = found
    for _ in range(digits.mantissa):
        step = nodes.add("Mul", step, nodes.number(0.5))
        raise_to(nodes.add("Add", found, step))
    above = nodes.add("Add", found, nodes.add("Mul", power, nodes.number(2.0**-digits.mantissa)))
    return Threshold(found, above, below)


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
