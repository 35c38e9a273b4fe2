"""Runs the service on drawn boards, in under a minute, and shows it on the line's page.

The demo draws boards that were not used for training, runs the service on them with the shipped bundle, receives every
event in another process, serves the line's page, and compares the events with the drawn defects. It fails unless all
checks pass. At a terminal, the line's page stays open until Ctrl-C.
"""

import argparse
import contextlib
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
from line_page import LinePage
from page import InspectedBoard, write_page
from rich.console import Console

from heatline.bench.watched_line import free_address, has_stopped, line_process
from heatline.bench.watched_process import HEATLINE, WatchedProcess
from heatline.edge.bundle import Manifest, open_bundle
from heatline.edge.errors import BenchError, DemoError, HeatlineError
from heatline.edge.images import read_image
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.util.files import writing
from heatline.edge.wire.events import Event, StatusEvent, VerdictEvent
from heatline.train.evaluation.scoring import match_regions

HERE = Path(__file__).parent
BUNDLE = HERE / "bundle"
BOARDS, SEED = 24, 2026
"""Every third board is flawless. The bundle was trained on boards of another seed (see rebuild.sh)."""
SERVICE_WITHIN_SECONDS = 50
SILENCE_SECONDS = 30
POLL_SECONDS = 0.05
JPEG_START = b"\xff\xd8"

LINE = """\
# Written by the demo. `heatline check` and `heatline run` accept this file without changes.
bundle = {bundle}
allow_unsigned = true  # the demo's bundle is not signed
acting = false  # a trial: no ejector may fire

[[cameras]]
name = "top"
kind = "folder"
path = "boards/images"
rate_fps = 1.5

[events]
bind = "{address}"
heatmaps = "always"
wait_for_subscriber_s = 20

[journal]
folder = "journal"

[evidence]
folder = "evidence"
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
    """Draw the boards, inspect them, check the result and write the page with all boards.

    Raises:
        DemoError: a check failed, or the folder cannot be made.
        BenchError: a process failed.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"{out} cannot be made ({error.strerror}); name another folder with --out") from error
    started = time.monotonic()
    manifest = open_bundle(BUNDLE).manifest
    if not (out / "boards").exists():  # from an earlier run
        console.print(f"drawing {BOARDS} boards")
        write_boards(out / "boards", BOARDS, SEED, workers=os.cpu_count() or 1)
    drawn = time.monotonic()
    prepare(out)
    with LinePage(out / "line.toml") as page:
        console.print(f"open {page.url} in a browser to see the line at work")
        events, final = inspect(out, page)
        inspected = time.monotonic()
        boards = [compare(out, event, manifest) for event in events]
        checks = [*check(boards, final), *check_pictures(out, events, final, page)]
        with writing(out):
            results = [(one.name, one.measured, one.passed) for one in checks]
            overview = write_page(out / "index.html", boards, final, results, manifest)
        for one in checks:
            console.print(f"  [{'green]passed' if one.passed else 'red]FAILED'}[/]  {one.name}: {one.measured}")
        console.print(
            f"\n{len(boards)} boards: drawn in {drawn - started:.0f} s, inspected in {inspected - drawn:.0f} s, "
            f"{time.monotonic() - started:.0f} s in total\nopen {overview} in a browser to see every board"
        )
        if not all(one.passed for one in checks):
            raise DemoError("not every check passed; see the output above")
        if is_at_terminal():
            console.print(f"open {page.url} to see the page of the line; Ctrl-C ends it")
            with contextlib.suppress(KeyboardInterrupt):
                page.serve()
            console.print()
    console.print(f"type `{heatline_command()} view {out / 'line.toml'}` to see the page of the line again")


def is_at_terminal() -> bool:
    """Return whether a person may look at the page and type Ctrl-C."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def heatline_command() -> Path:
    """Return the path of the command `heatline`, as it can be typed here."""
    command = Path(sys.executable).with_name("heatline")
    return command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command


def prepare(out: Path) -> None:
    """Write the line's file, and delete what a line stored in an earlier run."""
    with writing(out):
        bundle = json.dumps(str(BUNDLE.resolve()))
        (out / "line.toml").write_text(LINE.format(bundle=bundle, address=free_address()))
    for folder in ("received", "journal", "evidence"):
        shutil.rmtree(out / folder, ignore_errors=True)


def inspect(out: Path, page: LinePage) -> tuple[list[VerdictEvent], StatusEvent]:
    """Run the service until its camera has no more boards; `heatline watch` receives the events in another process.

    Returns:
        All verdict events, and the last status event.

    Raises:
        BenchError: a process failed or did not end in time, or the last event does not report a stopped line.
    """
    line, received = out / "line.toml", out / "received"
    watch: list[str | Path] = [*HEATLINE, "watch", line, "--save", received, "--timeout", str(SILENCE_SECONDS)]
    with WatchedProcess("the subscriber", watch, None) as subscriber, line_process(line, None) as service:
        subscriber.start()
        with page.paused():  # the line waits for its first subscriber, which shall be that one
            service.start()
            while not _has_content(received / "events.jsonl"):
                service.require_running()
                subscriber.require_running()
                time.sleep(POLL_SECONDS)
        service.require_success(SERVICE_WITHIN_SECONDS)
        subscriber.require_success()
    lines = (received / "events.jsonl").read_bytes().splitlines()
    events: list[Event] = [msgspec.json.decode(text, type=Event) for text in lines]
    last = events[-1] if events else None
    if not isinstance(last, StatusEvent) or not has_stopped(last):
        raise BenchError("the last event does not report that the line has stopped; see the output above")
    return [event for event in events if isinstance(event, VerdictEvent)], last


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


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


def check_pictures(out: Path, events: list[VerdictEvent], final: StatusEvent, page: LinePage) -> list[Check]:
    """Check the evidence store, and the page of the line, which shows the run also after its end."""
    defects = {event.picture for event in events if event.verdict == "DEFECT"}
    stored = {entry.picture for entry in EvidenceStore(out / "evidence").entries(verdicts=["DEFECT"])}
    reported = 0 if final.evidence is None else final.evidence.kept
    rows = page.verdicts(len(events))
    shown = {(row["id"], row["verdict"]) for row in rows} & {(event.picture, event.verdict) for event in events}
    picture = next((row["id"] for row in rows if row["verdict"] == "DEFECT" and row["picture"]), None)
    frame = page.get(f"api/pictures/{picture}/frame.jpg")
    has_picture = frame.status == 200 and frame.body.startswith(JPEG_START)
    return [
        Check(
            "all pictures that the line reports as stored are in its evidence store",
            f"{len(stored)} of {len(defects)} DEFECTs",
            reported <= len(stored) and stored <= defects,
        ),
        Check(
            "the page of the line shows every verdict, and the picture of a DEFECT",
            f"{len(shown)} of {len(events)}, {'with' if has_picture else 'without'} picture",
            has_picture and page.get("").status == 200 and len(shown) == len(rows) == len(events),
        ),
    ]


if __name__ == "__main__":
    main()
