"""From labelled pictures to defect events: every command in its turn, as a user runs them, with few boards and few
steps.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

LINE = """
bundle = "bundle"
allow_unsigned = true
[[cameras]]
name = "top"
kind = "folder"
path = {frames}
size = "any"
[events]
bind = "{address}"
heatmaps = "always"
wait_for_subscriber_s = 60
"""


def heatline(*arguments: object) -> Any:
    """Run a command with --json and return what it printed."""
    command = [sys.executable, "-m", "edge.cli.main", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def train_export_and_run(
    folder: Path, address: str, data: Path, frames: Path, *training: str, exporting: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Teach a few steps, export, check, and run the service with a subscriber in another process: its events.

    Args:
        exporting: options of the export; without any it makes every precision, which takes half a minute.
    """
    run, bundle, line = folder / "run", folder / "bundle", folder / "line.toml"
    trained = heatline(
        "train", f"data={data}", f"out={run}", "recipe.steps=4", "recipe.batch=8", "recipe.validate_every=4", *training
    )
    assert trained["steps"] == 4
    exported = heatline("export", run, "--to", bundle, *exporting)
    assert max(exported["manifest"]["gate"]["largest_difference"].values()) <= 1e-4
    assert heatline("bundle", "verify", bundle, "--engine", "onnxruntime")["digest"] == exported["digest"]
    line.write_text(LINE.format(frames=json.dumps(str(frames)), address=address))
    assert heatline("check", line)["bundle"]["digest"] == exported["digest"]
    watching = subprocess.Popen(
        [sys.executable, "-m", "edge.cli.main", "watch", address, "--json", "--timeout", "120"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        service = subprocess.run([sys.executable, "-m", "edge.cli.main", "run", str(line)], timeout=300)
        output, _ = watching.communicate(timeout=60)
    finally:
        watching.kill()
        watching.wait()
    assert service.returncode == 0
    return [json.loads(event) for event in output.splitlines()]


def assert_every_frame_has_its_event(events: list[dict[str, Any]], frames: Path) -> None:
    verdicts = [event for event in events if event["type"] == "verdict"]
    assert [event["source"] for event in verdicts] == sorted(path.name for path in frames.iterdir())
    assert [event["seq"] for event in verdicts] == list(range(1, len(verdicts) + 1))
    assert all(event["verdict"] in ("GOOD", "DEFECT") for event in verdicts)
    assert all(bool(event["regions"]) == (event["verdict"] == "DEFECT") for event in verdicts)
    account = events[-1]["ledger"]["top"]
    assert events[-1]["state"] == "STOPPED"
    assert account["captured"] == account["inspected"] == len(verdicts)


@pytest.mark.long
def test_drawn_boards(tmp_path: Path, address: str) -> None:
    boards = tmp_path / "boards"
    heatline("data", "draw-boards", boards, "--count", 8, "--seed", 3, "--size", "640x480")
    splitting, exporting = "split.fractions=[0.5,0.5,0.0]", ["--precision", "f32"]
    events = train_export_and_run(tmp_path, address, boards, boards / "images", splitting, exporting=exporting)
    assert_every_frame_has_its_event(events, boards / "images")
    (evaluation,) = heatline("evaluate", tmp_path / "bundle", "--data", boards)["evaluations"]
    figures = evaluation["truths"][0]["figures"]
    assert figures["frame"]["frames"] == 8
    assert figures["tile"]["tiles"] == 8 * 3 * 3


@pytest.mark.long
def test_real_boards(tmp_path: Path, address: str, real_data: Path) -> None:
    """The study's boards: taught on four, run on a fifth that training never saw."""
    data = real_data / "hripcb_subset"
    frames = tmp_path / "frames"
    frames.mkdir()
    for picture in sorted((data / "images").glob("12_*.jpg"))[:2]:
        (frames / picture.name).symlink_to(picture)
    splitting = ("truth=derived_masks", "split.group=board", "split.val=[08]", "split.test=[10,12]")
    events = train_export_and_run(tmp_path, address, data, frames, *splitting)
    assert_every_frame_has_its_event(events, frames)


@pytest.mark.long
def test_tile_sized_pictures_that_are_only_good_or_defective(tmp_path: Path, address: str) -> None:
    boards, data = tmp_path / "boards", tmp_path / "tiles"
    heatline("data", "draw-boards", boards, "--count", 3, "--seed", 4, "--size", "448x448")
    cut_tiles(boards, data)
    events = train_export_and_run(tmp_path, address, data, data / "good", "split.fractions=[0.5,0.5,0.0]")
    assert_every_frame_has_its_event(events, data / "good")


def cut_tiles(boards: Path, data: Path) -> None:
    """Sort the tiles of some boards into good/ and defective/."""
    for label in ("good", "defective"):
        (data / label).mkdir(parents=True)
    for picture in (boards / "images").iterdir():
        image, mask = cv2.imread(str(picture)), cv2.imread(str(boards / "masks" / picture.name), cv2.IMREAD_GRAYSCALE)
        for y, x in ((y, x) for y in (0, 112, 224) for x in (0, 112, 224)):
            part = np.s_[y : y + 224, x : x + 224]
            label = "defective" if np.count_nonzero(mask[part]) > 501 else "good"
            cv2.imwrite(str(data / label / f"{picture.stem}_{y}_{x}.png"), image[part])
