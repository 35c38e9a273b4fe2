"""OpenVINO Model API: its wrapper of anomalib's models, its asynchronous pipeline, and a tiler of its own making.

It has tilers for detection and segmentation. The tiler for anomaly detection here has the two methods that its base
class requires, and merges as that for semantic segmentation. The base class's grid would end in slivers of tiles, so it
gets heatline's grid. Two variants are tried: a graph of any size, as anomalib exports it by default, whose pixels are
scaled in NumPy; and a graph of fixed size, into which Model API puts the scaling.
"""

from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import openvino as ov
from model_api.adapters import OpenvinoAdapter, create_core
from model_api.models import AnomalyDetection, Model
from model_api.models.result import AnomalyResult
from model_api.tilers.tiler import Tiler
from numpy.typing import NDArray

LIBRARIES = ["openvino-model-api", "openvino", "numpy"]
Merged = tuple[NDArray[np.float32], NDArray[np.float32], bool]
"""Scores of the tiles, heatmap, verdict."""


def settings(job: dict[str, Any]) -> list[dict[str, Any]]:
    threads = job["threads"]
    return [
        {"streams": streams, "fixed": fixed}
        for streams in dict.fromkeys([threads, max(1, threads // 2), 1])
        for fixed in (False, True)
    ]


class AnomalyTiler(Tiler):  # type: ignore[misc]
    """Tiles by a grid, and merges scores and maps."""

    def __init__(self, model: AnomalyDetection, coordinates: list[list[int]]) -> None:
        super().__init__(model)
        self._coordinates = coordinates

    def _tile(self, image: NDArray[np.uint8]) -> list[list[int]]:
        return self._coordinates

    def _postprocess_tile(self, predictions: AnomalyResult, coord: list[int]) -> dict[str, Any]:
        return {"coord": coord, "found": predictions}

    def _merge_results(self, results: list[dict[str, Any]], shape: tuple[int, int, int]) -> Merged:
        merged, votes = np.zeros(shape[:2], np.float32), np.zeros(shape[:2], np.float32)
        for result in results:
            x1, y1, x2, y2 = result["coord"]
            merged[y1:y2, x1:x2] += result["found"].anomaly_map
            votes[y1:y2, x1:x2] += 1
        scores = np.array([result["found"].pred_score for result in results], np.float32)
        defective = any(result["found"].pred_label == "True" for result in results)
        return scores, np.asarray(merged / (votes * 255), np.float32), defective


class System:
    def __init__(self, job: dict[str, Any], one: dict[str, Any]) -> None:
        self.laps: dict[str, float] = {}
        self._job, side, graph = job, job["tile_px"], Path(job["graphs"]["anomalib"])
        scaling: dict[str, Any] = {}
        if one["fixed"]:
            graph = _of_fixed_size(graph, side)
            scaling = {"intensity_mode": "scale_to_unit", "input_frame_height": side, "input_frame_width": side}
        adapter = OpenvinoAdapter(
            create_core(),
            str(graph),
            device="CPU",
            plugin_config={
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": job["hint"],
                "INFERENCE_NUM_THREADS": job["threads"],
                "NUM_STREAMS": one["streams"],
            },
        )
        coordinates = [[x, y, x + side, y + side] for y, x in job["origins_yx"]]
        self._tiler = AnomalyTiler(Model.create_model(adapter, configuration=scaling), coordinates)

    def __call__(self, frames: Any) -> list[tuple[Any, Any, bool]]:
        return [self._inspect(frame) for frame in frames]

    def _inspect(self, frame: NDArray[np.uint8]) -> tuple[Any, Any, bool]:
        began = perf_counter()
        scores, heatmap, defective = self._tiler(frame)
        self.laps["tiler"] = self.laps.get("tiler", 0.0) + perf_counter() - began
        job = self._job
        logits = np.float32(job["score_threshold"]) + (scores - np.float32(0.5)) * np.float32(job["score_range"])
        return logits, heatmap, defective


def _of_fixed_size(graph: Path, tile_px: int) -> Path:
    fixed = graph.with_name(f"{graph.stem}-for-model-api.xml")
    model = ov.Core().read_model(graph)
    model.reshape([1, 3, tile_px, tile_px])
    ov.save_model(model, fixed, compress_to_fp16=False)
    return fixed
