"""The first and the last layers of a network, kept in float32.

What is rounded first is carried through the whole network: normalised pixels and the first features need more digits
than what comes of them. So a precision that loses verdicts or maps is tried again with its first layers in f32. And
what the last layer rounds is the logit itself.
"""

import xml.etree.ElementTree as ElementTree

import openvino as ov

from export.nodes import EXPLANATION
from export.openvino_ir import Ir

LAYERS = {"Convolution", "GroupConvolution", "MatMul"}
OUTPUTS = {"logit", "map"}


def first_layers(model: ov.Model, share: float) -> list[str]:
    """Names of the operations, from the pixels on, of this share of the convolutions and matrix products.

    With each layer comes all up to the next one: bias, activation, norm. Explanation and logit never count.
    """
    computed, layers = _network(model)
    wanted = round(share * len(layers))
    end = layers[wanted] if wanted < len(layers) else len(computed)
    return _with_constants(computed[:end] if wanted else [])


def last_layers(model: ov.Model, share: float) -> list[str]:
    """The same from the other end."""
    computed, layers = _network(model)
    wanted = round(share * len(layers))
    return _with_constants(computed[layers[-wanted] :] if wanted else [])


def output_layer(model: ov.Model) -> list[str]:
    """Names of the operations of the very last convolution or matrix product, and of all that comes of it."""
    computed = _computed(model)
    reached: dict[str, ov.Node] = {}
    for each in [each for each in computed if each.get_type_name() in LAYERS][-1:]:
        reached[each.get_friendly_name()] = each
    for each in computed:
        if any(value.get_node().get_friendly_name() in reached for value in each.input_values()):
            reached[each.get_friendly_name()] = each
    return _with_constants(list(reached.values()))


def _network(model: ov.Model) -> tuple[list[ov.Node], list[int]]:
    """What is computed without the explanation, and where in it the layers lie."""
    computed = [each for each in _computed(model) if not is_explanation(each.get_friendly_name())]
    return computed, [place for place, each in enumerate(computed) if each.get_type_name() in LAYERS]


def _computed(model: ov.Model) -> list[ov.Node]:
    return [each for each in model.get_ordered_ops() if each.get_type_name() != "Constant"]


def _with_constants(computed: list[ov.Node]) -> list[str]:
    """Names of operations, and of the constants that they read."""
    inputs = [value.get_node() for each in computed for value in each.input_values()]
    named = [*(each for each in inputs if each.get_type_name() == "Constant"), *computed]
    return list(dict.fromkeys(each.get_friendly_name() for each in named))


def is_explanation(name: str) -> bool:
    """Whether an operation of an IR belongs to the map, or to what turns features into the logit."""
    return name.startswith(EXPLANATION) or name in OUTPUTS


def in_f32_under_bf16(ir: Ir, names: list[str]) -> Ir:
    """The same IR, which asks OpenVINO to compute the named operations in f32 though bf16 is asked of it.

    An IR says so by the attribute that OpenVINO writes for operations that must not be compressed to fewer bits. It
    loses the note on some operations that it fuses, so what comes of it must be measured.
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
