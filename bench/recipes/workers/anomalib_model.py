"""One of anomalib's models: trained on good tiles, and asked of others. Runs in the peers' environment, not in ours.

Reads its job from a JSON file (`bench.recipes.anomalib_models.Job`). Models are as anomalib sets them up by default but
for the backbone, whose weights come from a file, and its means and deviations of pixels, which are those it was trained
with.
"""

import json
import logging
import sys
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from anomalib.data import Folder
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore
from anomalib.pre_processing import PreProcessor
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.transforms.v2 import Compose, Normalize, Resize

BATCH = 16
INPUT_PX = 256
"""What anomalib makes of each picture."""
MAP_CELLS = 56
"""Of a map's side, as it is kept."""
CORESET = 0.01
"""Share of the cells that PatchCore keeps: the smallest of its paper, as a tenth takes ten times as long."""
TRUNK = "tf_efficientnet_lite0"
STRIDE_4, STRIDE_8, STRIDE_16 = "blocks.1", "blocks.2", "blocks.4"
"""Where EfficientNet-lite0 ends its stages; ResNet calls them layer1, layer2 and layer3."""


def main(job: dict[str, Any]) -> None:
    torch.manual_seed(job["seed"])
    began = time.monotonic()
    model = _build(job["model"], Path(job["weights"]))
    folder, scratch = Path(job["folder"]), Path(job["scratch"])
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
    engine = Engine(
        default_root_dir=scratch,
        limit_val_batches=0,  # there is nothing to choose by
        logger=False,
        max_epochs=1,  # nothing is learned by gradients
    )
    engine.fit(model, datamodule=data)
    seconds = time.monotonic() - began
    logit, maps = _ask(model, folder / "requested", job["requested"])
    graph = _export(engine, model, scratch, job["tile_px"])
    np.savez(
        scratch / "answers.npz",
        logit=logit,
        map=maps,
        seconds=seconds,
        graph_bytes=graph.stat().st_size + graph.with_suffix(".bin").stat().st_size,
    )


def _build(name: str, weights: Path) -> Any:
    timm.create_model = partial(timm.create_model, pretrained_cfg_overlay={"file": str(weights)})
    statistics = Normalize(mean=[0.5] * 3, std=[0.5] * 3)
    prepare = PreProcessor(transform=Compose([Resize((INPUT_PX, INPUT_PX), antialias=True), statistics]))
    if name == "patchcore":
        return Patchcore(
            backbone=TRUNK, layers=(STRIDE_8, STRIDE_16), coreset_sampling_ratio=CORESET, pre_processor=prepare
        )
    if name == "padim":
        layers = [STRIDE_4, STRIDE_8, STRIDE_16]
        return Padim(backbone=TRUNK, layers=layers, n_features=100, pre_processor=prepare)
    raise ValueError(f"{name} is no model of this bench")


def _ask(model: Any, folder: Path, names: list[str]) -> tuple[Any, Any]:
    """Score [n] and map [n, cells, cells] of each tile, before anomalib brings them to 0 to 1 of what it has seen."""
    model.eval()
    scores, maps = [], []
    for start in range(0, len(names), BATCH):
        pixels = [np.asarray(cv2.imread(str(folder / name)))[..., ::-1] for name in names[start : start + BATCH]]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            found = model.model(model.pre_processor.transform(images))
        score, heat = found.pred_score.reshape(-1).float(), found.anomaly_map.float()
        scores.append(score.numpy())
        cells = adaptive_avg_pool2d(heat.reshape(len(heat), 1, *heat.shape[-2:]), MAP_CELLS)
        maps.append(cells[:, 0].numpy().astype(np.float16))
    return np.concatenate(scores).astype(np.float32), np.concatenate(maps)


def _export(engine: Engine, model: Any, folder: Path, tile_px: int) -> Path:
    """As OpenVINO's IR, of pictures of the size of a tile."""
    engine.export(model=model, export_type=ExportType.OPENVINO, export_root=folder, input_size=(tile_px, tile_px))
    (graph,) = folder.rglob("*.xml")
    return graph


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"anomalib {version('anomalib')}, torch {version('torch')}", flush=True)
    main(json.loads(Path(sys.argv[1]).read_text()))
