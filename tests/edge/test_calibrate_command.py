"""`heatline calibrate` and `bundle set-reference` with real pictures: a new bundle or a refusal."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

from heatline.edge import __version__
from heatline.edge.bundle import SCHEMA, Bundle, open_bundle, open_verified_engine
from heatline.edge.bundle.manifest import CameraPlausible, Plausible
from heatline.edge.bundle.manifest import Reference as DriftReference
from heatline.edge.calibration.statistics import upper_bound
from heatline.edge.drift import OF_POSE
from heatline.edge.frames import Frame, Stamp
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.reference.reference import Reference
from tests.command import heatline, refused, successful
from tests.edge.boards import board, board_bundle, moved
from tests.edge.lines import write_pictures
from tests.golden import assert_golden
from tests.small_bundle import BIAS, GAIN, copy_of, dark_square, edit_manifest

WIDE = {"COLUMNS": "400"}


def evenly(folder: Path, *values: int, hw: tuple[int, int] = (230, 300)) -> Path:
    """Pictures of one grey value each, so that the highest logit is known."""
    pictures = {f"{place:03d}.png": np.full((*hw, 3), value, np.uint8) for place, value in enumerate(values)}
    return write_pictures(folder, pictures)


def logit_of(value: int) -> float:
    return (255 - value) / 255 * GAIN - BIAS


def reported(*arguments: str | Path) -> dict[str, Any]:
    """Return the report of a command that succeeds, whose warnings are also sentences for people."""
    result = successful(heatline(*arguments, "--json"))
    report = json.loads(result.stdout)
    assert [f"warning: {each}" for each in report["warnings"]] == result.stderr.splitlines()
    assert isinstance(report, dict)
    return report


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def own(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle in a folder of its own, where another can be written."""
    return open_bundle(copy_of(bundle, tmp_path / "dark.bundle"))


def test_a_new_bundle_differs_only_in_its_calibration(tmp_path: Path, own: Bundle) -> None:
    before, good = contents(own.path), evenly(tmp_path / "good", 250, 240, 245, 230)
    report = reported("calibrate", own.path, good, "--false-reject", "0.25")
    assert report["warnings"][0].startswith("4 frames are too few to warn of drift by; name at least 10")
    assert contents(own.path) == before, "the old one is untouched"
    new = open_bundle(tmp_path / "dark-cal1.bundle")
    assert report["written"] == str(new.path)
    assert report["digest"] == new.digest != own.digest
    calibration = new.manifest.calibration
    thresholds = calibration.score_threshold, calibration.evidence_threshold
    assert thresholds == pytest.approx((logit_of(240), logit_of(240)), abs=1e-3)
    assert (calibration.frames, calibration.held_out_rejected) == (4, 1)
    assert calibration.false_reject_at_most == upper_bound(1, 4)
    assert (new.manifest.version, new.manifest.schema, new.manifest.files) == ("1+cal1", SCHEMA, own.manifest.files)
    (record,) = new.manifest.provenance["calibrations"]
    assert (record["parent"]["digest"], record["frames"]) == (own.digest, 4)
    assert [Path(frame["file"]).name for frame in report["good_frames"]["hottest"]] == ["003.png", "001.png", "002.png"]
    assert report["before"]["rejected"] == 4, "all were defective before"
    inspected = heatline("inspect", new.path, good, "--out", tmp_path / "out", "--json").stdout.splitlines()
    assert [json.loads(row)["verdict"] for row in inspected] == ["GOOD", "GOOD", "GOOD", "DEFECT"]
    again = reported("calibrate", new.path, good, "--false-reject", "0.25")
    assert (again["written"], again["before"]["rejected"]) == (str(tmp_path / "dark-cal2.bundle"), 1)
    texts = [
        heatline(*command, env=WIDE).stdout
        for command in (("calibrate", own.path, good, "--dry-run"), ("bundle", "show", new.path))
    ]
    assert_golden("calibrate", "\n".join(texts), folder=tmp_path, version=f"heatline {__version__}")


def test_a_dry_run_prints_the_same_and_writes_nothing(tmp_path: Path, own: Bundle) -> None:
    good = evenly(tmp_path / "good", 250, 250, 240)
    before = contents(tmp_path)
    dry = reported("calibrate", own.path, good, "--dry-run")
    assert (dry["written"], dry["digest"], contents(tmp_path)) == (None, None, before)
    assert {**dry, "written": 0, "digest": 0} == {**reported("calibrate", own.path, good), "written": 0, "digest": 0}
    assert "1 of 3 pictures is a copy of another" in dry["warnings"][0]
    assert "001.png" in dry["warnings"][0]


def test_frames_that_the_model_was_trained_on_cause_a_warning(tmp_path: Path, own: Bundle) -> None:
    good, others = evenly(tmp_path / "good", *range(230, 240)), evenly(tmp_path / "others", *range(220, 230))
    digests = [xxhash.xxh3_64_hexdigest((good / f"{place:03d}.png").read_bytes()) for place in (0, 3)]
    edit_manifest(own.path, lambda manifest: manifest["provenance"].update(data={"digests": digests}))
    report = reported("calibrate", own.path, shutil.copytree(good, tmp_path / "elsewhere"), "--dry-run")
    assert report["calibration"]["false_reject_at_most"] is None
    trained = f"the model was trained on {tmp_path}/elsewhere/000.png and 1 more of these frames"
    assert [line.startswith(trained) for line in report["warnings"] if "was trained on" in line] == [True]
    assert "was trained on" not in str(reported("calibrate", own.path, others, "--dry-run"))


def test_the_evidence_threshold_follows_from_the_pooling(tmp_path: Path, own: Bundle) -> None:
    """With a mean, the one high frame would set both thresholds; its four cells of 2,500 are too few for a top-mean."""
    pooling = "top-mean(map, 196) == logit"  # all cells, so that it holds here
    edit_manifest(own.path, lambda content: content["map"].update(identity=pooling))
    low, high = evenly(tmp_path / "low", 250, hw=(800, 800)), evenly(tmp_path / "high", 230, hw=(16, 16))
    reported("calibrate", own.path, low, high, "--false-reject", "0", "--to", tmp_path / "new")
    manifest = open_bundle(tmp_path / "new").manifest
    thresholds = manifest.calibration.score_threshold, manifest.calibration.evidence_threshold
    assert thresholds == pytest.approx((logit_of(230), logit_of(250)), abs=1e-3)
    assert manifest.provenance["calibrations"][0]["evidence_quantile"] == 0.999


def test_invalid_input_is_refused_and_nothing_is_written(tmp_path: Path, own: Bundle) -> None:
    good, bad = evenly(tmp_path / "good", 250, 240), evenly(tmp_path / "bad", 230)
    (bad / "bad.png").write_bytes(b"\x89PNG")  # an error only when the frames are read
    (tmp_path / "empty").mkdir()
    (tmp_path / "dark-cal1.bundle").mkdir()
    before = contents(tmp_path)
    for code, arguments, message in (
        (9, [own.path, bad, "--to", tmp_path / "new"], "bad.png"),
        (9, [own.path, tmp_path / "empty", "--to", tmp_path / "new"], "holds no picture"),
        (4, [tmp_path / "nowhere.bundle", good], "is not a bundle"),
        (4, [own.path, good], "dark-cal1.bundle"),
        (4, [own.path, good, "--to", own.path / "new"], "which must not change"),
        (4, [own.path, good, "--to", good / "000.png" / "new"], "cannot be written"),
        (4, [own.path, good, "--to", own.path], "never overwritten"),
    ):
        assert message in refused(code, "calibrate", *arguments)
    wrong = heatline("calibrate", own.path, good, "--false-reject", "nan")
    assert (wrong.returncode, "nan" in wrong.stderr) == (2, True)
    assert contents(tmp_path) == before


def test_a_single_outlier_is_refused_by_name(tmp_path: Path, own: Bundle) -> None:
    good = evenly(tmp_path / "good", 250, 240, 245, 230, 3)
    assert refused(9, "calibrate", own.path, good).endswith(
        "004.png does not look like the other 4 good frames: brightness 3, expected 138 to 255; remove it, or if "
        "frames like it are good, add another picture like it, no copy"
    )
    report = reported("calibrate", own.path, good, evenly(tmp_path / "dim", 4), "--dry-run")
    assert report["calibration"]["plausible"]["brightness"][0] == pytest.approx(0.6 * 3, abs=0.1)
    odd = evenly(tmp_path / "odd", 100, 105, 110, 120, 3, 250)
    assert "2 of 6 good frames look like no other, as" in str(reported("calibrate", own.path, odd, "--dry-run"))


def test_calibration_on_the_line_uses_the_bundles_lowest_defect(tmp_path: Path, own: Bundle) -> None:
    edit_manifest(own.path, lambda content: content["calibration"].update(coldest_defect=40.0))
    calibration = reported("calibrate", own.path, evenly(tmp_path / "good", 250, 245))["calibration"]
    assert (calibration["score_by"], calibration["coldest_defect"]) == ("margin", 40.0)
    assert calibration["score_threshold"] == pytest.approx((logit_of(245) + 40) / 2, abs=1e-3)


OLD, NEW = board((300, 380)), board((300, 380), seed=1)
STAY = "the thresholds come from frames that were compared with another reference; set them again with "
OWN = "camera side keeps a reference of its own; set it with heatline bundle set-reference --camera"
SET = "bundle", "set-reference"


def frames(of: NDArray[np.uint8], count: int) -> dict[str, NDArray[np.uint8]]:
    return {f"{number:02d}.png": moved(of, 2 * number, -number) for number in range(count)}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return board_bundle(tmp_path_factory.mktemp("old") / "boards.bundle", {"": Reference(OLD)})


def test_a_new_design_is_inspected_without_training(tmp_path: Path, old: Bundle) -> None:
    before, good = contents(old.path), write_pictures(tmp_path / "good", frames(NEW, 5))
    report = reported(*SET, old.path, good, "--to", tmp_path / "new.bundle")
    assert (report["version"], [warning.startswith(STAY) for warning in report["warnings"]]) == ("1+ref1", [True])
    assert contents(old.path) == before
    new = open_bundle(tmp_path / "new.bundle")
    assert report["digest"] == new.digest
    reference = new.references()[""]
    assert (reference.frame_hw, reference.frames, reference.made_of) == ((300, 380), 5, "5 good frames of good")
    inner = np.s_[30:-30, 30:-30]
    assert np.abs(reference.rgb[inner].astype(int) - NEW[inner]).mean() < 1
    changed = {name for name in new.manifest.files if new.manifest.files[name] != old.manifest.files[name]}
    assert (changed, new.manifest.calibration) == ({"product.png"}, old.manifest.calibration)
    (record,) = new.manifest.provenance["references"]
    assert (record["parent"]["digest"], record["reference"]["frames"], record["camera"]) == (old.digest, 5, None)
    shown = {"1.png": moved(NEW, 7, 5), "2.png": dark_square(moved(NEW, 7, 5), 150, 200), "3.png": OLD}
    judged = heatline("inspect", new.path, write_pictures(tmp_path / "shown", shown), "--out", tmp_path / "o", "--json")
    events = [json.loads(row) for row in judged.stdout.splitlines()]
    assert [event["reason"] or event["verdict"] for event in events] == ["GOOD", "DEFECT", "failed.misaligned"]
    few = reported(*SET, old.path, good / "00.png", "--dry-run")
    assert (few["written"], few["warnings"][0][:51]) == (None, "of 1 or 2 frames nobody can tell which is defective")


def test_frames_that_make_no_reference_are_refused_in_one_sentence(tmp_path: Path, old: Bundle, bundle: Bundle) -> None:
    defective = dark_square(moved(OLD, 2, -1), 150, 200)
    for number, (pictures, reason) in enumerate((
        ({"1.png": np.full_like(OLD, 200)}, "1.png cannot be a reference, as frames cannot be aligned by what"),
        ({**frames(OLD, 2), "02.png": OLD[::-1, ::-1]}, "02.png does not fit {folder}/00.png: the frame does not"),
        ({**frames(OLD, 3), "00.png": OLD[::-1, ::-1]}, "00.png does not fit {folder}/01.png: the frame does not"),
        ({**frames(OLD, 2), "02.png": OLD[:, :350]}, "02.png does not fit {folder}/00.png: the frame has 350x300 px"),
        ({f"{at}.png": dark_square(OLD, 60, 60) if at % 2 else OLD for at in range(4)}, "would show a ghost there"),
        ({**frames(OLD, 3), "01.png": defective}, "1 of 3 frames is rejected when compared with the others, first "
         "{folder}/01.png (score"),
        ({**frames(OLD, 3), "2.png": defective, "3.png": defective}, "others, first {folder}/2.png"),  # a copy
    )):  # fmt: skip
        folder = write_pictures(tmp_path / str(number), pictures)
        assert reason.format(folder=folder) in refused(9, *SET, old.path, folder, "--to", tmp_path / "new.bundle")
        assert not (tmp_path / "new.bundle").exists()
    assert "compares frames with no reference" in refused(4, *SET, bundle.path, tmp_path / "1")
    wrong = heatline(*SET, old.path, tmp_path / "1", "--camera", "a b")
    assert (wrong.returncode, "is not a camera name" in wrong.stderr) == (2, True)


def test_calibration_compares_each_frame_with_a_reference_of_the_others(tmp_path: Path, old: Bundle) -> None:
    rng = np.random.default_rng(1)
    noisy = {
        name: np.clip(each + rng.normal(0, 6, each.shape), 0, 255).astype(np.uint8)
        for name, each in frames(NEW, 4).items()
    }
    good = write_pictures(tmp_path / "good", noisy)
    report = reported("calibrate", old.path, good, "--to", tmp_path / "new.bundle")
    new = open_bundle(tmp_path / "new.bundle")
    assert report["compared_with"] == {"": "4 good frames of good"}
    assert new.references()[""].made_of == "4 good frames of good"
    assert new.manifest.provenance["calibrations"][0]["reference"]["file"] == "product.png"
    inspector = Inspector(old.manifest, open_verified_engine(old, "openvino", "f32").engine)
    hottest = report["good_frames"]["hottest"][0]
    rgb = noisy[Path(hottest["file"]).name]
    scores = [
        inspector.finish(inspector.start(Frame(Stamp("", 1), rgb, "RGB8"), reference=Reference.of(made, ""))).score
        for made in ([other for other in noisy.values() if other is not rgb], list(noisy.values()))
    ]
    assert hottest["highest_logit"] == pytest.approx(scores[0], abs=1e-3)
    assert abs(hottest["highest_logit"] - scores[1]) > 0.01, "it has no part in it"
    kept = refused(9, "calibrate", old.path, good, "--keep-reference", "--dry-run")
    assert "4 of 4 pictures cannot be compared with the reference, first" in kept
    few = refused(9, "calibrate", old.path, good / "00.png", "--dry-run")
    assert "1 different good frame came, and a new reference needs 3" in few


ANY = Plausible(12, (1, 999), (1, 999), (0, None), (0, None), (0, None), None)
"""Every frame of these sizes looks like it."""
POSES = DriftReference(12, {measure: [0.0, 0.1, 0.2, 0.3, 0.4] for measure in ("brightness", *OF_POSE)})


def test_drift_forgets_poses_against_another_reference_and_a_camera_keeps_its_own(tmp_path: Path) -> None:
    both = board_bundle(tmp_path / "both.bundle", {"": Reference(OLD), "side": Reference(OLD)})
    poses, own = (msgspec.to_builtins(each) for each in (POSES, CameraPlausible(ANY, [], [], POSES)))
    known = {"reference": poses, "plausible_by_camera": {"top": own, "side": own}}
    edit_manifest(both.path, lambda manifest: manifest["calibration"].update(known))
    good, new_of, old_of = write_pictures(tmp_path / "good", frames(OLD, 3)), "3 good frames of good", "one picture"
    for number, (command, forget, made_of, warns) in enumerate((
        (SET, {"", "top"}, {"": new_of, "side": old_of}, True),
        ((*SET, "--camera", "side"), {"side"}, {"": old_of, "side": new_of}, False),
        (("calibrate",), {"", "top"}, {"": new_of, "side": old_of}, True),
        (("calibrate", "--keep-reference"), {""}, {"": old_of, "side": old_of}, False),  # whose frames it measures anew
    )):  # fmt: skip
        report = reported(*command, both.path, good, "--to", tmp_path / str(number))
        assert (OWN in report["warnings"]) == warns, command
        new = open_bundle(tmp_path / str(number))
        assert {camera: each.made_of for camera, each in new.references().items()} == made_of, command
        by_camera = new.manifest.calibration.plausible_by_camera
        found = {"": new.manifest.calibration.reference, **{name: each.reference for name, each in by_camera.items()}}
        assert {name for name, each in found.items() if each != POSES} == forget, command
        for reference in (found[name] for name in forget - {""}):
            assert (list(reference.measures), set(reference.unwatched)) == (["brightness"], set(OF_POSE)), command
