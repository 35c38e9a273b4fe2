"""Run one system for the bench, by lines of JSON: a script for any Python that has NumPy.

    serve.py MODULE:CLASS JOB

MODULE, beside this file, has

    LIBRARIES         distributions whose versions are reported
    settings(job)     the settings to choose from
    CLASS(job, one)   made with one of them; called with frames [n, H, W, 3] it returns an answer for each: logits
                      [tiles], heatmap [h, w] or None, and whether the frame is defective. `close` ends it, if it has
                      one.

JOB is a file of JSON (`heatline.bench.peers.prepare.Job`). On standard output comes `{"ready": ...}` with the fastest
settings by the better of two calls with all frames, and then, for each line `{"answers": FILE}` that is read, the
seconds that all frames took. The answers are summed up in that file after the clock has stopped.
"""

import gc
import importlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of a library is not a reply

    def send_reply(**reply: object) -> None:
        replies.write(json.dumps(reply) + "\n")

    try:
        name, _, kind = sys.argv[1].partition(":")
        module, job = importlib.import_module(name), json.loads(Path(sys.argv[2]).read_text())
        make, frames = getattr(module, kind), np.load(job["frames"])
        best = min(module.settings(job), key=lambda one: _seconds(make, job, one, frames))
        system = make(job, best)
        system(frames[:1])
        send_reply(ready={"settings": best, "libraries": {name: version(name) for name in module.LIBRARIES}})
        for line in sys.stdin:
            began = perf_counter()
            answers = system(frames)
            seconds = perf_counter() - began
            np.savez(json.loads(line)["answers"], allow_pickle=False, **summary(answers, job["sample_px"]))
            send_reply(seconds=seconds)
    except Exception as error:
        send_reply(error=f"{type(error).__name__}: {' '.join(str(error).split())}")
        raise


def summary(answers: list[tuple[Any, Any, bool]], sample_px: int) -> dict[str, NDArray[Any]]:
    """Logits, verdicts, and of each heatmap its samples, side, and peak with its place."""
    found: dict[str, NDArray[Any]] = {
        "logits": np.stack([logits for logits, _, _ in answers]),
        "defective": np.array([defective for _, _, defective in answers]),
    }
    heatmaps = [heatmap for _, heatmap, _ in answers if heatmap is not None]
    if heatmaps:
        peaks = [np.unravel_index(int(np.argmax(heatmap)), heatmap.shape) for heatmap in heatmaps]
        found["hw"] = np.array([heatmap.shape for heatmap in heatmaps])
        found["samples"] = np.stack([heatmap[::sample_px, ::sample_px] for heatmap in heatmaps])
        found["peaks_yx"] = np.array(peaks)
    return found


def _seconds(make: Any, job: dict[str, Any], one: dict[str, Any], frames: NDArray[np.uint8]) -> float:
    """Return the time of all frames with some settings, the better of two: the first call warms it."""
    system, seconds = make(job, one), []
    for _ in range(2):
        began = perf_counter()
        system(frames)
        seconds.append(perf_counter() - began)
    if hasattr(system, "close"):
        system.close()
    del system
    gc.collect()
    return min(seconds)


if __name__ == "__main__":
    main()
