"""A line that is killed with frames in flight: the next start tells of them first, and nothing is told wrongly."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.delivery.messages import VerdictEvent
from edge.delivery.publisher import SEND_HIGH_WATER_MARK
from tests.edge.fault_boots import assert_the_crash_is_told_first, boots, crashed, die, ids, in_flight
from tests.edge.fault_injection import no_memory, starve
from tests.edge.lines import Heard, RunningLine, assert_every_frame_has_its_event, write_line_with

FASTER_THAN_INSPECTION = {"kind": "pattern", "draw_size": [240, 240], "rate_fps": 200, "waiting_frames": 8}
MANY_TILES = 'heatmaps = "never"\n\n[tiles]\noverlap_px = 222\n\n[engine]\nthreads = 1'
"""Dozens in a small frame: some frames are always in flight."""


def until_told_of(run: RunningLine, frames: int) -> None:
    """Wait until so many frames of this boot's own camera have been told of."""
    while len(own_of(run.heard)) < frames:
        run.next()


@contextlib.contextmanager
def kill_9() -> Iterator[Callable[[RunningLine], None]]:
    yield die


@contextlib.contextmanager
def no_memory_left() -> Iterator[Callable[[RunningLine], None]]:
    """The kernel kills it as soon as it wants more."""
    with no_memory() as group:
        yield lambda run: die(run, lambda: starve(group, run.process.pid))


@pytest.mark.parametrize(
    ("killer", "deaths"), [(kill_9, 3), pytest.param(kill_9, 20, marks=pytest.mark.long), (no_memory_left, 1)]
)
def test_after_each_kill_the_next_start_tells_what_was_in_flight(
    tmp_path: Path,
    bundle: Bundle,
    address: str,
    killer: Callable[[], AbstractContextManager[Callable[[RunningLine], None]]],
    deaths: int,
) -> None:
    """Each at another point of its life, some as soon as anything of it is heard."""
    state = tmp_path / "state"
    state.mkdir()
    line = write_line_with(tmp_path, bundle.path, address, {"top": FASTER_THAN_INSPECTION}, MANY_TILES)
    died_with = []
    with killer() as kill, boots(line, address, state) as lives:
        for death in range(deaths):
            with lives.boot() as run:
                until_told_of(run, 7 * (death + 1) % 20)
                kill(run)
                assert run.process.returncode == -signal.SIGKILL
            died_with.append(in_flight(state))
        with lives.boot() as run:
            run.until_inspected()
            run.end()
        heard = [lives.of(boot) for boot in range(deaths + 1)]
    assert_every_frame_has_its_event(heard[-1], ["top"])
    for one, noted, following in zip(heard, died_with, heard[1:], strict=False):
        assert_the_crash_is_told_first(following)
        told_of_it = [(event.frame_id, event.last_frame_id, event.frames) for event in crashed(following)]
        was_in_flight = [(stamp.frame_id, stamp.last_frame_id, stamp.frames) for stamp in noted]
        assert told_of_it == was_in_flight[: len(told_of_it)]
        if own_of(following):  # else it died itself before they were on the wire
            assert told_of_it == was_in_flight
        if not (own := own_of(one)):
            continue  # it died before anything of its own was heard, and may have noted nothing
        assert noted, "some are always in flight"
        told, first_in_flight = ids(own), noted[0].frame_id or 0
        assert told == list(range(1, len(told) + 1)), "each frame is told once, in order"
        # Killed between an event's handing over and the note of that, a line tells of it once more, as crashed.
        assert first_in_flight >= ids(own[-1:])[0]
        # Handed over and not yet on the wire: only such events are lost.
        assert first_in_flight - told[-1] - 1 <= SEND_HIGH_WATER_MARK


def own_of(heard: Heard) -> list[VerdictEvent]:
    """A boot's events of its own frames."""
    return [event for event in heard.verdicts if event.reason != "dropped.crashed"]
