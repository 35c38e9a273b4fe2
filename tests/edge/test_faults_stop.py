"""SIGTERM while a camera is far faster than inspection and all that may wait waits: every frame is told, in time."""

import signal
from pathlib import Path

import pytest

from edge.bundle import Bundle
from tests.edge.lines import RunningLine, assert_every_frame_has_its_event, running, write_line_with

BURST = {"kind": "pattern", "draw_size": [260, 260], "rate_fps": 500, "waiting_frames": 64}
DOZENS_OF_TILES = 'heatmaps = "never"\n\n[tiles]\noverlap_px = 220\n\n[engine]\nthreads = 1'
THOUSANDS_OF_TILES = 'heatmaps = "never"\n\n[tiles]\noverlap_px = 223\n\n[engine]\nthreads = 1'


def until_it_overflows(run: RunningLine) -> None:
    """Wait for a frame that is inspected after one had to give way: since then, all that may wait waits."""
    run.until(lambda event: getattr(event, "reason", None) == "dropped.overload")
    run.until_inspected()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_burst_ends_in_order_and_every_frame_is_told(
    tmp_path: Path, bundle: Bundle, address: str, number: signal.Signals
) -> None:
    line = write_line_with(tmp_path, bundle.path, address, {"top": BURST}, DOZENS_OF_TILES)
    with running(line, address) as run:
        until_it_overflows(run)
        run.process.send_signal(number)
        heard = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["top"])


@pytest.mark.long
def test_frames_that_cannot_be_inspected_within_the_time_to_stop_are_told_as_stopped(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    """All that waits would take longer than a service has to stop."""
    line = write_line_with(tmp_path, bundle.path, address, {"top": BURST}, THOUSANDS_OF_TILES)
    with running(line, address) as run:
        until_it_overflows(run)
        run.process.send_signal(signal.SIGTERM)
        heard = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["top"])
    assert heard.last.ledger["top"].dropped["stopped"] > 0
