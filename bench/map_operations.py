"""What a rollout costs in operations, counted on the very nodes that the exported graph has for it.

A counter of multiply-adds sees of a rollout only the products of row and matrices. What takes the time is the rest:
heads are fused, entries compared and counted. So the nodes that an engine gets are made here, without the network
before them, and every addition, multiplication, comparison and choice is an operation: as many as a node gives numbers,
or reads where it reduces them; two per multiply-add of a product of matrices. What only moves or casts numbers has
none. A TopK has one per number that it reads, which is too few; what it hands on where its length is for the data to
say, ten or twenty numbers a layer, is not counted.
"""

import math

import onnx
from onnx import ModelProto, TensorProto, helper

from export import onnxruntime_rollout, openvino_rollout
from export.onnx_graph import OPSET
from export.rollout_graph import ClassTokenRow, Rollout, append_rollout

GRAPHS: dict[str, ClassTokenRow] = {
    "openvino": openvino_rollout.class_token_row,
    "openvino bf16": openvino_rollout.class_token_row_under_bf16,
    "onnxruntime": onnxruntime_rollout.class_token_row,
}
"""The rollout's graphs; OpenVINO has one for f32 and int8, and another for bf16."""

MOVES = {
    *("Cast", "Concat", "Constant", "Gather", "GatherElements", "GatherND", "Reshape", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze"),
}
PER_RESULT = {
    *("Abs", "Add", "Clip", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Or", "Sign"),
    *("Sqrt", "Sub", "Where"),
}
PER_NUMBER_READ = {"CumSum", "ReduceMax", "ReduceMean", "ReduceSum", "TopK"}


def rollout_operations(rollout: Rollout, layers: int) -> dict[str, int]:
    """Operations per tile of a rollout over so many layers, by the names of `GRAPHS`."""
    return {name: _operations(_graph(rollout, layers, row)) for name, row in GRAPHS.items()}


def _graph(rollout: Rollout, layers: int, class_token_row: ClassTokenRow) -> ModelProto:
    """The rollout of one tile alone, with all shapes that can be told beforehand."""
    attentions = [f"attention_{number}" for number in range(layers)]
    shape = [1, rollout.heads, rollout.tokens, rollout.tokens]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in attentions]
    inputs.append(helper.make_tensor_value_info("logit", TensorProto.FLOAT, [1]))
    graph = helper.make_model(
        helper.make_graph([], "rollout", inputs, []), opset_imports=[helper.make_opsetid("", OPSET)]
    )
    append_rollout(graph, rollout, attentions, "logit", class_token_row)
    return onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True)


def _operations(graph: ModelProto) -> int:
    known = [*graph.graph.input, *graph.graph.value_info, *graph.graph.output]
    shapes = {tensor.name: [dim.dim_value for dim in tensor.type.tensor_type.shape.dim] for tensor in known}
    total = 0
    for node in graph.graph.node:  # a size that only the data tells is 0 here
        result, given = math.prod(shapes[node.output[0]]), node.input[0]
        match node.op_type:
            case kind if kind in MOVES:
                pass
            case kind if kind in PER_RESULT:
                total += result
            case kind if kind in PER_NUMBER_READ:
                total += math.prod(shapes[given])
            case "Max" | "Min" | "Sum":
                total += result * (len(node.input) - 1)
            case "MatMul" | "MatMulInteger":
                total += 2 * result * shapes[given][-1]
            case "ScatterElements":  # adds what it scatters
                total += math.prod(shapes[node.input[2]])
            case kind:
                raise AssertionError(f"nobody said how many operations a node {kind} is")
    return total
