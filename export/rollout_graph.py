"""Attention rollout as ONNX nodes, made to cost next to nothing on a processor, and exact.

What `train.models.rollout` says in whole matrices is said here in few passes over them. Only the row of the class token
is read, so the rollout is a vector times each layer, last layer first. What is left of the cost is the threshold of a
discard ratio (`export.threshold_graph`), which is sought in all layers at once: a graph like this one costs what its
nodes read and write, and their number.

No node multiplies matrices. OpenVINO computes all that lies behind the last matrix product in float32, whatever its
precision hint is, so that counts and thresholds stay exact under bf16 too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper

from edge.errors import ExportError
from export.nodes import Nodes
from export.threshold_graph import FindThreshold
from train.models.rollout import Fusion

MOST_PAIRS = 2**24
"""Of tokens: more than float32 can count one by one."""


@dataclass(frozen=True)
class Rollout:
    """What the rollout of a ViT is made of."""

    tokens: int
    prefix_tokens: int
    """Tokens before the patches; the first is the class token."""
    heads: int
    map_hw: tuple[int, int]
    fusion: Fusion
    discard_ratio: float


def append_rollout(
    graph: ModelProto, rollout: Rollout, attentions: Sequence[str], logit: str, find_threshold: FindThreshold
) -> None:
    """Add the rollout's nodes to a graph, with the output `map` [N, h, w].

    Args:
        attentions: tensors [N, heads, tokens, tokens], first layer first; rows sum to 1.
        logit: the tensor [N] that the map spreads over the patches.
        find_threshold: how the lowest entry to keep is found; engines differ in what is fast.
    Raises:
        ExportError: more tokens than can be counted.
    """
    tokens = rollout.tokens
    if tokens * tokens >= MOST_PAIRS:
        raise ExportError(
            f"{tokens} tokens make {tokens * tokens:,} pairs, and float32 counts to {MOST_PAIRS:,}; choose smaller "
            "tiles, or a model with larger patches"
        )
    nodes = Nodes()
    fused = [
        nodes.add("Reshape", _fuse_heads(nodes, attention, rollout), nodes.ints(1, -1, tokens * tokens))
        for attention in attentions
    ]
    entries = nodes.add("Concat", *fused, axis=0)  # (layers, N, tokens * tokens)
    square = nodes.add("Reshape", entries, nodes.ints(0, 0, tokens, tokens))
    discarded = math.floor(rollout.discard_ratio * tokens * tokens)

    def by_layer(tensor: str, *shape: int) -> list[str]:
        parts = nodes.split(tensor, [1] * len(attentions), axis=0)
        return [nodes.add("Reshape", part, nodes.ints(-1, *shape)) for part in parts]

    if discarded:
        threshold = find_threshold(nodes, entries, tokens, discarded)
        square, is_row, leftover = _discard_lowest(nodes, square, tokens, discarded, *threshold)
        ties = zip(by_layer(is_row, tokens), by_layer(leftover, tokens), strict=True)
        layers = [_Layer(kept, *tie) for kept, tie in zip(by_layer(square, tokens, tokens), ties, strict=True)]
    else:
        layers = [_Layer(kept) for kept in by_layer(square, tokens, tokens)]

    patches = nodes.add(
        "Slice",
        _class_token_row(nodes, layers, tokens),
        nodes.ints(rollout.prefix_tokens),
        nodes.ints(tokens),
        nodes.ints(1),
    )
    patches = nodes.add("Add", patches, nodes.number(1e-30))  # where nothing of any patch is left, all count the same
    relevance = nodes.add("Div", patches, nodes.add("ReduceMean", patches, nodes.ints(1), keepdims=1))
    spread = nodes.add("Mul", relevance, nodes.add("Reshape", logit, nodes.ints(-1, 1)))
    nodes.add("Reshape", spread, nodes.ints(-1, *rollout.map_hw), output="map")
    nodes.append_to(graph)
    batch = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    graph.graph.output.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, [batch, *rollout.map_hw]))


def _fuse_heads(nodes: Nodes, attention: str, rollout: Rollout) -> str:
    """[N, 1, tokens, tokens]; one node over heads apart is several times as fast as a reduction over their axis."""
    heads = nodes.split(attention, [1] * rollout.heads, axis=1)
    match rollout.fusion:
        case "min":
            return nodes.add("Min", *heads)
        case "mean":
            return nodes.add("Mul", nodes.add("Sum", *heads), nodes.number(1 / rollout.heads))
        case "max":
            return nodes.add("Max", *heads)


def _discard_lowest(
    nodes: Nodes, square: str, tokens: int, discarded: int, threshold: str, next_above: str, below: str
) -> tuple[str, str, str]:
    """Matrices [layers, N, tokens, tokens] without their lowest `discarded` entries, but for some ties in one row.

    Of entries that equal the threshold the first by index go: those of whole rows at the top, then some of one row.
    The last are left for the vector chain to subtract, so that no further pass over the matrices is needed.

    Args:
        threshold, next_above, below: the lowest entry to keep, the next float32, and how many entries are lower;
            [layers, N].
    Returns:
        The matrices, 1 at the row with entries too many else 0, and these entries along the row; the last two
        [layers, N, tokens].
    """
    per_row = nodes.ints(0, -1, 1)
    value = nodes.add("Reshape", threshold, per_row)  # (layers, N, 1)
    to_go = nodes.add("Reshape", nodes.add("Sub", nodes.number(float(discarded)), below), per_row)

    is_tie = nodes.add("Equal", square, nodes.add("Reshape", threshold, nodes.ints(0, -1, 1, 1)))
    seen = nodes.add("CumSum", nodes.count(is_tie, 3), nodes.axis(2))  # (layers, N, tokens), down to each row
    all_go = nodes.add("LessOrEqual", seen, to_go)
    row = nodes.add("Min", nodes.count(all_go, 2, keepdims=True), nodes.number(float(tokens - 1)))
    gone = nodes.add("ReduceMax", nodes.add("Mul", seen, nodes.truth(all_go)), nodes.ints(2), keepdims=1)

    that_row = nodes.add("GatherND", square, nodes.add("Cast", row, to=TensorProto.INT64), batch_dims=2)
    ties_there = nodes.truth(nodes.add("Equal", that_row, value))  # (layers, N, tokens)
    seen_there = nodes.add("CumSum", ties_there, nodes.axis(2))
    some_go = nodes.truth(nodes.add("LessOrEqual", seen_there, nodes.add("Sub", to_go, gone)))
    leftover = nodes.add("Mul", nodes.add("Mul", ties_there, some_go), value)

    index = nodes.constant("index", np.arange(tokens, dtype=np.float32).reshape(1, 1, tokens))
    is_row = nodes.truth(nodes.add("Equal", index, row))
    lowest = nodes.add("Where", all_go, nodes.add("Reshape", next_above, per_row), value)  # (layers, N, tokens)
    goes = nodes.add("Less", square, nodes.add("Reshape", lowest, nodes.ints(0, -1, tokens, 1)))
    return nodes.add("Where", goes, nodes.number(0.0), square), is_row, leftover


@dataclass(frozen=True)
class _Layer:
    """A layer's fused attention of which the lowest is discarded, as `_discard_lowest` gives it."""

    kept: str
    """[N, tokens, tokens]"""
    is_row: str | None = None
    leftover: str | None = None
    """[N, tokens], both or neither."""


def _class_token_row(nodes: Nodes, layers: Sequence[_Layer], tokens: int) -> str:
    """Row of the class token [N, tokens] in the product of the layers; see `train.models.rollout.class_token_row`."""
    class_token = np.zeros((1, tokens), np.float32)
    class_token[0, 0] = 1
    row = nodes.constant("class_token", class_token)
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
