"""One network in the forms that the systems need: heatline's graph, a graph as anomalib exports it, and PyTorch's."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.bench.peers.expected import Scale
from heatline.edge.inference import Precision
from heatline.export.openvino_ir import Ir
from heatline.train.config import CnnConfig, VitConfig

TILES, IMAGE = "tiles", "image"
FROM_UNIT = 255.0
"""anomalib's images are RGB in 0..1."""


def build(
    config: CnnConfig | VitConfig, precision: Precision, tiles: NDArray[np.uint8], tile_px: int
) -> tuple[Any, Ir]:
    """Build a model with random weights, which is as fast as a trained one, and its IR in a precision.

    Args:
        tiles: [N, tile_px, tile_px, 3], for the ranges of int8.
    Raises:
        ConfigError, ExportError: it cannot be built, exported or quantised.
    """
    import torch

    from heatline.export.onnx_graph import to_graphs
    from heatline.export.openvino_ir import to_ir
    from heatline.export.quantise import Quantisation, quantise
    from heatline.train.models.build import build_model

    torch.manual_seed(0)
    model, _ = build_model(msgspec.structs.replace(config, weights="none"), tile_px)
    graphs = to_graphs(model, tile_px)
    ir = to_ir(graphs.for_openvino_bf16 if precision == "bf16" else graphs.for_openvino)
    if precision == "int8":
        ir = quantise(ir, (tiles,), Quantisation(), transformer=config.family == "vit")
    return model.eval(), ir


def as_anomalib_exports(ir: Ir, tile_px: int, scale: Scale) -> Ir:
    """Give a graph the inputs and outputs of a model that anomalib exports.

    Input: `image` float32 [N, 3, H, W] in 0..1. Outputs, as of its post-processor: `pred_score` [N] and `anomaly_map`
    [N, 1, tile, tile] in 0..1, and whether these exceed 0.5, `pred_label` and `pred_mask`.
    """
    import openvino as ov
    from openvino import opset13 as ops

    model = ir.read()
    takers = model.input(TILES).get_target_inputs()
    while len(takers) == 1 and (node := next(iter(takers)).get_node()).get_type_name() in ("Transpose", "Convert"):
        takers = node.output(0).get_target_inputs()  # until they are float32 [N, 3, H, W]
    image = ops.parameter([-1, 3, -1, -1], np.float32, name=IMAGE)
    pixels = ops.multiply(image, np.float32(FROM_UNIT))
    for taker in takers:
        taker.replace_source_output(pixels.output(0))

    def normalised(value: Any) -> Any:
        apart = ops.subtract(value, np.float32(scale.threshold))
        return ops.clamp(ops.add(ops.divide(apart, np.float32(scale.range)), np.float32(0.5)), 0.0, 1.0)

    logit, maps = (model.output(name).get_node().input_value(0) for name in ("logit", "map"))
    large = ops.interpolate(
        ops.unsqueeze(maps, np.int64(1)),
        np.array([tile_px, tile_px], np.int64),
        "linear",
        "sizes",
        coordinate_transformation_mode="half_pixel",
        axes=np.array([2, 3], np.int64),
    )
    score, anomaly_map = normalised(logit), normalised(large)
    outputs = {
        "pred_score": score,
        "pred_label": ops.greater(score, np.float32(0.5)),
        "anomaly_map": anomaly_map,
        "pred_mask": ops.greater(anomaly_map, np.float32(0.5)),
    }
    for name, node in {IMAGE: image, **outputs}.items():
        node.output(0).get_tensor().set_names({name})
    return Ir.of(ov.Model([ops.result(node) for node in outputs.values()], [image], "anomalib"))
