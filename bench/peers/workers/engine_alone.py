"""OpenVINO alone: the graph that ours runs, fed again and again from the same tensors, no pixel moved."""

import math
from typing import Any

import numpy as np
import openvino as ov

LIBRARIES = ["openvino"]


def settings(job: dict[str, Any]) -> list[dict[str, Any]]:
    threads = job["threads"]
    return [
        {"streams": streams, "batch": batch}
        for streams in dict.fromkeys([threads, max(1, threads // 2), 1])
        for batch in job["batches"]
    ]


class System:
    def __init__(self, job: dict[str, Any], one: dict[str, Any]) -> None:
        self.laps: dict[str, float] = {}
        self._tiles, self._batch = len(job["origins_yx"]), one["batch"]
        frame, side = np.load(job["frames"], mmap_mode="r")[0], job["tile_px"]
        tiles = np.stack([frame[y : y + side, x : x + side] for y, x in job["origins_yx"][: self._batch]])
        model = ov.Core().read_model(job["graphs"]["heatline"])
        model.reshape({"tiles": list(tiles.shape)})
        hints = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": job["hint"],
            "INFERENCE_NUM_THREADS": job["threads"],
            "NUM_STREAMS": one["streams"],
        }
        self._requests = ov.AsyncInferQueue(ov.Core().compile_model(model, "CPU", hints), one["streams"] + 1)
        for request in self._requests:
            request.set_tensor("tiles", ov.Tensor(tiles))

    def __call__(self, frames: Any) -> list[tuple[Any, None, bool]]:
        """Of each request the logits of the first frame's first tiles, which are all that it is given."""
        for _ in range(len(frames) * math.ceil(self._tiles / self._batch)):
            self._requests.start_async()
        self._requests.wait_all()
        return [(request.get_tensor("logit").data.copy(), None, False) for request in self._requests]

    def close(self) -> None:
        """Nothing but memory is held."""
