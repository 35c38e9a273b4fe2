"""Post-training quantisation to int8, and the layers that stay in float32; the explanation is not quantised."""

import logging
import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from contextlib import redirect_stdout
from dataclasses import dataclass

import openvino as ov

from heatline.edge.errors import ExportError, last_line
from heatline.edge.inference.devices import disable_signal_stack
from heatline.edge.inference.engine import DIFFERENCE
from heatline.export.openvino_ir import Ir
from heatline.export.rollout_graph import EXPLANATION
from heatline.train.validation_frames import Inputs

LAYERS = {"Convolution", "GroupConvolution", "MatMul"}
OUTPUTS = {"logit", "map"}


def outer_layers(model: ov.Model, first: float, last: float = 0.0) -> list[str]:
    """Return the names of the operations of these shares of the convolutions and matrix products, from the pixels on,
    as their rounding errors pass through the whole network, and from its other end.

    Each layer includes everything up to the next one: bias, activation, norm. Explanation and logit are never included.
    """
    computed = [each for each in _computed(model) if not is_explanation(each.get_friendly_name())]
    layers = [place for place, each in enumerate(computed) if each.get_type_name() in LAYERS]
    ends = [*layers, len(computed)]
    first_wanted, last_wanted = round(first * len(layers)), round(last * len(layers))
    head = computed[: ends[first_wanted]] if first_wanted else []
    return _with_constants([*head, *computed[ends[-1 - last_wanted] :]])


def output_layer(model: ov.Model) -> list[str]:
    """Return the names of the very last convolution or matrix product, and of all operations that depend on it."""
    computed = _computed(model)
    last = [each for each in computed if each.get_type_name() in LAYERS][-1:]
    reached = {each.get_friendly_name(): each for each in last}
    for each in computed:
        if any(value.get_node().get_friendly_name() in reached for value in each.input_values()):
            reached[each.get_friendly_name()] = each
    return _with_constants(list(reached.values()))


def _computed(model: ov.Model) -> list[ov.Node]:
    return [each for each in model.get_ordered_ops() if each.get_type_name() != "Constant"]


def _with_constants(computed: list[ov.Node]) -> list[str]:
    """Return the names of operations and of the constants that they read."""
    inputs = [value.get_node() for each in computed for value in each.input_values()]
    named = [*(each for each in inputs if each.get_type_name() == "Constant"), *computed]
    return list(dict.fromkeys(each.get_friendly_name() for each in named))


def is_explanation(name: str) -> bool:
    """Return whether an operation of an IR belongs to the map, or to the head that derives the logit from features."""
    return name.startswith(EXPLANATION) or name in OUTPUTS


def in_f32_under_bf16(ir: Ir, names: list[str]) -> Ir:
    """Return a copy of the IR in which OpenVINO computes the named operations in f32 although the rest is bf16.

    The IR marks them by the attribute that OpenVINO writes for operations that must not be compressed to fewer bits.
    OpenVINO loses the mark on some operations that it fuses, so the result must be measured.
    """
    root, wanted = ElementTree.fromstring(ir.xml), set(names)
    for layer in root.iterfind("layers/layer"):
        if layer.get("name") in wanted:
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.Element("rt_info")
                layer.insert(1 if layer.find("data") is not None else 0, info)
            ElementTree.SubElement(info, "attribute", name="precise", version="0")
    return Ir(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True), ir.weights)


@dataclass(frozen=True)
class Quantisation:
    """One variant of the quantisation."""

    description: str
    """In the manifest."""
    layers_only: bool = False
    """Whether only convolutions and matrix products are quantised; otherwise the operations between them are too."""
    first_in_f32: float = 0.0
    last_in_f32: float = 0.0
    """Shares of the layers that stay in f32, from either end."""


_LAYERS_ONLY = "ranges from the extremes, convolutions and matrix products alone, the first 33 %"
VARIANTS = (
    Quantisation("ranges from the extremes"),
    Quantisation(f"{_LAYERS_ONLY} of the layers in f32", True, 1 / 3),
    Quantisation(f"{_LAYERS_ONLY} and the last 17 % of the layers in f32", True, 1 / 3, 1 / 6),
)
"""The variants in the order in which they are tried: the fastest graph first. The first one is for transformers: no CNN
passed with it (docs/precisions.md), and an attempt takes long.
"""

BETWEEN_LAYERS = ["Add", "Subtract", "Multiply", "Divide", "Relu", "Clamp", "HSwish", "HSigmoid", "Gelu", "ReduceMean"]


def quantise(ir: Ir, samples: Inputs, variant: Quantisation, *, transformer: bool) -> Ir:
    """Return the IR with int8 convolutions and matrix products.

    Ranges of activations may be asymmetric (NNCF's mixed preset), and are the extremes over all tiles: defects are
    rare, and NNCF's own ranges, the mean of each tile's extremes, cut off the peaks that a map must show. NNCF has
    special patterns for transformers.

    Args:
        ir: in f32.
        samples: what the graph takes; they set the ranges.
    Raises:
        ExportError: NNCF cannot quantise this model.
    """
    os.environ.setdefault("NNCF_CI", "1")  # disables NNCF's telemetry, which is on by default
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)  # NNCF's own function also sets every handler that it finds
    model = ir.read()
    in_f32 = [*OUTPUTS, *outer_layers(model, variant.first_in_f32, variant.last_in_f32)]
    patterns = [f"{EXPLANATION}.*", *(f"^{re.escape(name)}$" for name in in_f32)]
    try:
        with redirect_stdout(sys.stderr):  # NNCF prints progress to standard output, which is for the report
            quantised = nncf.quantize(
                model,
                nncf.Dataset(
                    [
                        {name: one[None] for name, one in zip(("tiles", DIFFERENCE), sample, strict=False)}
                        for sample in zip(*samples, strict=True)
                    ]
                ),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                subset_size=len(samples[0]),
                ignored_scope=nncf.IgnoredScope(
                    patterns=patterns, types=BETWEEN_LAYERS if variant.layers_only else [], validate=False
                ),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
                ),
            )
    except Exception as error:  # NNCF's and OpenVINO's errors have no common base
        raise ExportError(f"NNCF cannot quantise this model ({last_line(error)})") from error
    finally:
        disable_signal_stack()  # NNCF creates many cores
    return Ir.of(quantised)
