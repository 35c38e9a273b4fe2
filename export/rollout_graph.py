"""Attention rollout as ONNX nodes: the result of `heatline.train.models.vit`, in few passes over the matrices.

Only the row of the class token is needed, so the rollout is a vector times each layer, last layer first. The threshold
of a discard ratio then has most of the cost. A graph's cost is the number of its nodes and the memory that they read
and write, and engines differ in what is fast. So each engine has its own nodes for that row
(`heatline.export.onnxruntime_rollout`, `heatline.export.openvino_rollout`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper

from heatline.edge.errors import ExportError
from heatline.export.nodes import Nodes
from heatline.train.models.vit import Fusion, discarded

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


ClassTokenRow = Callable[[Nodes, Rollout, Sequence[str]], str]
"""Computes the row of the class token [N, tokens] in the rollout from the attention of the layers."""


def append_rollout(
    graph: ModelProto, rollout: Rollout, attentions: Sequence[str], logit: str, class_token_row: ClassTokenRow
) -> None:
    """Add the rollout's nodes to a graph, with the output `map` [N, h, w].

    Args:
        attentions: tensors [N, heads, tokens, tokens], first layer first; rows sum to 1.
        logit: the tensor [N] that the map spreads over the patches.
        class_token_row: the engine's own nodes for the row.
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
        class_token_row(nodes, rollout, attentions),
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


def class_token(nodes: Nodes, tokens: int) -> str:
    """Return the row [1, tokens] that the chain of layers starts from."""
    row = np.zeros((1, tokens), np.float32)
    row[0, 0] = 1
    return nodes.constant("class_token", row)
