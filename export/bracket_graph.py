"""Discards a ViT's lowest attention in ONNX nodes that are fast in ONNX Runtime: a bracket, and a sort of the rest.

A full TopK costs as much as the classifier's attention, as its cost grows with the number of entries that it returns. A
count of the entries below a value is cheap. So a few counts narrow a bracket around the wanted entry, until some ten or
twenty entries lie inside; only these are sorted. The result is always exact: unlucky counts only make the sort longer.

- The first two values come from a sorted sample, as it shows an uneven distribution of the entries.
- The others come from linear interpolation between the bracket's ends, which is nearly exact between close ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from heatline.export.nodes import Nodes

SAMPLE = 600
"""How many entries of a matrix are sorted as a sample; all if there are fewer than twice as many."""
TO_THE_MIDDLE = (0.03, 0.1, 0.2, 0.5)
"""How far each interpolated value is moved to the middle of the bracket, so that the farther end moves too."""
ABOVE_ALL = 2.0


def discard_lowest(nodes: Nodes, layers: Sequence[str], tokens: int, discarded: int) -> list[str]:
    """Set the `discarded` lowest entries of each layer's fused attention [N, tokens * tokens] to zero.

    Among equal entries, those with the lowest index are discarded first.

    Args:
        layers: entries from 0 to 1.
        discarded: from 1 to the number of entries minus 1.
    """
    entries = _Entries(nodes, nodes.add("Concat", *layers, axis=0), tokens)
    bracket = _find_bracket(nodes, entries, discarded)
    between = nodes.add("ReduceMax", nodes.add("Sub", bracket.below_high, bracket.below_low), keepdims=0)
    longest = nodes.add("Reshape", nodes.add("Cast", between, to=TensorProto.INT64), nodes.ints(1))

    above_bracket, values, places = [], [], []
    for layer, high in zip(layers, nodes.split_evenly(bracket.high, len(layers), axis=0), strict=True):
        lower = nodes.add("Mul", layer, nodes.truth(nodes.add("Less", layer, high)))  # much faster than a Where
        above_bracket.append(nodes.add("Sub", layer, lower))
        value, place = nodes.add_with_outputs(2, "TopK", lower, longest, axis=1)
        values.append(value)
        places.append(place)

    remaining = nodes.add("Sub", bracket.below_high, nodes.number(float(discarded)))
    all_values, all_places = (nodes.add("Concat", *parts, axis=0) for parts in (values, places))
    added = _highest(nodes, all_values, all_places, remaining, longest)
    additions = nodes.split_evenly(added, len(layers), axis=0)
    return [
        nodes.add("ScatterElements", *inputs, axis=1, reduction="add")
        for inputs in zip(above_bracket, places, additions, strict=True)
    ]


@dataclass(frozen=True)
class _Entries:
    """The entries of all layers in one tensor, so that few nodes keep all cores busy."""

    nodes: Nodes
    stacked: str
    """[layers * N, tokens * tokens]"""
    tokens: int

    def count_below(self, value: str) -> str:
        """Count the entries that are lower than a value [layers * N, 1]. A product of bytes and ones is faster than a
        sum of floats.
        """
        nodes = self.nodes
        is_lower = nodes.add("Cast", nodes.add("Less", self.stacked, value), to=TensorProto.UINT8)
        ones = nodes.constant("ones", np.ones((self.tokens**2, 1), np.int8))  # signed bytes are twice as fast
        return nodes.add("Cast", nodes.add("MatMulInteger", is_lower, ones), to=TensorProto.FLOAT)


@dataclass
class _Bracket:
    """Two values [layers * N, 1]; the lowest entry to retain is at least `low` and less than `high`."""

    low: str
    below_low: str
    """The number of entries below `low`: at most the number to discard."""
    high: str
    below_high: str
    """The number of entries below `high`: more than the number to discard."""

    def narrow(self, nodes: Nodes, value: str, below: str, discarded: int) -> None:
        """Replace the lower or the upper end by a value, according to the number of entries below it."""
        is_low = nodes.add("LessOrEqual", below, nodes.number(float(discarded)))
        self.low = nodes.add("Where", is_low, value, self.low)
        self.below_low = nodes.add("Where", is_low, below, self.below_low)
        self.high = nodes.add("Where", is_low, self.high, value)
        self.below_high = nodes.add("Where", is_low, self.below_high, below)


def _find_bracket(nodes: Nodes, entries: _Entries, discarded: int) -> _Bracket:
    wanted = nodes.number(discarded + 0.5)
    sample = _sorted_sample(nodes, entries, discarded)

    value = nodes.add("Slice", sample.values, nodes.ints(sample.place), nodes.ints(sample.place + 1), nodes.ints(1))
    below = entries.count_below(value)
    zero = nodes.add("Mul", value, nodes.number(0.0))
    bracket = _Bracket(
        low=zero,
        below_low=zero,
        high=nodes.add("Add", zero, nodes.number(ABOVE_ALL)),
        below_high=nodes.add("Add", zero, nodes.number(float(entries.tokens**2))),
    )
    bracket.narrow(nodes, value, below, discarded)

    # Move along the sample by the error of the count, and well beyond: a bracket that ends at 0 or 2 is too wide.
    steps = nodes.add("Mul", nodes.add("Sub", wanted, below), nodes.number(sample.direction / sample.stride))
    deviations = nodes.add("Mul", nodes.add("Sqrt", nodes.add("Abs", steps)), nodes.number(4.0))
    beyond = nodes.add("Mul", nodes.add("Sign", steps), nodes.add("Add", deviations, nodes.number(4.0)))
    place = nodes.add("Add", nodes.number(float(sample.place)), nodes.add("Add", steps, beyond))
    place = nodes.add("Clip", place, nodes.number(0.0), nodes.number(float(sample.length - 1)))
    value = nodes.add("GatherElements", sample.values, nodes.add("Cast", place, to=TensorProto.INT64), axis=1)
    bracket.narrow(nodes, value, entries.count_below(value), discarded)

    for share in TO_THE_MIDDLE:
        between = nodes.add("Sub", bracket.below_high, bracket.below_low)
        along = nodes.add("Div", nodes.add("Sub", wanted, bracket.below_low), between)
        along = nodes.add("Add", nodes.add("Mul", along, nodes.number(1 - share)), nodes.number(share / 2))
        width = nodes.add("Sub", bracket.high, bracket.low)
        value = nodes.add("Add", bracket.low, nodes.add("Mul", along, width))
        bracket.narrow(nodes, value, entries.count_below(value), discarded)
    return bracket


@dataclass(frozen=True)
class _Sample:
    values: str
    """[layers * N, length], sorted from the end that is nearer to the wanted entry."""
    length: int
    stride: int
    """One entry of the sample stands for this many entries."""
    place: int
    """The estimated index of the wanted entry in the sample."""
    direction: float
    """1 if the values rise along the sample, -1 if they fall."""


def _sorted_sample(nodes: Nodes, entries: _Entries, discarded: int) -> _Sample:
    count = entries.tokens**2
    stride = max(1, count // SAMPLE)
    size = len(range(stride // 2, count, stride))
    sample = nodes.add(
        "Slice", entries.stacked, nodes.ints(stride // 2), nodes.ints(count), nodes.ints(1), nodes.ints(stride)
    )
    from_below = min(discarded // stride, size - 1)
    falling = discarded >= count / 2
    place = size - 1 - from_below if falling else from_below
    length = min(size, place + 1 + 10 + size // 12)
    values, _ = nodes.add_with_outputs(2, "TopK", sample, nodes.ints(length), axis=1, largest=int(falling))
    return _Sample(values, length, stride, place, -1.0 if falling else 1.0)


def _highest(nodes: Nodes, values: str, places: str, wanted: str, longest: str) -> str:
    """Return the descending values [layers * N, longest], with zeros after the wanted number [layers * N, 1] of them.

    Among equal values, those with the highest index are retained. Engines order equal values differently, so their
    indices are sorted.
    """

    def nth(tensor: str, number: str) -> str:
        index = nodes.add("Cast", nodes.add("Sub", number, nodes.number(1.0)), to=TensorProto.INT64)
        return nodes.add("GatherElements", tensor, index, axis=1)

    lowest = nth(values, wanted)
    is_higher = nodes.add("Greater", values, lowest)
    ties = nodes.add("Sub", wanted, nodes.count(is_higher, 1, keepdims=True))
    from_one = nodes.add("Add", nodes.add("Cast", places, to=TensorProto.FLOAT), nodes.number(1.0))
    place_of_tie = nodes.add("Mul", from_one, nodes.truth(nodes.add("Equal", values, lowest)))
    falling, _ = nodes.add_with_outputs(2, "TopK", place_of_tie, longest, axis=1)
    is_last_tie = nodes.add("GreaterOrEqual", place_of_tie, nth(falling, ties))
    return nodes.add("Mul", values, nodes.truth(nodes.add("Or", is_higher, is_last_tie)))
