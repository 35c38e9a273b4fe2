"""`heatline retrain` on exported frames: three marks remove a systematic false alarm; bad input changes nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
import pytest

from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.bundle.manifest import PRODUCT_TILES, CameraPlausible, Manifest, ProductReference, Reference, Tensor
from heatline.edge.config import ThresholdsConfig
from heatline.edge.drift import OF_POSE
from heatline.edge.errors import Interrupted
from heatline.edge.geometry import RegionOfInterest
from heatline.edge.monitor.marks import Missed
from heatline.edge.wire.events import BundleName, Stroke
from heatline.export.retrain import retrain as retraining
from heatline.export.retrain.command import NOT_BETTER
from heatline.export.retrain.frames import UsableFrame, digest_pixels
from heatline.export.retrain.judge import HIDDEN, UNSEEN, Judged, Judging, judge_frames
from heatline.export.retrain.new_bundle import carry_over, carry_references, describe_calibrations
from heatline.train.readers.labelled import read_reviewed
from tests.command import complaint, heatline, successful
from tests.edge.evidences import mark, picture, writer
from tests.edge.lines import write_line
from tests.export.retrain.conftest import (
    FRAME_HW,
    Marked,
    blob_frame,
    good_frame,
    label_frame,
    row_of,
    write_marked,
    write_rows,
)
from tests.train.trained import Trained

pytestmark = pytest.mark.usefixtures("one_thread")
THREE_MARKS: list[Marked] = [(label_frame(number), "false_alarm", "DEFECT") for number in range(3)]
FINDS: list[Marked] = [(blob_frame(number), "right", "DEFECT") for number in range(2)]


def retrain(marked: Path, bundle: Path, out: Path, *options: str | Path) -> CompletedProcess[str]:
    return heatline("retrain", "--reviewed", marked, "--bundle", bundle, "--out", out, *options)


class Done(NamedTuple):
    """A finished retraining, and the folder of the marks that it was given."""

    trained: Trained
    marked: Path
    out: Path
    printed: CompletedProcess[str]

    @property
    def bundle(self) -> Path:
        return self.out / "boards-retrain1.bundle"


@pytest.fixture(scope="module")
def done(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A finished retraining, after one that was interrupted at its training."""
    folder = tmp_path_factory.mktemp("done")
    marked = write_marked(folder / "marked", trained.name, [*THREE_MARKS, *FINDS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining, "fit", interrupt)
        stopped = retrain(marked, trained.bundle, folder / "stopped")
    assert stopped.returncode == Interrupted.exit_code
    assert "the old bundle is as it was: give the command again" in complaint(stopped)
    assert not list((folder / "stopped").glob("*.bundle"))
    return Done(trained, marked, folder / "out", successful(retrain(marked, trained.bundle, folder / "out")))


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_three_marks_remove_the_false_alarm_and_lose_no_find(done: Done, tmp_path: Path) -> None:
    """Both bundles are printed side by side; the new one is the next version, and knows its frames."""
    found = json.loads((done.out / "result.json").read_text())
    assert found["better"]
    (held_out,) = (answer for answer in found["answers"] if answer["held_out"] and answer["truth"] == "good")
    assert (held_out["old"], held_out["new"]) == ("DEFECT", "GOOD")
    inspected = heatline("inspect", done.bundle, done.marked / "good", "--out", tmp_path / "found", "--json")
    assert [json.loads(line)["verdict"] for line in inspected.stdout.splitlines()] == ["GOOD"] * 3
    shown = " ".join(done.printed.stdout.split())
    assert "false alarms, held out 1 of 1 (3 to 100 %) 0 of 1 (0 to 98 %)" in shown
    assert "finds kept, all reviewed 2 of 2 (16 to 100 %) 2 of 2 (16 to 100 %)" in shown
    for bundle in ("boards-retrain1.bundle", "boards.bundle"):
        assert f"heatline reload LINE --bundle {bundle}\n" in done.printed.stdout
    assert "2 frames that neither bundle was trained on cannot show much" in done.printed.stderr
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
    assert old.digest == done.trained.name.digest
    assert (old.manifest.screening is None, new.manifest.screening is None) == (False, False)


@pytest.mark.long
def test_strokes_boxes_and_points_teach_a_kind_of_defect_that_the_line_missed(trained: Trained, tmp_path: Path) -> None:
    rows, pictures = [], []
    for number in range(1, 10):
        x, y, pixels = 20 + 9 * number, 15 + 12 * number, good_frame(number).astype(np.float64)
        scratch = cv2.line(np.zeros(FRAME_HW), (x, y), (x + 60, y + 9), 1.0, 4)
        pictures.append((pixels + 60 * scratch[..., None]).clip(0, 255).astype(np.uint8))
        stroke = Missed(strokes=[Stroke(((x, y), (x + 60, y + 9)), 6)])
        missed = [stroke, Missed(boxes_xywh=[(x - 3, y - 3, 66, 15)]), Missed(missed_xy=[(x + 30, y + 4)])][number % 3]
        rows.append(row_of(number, "GOOD", trained.name, "missed", missed))
    write_rows(tmp_path / "marked", rows, pictures)
    result = successful(retrain(tmp_path / "marked", trained.bundle, tmp_path / "out"))
    shown = " ".join((result.stdout + result.stderr).split())
    assert "with marks of missed defects" in shown
    assert "missed, held out 3 of 3 (29 to 100 %) 0 of 3 (0 to 71 %)" in shown
    copied = [image.reviewed for image in read_reviewed(tmp_path / "out" / "reviewed")]
    for name in Missed.__struct_fields__:
        assert any(getattr(each, name) for each in copied), name


def test_a_hint_says_where_a_training_may_not_help(trained: Trained, tmp_path: Path) -> None:
    """A frame whose blob the bundle finds, by thresholds that hide it, and marks there and in an empty corner."""
    pixels, bundle = blob_frame(0), open_bundle(trained.bundle)
    cv2.imwrite(str(tmp_path / "1.png"), pixels)
    x, y = cv2.minMaxLoc(cv2.blur(pixels[..., 0], (15, 15)))[2]
    empty = 0 if x > 100 else 180
    there, elsewhere = Missed(strokes=[Stroke(((x, y),), 9)]), Missed(boxes_xywh=[(empty, 0, 20, 20)])
    hidden = Judging(thresholds=ThresholdsConfig(score=1e9, evidence=0.0))
    left_out = ((x - 90, 0), (x + 90, 0), (x + 90, 149), (x - 90, 149))
    beside = replace(hidden, areas={"top": RegionOfInterest(exclude=(left_out,))})
    for missed, judging, expected in (
        (there, Judging(thresholds=ThresholdsConfig(evidence=0.0)), ("DEFECT", None)),
        (there, hidden, ("GOOD", HIDDEN)),
        (elsewhere, hidden, ("GOOD", None)),
        (there, beside, ("GOOD", UNSEEN)),
    ):
        frame = UsableFrame(tmp_path / "1.png", "1", "defective", "top", "reviewed:1", missed)
        assert judge_frames(bundle, [frame], judging, "judging") == [expected], missed


def test_a_bundle_that_is_no_better_is_not_offered(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a training gave a bundle that calls all frames GOOD."""
    monkeypatch.setattr(retraining, "train_and_export", lambda *_: open_bundle(done.bundle))
    judge = retraining.judge_frames

    def judge_badly(bundle: Any, frames: Any, *rest: Any) -> Any:
        return [Judged("GOOD") for _ in frames] if bundle.path == done.bundle else judge(bundle, frames, *rest)

    monkeypatch.setattr(retraining, "judge_frames", judge_badly)
    result = retrain(done.marked, done.trained.bundle, tmp_path / "out")
    assert result.returncode == NOT_BETTER
    assert "not better, and not offered: it makes 1 error on the held-out frames, the old one 1; " in result.stdout
    assert "heatline reload" not in result.stdout


def refused(trained: Trained, folder: Path, words: str, *options: str | Path, bundle: Path | None = None) -> None:
    before = {file: file.read_bytes() for file in trained.bundle.iterdir()}
    result = retrain(folder / "marked", bundle or trained.bundle, folder / "out", *options)
    assert result.returncode == 9, result.stdout + result.stderr
    assert words in complaint(result)
    assert not (folder / "out").exists()
    assert {file: file.read_bytes() for file in trained.bundle.iterdir()} == before


OTHER = BundleName(name="lids", version="1", digest="2" * 64)


def test_marks_that_do_not_suffice_are_refused(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "marked"
    for marks, words in (
        ([], "nobody has marked a frame in"),
        (
            [THREE_MARKS[0], *FINDS],
            "3 usable frames, with 1 false alarm and 0 missed defects of this bundle on new parts; expected at least 2 "
            "false alarms, or 2 missed defects, of different new parts: mark more verdicts on parts that",
        ),
    ):
        refused(trained, write_marked(folder, trained.name, marks).parent, words)
        shutil.rmtree(folder)
    write_marked(folder, OTHER, THREE_MARKS)
    refused(trained, tmp_path, "3 marked frames are left out")


def test_a_lines_file_names_bundle_and_evidence(trained: Trained, tmp_path: Path) -> None:
    """Of its frames one can be used, one has contradictory marks, and the picture of one is gone."""
    with writer(tmp_path / "evidence") as into:
        for number in range(1, 5):
            into.write(picture(number))
        into.add_marks([mark(picture(1), "false_alarm", seq=1), mark(picture(2), "false_alarm", seq=2)], "j1", 2)
        into.add_marks([mark(picture(2), "right", "Bob", seq=3), mark(picture(4), "right", seq=4)], "j1", 4)
    (gone,) = (tmp_path / "evidence").rglob("b007b007-top-4.png")
    gone.unlink()
    tables = f'[evidence]\nfolder = "{tmp_path / "evidence"}"'
    line = write_line(tmp_path, trained.bundle, "tcp://127.0.0.1:5556", {"top": 'path = "p"'}, tables)
    result = heatline("retrain", line, "--out", tmp_path / "out")
    assert result.returncode == 9
    assert "1 usable frame, with 0 false alarms and 0 missed defects of this bundle" in complaint(result)
    assert "1 marked frame is left out: marks that contradict each other" in complaint(result)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_the_training_of_the_bundle_is_refused(trained: Trained, done: Done, tmp_path: Path) -> None:
    pixels = cv2.imread(str(trained.data / "images" / "b_2.png"))[..., ::-1]
    marked = write_marked(tmp_path / "marked", trained.name, [*THREE_MARKS, (pixels, "missed", "GOOD")])
    refused(trained, tmp_path, "b_2.png is labelled good in the training folder, and people marked the same frame as")
    refused(trained, tmp_path, f"the training folder {tmp_path / 'none'} is gone", "--data", tmp_path / "none")
    altered = Path(shutil.copytree(trained.data, tmp_path / "altered"))
    first = altered / "images" / "a_0.png"
    first.write_bytes(first.read_bytes() + b"changed")
    words = "of its 4 groups are missing, have changed or are in other groups"
    refused(trained, tmp_path, words, "--data", altered)
    shutil.rmtree(marked)
    shutil.copytree(done.marked, marked)  # what the new bundle was trained on is never held out again
    words = "5 usable frames, 3 of them on parts that count as trained on"
    refused(trained, tmp_path, words, bundle=done.bundle)


def test_line_and_folder_are_not_named_together_and_the_new_folder_is_empty(done: Done, tmp_path: Path) -> None:
    for arguments in ((), ("line1", "--reviewed", tmp_path), ("--reviewed", tmp_path), ("line1", "--bundle", tmp_path)):
        result = heatline("retrain", *arguments)
        assert result.returncode == 2
        assert "name either LINE, or --reviewed FOLDER together with --bundle BUNDLE" in result.stderr
    (tmp_path / "notes.txt").write_text("mine")
    result = retrain(done.marked, done.trained.bundle, tmp_path)
    assert result.returncode == 9
    assert "is not empty, and its files would be mixed with new ones" in complaint(result)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


FILES = PRODUCT_TILES, "product_tiles.side.npz"
QUANTILES = [1.0, 2.0, 3.0, 4.0, 5.0]
REFERENCE = Reference(77, {"brightness": QUANTILES, "score": QUANTILES, "evidence": QUANTILES}, {"saturation": "grey"})


def changed(manifest: Manifest, **calibration: Any) -> Manifest:
    return msgspec.structs.replace(manifest, calibration=msgspec.structs.replace(manifest.calibration, **calibration))


@pytest.fixture
def calibrated(trained: Trained, tmp_path: Path) -> Bundle:
    """The bundle as if thresholds and one camera were calibrated on the line."""
    first = open_bundle(trained.bundle)
    of_line = msgspec.structs.replace(first.manifest.calibration.plausible, frames=77)
    by_camera = {"side": CameraPlausible(of_line, [], [], REFERENCE)}
    manifest = msgspec.structs.replace(
        changed(first.manifest, plausible=of_line, plausible_by_camera=by_camera, reference=REFERENCE, frames=77),
        provenance={**first.manifest.provenance, "calibrations": [{"false_reject": 0.01}, {"camera": "side"}]},
        files={**first.manifest.files, **dict.fromkeys(FILES, "1" * 64)},
    )
    for name in FILES:
        (tmp_path / name).write_text(f"of the line: {name}")
    return replace(first, path=tmp_path, manifest=manifest)


def test_the_appearance_stays_and_the_thresholds_do_not(calibrated: Bundle, trained: Trained) -> None:
    new = changed(open_bundle(trained.bundle).manifest, score_threshold=1.5)
    calibration, files = carry_over(calibrated, new, finetuned=False)
    assert calibration.score_threshold == 1.5
    assert calibration.plausible == calibrated.manifest.calibration.plausible
    side = calibration.plausible_by_camera["side"]
    assert side.plausible == calibration.plausible
    for reference in (calibration.reference, side.reference):
        assert reference.measures == {"brightness": QUANTILES}, "scores are logits of the old model"
        assert reference.unwatched["score"] == "the model was trained again since the calibration"
        assert reference.unwatched["saturation"] == "grey"
    assert files == {name: f"of the line: {name}".encode() for name in FILES}
    carried = msgspec.structs.replace(new, calibration=calibration)
    (note,) = describe_calibrations(calibrated.manifest, carried, Path("new.bundle"))
    assert "the old thresholds come from 77 frames by heatline calibrate" in note
    assert "run heatline calibrate new.bundle again" in note
    # It stays also in the second retraining, whose old bundle was not calibrated itself.
    record = {**new.provenance, "retraining": {"appearance_of_line": True}}
    once = replace(calibrated, manifest=msgspec.structs.replace(calibrated.manifest, provenance=record))
    assert carry_over(once, new, finetuned=False)[0].plausible == calibrated.manifest.calibration.plausible
    # Nothing is carried over to other features, nor from a bundle that was not calibrated.
    assert carry_over(calibrated, new, finetuned=True) == (new.calibration, {})
    assert describe_calibrations(calibrated.manifest, new, Path("new.bundle"))[1] == (
        "the bounds of camera side belong to the features of the old model; run heatline cameras calibrate again"
    )
    assert carry_over(open_bundle(trained.bundle), new, finetuned=False) == (new.calibration, {})


def test_the_references_of_the_line_stay_where_the_new_model_compares(calibrated: Bundle) -> None:
    of_line = {"side": ProductReference("product.side.png", (9, 8), 3, "of the line")}
    of_training = {"": ProductReference("product.png", (5, 5), 12, "of the training")}
    with_pose = Reference(77, {"brightness": QUANTILES, **dict.fromkeys(OF_POSE, QUANTILES)}, {})
    compares = msgspec.structs.replace(
        calibrated.manifest.tensors, difference=Tensor("difference", "uint8", [None, 8, 8, 8])
    )
    was = changed(calibrated.manifest, reference=with_pose)
    was = msgspec.structs.replace(was, tensors=compares, references=of_line)
    (calibrated.path / "product.side.png").write_bytes(b"of the line")
    old = replace(calibrated, manifest=was)
    new = msgspec.structs.replace(was, references=of_training)
    without = msgspec.structs.replace(calibrated.manifest, references={})
    assert carry_references(old, new) == ({**of_training, **of_line}, {"product.side.png": b"of the line"})
    assert carry_references(old, without) == ({}, {})
    for manifest, measures in ((new, {"brightness", *OF_POSE}), (without, {"brightness"})):
        calibration, _ = carry_over(old, manifest, finetuned=False)
        assert set(calibration.reference.measures) == measures
    notes = [describe_calibrations(was, manifest, Path("new.bundle")) for manifest in (new, without)]
    assert ["compares frames" in "".join(each) for each in notes] == [False, True]
