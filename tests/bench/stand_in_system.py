"""A system that `bench/peers/workers/serve.py` runs in tests: it answers from a file, and fails where it is told to."""

import json
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = ["numpy"]


def settings(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"work": work} for work in (400_000, 1, 200_000, 2, 100_000, 3)]


class System:
    def __init__(self, job: dict[str, Any], one: dict[str, Any]) -> None:
        if job.get("fails") == "at once":
            raise ValueError("there is\nno such model")
        self._job, self._work = job, one["work"]
        self.laps: dict[str, float] = {}
        print("a library that prints on standard output")

    def __call__(self, frames: Any) -> list[tuple[Any, Any, bool]]:
        with Path(self._job["diary"]).open("a") as diary:
            diary.write(json.dumps({"work": self._work, "frames": len(frames)}) + "\n")
        sum(range(self._work * len(frames)))
        self.laps["sum"] = 0.25
        if self._job.get("fails") == "in its turn" and len(frames) == 3:
            raise RuntimeError("out of memory")
        return [(np.full(4, frame.mean(), np.float32), frame[..., 0].astype(np.float32), True) for frame in frames]

    def close(self) -> None:
        with Path(self._job["diary"]).open("a") as diary:
            diary.write(json.dumps({"closed": self._work}) + "\n")
