"""The rollout as OpenVINO runs it fast: all layers at once, and a threshold by counting (`export.threshold_graph`).

No node multiplies matrices. OpenVINO computes all that lies behind the last matrix product in float32, whatever its
precision hint is, so that counts and thresholds stay exact under bf16 too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from export.nodes import Nodes
from export.rollout_graph import Rollout, class_token, fuse_heads
from export.threshold_graph import EXACT, UNDER_BF16, Digits, Threshold, by_counting

LAYERS_AT_ONCE = 6
"""Of ViT-tiny's twelve. All at once are the fewest nodes, and at eight tiles per request more than a cache holds."""


def class_token_row(nodes: Nodes, rollout: Rollout, attentions: Sequence[str]) -> str:
    """Row of the class token [N, tokens], exactly; see `train.models.rollout.class_token_row`."""
    return _row(nodes, rollout, attentions, EXACT)


def class_token_row_under_bf16(nodes: Nodes, rollout: Rollout, attentions: Sequence[str]) -> str:
    """The same with a coarser threshold, where attention comes of rounded products anyway."""
    return _row(nodes, rollout, attentions, UNDER_BF16)


def _row(nodes: Nodes, rollout: Rollout, attentions: Sequence[str], digits: Digits) -> str:
    layers: list[_Layer] = []
    for first in range(0, len(attentions), LAYERS_AT_ONCE):
        layers += _layers(nodes, rollout, attentions[first : first + LAYERS_AT_ONCE], digits)
    return _chain(nodes, layers, rollout.tokens)


@dataclass(frozen=True)
class _Layer:
    """A layer's fused attention of which the lowest is discarded, as `_discard_lowest` gives it."""

    kept: str
    """[N, tokens, tokens]"""
    is_row: str | None = None
    leftover: str | None = None
    """[N, tokens], both or neither."""


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
    threshold = by_counting(nodes, entries, tokens, discarded, digits)
    if digits != EXACT:  # the threshold is no entry: all from it on stay, and there are no ties
        goes = nodes.add("Less", square, nodes.add("Reshape", threshold.found, nodes.ints(0, -1, 1, 1)))
        return [_Layer(kept) for kept in by_layer(nodes.add("Where", goes, nodes.number(0.0), square), tokens, tokens)]
    square, is_row, leftover = _discard_lowest(nodes, square, tokens, discarded, threshold)
    ties = zip(by_layer(is_row, tokens), by_layer(leftover, tokens), strict=True)
    return [_Layer(kept, *tie) for kept, tie in zip(by_layer(square, tokens, tokens), ties, strict=True)]


def _discard_lowest(
    nodes: Nodes, square: str, tokens: int, discarded: int, threshold: Threshold
) -> tuple[str, str, str]:
    """Matrices [layers, N, tokens, tokens] without their lowest `discarded` entries, but for some ties in one row.

    Of entries at the threshold the first by index go: those of whole rows at the top, then some of one row. The last
    are left for the vector chain to subtract, so that no further pass over the matrices is needed.

    Returns:
        The matrices, 1 at the row with entries too many else 0, and these entries along the row; the last two
        [layers, N, tokens].
    """
    per_row = nodes.ints(0, -1, 1)
    found, above = (nodes.add("Reshape", value, per_row) for value in (threshold.found, threshold.above))
    to_go = nodes.add("Reshape", nodes.add("Sub", nodes.number(float(discarded)), threshold.below), per_row)

    is_tie = nodes.add("Equal", square, nodes.add("Reshape", threshold.found, nodes.ints(0, -1, 1, 1)))
    seen = nodes.add("CumSum", nodes.count(is_tie, 3), nodes.axis(2))  # (layers, N, tokens), down to each row
    all_go = nodes.add("LessOrEqual", seen, to_go)
    row = nodes.add("Min", nodes.count(all_go, 2, keepdims=True), nodes.number(float(tokens - 1)))
    gone = nodes.add("ReduceMax", nodes.add("Mul", seen, nodes.truth(all_go)), nodes.ints(2), keepdims=1)

    that_row = nodes.add("GatherND", square, nodes.add("Cast", row, to=TensorProto.INT64), batch_dims=2)
    ties_there = nodes.truth(nodes.add("Equal", that_row, found))  # (layers, N, tokens)
    seen_there = nodes.add("CumSum", ties_there, nodes.axis(2))
    some_go = nodes.truth(nodes.add("LessOrEqual", seen_there, nodes.add("Sub", to_go, gone)))
    leftover = nodes.add("Mul", nodes.add("Mul", ties_there, some_go), found)

    index = nodes.constant("index", np.arange(tokens, dtype=np.float32).reshape(1, 1, tokens))
    is_row = nodes.truth(nodes.add("Equal", index, row))
    lowest = nodes.add("Where", all_go, above, found)  # (layers, N, tokens)
    goes = nodes.add("Less", square, nodes.add("Reshape", lowest, nodes.ints(0, -1, tokens, 1)))
    return nodes.add("Where", goes, nodes.number(0.0), square), is_row, leftover


def _chain(nodes: Nodes, layers: Sequence[_Layer], tokens: int) -> str:
    row = class_token(nodes, tokens)
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
