"""Train one of anomalib's models on good tiles and answer other tiles. Runs in the peers' environment.

Reads its job from a JSON file (`heatline.bench.recipes.anomalib_models.Job`). Models have anomalib's defaults, except
for the backbone, whose weights come from a file, and the means and deviations of pixels, which are those of its
training.
"""

import json
import logging
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore
from anomalib.pre_processing import PreProcessor
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.transforms.v2 import Compose, Normalize, Resize

BATCH = 16
INPUT_PX = 256
"""Size to which anomalib resizes each picture."""
MAP_CELLS = 56
"""Cells along a side of a stored map."""
CORESET = 0.01
"""Share of the cells in PatchCore's memory: the smallest of its paper, as a tenth takes ten times as long."""
TRUNK = "tf_efficientnet_lite0"
STRIDE_4, STRIDE_8, STRIDE_16 = "blocks.1", "blocks.2", "blocks.4"
"""Last blocks of EfficientNet-lite0's stages; in ResNet they are layer1, layer2 and layer3."""


def main(job: dict[str, Any]) -> None:
    torch.manual_seed(job["seed"])
    began, folder = time.monotonic(), Path(job["folder"])
    model = _build(job["model"], Path(job["weights"]))
    data = Folder(
        name="tiles",
        root=folder,
        normal_dir="good",
        train_batch_size=BATCH,
        num_workers=0,
        test_split_mode="none",
        val_split_mode="none",
        seed=job["seed"],
    )
    # There are no validation tiles.
    engine = Engine(default_root_dir=folder, precision="32-true", limit_val_batches=0, logger=False, max_epochs=1)
    engine.fit(model, datamodule=data)
    seconds = time.monotonic() - began
    logit, maps = _ask(model, folder / "requested", job["requested"])
    np.savez(folder / "answers.npz", logit=logit, map=maps, seconds=seconds)


def _build(name: str, weights: Path) -> Any:
    timm.create_model = partial(timm.create_model, pretrained_cfg_overlay={"file": str(weights)})
    statistics = Normalize(mean=[0.5] * 3, std=[0.5] * 3)
    prepare = PreProcessor(transform=Compose([Resize((INPUT_PX, INPUT_PX), antialias=True), statistics]))
    if name == "patchcore":
        return Patchcore(
            backbone=TRUNK, layers=(STRIDE_8, STRIDE_16), coreset_sampling_ratio=CORESET, pre_processor=prepare
        )
    return Padim(backbone=TRUNK, layers=[STRIDE_4, STRIDE_8, STRIDE_16], n_features=100, pre_processor=prepare)


def _ask(model: Any, folder: Path, names: list[str]) -> tuple[Any, Any]:
    """Return score [n] and map [n, cells, cells] of each tile, before anomalib normalises them to 0..1."""
    model.eval()
    scores, maps = [], []
    for start in range(0, len(names), BATCH):
        pixels = [np.asarray(cv2.imread(str(folder / name)))[..., ::-1] for name in names[start : start + BATCH]]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            found = model.model(model.pre_processor.transform(images))
        scores.append(found.pred_score.reshape(-1).float().numpy())
        heat = found.anomaly_map.float()
        cells = adaptive_avg_pool2d(heat.reshape(len(heat), 1, *heat.shape[-2:]), MAP_CELLS)
        maps.append(cells[:, 0].numpy().astype(np.float16))
    return np.concatenate(scores).astype(np.float32), np.concatenate(maps)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main(json.loads(Path(sys.argv[1]).read_text()))
