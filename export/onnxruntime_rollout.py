"""The rollout in nodes that are fast in ONNX Runtime: matrix products layer by layer, and a discard by brackets."""

from collections.abc import Sequence

from heatline.export.bracket_graph import discard_lowest
from heatline.export.nodes import Nodes
from heatline.export.rollout_graph import Rollout, class_token, fuse_heads


def class_token_row(nodes: Nodes, rollout: Rollout, attentions: Sequence[str]) -> str:
    """Return the row of the class token [N, tokens]; see `heatline.train.models.vit.class_token_row`."""
    tokens = rollout.tokens
    layers = [fuse_heads(nodes, attention, rollout) for attention in attentions]  # (N, 1, tokens, tokens)
    if rollout.discarded:
        flat = [nodes.add("Reshape", layer, nodes.ints(-1, tokens * tokens)) for layer in layers]
        kept = discard_lowest(nodes, flat, tokens, rollout.discarded)
        layers = [nodes.add("Reshape", layer, nodes.ints(-1, 1, tokens, tokens)) for layer in kept]
    row = class_token(nodes, tokens)
    for layer in reversed(layers):
        totals = nodes.add("Add", nodes.add("ReduceSum", layer, nodes.ints(3), keepdims=0), nodes.number(1.0))
        share = nodes.add("Div", row, nodes.add("Reshape", totals, nodes.ints(-1, 1, 1, tokens)))
        row = nodes.add("Add", nodes.add("MatMul", share, layer), share)
    return nodes.add("Reshape", row, nodes.ints(-1, tokens))
