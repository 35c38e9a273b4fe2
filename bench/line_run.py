"""A line run from beginning to end: the service in one process, a subscriber in another, and what that one got."""

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from edge.errors import BenchError
from edge.wire.events import Event, StatusEvent, VerdictEvent

LAST_EVENT_WITHIN_SECONDS = 10
SILENCE_SECONDS = 30


def run_line(
    line: Path, address: str, received: Path, *, within_seconds: float
) -> tuple[list[VerdictEvent], StatusEvent]:
    """Run a line whose cameras come to an end; the subscriber shows its table meanwhile.

    Args:
        line: configuration; should wait for a subscriber, or the first events may be missed.
        address: its `events.bind`.
        received: folder for what the subscriber keeps, made anew.
    Returns:
        Every verdict event, and the last status.
    Raises:
        BenchError: a process failed or did not end in time, or the line never said that it had stopped.
    """
    shutil.rmtree(received, ignore_errors=True)
    heatline = [sys.executable, "-m", "edge.cli.main"]
    watching = subprocess.Popen(
        [*heatline, "watch", address, "--save", str(received), "--timeout", str(SILENCE_SECONDS)]
    )
    try:
        service = subprocess.run([*heatline, "run", str(line)], timeout=within_seconds)
        watched = watching.wait(timeout=LAST_EVENT_WITHIN_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{' '.join(map(str, error.cmd))} did not end within {error.timeout:.0f} s") from error
    finally:
        watching.kill()
        watching.wait()
    if service.returncode or watched:
        raise BenchError(f"the service ended with code {service.returncode}, the subscriber with {watched}; see above")
    lines = (received / "events.jsonl").read_bytes().splitlines()
    events: list[Event] = [msgspec.json.decode(line, type=Event) for line in lines]
    last = events[-1] if events else None
    if not isinstance(last, StatusEvent) or last.state != "STOPPED":
        raise BenchError("the line never said that it had stopped; see the output above")
    return [event for event in events if isinstance(event, VerdictEvent)], last
