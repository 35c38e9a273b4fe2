"""Builds a model from its configuration, and counts its size; the only module that knows all families."""

import msgspec
import torch
from torch.utils.flop_counter import FlopCounterMode

from heatline.train.config import CnnConfig, VitConfig
from heatline.train.models.cnn import cam_classifier
from heatline.train.models.dense import dense_classifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import rollout_classifier
from heatline.train.provenance import Provenance


def build_model(config: CnnConfig | VitConfig, tile_px: int) -> tuple[ExplainedClassifier, Provenance]:
    """Build a model; return it with the provenance of its weights. Errors as the family's own function."""
    match config:
        case CnnConfig(head="dense"):
            return dense_classifier(config, tile_px)
        case CnnConfig():
            return cam_classifier(config, tile_px)
        case VitConfig():
            return rollout_classifier(config, tile_px)


class ModelSize(msgspec.Struct, frozen=True):
    """Size of a model as it is built: after its cut, with its own head and its map."""

    parameters: int
    macs: int
    """Multiply-adds of convolutions and matrix products for one tile. Other operations are not counted: activations,
    normalisation, pooling, softmax, and the sort for a discard ratio.
    """
    map_hw: tuple[int, int]


def size_of(config: CnnConfig | VitConfig, tile_px: int) -> ModelSize:
    """Count the size of a configuration's model; errors as `build_model`."""
    with torch.device("meta"):
        model, _ = build_model(msgspec.structs.replace(config, weights="none"), tile_px)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(torch.zeros(1, tile_px, tile_px, 3, dtype=torch.uint8))
    flops: int = counter.get_total_flops()  # two per multiply-add
    return ModelSize(sum(weight.numel() for weight in model.parameters()), flops // 2, model.map_hw)
