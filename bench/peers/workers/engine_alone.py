"""OpenVINO alone: infers the same tensors repeatedly with heatline's graph, and copies no pixel."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from heatline.bench.bare_engine import BareEngine, read_graph

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
        frame, side, places = np.load(job["frames"], mmap_mode="r")[0], job["tile_px"], job["origins_yx"]
        tiles = np.stack([frame[y : y + side, x : x + side] for y, x in places[: self._batch]])
        graph = read_graph(Path(job["graphs"]["heatline"]))
        self._engine = BareEngine(graph, job["precision"], tiles, threads=job["threads"], streams=one["streams"])
        self._engine.run(one["streams"] + 1)  # so that every request has an answer

    def __call__(self, frames: Any) -> list[tuple[Any, None, bool]]:
        """Return the logits of each request, which always gets the first frame's first tiles."""
        self._engine.run(len(frames) * math.ceil(self._tiles / self._batch))
        return [(answer["logit"], None, False) for answer in self._engine.answers()]
