"""A system that `bench/peers/workers/serve.py` runs in tests: it answers with what it was shown, or fails."""

from typing import Any

import numpy as np

LIBRARIES = ["numpy"]


def settings(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"work": work} for work in (400_000, 1, 2)]


class System:
    def __init__(self, job: dict[str, Any], one: dict[str, Any]) -> None:
        if job.get("fails"):
            raise ValueError("there is\nno such model")
        self._work = one["work"]
        self.laps: dict[str, float] = {}
        print("a library that prints on standard output")

    def __call__(self, frames: Any) -> list[tuple[Any, Any, bool]]:
        sum(range(self._work * len(frames)))
        self.laps["sum"] = 0.25
        return [(np.full(4, frame.mean(), np.float32), frame[..., 0].astype(np.float32), True) for frame in frames]

    def close(self) -> None:
        pass
