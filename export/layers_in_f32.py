"""Selects the first and the last layers of a network, which stay in float32.

Rounding errors of the first layers pass through the whole network: normalised pixels and the first features need more
digits than later features. So a precision that loses verdicts or maps is tried again with its first layers in f32. The
last layer rounds the logit itself.
"""

import xml.etree.ElementTree as ElementTree

import openvino as ov

from heatline.export.nodes import EXPLANATION
from heatline.export.openvino_ir import Ir

LAYERS = {"Convolution", "GroupConvolution", "MatMul"}
OUTPUTS = {"logit", "map"}


def first_layers(model: ov.Model, share: float) -> list[str]:
    """Return the names of the operations of this share of the convolutions and matrix products, from the pixels on.

    Each layer includes everything up to the next one: bias, activation, norm. Explanation and logit are never included.
    """
    computed, layers = _network(model)
    wanted = round(share * len(layers))
    end = layers[wanted] if wanted < len(layers) else len(computed)
    return _with_constants(computed[:end] if wanted else [])


def last_layers(model: ov.Model, share: float) -> list[str]:
    """Return the same from the other end of the network."""
    computed, layers = _network(model)
    wanted = round(share * len(layers))
    return _with_constants(computed[layers[-wanted] :] if wanted else [])


def output_layer(model: ov.Model) -> list[str]:
    """Return the names of the very last convolution or matrix product, and of all operations that depend on it."""
    computed = _computed(model)
    reached: dict[str, ov.Node] = {}
    for each in [each for each in computed if each.get_type_name() in LAYERS][-1:]:
        reached[each.get_friendly_name()] = each
    for each in computed:
        if any(value.get_node().get_friendly_name() in reached for value in each.input_values()):
            reached[each.get_friendly_name()] = each
    return _with_constants(list(reached.values()))


def _network(model: ov.Model) -> tuple[list[ov.Node], list[int]]:
    """Return the operations without the explanation, and the indices of the layers among them."""
    computed = [each for each in _computed(model) if not is_explanation(each.get_friendly_name())]
    return computed, [place for place, each in enumerate(computed) if each.get_type_name() in LAYERS]


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
