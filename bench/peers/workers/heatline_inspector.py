"""Ours: the line's own inspector. One frame's tiles are with the engine while the one before is judged."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.bundle.manifest import Calibration, Grid, Map
from edge.frames import Frame, Stamp
from edge.inference import open_engine
from edge.inspection.inspector import Inspector, PendingFrame
from edge.inspection.pipeline import FRAMES_WITH_ENGINE

LIBRARIES = ["heatline", "openvino", "numpy"]


def settings(job: dict[str, Any]) -> list[dict[str, Any]]:
    threads = job["threads"]
    return [
        {"streams": streams, "batch": batch}
        for streams in dict.fromkeys([threads, max(1, threads // 2), 1])
        for batch in job["batches"]
    ]


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
        """As the line's pipeline does: this thread starts frames and takes in what the engine answers."""
        answers = []
        waiting: deque[Future[tuple[Any, Any, bool]]] = deque()
        with ThreadPoolExecutor(1) as judge:
            for number, image in enumerate(frames):
                if len(waiting) == FRAMES_WITH_ENGINE:
                    while not waiting[0].done() and self._engine.collect():
                        pass
                    answers.append(waiting.popleft().result())
                pending = self._inspector.start(Frame(Stamp("bench", number), image, "RGB8"))
                waiting.append(judge.submit(self._finish, pending))
            self._engine.drain()
            answers += [one.result() for one in waiting]
        return answers

    def _finish(self, pending: PendingFrame) -> tuple[Any, Any, bool]:
        judgement = self._inspector.finish(pending)
        return pending.logits, judgement.heatmap, judgement.verdict == "DEFECT"

    def close(self) -> None:
        self._engine.close()
