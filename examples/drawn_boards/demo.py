"""Runs the service on drawn boards, in under a minute, and writes a page of what it found.

Draws boards that training never saw, runs the service on them with the shipped bundle, receives every event in
another process, and compares the events with the drawn defects. Fails unless all checks pass.
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
from page import BoardOnPage, write_page
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
"""A third of the boards has no defect. The bundle was trained on boards of another seed (rebuild.sh)."""
SERVICE_WITHIN_SECONDS = 50
SILENCE_SECONDS = 30

LINE = """\
# Written by the demo. `heatline check` and `heatline run` take it as it is.
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
    """One thing that the demo checks."""

    what: str
    measured: str
    passed: bool


def main() -> None:
    """Run the demo; exit code 0 only if every check passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for everything the demo makes")
    out: Path = parser.parse_args().out
    try:
        run(out)
    except HeatlineError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def run(out: Path) -> None:
    """Draw, inspect, score, write the page.

    Raises:
        DemoError: a check fails, or the folder cannot be made.
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
        page = write_page(out / "index.html", boards, final, [(c.what, c.measured, c.passed) for c in checks], manifest)
    for each in checks:
        console.print(
            f"  [{'green]passed' if each.passed else 'red]FAILED'}[/]  {each.what}: {each.measured}", highlight=False
        )
    console.print(
        f"\n{len(boards)} boards: drawn in {drawn - started:.0f} s, inspected in {inspected - drawn:.0f} s, "
        f"{time.monotonic() - started:.0f} s in all\nlook at {page}",
        highlight=False,
    )
    if not all(each.passed for each in checks):
        raise DemoError("not every check passed; see above")


def inspect(out: Path) -> tuple[list[VerdictEvent], StatusEvent]:
    """Run the service until its camera has no more boards, and `heatline watch`, each in a process of its own.

    Returns:
        Every verdict event, and the last status.
    Raises:
        BenchError: a process failed or did not end in time, or no status says that the line has stopped.
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
    events: list[Event] = [msgspec.json.decode(each, type=Event) for each in lines]
    last = events[-1] if events else None
    if not isinstance(last, StatusEvent) or not has_stopped(last):
        raise BenchError("no status of the line says that it has stopped; see the output above")
    return [event for event in events if isinstance(event, VerdictEvent)], last


def compare(out: Path, event: VerdictEvent, manifest: Manifest) -> BoardOnPage:
    """Compare one event with the defects that were drawn."""
    image = out / "boards" / "images" / str(event.source)
    mask = read_image(out / "boards" / "masks" / str(event.source))[0] > 0
    map_cell_px = manifest.grid.tile_px / min(manifest.map.hw)
    heatmap = out / "received" / f"{event.seq:06d}.png"
    return BoardOnPage(event, image, heatmap, match_regions(event.regions, np.asarray(mask), map_cell_px))


def check(boards: list[BoardOnPage], final: StatusEvent) -> list[Check]:
    """Check the events and the counts of frames."""
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
