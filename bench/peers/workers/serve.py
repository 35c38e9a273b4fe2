"""Run one system for the bench, by lines of JSON: a script for any Python that has NumPy.

    serve.py MODULE JOB

MODULE, beside this file, has

    LIBRARIES         distributions whose versions are reported
    settings(job)     the settings to choose from
    System(job, one)  made with one of them; called with frames [n, H, W, 3] it returns an answer for each: logits
                      [tiles], heatmap [h, w] or None, and whether the frame is defective. In `laps` it counts the
                      seconds of its parts, until they are cleared. `close` ends it, if it has one.

JOB is a file of JSON (`heatline.bench.peers.prepare.Job`). On standard output come `{"trying": settings}` for each
that is tried, `{"ready": ...}` with the fastest one, and then, for each line `{"answers": FILE}` that is read, the
seconds that all frames took. The answers are summed up in that file after the clock has stopped.

Settings are chosen by the time of all frames in one call: first each once, then the fastest in interleaved rounds.
"""

import gc
import importlib
import json
import os
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

FINALISTS = 4
"""Settings in the interleaved rounds, all of which are in memory at once."""
TURNS = 5
"""Rounds of the finalists; their median counts."""
SECONDS_OF_TURNS = 60.0
"""Time after which no further round begins: one is enough for a slow system, whose settings differ clearly."""
LONG_SECONDS = 10.0
"""A call that takes so long needs no second one to be warm."""


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of a library is not a reply

    def send_reply(**reply: object) -> None:
        replies.write(json.dumps(reply) + "\n")

    try:
        module, job = importlib.import_module(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
        frames = np.load(job["frames"])
        system, tried = _fastest(module, job, frames, send_reply)
        libraries = {name: version(name) for name in module.LIBRARIES}
        send_reply(ready={"settings": tried[0]["settings"], "tried": tried, "libraries": libraries})
        for line in sys.stdin:
            system.laps.clear()
            began = perf_counter()
            answers = system(frames)
            seconds = perf_counter() - began
            np.savez(json.loads(line)["answers"], allow_pickle=False, **summary(answers, job["sample_px"]))
            send_reply(seconds=seconds, laps=dict(system.laps))
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


def _fastest(
    module: Any, job: dict[str, Any], frames: NDArray[np.uint8], send_reply: Callable[..., None]
) -> tuple[Any, list[dict[str, Any]]]:
    """Return the system with its fastest settings, warm; and all settings, the fastest first."""
    tried: list[dict[str, Any]] = []
    for one in module.settings(job):
        send_reply(trying=one)
        system = module.System(job, one)
        seconds = _seconds(system, frames)
        if seconds < LONG_SECONDS:
            seconds = min(seconds, _seconds(system, frames))  # the first one warmed it
        tried.append({"settings": one, "frames_per_s": len(frames) / seconds, "turns": 0})
        _close(system)
        del system
        gc.collect()
    tried.sort(key=_rate, reverse=True)
    finalists, rest = tried[:FINALISTS], tried[FINALISTS:]
    systems = [module.System(job, one["settings"]) for one in finalists]
    for system in systems:
        _seconds(system, frames[:1])
    taken: list[list[float]] = [[] for _ in systems]
    while len(taken[0]) < TURNS and sum(map(sum, taken)) < SECONDS_OF_TURNS:
        order = range(len(systems))[:: -1 if len(taken[0]) % 2 else 1]
        for number in order:
            send_reply(trying=finalists[number]["settings"])
            taken[number].append(_seconds(systems[number], frames))
    for one, of in zip(finalists, taken, strict=True):
        one.update(frames_per_s=len(frames) / statistics.median(of), turns=len(of))
    best = max(range(len(systems)), key=lambda number: _rate(finalists[number]))
    for number, system in enumerate(systems):
        if number != best:
            _close(system)
    return systems[best], [*sorted(finalists, key=_rate, reverse=True), *rest]


def _close(system: Any) -> None:
    if hasattr(system, "close"):
        system.close()


def _rate(tried: dict[str, Any]) -> float:
    rate: float = tried["frames_per_s"]
    return rate


def _seconds(system: Any, frames: NDArray[np.uint8]) -> float:
    began = perf_counter()
    system(frames)
    return perf_counter() - began


if __name__ == "__main__":
    main()
