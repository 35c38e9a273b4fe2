"""From labelled pictures to defect events: every command in its turn, with few boards and few steps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from examples.drawn_boards.boards import write_boards
from tests.command import heatline
from tests.edge.lines import ReceivedEvents, running, write_line

FEW_STEPS = ("recipe.steps=4", "recipe.folds=2")
FEW_COPIES = ("recipe.copies={defective: 1, most: 8}",)


def run_json(*arguments: str | Path) -> Any:
    """Run a command with --json and return what it printed."""
    done = heatline(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def train_export_and_run(
    folder: Path, address: str, data: Path, frames: Path, training: Sequence[str], exporting: Sequence[str] = ()
) -> ReceivedEvents:
    """Train a few steps, export, check, and run the line: its events. `exporting`: options of the export; without any
    it makes every precision, which takes half a minute."""
    run, bundle = folder / "run", folder / "bundle"
    features = f"features.folder={folder / 'features'}"
    trained = run_json("train", f"data={data}", f"out={run}", features, *FEW_STEPS, *training)
    assert trained["steps"] == 4
    exported = run_json("export", run, "--to", bundle, "--allow", "map", *exporting)  # 4 steps may leave a map stuck
    assert max(exported["manifest"]["gate"]["largest_difference"].values()) <= 1e-4
    assert run_json("bundle", "verify", bundle, "--engine", "onnxruntime")["digest"] == exported["digest"]
    keys = f'path = {json.dumps(str(frames))}\nsize = "any"'
    line = write_line(folder, bundle, address, {"top": keys}, 'heatmaps = "always"')
    assert run_json("check", line)["bundle"]["digest"] == exported["digest"]
    with running(line, address) as its:
        received = its.until_stopped()
        assert its.exit_code() == 0
    assert [event.source for event in received.verdicts] == sorted(path.name for path in frames.iterdir())
    assert [event.seq for event in received.verdicts] == list(range(1, len(received.verdicts) + 1))
    assert all(event.verdict in ("GOOD", "DEFECT") for event in received.verdicts)
    assert all(bool(event.regions) == (event.verdict == "DEFECT") for event in received.verdicts)
    account = received.last.ledger["top"]
    assert account.captured == account.inspected == len(received.verdicts)
    return received


@pytest.mark.parametrize(
    ("count", "size_hw", "training"),
    [(4, (448, 448), FEW_COPIES), pytest.param(8, (480, 640), (), marks=pytest.mark.long)],
    ids=["tiny", "as shipped"],
)
def test_drawn_boards(
    tmp_path: Path,
    address: str,
    tiny_trunk: tuple[str, str],
    count: int,
    size_hw: tuple[int, int],
    training: Sequence[str],
) -> None:
    boards = tmp_path / "boards"
    write_boards(boards, count, seed=3, size_hw=size_hw)
    training = (*training, *tiny_trunk) if training else training
    train_export_and_run(tmp_path, address, boards, boards / "images", training, ("--precision", "f32"))
    (evaluation,) = run_json("evaluate", tmp_path / "bundle", "--data", boards)["evaluations"]
    figures = evaluation["figures"]
    assert figures["frame.frames"] == count
    assert figures["tile.tiles"] == count * 3 * 3


@pytest.mark.long
def test_real_boards(tmp_path: Path, address: str, real_data: Path) -> None:
    """The study's boards: trained on four, run on a fifth that training never saw."""
    data = real_data / "hripcb_subset"
    frames = tmp_path / "frames"
    frames.mkdir()
    for picture in sorted((data / "images").glob("12_*.jpg"))[:2]:
        (frames / picture.name).symlink_to(picture)
    splitting = ("truth=derived_masks", "split.group=board", "split.val=[08]", "split.test=[10,12]")
    train_export_and_run(tmp_path, address, data, frames, splitting)
