"""`heatline retrain` on exported frames: three marks remove a systematic false alarm; bad input changes nothing."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import open_bundle
from heatline.edge.errors import Interrupted
from heatline.edge.wire.events import BundleName, MarkKind
from heatline.export.retrain import retrain as retraining
from heatline.export.retrain.command import NOT_BETTER
from heatline.export.retrain.frames import digest_pixels
from tests.command import complaint, heatline
from tests.export.retrain.conftest import SETTINGS, Trained
from tests.export.retrain.marked import blob_frame, label_frame, row_of, write_marked, write_rows
from tests.train.blobs import SQUARE_PX, draw_boards, photograph

pytestmark = pytest.mark.usefixtures("one_thread")
Marked = tuple[NDArray[np.uint8], MarkKind, str]
THREE_MARKS: list[Marked] = [(label_frame(number), "false_alarm", "DEFECT") for number in range(3)]
FINDS: list[Marked] = [(blob_frame(number), "right", "DEFECT") for number in range(2)]
OTHER_PICTURES = "of its 4 groups are missing, have changed or are in other groups"


def retrain(marked: Path, bundle: Path, out: Path, *options: str | Path) -> CompletedProcess[str]:
    return heatline("retrain", "--reviewed", marked, "--bundle", bundle, "--out", out, *options)


@dataclass(frozen=True)
class Done:
    trained: Trained
    marked: Path
    out: Path
    stdout: str
    stderr: str

    @property
    def bundle(self) -> Path:
        return self.out / "boards-retrain1.bundle"


@pytest.fixture(scope="module")
def done(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A finished retraining, after one that was interrupted at its export."""
    folder = tmp_path_factory.mktemp("done")
    marked = write_marked(folder / "marked", trained.name, [*THREE_MARKS, *FINDS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining, "export_next", interrupt)
        stopped = retrain(marked, trained.bundle, folder / "stopped")
    assert stopped.returncode == Interrupted.exit_code
    assert "the old bundle is as it was: give the command again" in complaint(stopped)
    assert not list((folder / "stopped").glob("*.bundle"))
    result = retrain(marked, trained.bundle, folder / "out")
    assert result.returncode == 0, result.stdout + result.stderr
    return Done(trained, marked, folder / "out", result.stdout, result.stderr)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_three_marks_remove_the_false_alarm_and_lose_no_find(done: Done, tmp_path: Path) -> None:
    found = json.loads((done.out / "result.json").read_text())
    assert found["better"]
    (held_out,) = (answer for answer in found["answers"] if answer["held_out"] and answer["truth"] == "good")
    assert (held_out["old"], held_out["new"]) == ("DEFECT", "GOOD")
    figures = found["comparison"]["new"]["finds"]
    assert (figures["count"], figures["of"]) == (2, 2)
    inspected = heatline("inspect", done.bundle, done.marked / "good", "--out", tmp_path / "found", "--json")
    assert [json.loads(line)["verdict"] for line in inspected.stdout.splitlines()] == ["GOOD"] * 3


def test_both_bundles_are_printed_side_by_side_with_both_commands(done: Done) -> None:
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in done.stdout.splitlines()]
    assert ["false alarms, held out", "1 of 1 (3 to 100 %)", "0 of 1 (0 to 98 %)"] in rows
    assert ["finds kept, all reviewed", "2 of 2 (16 to 100 %)", "2 of 2 (16 to 100 %)"] in rows
    assert "heatline reload LINE --bundle boards-retrain1.bundle" in done.stdout
    assert "heatline reload LINE --bundle boards.bundle" in done.stdout
    assert "2 frames that neither bundle was trained on cannot show much" in done.stderr


def test_the_new_bundle_is_the_next_version_and_knows_its_frames(done: Done) -> None:
    old, new = open_bundle(done.trained.bundle), open_bundle(done.bundle)
    assert (new.manifest.name, new.manifest.version) == ("boards", "1+retrain1")
    record = new.manifest.provenance["retraining"]
    assert record["parent"] == {"name": "boards", "version": "1", "digest": old.digest}
    digests = {digest_pixels(pixels) for pixels, _, _ in (*THREE_MARKS, *FINDS)}
    assert {*record["trained"], *record["held_out"]} == digests
    assert (len(record["trained"]), len(record["held_out"])) == (3, 2)
    for key in ("groups", "digests"):
        assert new.manifest.provenance["data"][key] == old.manifest.provenance["data"][key]
    assert new.manifest.calibration.frames == old.manifest.calibration.frames, "thresholds come from the folder"
    assert open_bundle(done.trained.bundle).digest == done.trained.name.digest


def test_what_a_bundle_was_trained_on_is_never_held_out_again(done: Done, tmp_path: Path) -> None:
    """The next retraining of the new bundle has no correction: its marks concern what it judges rightly."""
    result = retrain(done.marked, done.bundle, tmp_path / "out")
    assert result.returncode == 9
    assert "5 usable frames, 3 of them on parts that count as trained on" in complaint(result)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def without_training(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a training always gave the same bundle."""
    monkeypatch.setattr(retraining, "train_and_export", lambda *_: open_bundle(done.bundle))


@pytest.mark.usefixtures("without_training")
def test_json_has_the_result_and_both_commands(done: Done, tmp_path: Path) -> None:
    again = retrain(done.marked, done.trained.bundle, tmp_path / "out", "--json")
    assert again.returncode == 0
    printed = json.loads(again.stdout)
    assert (printed["result"]["better"], len(printed["commands"])) == (True, 2)
    assert all(shlex.split(command)[:2] == ["heatline", "reload"] for command in printed["commands"])


@pytest.mark.usefixtures("without_training")
def test_a_bundle_that_is_not_better_is_not_offered(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the new bundle called all frames GOOD."""
    judge = retraining.judge_frames

    def judge_badly(bundle: Any, frames: Any, *rest: Any) -> Any:
        return ["GOOD" for _ in frames] if bundle.path == done.bundle else judge(bundle, frames, *rest)

    monkeypatch.setattr(retraining, "judge_frames", judge_badly)
    result = retrain(done.marked, done.trained.bundle, tmp_path / "out")
    assert result.returncode == NOT_BETTER
    assert (
        "not better, and not offered: it makes 1 error on the held-out frames, the old one 1; it has 1 missed defect "
        "on the held-out frames, the old one 0; it finds no defect" in (result.stdout)
    )
    assert "heatline reload" not in result.stdout


def test_a_folder_with_other_files_is_not_used(done: Done, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = retrain(done.marked, trained.bundle, tmp_path)
    assert result.returncode == 9
    assert "is not empty, and its files would be mixed with new ones" in complaint(result)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


# Bad input: one sentence, and nothing is written.


def refused(trained: Trained, folder: Path, *options: str | Path, bundle: Path | None = None) -> str:
    before = {file: file.read_bytes() for file in trained.bundle.iterdir()}
    result = retrain(folder / "marked", bundle or trained.bundle, folder / "out", *options)
    assert result.returncode == 9, result.stdout + result.stderr
    assert not (folder / "out").exists()
    assert {file: file.read_bytes() for file in trained.bundle.iterdir()} == before
    return complaint(result)


def test_too_few_marks(trained: Trained, tmp_path: Path) -> None:
    write_marked(tmp_path / "marked", trained.name, [THREE_MARKS[0], *FINDS])
    assert refused(trained, tmp_path) == (
        "heatline: there are too few marks to learn from: 3 usable frames, with 1 false alarm and 0 missed defects of "
        "this bundle on new parts; expected at least 2 false alarms, or 2 missed defects, of different new parts: mark "
        "more verdicts on parts that the training folder does not show"
    )


def test_frames_without_marks(trained: Trained, tmp_path: Path) -> None:
    write_marked(tmp_path / "marked", trained.name, [])
    assert "nobody has marked a frame in" in refused(trained, tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder, row: (folder / row.file).unlink(),
        lambda folder, row: (folder / row.file).write_bytes(b"\x89PNG"),
    ],
    ids=["gone", "damaged"],
)
def test_pictures_that_are_gone_or_damaged(
    trained: Trained, tmp_path: Path, spoil: Callable[[Path, Any], object]
) -> None:
    rows = [row_of(number, "DEFECT", trained.name, "good", "false_alarm", []) for number in (1, 2, 3)]
    write_marked(tmp_path / "marked", trained.name, THREE_MARKS)
    for row in rows:
        spoil(tmp_path / "marked", row)
    assert "3 marked frames are left out" in refused(trained, tmp_path)


def test_contradictory_marks_and_frames_of_another_bundle(trained: Trained, tmp_path: Path) -> None:
    folder = write_marked(tmp_path / "marked", trained.name, THREE_MARKS)
    other = BundleName(name="lids", version="1", digest="2" * 64)
    rows = [
        msgspec.structs.replace(
            row_of(1, "DEFECT", trained.name, None, None, []), file="good/2026-11-28_b007b007-top-1.png"
        ),
        *(row_of(number, "DEFECT", other, "good", "false_alarm", []) for number in (2, 3)),
    ]
    write_rows(folder, rows)
    sentence = refused(trained, tmp_path)
    assert "(3 marked frames are left out: marks that contradict each other, verdicts of another bundle" in sentence


def test_a_training_folder_that_is_gone_or_another(trained: Trained, tmp_path: Path) -> None:
    write_marked(tmp_path / "marked", trained.name, THREE_MARKS)
    gone = refused(trained, tmp_path, "--data", tmp_path / "none")
    assert f"the training folder {tmp_path / 'none'} is gone" in gone
    assert "name where it is now with --data" in gone
    copy = shutil.copytree(trained.data, tmp_path / "copy")
    first = copy / "images" / "a_0.png"
    first.write_bytes(first.read_bytes() + b"changed")
    assert "the pictures of 1 of its 4 groups are missing, have changed or are in other groups" in refused(
        trained, tmp_path, "--data", copy
    )
    labels = shutil.copytree(trained.data, tmp_path / "regrouped") / "labels.csv"
    labels.write_text(labels.read_text().replace("a_0.png,defective,a", "a_0.png,defective,b"))
    assert "of its 4 groups are missing, have changed or are in other groups" in refused(
        trained, tmp_path, "--data", labels.parent
    )


def test_a_mark_that_contradicts_the_training_folder(trained: Trained, tmp_path: Path) -> None:
    pixels = cv2.imread(str(trained.data / "images" / "b_2.png"))[..., ::-1]
    write_marked(tmp_path / "marked", trained.name, [*THREE_MARKS, (pixels, "missed", "GOOD")])
    sentence = refused(trained, tmp_path)
    assert "b_2.png is labelled good in the training folder, and people marked the same frame as defective" in sentence


def test_a_bundle_that_does_not_say_how_it_was_trained(trained: Trained, tmp_path: Path) -> None:
    from heatline.edge.bundle import write_bundle

    old = open_bundle(trained.bundle)
    bare = msgspec.structs.replace(old.manifest, provenance={"data": old.manifest.provenance["data"]})
    files = {name: (old.path / name).read_bytes() for name in old.manifest.files}
    write_bundle(tmp_path / "bare.bundle", bare, files)
    write_marked(tmp_path / "marked", trained.name, THREE_MARKS)
    sentence = refused(trained, tmp_path, bundle=tmp_path / "bare.bundle")
    assert "bare.bundle does not record the configuration of its training, as an older heatline exported it" in sentence
    assert "$." not in sentence


def test_line_and_folder_are_not_named_together(trained: Trained, tmp_path: Path) -> None:
    for arguments in ((), ("line1", "--reviewed", tmp_path), ("--reviewed", tmp_path), ("line1", "--bundle", tmp_path)):
        result = heatline("retrain", *arguments)
        assert result.returncode == 2
        assert "name either LINE, or --reviewed FOLDER together with --bundle BUNDLE" in result.stderr


@pytest.mark.long
def test_a_model_for_several_boards_keeps_the_reference_of_its_line(
    tiny_trunk: tuple[str, str], tmp_path: Path
) -> None:
    """The line inspects a board that the training did not see; the run itself has a reference for each design only."""
    data = draw_boards(tmp_path / "pictures", ("a", "b"), designs=True, good=4)
    settings = (*SETTINGS, *tiny_trunk, f"features.folder={tmp_path / 'features'}", "reference=on", "discover=false")
    goods = [tmp_path / "good" / f"{seed}.png" for seed in range(4)]
    goods[0].parent.mkdir()
    for seed, path in enumerate(goods):
        cv2.imwrite(str(path), photograph(5, (seed, -seed), seed)[..., ::-1])
    for command in (
        ("train", data, f"out={tmp_path / 'run'}", *settings),
        ("export", tmp_path / "run", "--to", tmp_path / "boards.bundle", "--precision", "f32", "--allow", "map"),
        ("bundle", "set-reference", tmp_path / "boards.bundle", goods[0].parent, "--to", tmp_path / "line.bundle"),
    ):
        finished = heatline(*command)
        assert finished.returncode == 0, finished.stderr
    old = open_bundle(tmp_path / "line.bundle")
    name = BundleName(name=old.manifest.name, version=old.manifest.version, digest=old.digest)
    pictures = [photograph(5, (2, seed), 10 + seed) for seed in range(3)]
    for at, picture in enumerate(pictures):
        picture[60 : 60 + SQUARE_PX, 40 + 50 * at : 40 + 50 * at + SQUARE_PX] = 250  # a legal label, like the defects
    marked = write_marked(tmp_path / "marked", name, [(each, "false_alarm", "DEFECT") for each in pictures])
    result = retrain(marked, old.path, tmp_path / "out")
    assert result.returncode in (0, NOT_BETTER), result.stderr
    new = open_bundle(tmp_path / "out" / "line-retrain1.bundle")
    assert new.manifest.references == old.manifest.references
    assert (new.path / "product.png").read_bytes() == (old.path / "product.png").read_bytes()
    answers = json.loads((tmp_path / "out" / "result.json").read_text())["answers"]
    assert {answer["new"] for answer in answers} <= {"GOOD", "DEFECT"}
