"""anomalib: its tiler, its OpenVINO inferencer, and its tiler again, which joins the maps.

According to its documentation `predict` takes one image; it also takes several as one array [n, 3, H, W]. Every batch
is tried in a graph of that fixed size and in one of any number of tiles, with both hints of OpenVINO. The last batch
of a graph of fixed size is filled up, so all batches are of about the same size.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from anomalib.data.utils.tiler import Tiler
from anomalib.deploy import OpenVINOInferencer
from numpy.typing import NDArray

LIBRARIES = ["anomalib", "openvino", "torch", "numpy"]


def settings(job: dict[str, Any]) -> list[dict[str, Any]]:
    tiles = len(job["origins_yx"])  # its own grid has as many
    even = dict.fromkeys(math.ceil(tiles / math.ceil(tiles / batch)) for batch in job["batches"])
    return [
        {"batch": batch, "hint": hint, "fixed": fixed}
        for batch in even
        for fixed in (True, False)
        for hint in ("LATENCY", "THROUGHPUT")
    ]


class System:
    def __init__(self, job: dict[str, Any], one: dict[str, Any]) -> None:
        self._job, self._batch, self._is_fixed = job, one["batch"], one["fixed"]
        graph = _of_size(Path(job["graphs"]["anomalib"]), self._batch if one["fixed"] else -1, job["tile_px"])
        self._tiler = Tiler(tile_size=job["tile_px"], stride=job["tile_px"] - job["overlap_px"])
        self._inferencer = OpenVINOInferencer(
            graph,
            device="CPU",
            config={
                "PERFORMANCE_HINT": one["hint"],
                "INFERENCE_PRECISION_HINT": job["hint"],
                "INFERENCE_NUM_THREADS": job["threads"],
            },
        )

    def __call__(self, frames: Any) -> list[tuple[Any, Any, bool]]:
        return [self._inspect(frame) for frame in frames]

    def _inspect(self, frame: NDArray[np.uint8]) -> tuple[Any, Any, bool]:
        image = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
        tiles = self._tiler.tile(image)
        found = [self._inferencer.predict(batch) for batch in self._batches(tiles)]
        maps = np.concatenate([one.anomaly_map for one in found])[: len(tiles)]
        heatmap = self._tiler.untile(torch.from_numpy(maps))
        scores = np.concatenate([one.pred_score.reshape(-1) for one in found])[: len(tiles)]
        labels = np.concatenate([one.pred_label.reshape(-1) for one in found])[: len(tiles)]
        return _logits(scores, self._job), heatmap[0, 0].numpy(), bool(labels.any())

    def _batches(self, tiles: torch.Tensor) -> list[torch.Tensor]:
        """Divide tiles into batches; the last one is filled up with black tiles for a graph of fixed size."""
        batches = [tiles[first : first + self._batch] for first in range(0, len(tiles), self._batch)]
        if self._is_fixed and (missing := self._batch - len(batches[-1])):
            batches[-1] = torch.cat([batches[-1], tiles.new_zeros(missing, *tiles.shape[1:])])
        return batches


def _of_size(graph: Path, batch: int, tile_px: int) -> Path:
    """Write the graph for tiles of that size, as anomalib exports it for a given `input_size`."""
    sized = graph.with_name(f"{graph.stem}-for-{batch}.xml")
    model = ov.Core().read_model(graph)
    model.reshape([batch, 3, tile_px, tile_px])
    ov.save_model(model, sized, compress_to_fp16=False)
    return sized


def _logits(scores: NDArray[np.float32], job: dict[str, Any]) -> NDArray[np.float32]:
    """Convert anomalib's scores in 0..1 back to logits."""
    return np.float32(job["score_threshold"]) + (scores - np.float32(0.5)) * np.float32(job["score_range"])
