"""The main job on this machine, in under a minute: drawn boards, the service, a subscriber, and a page to look at.

Draws boards that training never saw, runs the service on them with the bundle that lies beside this file, lets a
subscriber in another process show every event, and compares what was found with what was drawn. Fails unless all its
checks pass.
"""

import argparse
import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from boards import write_boards
from page import BoardOnPage, write_page
from rich.console import Console

from bench.watched_line import run_line
from edge.bundle import Manifest, open_bundle
from edge.errors import DemoError, HeatlineError
from edge.images import read_image
from edge.wire.events import StatusEvent, VerdictEvent
from train.evaluation.scoring import match_regions

HERE = Path(__file__).parent
BUNDLE = HERE / "bundle"
BOARDS, SEED = 24, 2026
"""A third of the boards is flawless. The bundle was trained on boards of another seed (rebuild.sh)."""
SERVICE_WITHIN_SECONDS = 50

LINE = """\
# Written by the demo. `heatline check` and `heatline run` take it as it is.
bundle = {bundle}
allow_unsigned = true  # it comes with heatline itself
acting = false  # a trial: nobody's ejector may fire

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
        DemoError: a check fails.
        BenchError: a process failed.
    """
    console = Console()
    started = time.monotonic()
    manifest = open_bundle(BUNDLE).manifest
    if not (out / "boards").exists():  # from an earlier run
        write_boards(out / "boards", BOARDS, SEED, workers=os.cpu_count() or 1)
    drawn = time.monotonic()
    events, final = inspect(out)
    inspected = time.monotonic()
    boards = [compare(out, event, manifest) for event in events]
    checks = check(boards, final)
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
    """Run service and subscriber, each in a process of its own: every verdict that the subscriber got, and the end."""
    address = f"tcp://127.0.0.1:{free_port()}"
    line = out / "line.toml"
    line.write_text(LINE.format(bundle=json.dumps(str(BUNDLE.resolve())), address=address))
    return run_line(line, address, out / "received", within_seconds=SERVICE_WITHIN_SECONDS)


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


def free_port() -> int:
    """A TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
