"""Builds ONNX nodes. Each has a unique name that shows to which part of the graph it belongs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

EXPLANATION = "explanation/"
"""Prefix of the names of nodes that only the map needs, in the ONNX graph and in the IR made from it."""


class Nodes:
    """The nodes of the explanation, and their constants."""

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
