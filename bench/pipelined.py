"""Inspection of frames as in the line's pipeline: one frame is judged while the next ones are inferred."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from heatline.edge.frames import Frame
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import PendingFrame
from heatline.edge.inspection.pipeline import FRAMES_WITH_ENGINE

Found = TypeVar("Found")


def inspect_pipelined(
    engine: Engine,
    start: Callable[[Frame], PendingFrame],
    frames: Iterable[Frame],
    finish: Callable[[PendingFrame], Found],
) -> list[Found]:
    """Start frames and collect the engine's answers, while another thread judges.

    Args:
        start: `Inspector.start`, or a function that calls it.
        finish: runs in the other thread and ends a frame's inspection.
    Returns:
        what `finish` returned for each frame, in order.
    """
    found: list[Found] = []
    waiting: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(1) as judge:
        for frame in frames:
            if len(waiting) == FRAMES_WITH_ENGINE:
                while not waiting[0].done() and engine.collect():
                    pass
                found.append(waiting.popleft().result())
            waiting.append(judge.submit(finish, start(frame)))
        engine.drain()
        found += [one.result() for one in waiting]
    return found
