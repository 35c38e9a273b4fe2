"""From labelled pictures to defect events: every command in its turn, with few boards and few steps."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from examples.drawn_boards.boards import write_boards
from tests.command import run_json
from tests.edge.lines import ReceivedEvents, running, write_line
from tests.train.trained import Trained

FEW_STEPS = ("recipe.steps=4", "recipe.folds=2")


def train_export_and_run(
    folder: Path, address: str, data: Path, frames: Path, training: Sequence[str] = (), exporting: Sequence[str] = ()
) -> ReceivedEvents:
    """Train a few steps, export, check, and run the line: its events. `exporting`: options of the export; without any
    it makes every precision, which takes half a minute."""
    run, bundle = folder / "run", folder / "bundle"
    features = f"features.folder={folder / 'features'}"
    assert run_json("train", f"data={data}", f"out={run}", features, *FEW_STEPS, *training)["steps"] == 4
    exported = run_json("export", run, "--to", bundle, "--allow", "map", *exporting)  # 4 steps may leave a map stuck
    assert max(exported["manifest"]["gate"]["largest_difference"].values()) <= 1e-4
    return run_line(folder, address, bundle, exported["digest"], frames)


def run_line(folder: Path, address: str, bundle: Path, digest: str, frames: Path) -> ReceivedEvents:
    """Check a bundle, and run the line: its events."""
    assert run_json("bundle", "verify", bundle, "--engine", "onnxruntime")["digest"] == digest
    keys = f'path = {json.dumps(str(frames))}\nsize = "any"'
    line = write_line(folder, bundle, address, {"top": keys}, 'heatmaps = "always"')
    assert run_json("check", line)["bundle"]["digest"] == digest
    with running(line, address) as its:
        received = its.until_stopped()
    assert [event.source for event in received.verdicts] == sorted(path.name for path in frames.iterdir())
    assert [event.seq for event in received.verdicts] == list(range(1, len(received.verdicts) + 1))
    assert all(event.verdict in ("GOOD", "DEFECT") for event in received.verdicts)
    assert all(bool(event.regions) == (event.verdict == "DEFECT") for event in received.verdicts)
    account = received.last.ledger["top"]
    assert account.captured == account.inspected == len(received.verdicts)
    return received


def assert_evaluated(bundle: Path, data: Path, frames: int, tiles_per_frame: int) -> None:
    (evaluation,) = run_json("evaluate", bundle, "--data", data)["evaluations"]
    figures = evaluation["figures"]
    assert (figures["frame.frames"], figures["tile.tiles"]) == (frames, frames * tiles_per_frame)


def test_small_blobs(tmp_path: Path, address: str, trained: Trained) -> None:
    """A tiny network, which other tests share."""
    run_line(tmp_path, address, trained.bundle, trained.name.digest, trained.data / "images")
    assert_evaluated(trained.bundle, trained.data, 12, 3 * 4)


@pytest.mark.long
def test_drawn_boards(tmp_path: Path, address: str) -> None:
    """The shipped network."""
    boards = tmp_path / "boards"
    write_boards(boards, 8, seed=3, size_hw=(480, 640))
    train_export_and_run(tmp_path, address, boards, boards / "images", exporting=("--precision", "f32"))
    assert_evaluated(tmp_path / "bundle", boards, 8, 3 * 3)


@pytest.mark.long
def test_real_boards(tmp_path: Path, address: str, real_data: Path) -> None:
    """The study's boards: trained on four, run on a fifth that training never saw, so it has no reference."""
    data = real_data / "hripcb_subset"
    frames = tmp_path / "frames"
    frames.mkdir()
    for picture in sorted((data / "images").glob("12_*.jpg"))[:2]:
        (frames / picture.name).symlink_to(picture)
    splitting = ("truth=derived_masks", "split.group=board", "split.val=[08]", "split.test=[10,12]", "reference=off")
    train_export_and_run(tmp_path, address, data, frames, splitting)
