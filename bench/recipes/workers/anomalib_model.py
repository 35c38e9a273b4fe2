"""Train one of anomalib's models on good tiles and answer other tiles. Runs in the peers' environment.

Reads its job from a JSON file (`heatline.bench.recipes.anomalib_models.Job`). Models have anomalib's defaults, except
for the backbone, whose weights come from a file, and the means and deviations of pixels, which are those of its
training.
"""

import copy
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
import openvino as ov
import timm
import torch
from anomalib.data import Folder
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore, Supersimplenet
from anomalib.pre_processing import PreProcessor
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.transforms.v2 import Compose, Normalize, Resize

BATCH = 16
INPUT_PX = 256
"""Size to which anomalib resizes each picture."""
BATCHES = (1, 8)
"""Numbers of tiles at once to try for the speed."""
ROUNDS, ROUND_SECONDS = 7, 2.0
MAP_CELLS = 56
"""Cells along a side of a stored map."""
MOST_EPOCHS = 300
"""As in the paper of SuperSimpleNet."""
CORESET = 0.01
"""Share of the cells in PatchCore's memory: the smallest of its paper, as a tenth takes ten times as long."""
TRUNK = "tf_efficientnet_lite0"
STRIDE_4, STRIDE_8, STRIDE_16 = "blocks.1", "blocks.2", "blocks.4"
"""Last blocks of EfficientNet-lite0's stages; in ResNet they are layer1, layer2 and layer3."""


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
    epochs = _epochs(model, data, job)
    engine = Engine(
        default_root_dir=scratch,
        precision=_precision(job),
        limit_val_batches=0,  # there are no validation tiles
        logger=False,
        max_epochs=epochs,
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
        epochs=epochs,
        graph_bytes=graph.stat().st_size + graph.with_suffix(".bin").stat().st_size,
        speed=_speed(Path(job["ours"]), graph, job["tile_px"]) if job["ours"] else np.nan,
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
    if name == "supersimplenet":
        return Supersimplenet(backbone=TRUNK, layers=[STRIDE_8, STRIDE_16], pre_processor=prepare)
    raise ValueError(f"{name} is not a model of this bench")


def _precision(job: dict[str, Any]) -> str:
    """Return the precision: gradients may be rounded, stored features may not."""
    return str(job["precision"]) if job["model"] == "supersimplenet" else "32-true"


def _epochs(model: Any, data: Folder, job: dict[str, Any]) -> int:
    """Return the number of epochs that fit into the time; one for a model without gradients."""
    if job["model"] != "supersimplenet":
        return 1
    data.setup()
    loader = data.train_dataloader()
    trial, batch = copy.deepcopy(model).train(), next(iter(loader))
    batch.image = trial.pre_processor.transform(batch.image)
    trial.log = lambda *args, **kwargs: None
    for _ in range(2):  # the first one is a warm-up
        began = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, enabled=_precision(job) != "32-true"):
            trial.training_step(batch)["loss"].backward()
    epochs = int(60 * job["minutes"] / ((time.monotonic() - began) * len(loader)))
    epochs = min(MOST_EPOCHS, max(1, epochs))
    print(f"{epochs} of {MOST_EPOCHS} epochs of {len(loader)} batches", flush=True)
    return epochs


def _ask(model: Any, folder: Path, names: list[str]) -> tuple[Any, Any]:
    """Return score [n] and map [n, cells, cells] of each tile, before anomalib normalises them to 0..1."""
    model.eval()
    scores, maps = [], []
    for start in range(0, len(names), BATCH):
        pixels = [np.asarray(cv2.imread(str(folder / name)))[..., ::-1] for name in names[start : start + BATCH]]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            found = model.model(model.pre_processor.transform(images))
        score, heat = found.pred_score.reshape(-1).float(), found.anomaly_map.float()
        if isinstance(model, Supersimplenet):  # probabilities near 1 are equal in 16 bits
            score, heat = torch.logit(score, eps=1e-7), torch.logit(heat, eps=1e-7)
        scores.append(score.numpy())
        cells = adaptive_avg_pool2d(heat.reshape(len(heat), 1, *heat.shape[-2:]), MAP_CELLS)
        maps.append(cells[:, 0].numpy().astype(np.float16))
    return np.concatenate(scores).astype(np.float32), np.concatenate(maps)


def _export(engine: Engine, model: Any, folder: Path, tile_px: int) -> Path:
    """Export as OpenVINO's IR for pictures of the size of a tile."""
    engine.export(model=model, export_type=ExportType.OPENVINO, export_root=folder, input_size=(tile_px, tile_px))
    (graph,) = folder.rglob("*.xml")
    return graph


def _speed(ours: Path, theirs: Path, tile_px: int) -> float:
    """Return the speed of their graph over heatline's: the median of interleaved rounds, each graph with its fastest
    batch; nan if OpenVINO cannot run it.
    """
    graphs = [found for path in (ours, theirs) if (found := _fastest(path, tile_px)) is not None]
    if len(graphs) < 2:
        return float("nan")
    ratios = []
    for number in range(ROUNDS):
        seconds = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            seconds[which] = _seconds_per_tile(*graphs[which])
        ratios.append(seconds[0] / seconds[1])
    print(f"speed over heatline's: {min(ratios):.3f} to {max(ratios):.3f}", flush=True)
    return float(np.median(ratios))


def _fastest(path: Path, tile_px: int) -> tuple[Any, int] | None:
    """Return the graph with its fastest batch; None: OpenVINO cannot run it."""
    tried = [(compiled, batch) for batch in BATCHES if (compiled := _compiled(path, batch, tile_px)) is not None]
    return min(tried, key=lambda each: _seconds_per_tile(*each), default=None)


def _compiled(path: Path, batch: int, tile_px: int) -> Any:
    """Return a queue of requests; None: the graph cannot take the batch."""
    core = ov.Core()
    graph = core.read_model(path)
    (port,) = graph.inputs
    shape = [batch, *(int(each.get_length()) if each.is_static else tile_px for each in list(port.partial_shape)[1:])]
    try:
        graph.reshape({port: shape})
        hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
        queue = ov.AsyncInferQueue(core.compile_model(graph, "CPU", hints))
        queue.start_async()
        queue.wait_all()
    except RuntimeError as error:
        print(f"no batch of {batch}: {str(error).splitlines()[-1]}", flush=True)
        return None
    return queue


def _seconds_per_tile(queue: Any, batch: int) -> float:
    began, tiles = time.monotonic(), 0
    while time.monotonic() - began < ROUND_SECONDS:
        queue.start_async()
        tiles += batch
    queue.wait_all()
    return (time.monotonic() - began) / tiles


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"anomalib {version('anomalib')}, torch {version('torch')}", flush=True)
    main(json.loads(Path(sys.argv[1]).read_text()))
