"""Attention rollout as ONNX nodes: the result of `heatline.train.models.vit`, in few passes over the matrices.

Only the row of the class token is needed, so the rollout is a vector times each layer, last layer first. The threshold
of a discard ratio then has most of the cost. A graph's cost is the number of its nodes and the memory that they read
and write; these nodes are those that are fast in OpenVINO. None multiplies matrices: OpenVINO computes what comes after
the last matrix product in float32, so counts and thresholds stay exact under bf16 too."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from heatline.edge.errors import ExportError
from heatline.train.models.vit import Fusion, discarded

EXPLANATION = "explanation/"
"""Prefix of the names of nodes that only the map needs, in the ONNX graph and in the IR made from it."""


class Nodes:
    """The nodes of the explanation, and their constants. A node's name is unique and shows its part of the graph."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        name = self._name(kind)
        self._nodes.append(helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name

    def split(self, tensor: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Split a tensor along an axis into parts of these sizes."""
        if len(sizes) == 1:
            return [tensor]
        name, lengths = self._name("Split"), self.ints(*sizes)
        names = [f"{name}_{number}" for number in range(len(sizes))]
        self._nodes.append(helper.make_node("Split", [tensor, lengths], names, name=name, axis=axis))
        return names

    def truth(self, condition: str) -> str:
        """Convert true to 1.0 and false to 0.0."""
        return self.add("Cast", condition, to=TensorProto.FLOAT)

    def count(self, condition: str, axis: int, *, keepdims: bool = False) -> str:
        """Count the true values along an axis."""
        return self.add("ReduceSum", self.truth(condition), self.ints(axis), keepdims=int(keepdims))

    def number(self, value: float) -> str:
        return self.constant(f"float_{value!r}", np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def axis(self, axis: int) -> str:
        return self.constant(f"axis_{axis}", np.array(axis, np.int64))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Return the constant with a name that states its value; the same name gives the same constant."""
        name = EXPLANATION + name
        self._constants.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def append_to(self, graph: ModelProto) -> None:
        graph.graph.node.extend(self._nodes)
        graph.graph.initializer.extend(self._constants.values())

    def _name(self, kind: str) -> str:
        return f"{EXPLANATION}{kind}_{len(self._nodes)}"


MOST_PAIRS = 2**24
"""Pairs of tokens: float32 can count no further one by one, which a discard ratio requires."""


@dataclass(frozen=True)
class Rollout:
    """The parameters of a ViT's rollout."""

    tokens: int
    prefix_tokens: int
    """Tokens before the patches; the first is the class token."""
    heads: int
    map_hw: tuple[int, int]
    fusion: Fusion
    discard_ratio: float

    @property
    def discarded(self) -> int:
        """How many entries of each layer's fused attention are discarded."""
        return discarded(self.tokens * self.tokens, self.discard_ratio)


def append_rollout(
    graph: ModelProto, rollout: Rollout, attentions: Sequence[str], logit: str, digits: "Digits"
) -> None:
    """Add the rollout's nodes to a graph, with the output `map` [N, h, w].

    Args:
        attentions: tensors [N, heads, tokens, tokens], first layer first; rows sum to 1.
        logit: the tensor [N] that the map spreads over the patches.
        digits: of the thresholds of a discard ratio.
    Raises:
        ExportError: the model has more tokens than can be counted.
    """
    tokens = rollout.tokens
    if rollout.discarded and tokens * tokens >= MOST_PAIRS:
        raise ExportError(
            f"{tokens} tokens make {tokens * tokens:,} pairs, and float32 counts to {MOST_PAIRS:,}; choose smaller "
            "tiles, a model with larger patches, or model.discard_ratio=0"
        )
    nodes = Nodes()
    patches = nodes.add(
        "Slice",
        class_token_row(nodes, rollout, attentions, digits),
        nodes.ints(rollout.prefix_tokens),
        nodes.ints(tokens),
        nodes.ints(1),
    )
    patches = nodes.add("Add", patches, nodes.number(1e-30))  # if all patches are zero, they count equally
    relevance = nodes.add("Div", patches, nodes.add("ReduceMean", patches, nodes.ints(1), keepdims=1))
    spread = nodes.add("Mul", relevance, nodes.add("Reshape", logit, nodes.ints(-1, 1)))
    nodes.add("Reshape", spread, nodes.ints(-1, *rollout.map_hw), output="map")
    nodes.append_to(graph)
    batch = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    graph.graph.output.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, [batch, *rollout.map_hw]))


def fuse_heads(nodes: Nodes, attention: str, rollout: Rollout) -> str:
    """Fuse the heads to [N, 1, tokens, tokens]. One node over separate heads is several times as fast as a reduction
    over their axis.
    """
    heads = nodes.split(attention, [1] * rollout.heads, axis=1)
    match rollout.fusion:
        case "min":
            return nodes.add("Min", *heads)
        case "mean":
            return nodes.add("Mul", nodes.add("Sum", *heads), nodes.number(1 / rollout.heads))
        case "max":
            return nodes.add("Max", *heads)


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
        sums = [nodes.truth(nodes.add("Less", part, column)) for part in parts]  # to be added pairwise
        while len(sums) > 1:
            sums = [nodes.add("Add", one, other) for one, other in zip(sums[::2], sums[1::2], strict=True)]
        total = nodes.add("ReduceSum", sums[0], nodes.ints(2), keepdims=0)
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


LAYERS_AT_ONCE = 6
"""Half of ViT-tiny's twelve. All twelve need the fewest nodes, but with eight tiles per request exceed the cache."""


def class_token_row(nodes: Nodes, rollout: Rollout, attentions: Sequence[str], digits: Digits) -> str:
    """Return the row of the class token [N, tokens]; with digits `EXACT` it is that of
    `heatline.train.models.vit.class_token_row`.
    """
    layers: list[_Layer] = []
    for first in range(0, len(attentions), LAYERS_AT_ONCE):
        layers += _layers(nodes, rollout, attentions[first : first + LAYERS_AT_ONCE], digits)
    return _chain(nodes, layers, rollout.tokens)


@dataclass(frozen=True)
class _Layer:
    """A layer's fused attention without its lowest entries, as `_discard_lowest` returns it."""

    kept: str
    """[N, tokens, tokens]"""
    is_row: str | None = None
    leftover: str | None = None
    """[N, tokens]; both or neither are set."""


def _layers(nodes: Nodes, rollout: Rollout, attentions: Sequence[str], digits: Digits) -> list[_Layer]:
    tokens, discarded = rollout.tokens, rollout.discarded
    fused = [
        nodes.add("Reshape", fuse_heads(nodes, attention, rollout), nodes.ints(1, -1, tokens * tokens))
        for attention in attentions
    ]
    entries = nodes.add("Concat", *fused, axis=0)  # (layers, N, tokens * tokens)
    square = nodes.add("Reshape", entries, nodes.ints(0, 0, tokens, tokens))

    def by_layer(tensor: str, *shape: int) -> list[str]:
        parts = nodes.split(tensor, [1] * len(attentions), axis=0)
        return [nodes.add("Reshape", part, nodes.ints(-1, *shape)) for part in parts]

    if not discarded:
        return [_Layer(kept) for kept in by_layer(square, tokens, tokens)]
    threshold = find_threshold(nodes, entries, tokens, discarded, digits)
    if digits != EXACT:  # the threshold is not an entry: all entries from it on remain, and there are no ties
        is_low = nodes.add("Less", square, nodes.add("Reshape", threshold.found, nodes.ints(0, -1, 1, 1)))
        kept_entries = nodes.add("Where", is_low, nodes.number(0.0), square)
        return [_Layer(kept) for kept in by_layer(kept_entries, tokens, tokens)]
    square, is_row, leftover = _discard_lowest(nodes, square, tokens, discarded, threshold)
    ties = zip(by_layer(is_row, tokens), by_layer(leftover, tokens), strict=True)
    return [_Layer(kept, *tie) for kept, tie in zip(by_layer(square, tokens, tokens), ties, strict=True)]


def _discard_lowest(
    nodes: Nodes, square: str, tokens: int, discarded: int, threshold: Threshold
) -> tuple[str, str, str]:
    """Discard the lowest `discarded` entries of matrices [layers, N, tokens, tokens], except some ties in one row.

    Among entries at the threshold, those with the lowest index are discarded first: whole rows at the top, then some
    entries of one row. The vector chain subtracts the latter, so that no further pass over the matrices is needed.

    Returns:
        The matrices; 1 at the row that still has surplus entries, else 0; the surplus entries along that row. The last
        two are [layers, N, tokens].
    """
    per_row = nodes.ints(0, -1, 1)
    found, above = (nodes.add("Reshape", value, per_row) for value in (threshold.found, threshold.above))
    ties_to_discard = nodes.add("Reshape", nodes.add("Sub", nodes.number(float(discarded)), threshold.below), per_row)

    is_tie = nodes.add("Equal", square, nodes.add("Reshape", threshold.found, nodes.ints(0, -1, 1, 1)))
    seen = nodes.add("CumSum", nodes.count(is_tie, 3), nodes.axis(2))  # (layers, N, tokens), down to each row
    is_whole_row = nodes.add("LessOrEqual", seen, ties_to_discard)
    row = nodes.add("Min", nodes.count(is_whole_row, 2, keepdims=True), nodes.number(float(tokens - 1)))
    in_whole_rows = nodes.add("ReduceMax", nodes.add("Mul", seen, nodes.truth(is_whole_row)), nodes.ints(2), keepdims=1)

    row_entries = nodes.add("GatherND", square, nodes.add("Cast", row, to=TensorProto.INT64), batch_dims=2)
    row_ties = nodes.truth(nodes.add("Equal", row_entries, found))  # (layers, N, tokens)
    row_seen = nodes.add("CumSum", row_ties, nodes.axis(2))
    is_surplus = nodes.truth(nodes.add("LessOrEqual", row_seen, nodes.add("Sub", ties_to_discard, in_whole_rows)))
    leftover = nodes.add("Mul", nodes.add("Mul", row_ties, is_surplus), found)

    index = nodes.constant("index", np.arange(tokens, dtype=np.float32).reshape(1, 1, tokens))
    is_row = nodes.truth(nodes.add("Equal", index, row))
    lowest = nodes.add("Where", is_whole_row, above, found)  # (layers, N, tokens)
    is_low = nodes.add("Less", square, nodes.add("Reshape", lowest, nodes.ints(0, -1, tokens, 1)))
    return nodes.add("Where", is_low, nodes.number(0.0), square), is_row, leftover


def _chain(nodes: Nodes, layers: Sequence[_Layer], tokens: int) -> str:
    row = nodes.constant("class_token", np.eye(1, tokens, dtype=np.float32))
    for layer in reversed(layers):
        totals = nodes.add("Add", nodes.add("ReduceSum", layer.kept, nodes.ints(2), keepdims=0), nodes.number(1.0))
        if layer.is_row and layer.leftover:
            surplus = nodes.add("ReduceSum", layer.leftover, nodes.ints(1), keepdims=1)
            totals = nodes.add("Sub", totals, nodes.add("Mul", layer.is_row, surplus))
        share = nodes.add("Div", row, totals)
        weighted = nodes.add("Mul", nodes.add("Reshape", share, nodes.ints(0, tokens, 1)), layer.kept)
        product = nodes.add("ReduceSum", weighted, nodes.ints(1), keepdims=0)
        if layer.is_row and layer.leftover:
            at_row = nodes.add("ReduceSum", nodes.add("Mul", share, layer.is_row), nodes.ints(1), keepdims=1)
            product = nodes.add("Sub", product, nodes.add("Mul", at_row, layer.leftover))
        row = nodes.add("Add", product, share)
    return row
