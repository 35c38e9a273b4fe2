"""Builds a model from its configuration, and counts its size; the only module that knows all families."""

from pathlib import Path

import msgspec
import torch
from torch.utils.flop_counter import FlopCounterMode

from heatline.train.config import CnnConfig, Provenance, VitConfig
from heatline.train.models.cnn import cam_classifier
from heatline.train.models.dense import dense_classifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import rollout_classifier


def choose_precision(wanted: str, accelerator: str) -> tuple[str, str]:
    """Return the precision to use, by Lightning's name, and the reason as a phrase.

    bf16-mixed is autocast: weights, their updates, the map head and the loss stay f32. It is faster only if the
    processor has bf16 multiplication (a small CNN on 2 such cores: 33 tiles/s in f32, 48 in bf16); "auto" checks that.
    """
    if wanted != "auto":
        return wanted, "as trainer.precision says"
    if accelerator != "cpu" and torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(False):
            return "bf16-mixed", "the GPU multiplies bf16"
        return "32-true", "the GPU does not multiply bf16"
    flags = Path("/proc/cpuinfo").read_text().split()
    for flag in ("amx_bf16", "avx512_bf16"):
        if flag in flags:
            return "bf16-mixed", f"the processor has {flag}"
    return "32-true", "the processor has neither avx512_bf16 nor amx_bf16"


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
    """Multiply-adds of convolutions and matrix products for one tile; nothing else is counted."""
    map_hw: tuple[int, int]


def size_of(config: CnnConfig | VitConfig, tile_px: int) -> ModelSize:
    """Count the size of a configuration's model; errors as `build_model`."""
    with torch.device("meta"):
        model, _ = build_model(msgspec.structs.replace(config, weights="none"), tile_px)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(torch.zeros(1, tile_px, tile_px, 3, dtype=torch.uint8))
    flops: int = counter.get_total_flops()  # two per multiply-add
    return ModelSize(sum(weight.numel() for weight in model.parameters()), flops // 2, model.map_hw)
