"""OpenVINO alone, and heatline: the line's inspector, by which a frame is judged while the next one is inferred."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from heatline.bench.engines import BareEngine, all_settings, inspect_pipelined, read_graph
from heatline.edge.bundle.manifest import Calibration, Grid, Map
from heatline.edge.frames import Frame, Stamp
from heatline.edge.inference import open_engine
from heatline.edge.inspection.inspector import Inspector, PendingFrame, Settings

LIBRARIES = ["heatline", "openvino", "numpy"]


def settings(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [msgspec.structs.asdict(one) for one in all_settings(job["threads"], job["batches"])]


class Alone:
    """Infers the same tensors repeatedly with heatline's graph, and copies no pixel."""

    def __init__(self, job: dict[str, Any], one: dict[str, Any]) -> None:
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


class Line:
    """Cuts, infers, stitches and judges."""

    def __init__(self, job: dict[str, Any], one: dict[str, Any]) -> None:
        graph = Path(job["graphs"]["heatline"])
        self._engine = open_engine(
            "openvino",
            graph.parent,
            job["tile_px"],
            precision=job["precision"],
            graph=graph.name,
            threads=job["threads"],
            **one,
        )
        thresholds = job["score_threshold"], job["evidence_threshold"]
        calibration = Calibration(*thresholds, 0.0, 0.01, frames=len(job["origins_yx"]), frames_are="drawn")
        grid = Grid(tile_px=job["tile_px"], overlap_px=job["overlap_px"])
        self._inspector = Inspector(Settings(grid, Map("", tuple(job["map_hw"])), calibration), self._engine)

    def __call__(self, frames: Any) -> list[tuple[Any, Any, bool]]:
        shown = (Frame(Stamp("bench", number), image, "RGB8") for number, image in enumerate(frames))
        return inspect_pipelined(self._engine, self._inspector.start, shown, self._finish)

    def _finish(self, pending: PendingFrame) -> tuple[Any, Any, bool]:
        judgement = self._inspector.finish(pending)
        return pending.logits, judgement.heatmap, judgement.verdict == "DEFECT"

    def close(self) -> None:
        self._engine.close()
