"""Finds the lowest entry that a discard ratio retains: by counting, bit by bit, in nodes that OpenVINO runs fast."""

import math
from dataclasses import dataclass

from heatline.export.nodes import Nodes


@dataclass(frozen=True)
class Digits:
    """Binary digits of a threshold, each of which costs one pass over the entries."""

    exponent: int
    mantissa: int

    @property
    def lowest(self) -> float:
        """Lower attention counts as zero; with all digits, 2^-126, below which float32 itself loses digits."""
        return math.ldexp(1.0, 2 - 2**self.exponent)


EXACT = Digits(exponent=7, mantissa=23)
"""All digits of a float32 from 0 to 1: the threshold is exactly the entry that a sort would find."""
UNDER_BF16 = Digits(exponent=5, mantissa=9)
"""For attention from products in bf16, which have 8 digits. The softmax is float32 there too, so entries have all
digits, but most of them mean nothing.
"""


@dataclass(frozen=True)
class Threshold:
    """Tensors [layers, N]. The lowest retained entry lies in [found, above); with all bits it is `found`."""

    found: str
    above: str
    below: str
    """The number of entries below `found`."""


def find_threshold(nodes: Nodes, entries: str, tokens: int, discarded: int, digits: Digits) -> Threshold:
    """Find the threshold bit by bit from the top; each bit needs one count of the entries below.

    The threshold is the largest number with these digits that at most `discarded` entries lie below. The time does not
    depend on the picture. Counts add up parts of a matrix before they reduce them, as a node's cost grows with its
    output. All steps have the same constants, so that the engine compiles a step only once.

    Args:
        entries: attention [layers, N, tokens * tokens], from 0 to 1.
        discarded: from 1 to the number of entries minus 1.
    """
    parts, first = _parts(nodes, entries, tokens * tokens)
    zero = nodes.add("Mul", first, nodes.number(0.0))  # (layers, N)

    def count_below(candidate: str) -> str:
        column = nodes.add("Reshape", candidate, nodes.ints(0, 0, 1))  # keeps its arithmetic out of the large node
        total = nodes.add("ReduceSum", _sum(nodes, parts, column), nodes.ints(2), keepdims=0)
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
    """Return eight or four parts of equal size, and the first entry [layers, N], which the parts of an odd square omit.

    An odd square divided by 8 has the remainder 1, an even square divided by 4 has 0.
    """
    size = 8 if count % 8 <= 1 else 4
    parts = nodes.split(entries, [count % size] * (count % size) + [count // size] * size, axis=2)
    first = nodes.add("Slice", entries, nodes.ints(0), nodes.ints(1), nodes.ints(2))
    return parts[-size:], nodes.add("Reshape", first, nodes.ints(0, -1))


def _sum(nodes: Nodes, parts: list[str], candidate: str) -> str:
    """Count, for each index, the parts whose entry is below the candidate."""
    below = [nodes.truth(nodes.add("Less", part, candidate)) for part in parts]
    while len(below) > 1:
        below = [nodes.add("Add", one, other) for one, other in zip(below[::2], below[1::2], strict=True)]
    return below[0]
