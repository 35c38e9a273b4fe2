"""A bundle on real boards that its training never saw: the service over their frames, and over defect-free twins of
them.

    python examples/hripcb/prove.py BUNDLE DATA/hripcb_subset --boards 10,12 --out proof

The frames of one board are one photograph with defects drawn in, so their pixel median is the board without defects.
What the subscriber got is held against derived masks and against boxes. The pictures are for looking, not for passing
on: the data states no licence.
"""

import argparse
import json
import os
import shutil
import socket
from pathlib import Path

import cv2
import msgspec
import numpy as np

from bench.line_run import run_line
from bench.machine import machine
from edge.bundle import Bundle, open_bundle
from edge.delivery.messages import VerdictEvent
from edge.heatmap_picture import outline_regions, png, tint
from edge.images import read_rgb
from train.evaluation.evaluate import Asked, evaluate_model
from train.evaluation.scoring import score_frame
from train.readers import LabelledFolder, read_folder

TRUTHS = ("derived_masks", "boxes")

LINE = """\
bundle = {bundle}
allow_unsigned = true
acting = false
[[cameras]]
name = "boards"
kind = "folder"
path = "frames"
size = "any"  # boards differ in size
[events]
bind = "{address}"
heatmaps = "always"
wait_for_subscriber_s = 30
"""


def main() -> None:
    """Run the proof and write its figures to OUT/proof.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--boards", default="10,12", help="boards that training never saw")
    parser.add_argument("--out", type=Path, default=Path("proof"))
    asked = parser.parse_args()
    bundle, boards = open_bundle(asked.bundle), set(asked.boards.split(","))
    folders = {truth: read_folder(asked.data, truth, "board") for truth in TRUTHS}
    make_frames(folders["boxes"], boards, asked.out / "frames")

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    line = asked.out / "line.toml"
    line.write_text(LINE.format(bundle=json.dumps(str(asked.bundle.resolve())), address=address))
    events, final = run_line(line, address, asked.out / "received", within_seconds=300)
    done_at = [event.times.captured_monotonic_ns / 1e9 + event.latency_ms / 1e3 for event in events]
    draw(events, asked.out)
    evaluation = evaluate_model(asked.bundle, Asked(asked.data, TRUTHS, groups=tuple(sorted(boards))))
    report = {
        "boards": sorted(boards),
        "bundle": {"provenance": bundle.manifest.provenance, "calibration": bundle.manifest.calibration},
        "machine": machine(),
        "tiles_and_frames": {each.truth: each.figures for each in evaluation.truths},
        "service": {
            "frames_per_second": (len(events) - 1) / (done_at[-1] - done_at[0]),
            "ledger": final.ledger,
            "frames": [of_event(event, bundle, folders) for event in events],
        },
    }
    result = asked.out / "proof.json"
    result.write_text(json.dumps(msgspec.to_builtins(report), indent=2) + "\n")
    print(f"figures are in {result}, pictures in {asked.out / 'pictures'}")


def make_frames(folder: LabelledFolder, boards: set[str], target: Path) -> None:
    """Link the frames of the boards, and write each board's median beside them."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for board in boards:
        frames = [image for image in folder.images if image.group == board]
        for image in frames:
            os.symlink(image.path.resolve(), target / image.path.name)
        median = np.median(np.stack([image.pixels() for image in frames]), axis=0).astype(np.uint8)
        (target / f"{board}_median.png").write_bytes(png(median))


def of_event(event: VerdictEvent, bundle: Bundle, folders: dict[str, LabelledFolder]) -> dict[str, object]:
    """One frame's verdict, and its regions held against each truth."""
    shown = {
        "source": event.source,
        "verdict": event.verdict,
        "score": event.frame_score,
        "regions": len(event.regions),
    }
    cell_px = bundle.manifest.grid.tile_px / min(bundle.manifest.map.hw)
    for truth, folder in folders.items():
        image = next((image for image in folder.images if image.path.name == event.source), None)
        if image is None:
            continue
        rgb = image.pixels()
        mask = image.mask((rgb.shape[0], rgb.shape[1]))
        assert mask is not None
        scored = score_frame(event.regions, mask, cell_px)
        shown[truth] = {"defects": scored.defects, "hit": scored.hit, "false_regions": scored.false_regions}
    return shown


def draw(events: list[VerdictEvent], out: Path) -> None:
    """A picture per frame, heatmap and regions drawn in."""
    (out / "pictures").mkdir(exist_ok=True)
    for event in events:
        rgb = read_rgb(out / "frames" / str(event.source))
        grey = cv2.imread(str(out / "received" / f"{event.seq:06d}.png"), cv2.IMREAD_GRAYSCALE)
        assert event.heatmap is not None
        found = outline_regions(tint(rgb, np.asarray(grey, np.uint8), event.heatmap.cell_px), event.regions)
        (out / "pictures" / f"{Path(str(event.source)).stem}.png").write_bytes(png(found))


if __name__ == "__main__":
    main()
