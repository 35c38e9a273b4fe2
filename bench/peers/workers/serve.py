"""Runs one system for the bench, which speaks to it by lines of JSON: a script, for any Python that has numpy.

    serve.py MODULE JOB

MODULE, beside this file, has

    LIBRARIES         distributions whose versions are told
    settings(job)     the settings to choose from
    System(job, one)  made with one of them; called with frames [n, H, W, 3] it returns an answer for each: logits
                      [tiles], heatmap [h, w] or None, and whether the frame is defective. In `laps` it counts the
                      seconds of its parts, until they are cleared. `close` ends it.

JOB is a file of JSON (`bench.peers.prepare.Job`). On standard output come `{"trying": settings}` for each that is
tried, `{"ready": ...}` with the one that was fastest, and then, for each line `{"answers": FILE}` that is read, the
seconds that all frames took. What was answered is summed up in that file after the clock was stopped.
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

FRAMES_TO_CHOOSE_BY = 2


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no reply

    def say(**reply: object) -> None:
        replies.write(json.dumps(reply) + "\n")

    try:
        module, job = importlib.import_module(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
        frames = np.load(job["frames"])
        tried = []
        for one in module.settings(job):
            say(trying=one)
            system = module.System(job, one)
            tried.append({"settings": one, "frames_per_s": _frames_per_s(system, frames)})
            system.close()
            del system
            gc.collect()
        best = max(tried, key=lambda each: each["frames_per_s"])["settings"]
        system = module.System(job, best)
        system(frames[:1])
        libraries = {name: version(name) for name in module.LIBRARIES}
        say(ready={"settings": best, "tried": tried, "libraries": libraries})
        for line in sys.stdin:
            system.laps.clear()
            began = perf_counter()
            answers = system(frames)
            seconds = perf_counter() - began
            np.savez(json.loads(line)["answers"], allow_pickle=False, **summary(answers, job["sample_px"]))
            say(seconds=seconds, laps=dict(system.laps))
    except Exception as error:
        say(error=f"{type(error).__name__}: {' '.join(str(error).split())}")
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
        found["peaks"] = np.array([heatmap[peak] for heatmap, peak in zip(heatmaps, peaks, strict=True)])
    return found


def _frames_per_s(system: Any, frames: NDArray[np.uint8]) -> float:
    """At best: one that was disturbed is not the slower one for that."""
    system(frames[:1])
    seconds = []
    for number in range(min(FRAMES_TO_CHOOSE_BY, len(frames))):
        began = perf_counter()
        system(frames[number : number + 1])
        seconds.append(perf_counter() - began)
    return 1 / min(seconds)


if __name__ == "__main__":
    main()
