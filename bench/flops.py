"""`heatline bench flops`: parameters and multiply-adds of each system, of the classifier alone and with its map.

Counted by torch's `FlopCounterMode` on tensors without memory, so nothing is computed and no weights are needed. It
counts two per multiply-add, of convolutions and matrix products, and nothing else. On such tensors it sees the products
inside `scaled_dot_product_attention` too; on a processor's own tensors it passes over that node.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.classifier import Classifier
from bench.flops_rows import Flops, Layer, MapAdds
from bench.map_operations import rollout_operations
from export.onnx_graph import rollout_of
from train.config import CnnConfig, VitConfig
from train.evaluation.report.published import STUDY_GFLOPS
from train.models.build import build_model
from train.models.explained import ExplainedClassifier
from train.models.rollout import Fusion
from train.models.vit import RolloutClassifier, SumOfProducts

FUSIONS: tuple[Fusion, ...] = ("min", "mean", "max")
HEAD = "linear"
"""The classifier's last layer, which a class activation map takes the place of."""
ROLLOUT = "rollout"

UNITS = (
    "MACs are multiply-adds, FLOPs = 2 x MACs; fvcore, and papers after it, count MACs and call them FLOPs. Counted: "
    "convolutions and matrix products of one tile, those of attention too; no activation, normalisation or pooling."
)
STUDY = (
    "Table 1.1 of the study prints multiply-adds, to be held beside GMACs: its CNN rows are torchvision's, at each "
    "model's native resolution (EfficientNetV2-S: 384 px) and with 1000 classes. ViT-tiny and DeiT-tiny are one graph, "
    "and yet differ there: 1.25 GMACs with the products of queries, keys and values, 1.08 without."
)


def count(config: CnnConfig | VitConfig, *, tile_px: int, discard_ratios: Sequence[float], by_layer: bool) -> Flops:
    """Count the model of one configuration.

    Args:
        discard_ratios: of a ViT, each with every fusion.
        by_layer: whether layers are wanted too.
    Raises:
        ConfigError: it cannot be built for such tiles.
        ExportError: its rollout cannot be exported for so many tokens.
    """
    with torch.device("meta"):
        model, _ = build_model(msgspec.structs.replace(config, weights="none"), tile_px)
        classifier = Classifier(model)
        images, tiles = torch.zeros(1, 3, tile_px, tile_px), torch.zeros(1, tile_px, tile_px, 3, dtype=torch.uint8)
        layers = _layers(classifier, images)
        alone = sum(layer.macs for layer in layers)
        with_map = _macs(_counted(model, tiles))
    if isinstance(model.head, SumOfProducts):  # a sum is no product of matrices, and its products are as many
        with_map += model.head.weight.numel()
    adds = with_map - alone
    return Flops(
        model=config.name,
        timm=config.timm,
        map_hw=model.map_hw,
        parameters=sum(weight.numel() for weight in model.parameters()),
        macs=alone,
        gflops=2 * alone / 1e9,
        macs_with_map=with_map,
        gflops_with_map=2 * with_map / 1e9,
        maps=_maps(model, adds, discard_ratios),
        study_gflops=STUDY_GFLOPS.get(config.name),
        layers=_with_map(layers, model, adds) if by_layer else None,
    )


def _counted(module: nn.Module, given: Tensor) -> dict[str, dict[Any, int]]:
    """What one forward pass counts: of each module by its name, that of modules inside it included, per operator."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(given)
    counts: dict[str, dict[Any, int]] = counter.get_flop_counts()
    return counts


def _macs(counts: dict[str, dict[Any, int]]) -> int:
    return sum(counts["Global"].values()) // 2


def _layers(classifier: Classifier, images: Tensor) -> list[Layer]:
    """Every module that has weights or multiply-adds of its own, in the order of the network."""
    shapes: dict[str, list[int]] = {}

    def shape_of(name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            shapes[name] = list(output.shape) if isinstance(output, Tensor) else []

        return keep

    hooks = [module.register_forward_hook(shape_of(name)) for name, module in classifier.named_modules()]
    counts = _counted(classifier, images)
    for hook in hooks:
        hook.remove()
    own_counts = _own(counts)
    layers = []
    for name, module in classifier.named_modules():
        own = own_counts.get(f"{type(classifier).__name__}.{name}", {})
        macs = sum(own.values()) // 2
        parameters = sum(weight.numel() for weight in module.parameters(recurse=False))
        if macs or parameters:
            layers.append(
                Layer(
                    name=name,
                    kinds=[str(kind).removeprefix("aten.") for kind, flops in own.items() if flops],
                    output=shapes.get(name, []),
                    parameters=parameters,
                    macs=macs,
                    macs_with_map=macs,
                )
            )
    return layers


def _own(counts: dict[str, dict[Any, int]]) -> dict[str, dict[Any, int]]:
    """Counts without those of the modules inside."""
    own = {name: dict(of) for name, of in counts.items()}
    for name, of in counts.items():
        around = name
        while "." in around:
            around = around.rpartition(".")[0]
            if around in counts:  # one whose parts are called one by one is not
                for kind, flops in of.items():
                    own[around][kind] -= flops
                break
    return own


def _with_map(layers: Sequence[Layer], model: ExplainedClassifier, adds: int) -> list[Layer]:
    """The same with what the map adds: a CNN's last layer is done once per cell, a ViT gets its rollout."""
    if not isinstance(model, RolloutClassifier):
        return [
            msgspec.structs.replace(layer, macs_with_map=layer.macs + adds) if layer.name == HEAD else layer
            for layer in layers
        ]
    shape = [1, *model.map_hw]
    rollout = Layer(name=ROLLOUT, kinds=["bmm"], output=shape, parameters=0, macs=0, macs_with_map=adds)
    return [*layers, rollout]


def _maps(model: ExplainedClassifier, adds: int, discard_ratios: Sequence[float]) -> list[MapAdds]:
    if not isinstance(model, RolloutClassifier):
        return [MapAdds(method=model.method, macs=adds, operations=None)]
    network = model.network
    maps = []
    for ratio in dict.fromkeys(discard_ratios):
        for fusion in FUSIONS:
            of_this = RolloutClassifier(network, fusion, ratio, (0.0,) * 3, (1.0,) * 3)
            operations = rollout_operations(rollout_of(of_this), len(network.blocks))
            maps.append(MapAdds(method=of_this.method, macs=adds, operations=operations))
    return maps
