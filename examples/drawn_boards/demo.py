"""Runs the service on drawn boards, in under a minute, and writes a page with the result.

The demo draws boards that were not used for training, runs the service on them with the shipped bundle, receives every
event in another process, and compares the events with the drawn defects. It fails unless all checks pass.
"""

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from boards import write_boards
from page import InspectedBoard, write_page
from rich.console import Console

from bench.watched_line import free_address, has_stopped, line_process
from bench.watched_process import HEATLINE, WatchedProcess
from edge.bundle import Manifest, open_bundle
from edge.errors import BenchError, DemoError, HeatlineError
from edge.images import read_image
from edge.util.os_errors import writing
from edge.wire.events import Event, StatusEvent, VerdictEvent
from train.evaluation.scoring import match_regions

HERE = Path(__file__).parent
BUNDLE = HERE / "bundle"
BOARDS, SEED = 24, 2026
"""Every third board is flawless. The bundle was trained on boards of another seed (see rebuild.sh)."""
SERVICE_WITHIN_SECONDS = 50
SILENCE_SECONDS = 30

LINE = """\
# Written by the demo. `heatline check` and `heatline run` accept this file without changes.
bundle = {bundle}
allow_unsigned = true  # the demo's bundle is not signed
acting = false  # a trial: no ejector may fire

[[cameras]]
name = "top"
kind = "folder"
path = "boards/images"

[events]
bind = "{address}"
heatmaps = "always"
wait_for_subscriber_s = 20
"""


@dataclass(frozen=True)
class Check:
    """A check of the demo, its measured value and its result."""

    name: str
    measured: str
    passed: bool


def main() -> None:
    """Run the demo; exit code 0 only if every check passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for all files of the demo; default: demo-out"
    )
    out: Path = parser.parse_args().out
    try:
        run(out)
    except HeatlineError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def run(out: Path) -> None:
    """Draw the boards, inspect them, check the result and write the page.

    Raises:
        DemoError: a check failed, or the folder cannot be made.
        BenchError: a process failed.
    """
    console = Console()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"{out} cannot be made ({error.strerror}); name another folder with --out") from error
    started = time.monotonic()
    manifest = open_bundle(BUNDLE).manifest
    if not (out / "boards").exists():  # from an earlier run
        write_boards(out / "boards", BOARDS, SEED, workers=os.cpu_count() or 1)
    drawn = time.monotonic()
    events, final = inspect(out)
    inspected = time.monotonic()
    boards = [compare(out, event, manifest) for event in events]
    checks = check(boards, final)
    with writing(out):
        page = write_page(out / "index.html", boards, final, [(c.name, c.measured, c.passed) for c in checks], manifest)
    for one in checks:
        console.print(
            f"  [{'green]passed' if one.passed else 'red]FAILED'}[/]  {one.name}: {one.measured}", highlight=False
        )
    console.print(
        f"\n{len(boards)} boards: drawn in {drawn - started:.0f} s, inspected in {inspected - drawn:.0f} s, "
        f"{time.monotonic() - started:.0f} s in total\nopen {page} in a browser",
        highlight=False,
    )
    if not all(one.passed for one in checks):
        raise DemoError("not every check passed; see the output above")


def inspect(out: Path) -> tuple[list[VerdictEvent], StatusEvent]:
    """Run the service until its camera has no more boards; `heatline watch` receives the events in another process.

    Returns:
        All verdict events, and the last status event.

    Raises:
        BenchError: a process failed or did not end in time, or the last event does not report a stopped line.
    """
    address, line, received = free_address(), out / "line.toml", out / "received"
    with writing(line):
        line.write_text(LINE.format(bundle=json.dumps(str(BUNDLE.resolve())), address=address))
    shutil.rmtree(received, ignore_errors=True)
    watch: list[str | Path] = [*HEATLINE, "watch", address, "--save", received, "--timeout", str(SILENCE_SECONDS)]
    with WatchedProcess("the subscriber", watch, None) as subscriber, line_process(line, None) as service:
        subscriber.start()
        service.start()
        service.require_success(SERVICE_WITHIN_SECONDS)
        subscriber.require_success()
    lines = (received / "events.jsonl").read_bytes().splitlines()
    events: list[Event] = [msgspec.json.decode(text, type=Event) for text in lines]
    last = events[-1] if events else None
    if not isinstance(last, StatusEvent) or not has_stopped(last):
        raise BenchError("the last event does not report that the line has stopped; see the output above")
    return [event for event in events if isinstance(event, VerdictEvent)], last


def compare(out: Path, event: VerdictEvent, manifest: Manifest) -> InspectedBoard:
    """Match the regions of an event with the drawn defects of its board."""
    image = out / "boards" / "images" / str(event.source)
    mask = read_image(out / "boards" / "masks" / str(event.source))[0] > 0
    map_cell_px = manifest.grid.tile_px / min(manifest.map.hw)
    heatmap = out / "received" / f"{event.seq:06d}.png"
    return InspectedBoard(event, image, heatmap, match_regions(event.regions, np.asarray(mask), map_cell_px))


def check(boards: list[InspectedBoard], final: StatusEvent) -> list[Check]:
    """Check the events and the frame counts."""
    account = final.ledger["top"]
    sources = [board.event.source for board in boards]
    scores = [board.matches.score for board in boards]
    defective = [score for score in scores if score.defects]
    flawless = [board.event for board in boards if not board.matches.score.defects]
    defects, hit = sum(score.defects for score in defective), sum(score.hit for score in defective)
    good = sum(event.verdict == "GOOD" for event in flawless)
    false_regions = sum(score.false_regions for score in defective) / max(len(defective), 1)
    return [
        Check(
            "every frame has its event", f"{len(set(sources))} of {BOARDS}", len(set(sources)) == len(sources) == BOARDS
        ),
        Check(
            "every captured frame is accounted for",
            f"captured {account.captured} = inspected {account.inspected} + dropped {sum(account.dropped.values())} "
            f"+ failed {sum(account.failed.values())} + in flight {account.in_flight}",
            account.balanced and account.in_flight == 0 and account.inspected == BOARDS,
        ),
        Check("at least 90 % of the defects are found", f"{hit} of {defects}", hit >= 0.9 * defects > 0),
        Check(
            "at least 90 % of the boards without defects are GOOD",
            f"{good} of {len(flawless)}",
            good >= 0.9 * len(flawless) > 0,
        ),
        Check(
            "less than one false region per defective board",
            f"{false_regions:.2f} on average",
            bool(defective) and false_regions < 1,
        ),
    ]


if __name__ == "__main__":
    main()
