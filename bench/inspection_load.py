"""A line that inspects at a share of its highest rate, beside what a bench measures."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from heatline.bench.watched_line import Keys, WatchedLine, has_stopped
from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.errors import BenchError
from heatline.edge.wire.events import VerdictEvent

FRAMES_FOR_A_RATE = 5000
HIGHEST_FPS = 10_000.0
WAITING_FRAMES = 16
WITHIN_SECONDS = 120.0
ALONE_SECONDS = 10.0
SHARE_OF_HIGHEST = 0.8
NICE = 5
"""The priority of a bridge, as its unit sets it, and of the plant's programs, which should be on another machine."""


class InspectionLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a line inspected while something else was measured."""

    highest_fps: float
    """Rate of frames of one tile that this line inspects while nothing else runs."""
    wanted_fps: float
    alone_fps: float
    """Frames with a verdict before the measurement."""
    reached_fps: float
    """Frames with a verdict during the measurement."""
    without_verdict: int
    """Frames without one during the measurement."""


def one_tile_camera(name: str, bundle: Bundle, rate_fps: float) -> Keys:
    """Return the keys of a camera with frames of one tile."""
    size = [bundle.manifest.grid.tile_px] * 2
    return {
        "kind": "pattern", "name": name, "draw_size": size, "rate_fps": rate_fps, "waiting_frames": WAITING_FRAMES
    }  # fmt: skip


def highest_fps(bundle: Bundle) -> float:
    """Measure the rate at which frames of a waiting camera are inspected.

    Raises:
        BenchError: the line ended.
    """
    camera: Keys = {
        **one_tile_camera("inspected", bundle, HIGHEST_FPS), "frames": FRAMES_FOR_A_RATE, "on_overload": "block"
    }  # fmt: skip
    reported: list[int] = []
    with tempfile.TemporaryDirectory() as place, WatchedLine(Path(place), bundle.path, "f32", [camera]) as line:
        while (received := line.next()) is None or not has_stopped(received.event):
            if received is not None and isinstance(received.event, VerdictEvent):
                reported.append(received.at_ns)
        line.await_exit()
    return (len(reported) - 1) / ((reported[-1] - reported[0]) / 1e9)


class Inspecting:
    """A line at work in processes of its own; `measured` tells what it inspected since `begin`."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def begin(self) -> None:
        """Begin to count."""
        self._pipe.send("begin")

    def measured(self) -> InspectionLoad:
        """Return what was inspected since then.

        Raises:
            BenchError: the line ended.
        """
        self._pipe.send("end")
        load: InspectionLoad = _answer(self._pipe)
        return load


@contextmanager
def inspecting(bundle: Path, share: float = SHARE_OF_HIGHEST) -> Iterator[Inspecting]:
    """Run a line at a share of its highest rate inside the `with` block.

    Raises:
        BenchError: the line did not start.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_inspect, args=(bundle, share, theirs), daemon=True)
    process.start()
    try:
        _answer(ours)
        yield Inspecting(ours)
    finally:
        ours.send("stop")
        process.join(WITHIN_SECONDS)


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(WITHIN_SECONDS):
        raise BenchError(f"the inspecting line did not answer within {WITHIN_SECONDS:.0f} s")
    answer = pipe.recv()
    if isinstance(answer, str):
        raise BenchError(answer)
    return answer


def _inspect(path: Path, share: float, pipe: Connection) -> None:
    try:
        bundle = open_bundle(path)
        highest = highest_fps(bundle)
        camera = one_tile_camera("inspected", bundle, share * highest)
        with tempfile.TemporaryDirectory() as place, WatchedLine(Path(place), bundle.path, "f32", [camera]) as line:
            line.until(lambda event: isinstance(event, VerdictEvent), WITHIN_SECONDS, "the first event")
            alone_fps, _ = _count(line, lambda seconds: seconds >= ALONE_SECONDS)
            pipe.send(None)
            while _ignoring(line, pipe) == "begin":
                reached_fps, without = _count(line, lambda _: pipe.poll())
                if pipe.recv() != "end":
                    return
                pipe.send(
                    InspectionLoad(
                        highest_fps=highest,
                        wanted_fps=share * highest,
                        alone_fps=alone_fps,
                        reached_fps=reached_fps,
                        without_verdict=without,
                    )
                )
    except (BenchError, EOFError) as error:
        pipe.send(str(error))


def _ignoring(line: WatchedLine, pipe: Connection) -> str:
    """Receive and ignore events until something is asked; return that."""
    _count(line, lambda _: pipe.poll())
    asked: str = pipe.recv()
    return asked


def _count(line: WatchedLine, is_over: Callable[[float], bool]) -> tuple[float, int]:
    """Receive events until this is over; return the rate of frames with a verdict, and the number without."""
    judged = without = 0
    began_s = time.monotonic()
    while not is_over(time.monotonic() - began_s):
        received = line.next()
        if received is not None and isinstance(event := received.event, VerdictEvent):
            judged += event.verdict != "NO_VERDICT"
            without += event.frames if event.verdict == "NO_VERDICT" else 0
    return judged / (time.monotonic() - began_s), without
