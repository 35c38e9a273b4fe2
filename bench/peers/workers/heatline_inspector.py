"""Heatline: the line's inspector. A frame is judged while the next one is inferred."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatline.bench.peers.workers.engine_alone import settings as settings
from heatline.bench.pipelined import inspect_pipelined
from heatline.edge.bundle.manifest import Calibration, Grid, Map
from heatline.edge.frames import Frame, Stamp
from heatline.edge.inference import open_engine
from heatline.edge.inspection.inspector import Inspector, PendingFrame

LIBRARIES = ["heatline", "openvino", "numpy"]


@dataclass(frozen=True)
class _Settings:
    """As a bundle has them."""

    grid: Grid
    map: Map
    calibration: Calibration


class System:
    def __init__(self, job: dict[str, Any], one: dict[str, Any]) -> None:
        self.laps: dict[str, float] = {}
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
        calibration = Calibration(
            job["score_threshold"],
            job["evidence_threshold"],
            0.0,
            0.01,
            frames=len(job["origins_yx"]),
            frames_are="drawn",
        )
        grid = Grid(tile_px=job["tile_px"], overlap_px=job["overlap_px"])
        self._inspector = Inspector(_Settings(grid, Map("", tuple(job["map_hw"])), calibration), self._engine)

    def __call__(self, frames: Any) -> list[tuple[Any, Any, bool]]:
        shown = (Frame(Stamp("bench", number), image, "RGB8") for number, image in enumerate(frames))
        return inspect_pipelined(self._engine, self._inspector.start, shown, self._finish)

    def _finish(self, pending: PendingFrame) -> tuple[Any, Any, bool]:
        judgement = self._inspector.finish(pending)
        return pending.logits, judgement.heatmap, judgement.verdict == "DEFECT"

    def close(self) -> None:
        self._engine.close()
