"""The highest rate at which no frame is lost: looked for in short windows, then held in longer ones."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from bench.end_to_end.line import Scene
from bench.end_to_end.window import Window, run_window

FIRST_SHARE = 0.9
"""Of the bare engine's tiles: where the search begins."""
HIGHEST_FPS = 10_000.0
LEAST_FRAMES = 16
"""Of each camera in a window: of fewer, too many may wait unseen in the buffers of a line that does not keep up."""
STEP = 1.36
"""From one rate to the next until one is kept up with and one is not; halved twice, they lie within 8 %."""
WITHIN = 1.08
STEP_DOWN = 1.05
"""From a rate that was kept up with once and not again."""
TRIES_TO_HOLD = 8
"""Beside those that are wanted."""


class AtRate(Protocol):
    """What came of a window at one rate."""

    @property
    def rate_fps(self) -> float:
        """Of each camera."""

    @property
    def not_kept_up(self) -> str | None:
        """Why the rate was not kept up with; None: it was."""


Attempt = TypeVar("Attempt", bound=AtRate)


class Tries(msgspec.Struct, frozen=True, kw_only=True):
    """How much is tried."""

    seconds: float
    """Length of the windows in which a rate is held."""
    search_seconds: float
    """Of those in which it is looked for."""
    search: int
    """Most windows to look for it in."""
    holds: int
    """Windows in which the rate must be kept up with."""


class Highest(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    rate_fps: float | None
    """Of each camera; None: no rate was kept up with."""
    share_of_bare: float | None
    limited_by: str | None
    """What went wrong at the lowest rate above it that was tried; None: there was none."""
    held: list[Window]
    tried: list[Window]


def find_highest_rate(scene: Scene, bare_tiles_per_s: float, tries: Tries, say: Callable[[str], None]) -> Highest:
    """Look for it, and hold it.

    Raises:
        BenchError: the service failed, or judged a picture otherwise than it must.
    """

    def attempt(rate_fps: float, seconds: float) -> Window:
        return run_window(scene, rate_fps, max(seconds, LEAST_FRAMES / rate_fps))

    per_frame = scene.tiles * scene.cameras
    held, tried = find_highest(attempt, FIRST_SHARE * bare_tiles_per_s / per_frame, HIGHEST_FPS, tries, say)
    rate_fps = held[0].rate_fps if held else None
    return Highest(
        rate_fps=rate_fps,
        share_of_bare=rate_fps * per_frame / bare_tiles_per_s if rate_fps else None,
        limited_by=limit_above(rate_fps, tried),
        held=held,
        tried=tried,
    )


def limit_above(rate_fps: float | None, tried: Sequence[AtRate]) -> str | None:
    """What went wrong at the lowest rate from this one up that was tried; None: there was none."""
    missed = [one for one in tried if one.not_kept_up is not None and one.rate_fps >= (rate_fps or 0.0)]
    return min(missed, key=lambda one: one.rate_fps).not_kept_up if missed else None


def find_highest(
    attempt: Callable[[float, float], Attempt],
    first_fps: float,
    most_fps: float,
    tries: Tries,
    say: Callable[[str], None],
) -> tuple[list[Attempt], list[Attempt]]:
    """Look for the highest rate that is kept up with, then hold it.

    Args:
        attempt: runs at a rate, for so many seconds.
        first_fps: where to begin.
        most_fps: highest rate that there is.
    Returns:
        the attempts at the rate that was held, none where there was no such rate; and all of them in their order.
    """
    tried: list[Attempt] = []
    kept = missed = None  # the highest rate that was kept up with, and the lowest above it that was not
    rate_fps = first_fps

    def run(rate_fps: float, seconds: float) -> Attempt:
        tried.append(attempt(rate_fps, seconds))
        say(f"{rate_fps:g} frames/s: {tried[-1].not_kept_up or 'kept up'}")
        return tried[-1]

    while len(tried) < tries.search:
        rate_fps = min(float(f"{rate_fps:.3g}"), most_fps)
        if run(rate_fps, tries.search_seconds).not_kept_up is None:
            kept = rate_fps
        else:
            missed = rate_fps
        if kept == most_fps or (kept and missed and missed / kept <= WITHIN):
            break
        rate_fps = math.sqrt(kept * missed) if kept and missed else kept * STEP if kept else rate_fps / STEP
    if kept is None:
        return [], tried
    # A search of windows as long as those of holding has held the rate once.
    as_long = tries.search_seconds >= tries.seconds
    held = [one for one in tried if one.rate_fps == kept and one.not_kept_up is None and as_long]
    for _ in range(tries.holds + TRIES_TO_HOLD):
        if len(held) >= tries.holds:
            return held, tried
        one = run(kept, tries.seconds)
        if one.not_kept_up is None:
            held.append(one)
        else:
            held, kept = [], float(f"{kept / STEP_DOWN:.3g}")
    return (held if len(held) >= tries.holds else []), tried
