"""The rollout in nodes that are fast in OpenVINO: several layers at once, and a threshold found by counting
(`heatline.export.threshold_graph`).

No node multiplies matrices. OpenVINO computes everything after the last matrix product in float32, whatever its
precision hint is, so counts and thresholds stay exact under bf16 too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from heatline.export.nodes import Nodes
from heatline.export.rollout_graph import Rollout, class_token, fuse_heads
from heatline.export.threshold_graph import EXACT, UNDER_BF16, Digits, Threshold, find_threshold

LAYERS_AT_ONCE = 6
"""Half of ViT-tiny's twelve. All twelve need the fewest nodes, but with eight tiles per request exceed the cache."""


def class_token_row(nodes: Nodes, rollout: Rollout, attentions: Sequence[str]) -> str:
    """Return the exact row of the class token [N, tokens]; see `heatline.train.models.vit.class_token_row`."""
    return _row(nodes, rollout, attentions, EXACT)


def class_token_row_under_bf16(nodes: Nodes, rollout: Rollout, attentions: Sequence[str]) -> str:
    """Return the row with a coarser threshold, for attention that comes from rounded products."""
    return _row(nodes, rollout, attentions, UNDER_BF16)


def _row(nodes: Nodes, rollout: Rollout, attentions: Sequence[str], digits: Digits) -> str:
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
