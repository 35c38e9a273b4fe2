"""Search for the highest rate at which no frame is lost: in short windows, then confirmed in longer ones."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from heatline.bench.end_to_end.line import Scene
from heatline.bench.end_to_end.window import Window, run_window

FIRST_SHARE = 0.9
"""Share of the bare engine's rate where the search begins."""
HIGHEST_FPS = 10_000.0
LEAST_FRAMES = 16
"""Frames of each camera in a window: if there are fewer, the buffers hide that a line does not keep up."""
STEP = 1.36
"""Factor between rates until the line keeps up with one and not with another; two bisections reach 8 %."""
WITHIN = 1.08
STEP_DOWN = 1.05
"""Factor from a rate that the line kept up with once and not again."""
TRIES_TO_HOLD = 8
"""Windows in addition to those that are wanted."""


class AtRate(Protocol):
    """Outcome of a window at one rate."""

    @property
    def rate_fps(self) -> float:
        """Of each camera."""

    @property
    def not_kept_up(self) -> str | None:
        """Why the rate was not kept up with; None: it was."""


Attempt = TypeVar("Attempt", bound=AtRate)


class Tries(msgspec.Struct, frozen=True, kw_only=True):
    """Lengths and numbers of windows."""

    seconds: float
    """Length of a window that confirms a rate."""
    search_seconds: float
    """Length of a window of the search."""
    search: int
    """Most windows of the search."""
    holds: int
    """Windows in which the line must keep up with the rate."""


class Highest(msgspec.Struct, frozen=True, kw_only=True):
    """The highest rate, and all windows."""

    rate_fps: float | None
    """Of each camera; None: the line kept up with no rate."""
    share_of_bare: float | None
    limited_by: str | None
    """Why the line did not keep up with the lowest rate above it; None: no such rate was tried."""
    held: list[Window]
    tried: list[Window]


def find_highest_rate(
    scene: Scene, bare_tiles_per_s: float, tries: Tries, report_line: Callable[[str], None]
) -> Highest:
    """Find the highest rate of a line and confirm it.

    Raises:
        BenchError: the service failed, or reported a wrong verdict.
    """

    def attempt(rate_fps: float, seconds: float) -> Window:
        return run_window(scene, rate_fps, max(seconds, LEAST_FRAMES / rate_fps))

    per_frame = scene.tiles * scene.cameras
    held, tried = find_highest(attempt, FIRST_SHARE * bare_tiles_per_s / per_frame, HIGHEST_FPS, tries, report_line)
    rate_fps = held[0].rate_fps if held else None
    return Highest(
        rate_fps=rate_fps,
        share_of_bare=rate_fps * per_frame / bare_tiles_per_s if rate_fps else None,
        limited_by=limit_above(rate_fps, tried),
        held=held,
        tried=tried,
    )


def limit_above(rate_fps: float | None, tried: Sequence[AtRate]) -> str | None:
    """Return why the lowest rate from this one up failed; None: none failed."""
    failed = [one for one in tried if one.not_kept_up is not None and one.rate_fps >= (rate_fps or 0.0)]
    return min(failed, key=lambda one: one.rate_fps).not_kept_up if failed else None


def find_highest(
    attempt: Callable[[float, float], Attempt],
    first_fps: float,
    most_fps: float,
    tries: Tries,
    report_line: Callable[[str], None],
) -> tuple[list[Attempt], list[Attempt]]:
    """Find the highest rate that is kept up with, and confirm it.

    Args:
        attempt: runs a window at a rate, of a length in seconds.
        first_fps: rate of the first window.
        most_fps: highest rate of the cameras.
    Returns:
        the windows that confirm the rate, none if there is no such rate; and all windows in their order.
    """
    tried: list[Attempt] = []
    passed = failed = None  # the highest rate that was kept up with, and the lowest above it that was not
    rate_fps = first_fps

    def run(rate_fps: float, seconds: float) -> Attempt:
        tried.append(attempt(rate_fps, seconds))
        report_line(f"{rate_fps:g} frames/s: {tried[-1].not_kept_up or 'kept up'}")
        return tried[-1]

    while len(tried) < tries.search:
        rate_fps = min(float(f"{rate_fps:.3g}"), most_fps)
        if run(rate_fps, tries.search_seconds).not_kept_up is None:
            passed = rate_fps
        else:
            failed = rate_fps
        if passed == most_fps or (passed and failed and failed / passed <= WITHIN):
            break
        rate_fps = math.sqrt(passed * failed) if passed and failed else passed * STEP if passed else rate_fps / STEP
    if passed is None:
        return [], tried
    # If the search had windows of the full length, one has confirmed the rate.
    as_long = tries.search_seconds >= tries.seconds
    held = [one for one in tried if one.rate_fps == passed and one.not_kept_up is None and as_long]
    for _ in range(tries.holds + TRIES_TO_HOLD):
        if len(held) >= tries.holds:
            return held, tried
        one = run(passed, tries.seconds)
        if one.not_kept_up is None:
            held.append(one)
        else:
            held, passed = [], float(f"{passed / STEP_DOWN:.3g}")
    return (held if len(held) >= tries.holds else []), tried
