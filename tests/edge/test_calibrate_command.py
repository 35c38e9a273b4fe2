"""`heatline calibrate` with real pictures and real engines: it writes a new bundle, or refuses and writes nothing."""

import ctypes
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from heatline.edge.bundle import SCHEMA, Bundle, open_bundle
from heatline.edge.calibration.recalibration import GoodPictures
from heatline.edge.calibration.statistics import upper_bound
from heatline.edge.errors import EngineError
from heatline.edge.inspection.inspector import Inspector
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.lines import started, write_pictures
from tests.edge.test_inspector import NumpyEngine
from tests.small_bundle import BIAS, CELLS, GAIN, copy_of, edit_manifest

IN_OPEN = 0x20
"""Of inotify(7)."""


def evenly(folder: Path, *values: int, hw: tuple[int, int] = (230, 300)) -> Path:
    """Pictures of one grey value each, so that the highest logit is known."""
    pictures = {f"{place:03d}.png": np.full((*hw, 3), value, np.uint8) for place, value in enumerate(values)}
    return write_pictures(folder, pictures)


def logit_of(value: int) -> float:
    return (255 - value) / 255 * GAIN - BIAS


def calibrated(*arguments: str | Path) -> tuple[dict[str, Any], str]:
    result = heatline("calibrate", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert isinstance(report, dict)
    return report, result.stderr


def shown(*arguments: str | Path) -> str:
    result = heatline(*arguments, env={"COLUMNS": "400"})
    assert result.returncode == 0, result.stderr
    return " ".join(result.stdout.split())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def own(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle in a folder of its own, where another can be written."""
    return open_bundle(copy_of(bundle, tmp_path / "dark.bundle"))


def test_frames_that_the_model_was_trained_on_cause_a_warning(tmp_path: Path, own: Bundle) -> None:
    good, others = evenly(tmp_path / "good", *range(230, 240)), evenly(tmp_path / "others", *range(220, 230))
    digests = [xxhash.xxh3_64_hexdigest((good / f"{place:03d}.png").read_bytes()) for place in (0, 3)]
    edit_manifest(own.path, lambda manifest: manifest["provenance"].update(data={"digests": digests}))
    copies = shutil.copytree(good, tmp_path / "elsewhere")
    report, complaints = calibrated(own.path, copies, "--dry-run")
    found = report["calibration"]
    assert (found["held_out_rejected"], found["false_reject_at_most"]) == (None, None)
    (trained,) = [line for line in complaints.splitlines() if "was trained on" in line]
    assert trained.startswith(f"warning: the model was trained on {copies / '000.png'} and 1 more of these frames")
    assert "was trained on" not in calibrated(own.path, others, "--dry-run")[1]


def test_a_new_bundle_differs_only_in_its_calibration(tmp_path: Path, own: Bundle) -> None:
    before = contents(own.path)
    good = evenly(tmp_path / "good", 250, 240, 245, 230)
    report, complaints = calibrated(own.path, good, "--false-reject", "0.25")
    unwatched, few = complaints.splitlines()
    assert unwatched == "warning: 4 frames are too few to warn of drift by; name at least 10"
    assert few.startswith(
        "warning: 4 good frames cannot show a false-reject rate of 25 %: with 95 % confidence it is at "
    )
    assert contents(own.path) == before, "the old one is untouched"
    new = open_bundle(tmp_path / "dark-cal1.bundle")
    assert report["written"] == str(new.path)
    assert report["digest"] == new.digest != own.digest
    calibration = new.manifest.calibration
    assert calibration.score_threshold == pytest.approx(logit_of(240), abs=1e-3)
    assert calibration.evidence_threshold == pytest.approx(logit_of(240), abs=1e-3)
    assert (calibration.frames, calibration.held_out_rejected) == (4, 1)
    assert calibration.frames_are == "good frames of good"
    assert calibration.false_reject_at_most == upper_bound(1, 4)
    assert (new.manifest.version, new.manifest.schema, new.manifest.files) == ("1+cal1", SCHEMA, own.manifest.files)
    (record,) = new.manifest.provenance["calibrations"]
    assert record["parent"]["digest"] == own.digest
    assert (record["frames"], record["frames_are"]) == (4, "good frames of good")
    assert [Path(frame["file"]).name for frame in report["good_frames"]["hottest"]] == ["003.png", "001.png", "002.png"]
    assert report["before"]["rejected"] == 4, "all were defective before"
    inspected = heatline("inspect", new.path, good, "--out", tmp_path / "out", "--json").stdout.splitlines()
    assert [json.loads(row)["verdict"] for row in inspected] == ["GOOD", "GOOD", "GOOD", "DEFECT"]
    output = shown("bundle", "show", new.path)
    assert "false-reject: 25 % of good frames, on 4 good frames of good" in output
    bound = (
        "1 of 4, each judged by a threshold from other frames; with 95 % confidence at most 75.1 % of new good frames"
    )
    assert bound in output
    again, complaints = calibrated(new.path, good, "--false-reject", "0.25")
    assert (again["written"], again["before"]["rejected"]) == (str(tmp_path / "dark-cal2.bundle"), 1)
    provenance = open_bundle(tmp_path / "dark-cal2.bundle").manifest.provenance
    assert [each["parent"]["version"] for each in provenance["calibrations"]] == ["1", "1+cal1"]
    assert (complaints.count("\n"), len(again["warnings"])) == (2, 2)  # about few frames


def test_of_a_single_frame_no_rejects_are_known(tmp_path: Path, own: Bundle) -> None:
    report, _ = calibrated(own.path, evenly(tmp_path / "good", 250), "--dry-run")
    shift = report["good_frames"]
    assert (shift["frames"], shift["rejected"]) == (1, None)


def test_a_dry_run_prints_the_same_and_writes_nothing(tmp_path: Path, own: Bundle) -> None:
    good = evenly(tmp_path / "good", 250, 250, 240)
    before = contents(tmp_path)
    dry, complaints = calibrated(own.path, good, "--dry-run")
    assert contents(tmp_path) == before
    assert (dry["written"], dry["digest"]) == (None, None)
    wet, _ = calibrated(own.path, good)
    assert {**dry, "written": 0, "digest": 0} == {**wet, "written": 0, "digest": 0}
    assert "1 of 3 pictures is a copy of another" in complaints
    assert "001.png" in wet["warnings"][0]


@pytest.mark.parametrize(
    ("pooling", "evidence", "quantile", "message"),
    [
        ("mean(map)", 230, None, ""),
        # all cells of a map, so that the identity holds for this bundle
        ("top-mean(map, 196)", 250, 0.999, ", evidence by the 99.9 % quantile of their heatmap cells"),
    ],
)
def test_the_evidence_threshold_follows_from_the_pooling(
    tmp_path: Path, own: Bundle, pooling: str, evidence: int, quantile: float | None, message: str
) -> None:
    """With a mean, the one high frame sets both thresholds; with a top-mean, its four cells of 10,000 are too few."""
    edit_manifest(own.path, lambda content: content["map"].update(identity=f"{pooling} == logit"))
    low, high = evenly(tmp_path / "low", 250, hw=(800, 800)), evenly(tmp_path / "high", 230, hw=(16, 16))
    calibrated(own.path, low, high, "--false-reject", "0", "--to", tmp_path / "new")
    manifest = open_bundle(tmp_path / "new").manifest
    assert manifest.calibration.score_threshold == pytest.approx(logit_of(230), abs=1e-3)
    assert manifest.calibration.evidence_threshold == pytest.approx(logit_of(evidence), abs=1e-3)
    (record,) = manifest.provenance["calibrations"]
    assert record["evidence_quantile"] == manifest.calibration.evidence_quantile == quantile
    described = shown("bundle", "show", tmp_path / "new")
    assert f"false-reject: 0 % of good frames{message}, on 2 good frames of low, high" in described


def test_frames_of_several_sizes_and_single_files_can_be_mixed(tmp_path: Path, own: Bundle) -> None:
    folder = evenly(tmp_path / "good", 250, hw=(1, 1))
    file = evenly(tmp_path / "more", 240, hw=(500, 40)) / "000.png"
    report, _ = calibrated(own.path, folder, file, "--engine", "onnxruntime")
    assert (report["calibration"]["frames"], report["calibration"]["frames_are"]) == (2, "good frames of good, 000.png")
    assert report["calibration"]["score_threshold"] == pytest.approx(logit_of(240), abs=1e-3)


# Refusals, which write nothing.


def test_invalid_input_is_refused_and_nothing_is_written(tmp_path: Path, own: Bundle) -> None:
    good, bad, empty = evenly(tmp_path / "good", 250, 240), evenly(tmp_path / "bad", 230), tmp_path / "empty"
    (bad / "bad.png").write_bytes(b"\x89PNG")  # an error only when the frames are read
    empty.mkdir()
    nowhere = tmp_path / "nowhere.bundle"
    cases: list[tuple[int, list[str | Path], str]] = [
        (9, [own.path, bad], "bad.png"),
        (9, [own.path, good, tmp_path / "nowhere"], "nowhere"),
        (9, [own.path, empty], "holds no picture"),
        (4, [nowhere, good], "is not a bundle"),
        (4, [own.path, bad, "--to", own.path / "new"], "which must not change"),
        (4, [own.path, bad, "--to", good / "000.png" / "new"], "cannot be written"),
        (4, [own.path, bad, "--to", own.path], "never overwritten"),
    ]
    before = contents(tmp_path)
    for code, arguments, message in cases:
        result = heatline("calibrate", *arguments)
        assert (result.returncode, result.stdout) == (code, ""), arguments
        assert message in complaint(result)
    (tmp_path / "dark-cal1.bundle").mkdir()
    assert "dark-cal1.bundle" in complaint(heatline("calibrate", own.path, good))
    assert contents(tmp_path) == before


def test_a_single_outlier_is_refused_by_name(tmp_path: Path, own: Bundle) -> None:
    good = evenly(tmp_path / "good", 250, 240, 245, 230, 3)
    before = contents(tmp_path)
    for arguments in ([], ["--dry-run"]):
        result = heatline("calibrate", own.path, good, *arguments)
        assert (result.returncode, result.stdout) == (9, "")
        assert complaint(result).endswith(
            "004.png does not look like the other 4 good frames: brightness 3, expected 138 to 255; remove it, or if "
            "frames like it are good, add another picture like it, no copy"
        )
        assert contents(tmp_path) == before
    copied = tmp_path / "copied"
    copied.mkdir()
    shutil.copyfile(good / "004.png", copied / "again.png")  # a copy shows nothing more
    assert "004.png does not look like the other 4 good" in complaint(heatline("calibrate", own.path, good, copied))
    report, _ = calibrated(own.path, good, evenly(tmp_path / "dim", 4), "--dry-run")
    assert report["calibration"]["plausible"]["brightness"][0] == pytest.approx(0.6 * 3, abs=0.1)
    report, _ = calibrated(own.path, *sorted(good.iterdir())[:4], "--dry-run")
    assert report["calibration"]["plausible"]["brightness"][0] == pytest.approx(0.6 * 230, abs=0.1)
    _, complaints = calibrated(own.path, evenly(tmp_path / "odd", 100, 105, 110, 120, 3, 250), "--dry-run")
    assert "2 of 6 good frames look like no other, as" in complaints


def test_an_invalid_argument_is_exit_code_2(tmp_path: Path, own: Bundle) -> None:
    good = evenly(tmp_path / "good", 250)
    for arguments, message in (
        (["--false-reject", "nan"], "nan"),
        (["--false-reject", "1"], "0<=x<1"),
    ):
        result = heatline("calibrate", own.path, good, *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert message in result.stderr


def test_answers_that_are_not_finite_are_refused_with_the_pictures_name(tmp_path: Path, own: Bundle) -> None:
    class NanEngine(NumpyEngine):
        def submit(self, count: int, fill: Any, done: Any, failed: Any) -> None:
            done(np.full(count, np.nan, np.float32), np.zeros((count, CELLS, CELLS), np.float32))

    pictures = GoodPictures([evenly(tmp_path / "good", 250)])
    with pytest.raises(EngineError, match=r"000\.png: .*not finite"):
        pictures.run(Inspector(own.manifest, NanEngine()))


def test_ctrl_c_writes_nothing(tmp_path: Path, own: Bundle) -> None:
    """The signal comes when the command opens its third picture; a hundred pictures remain."""
    good, later = evenly(tmp_path / "good", 250, 240), evenly(tmp_path / "later", *range(100, 200), hw=(9, 9))
    before, libc = contents(tmp_path), ctypes.CDLL(None)
    watched = libc.inotify_init()
    assert libc.inotify_add_watch(watched, bytes(later / "000.png"), IN_OPEN) > 0
    with started(HEATLINE, "calibrate", own.path, good, later) as process:
        os.read(watched, 1024)
        process.send_signal(signal.SIGINT)
        os.close(watched)
        _, log = process.communicate(timeout=WITHIN_SECONDS)
    assert process.returncode == 130
    assert "heatline: interrupted" in log
    assert contents(tmp_path) == before


# Other facts about the bundle.


def test_calibration_on_the_line_uses_the_bundles_lowest_defect(tmp_path: Path, own: Bundle) -> None:
    good = evenly(tmp_path / "good", 250, 245)
    edit_manifest(own.path, lambda content: content["calibration"].update(coldest_defect=40.0))
    report, _ = calibrated(own.path, good)
    calibration = report["calibration"]
    assert calibration["score_by"] == "margin"
    assert calibration["score_threshold"] == pytest.approx((logit_of(245) + 40) / 2, abs=1e-3)
    new = open_bundle(tmp_path / "dark-cal1.bundle").manifest.calibration
    assert new.coldest_defect == 40.0
    assert "with a margin to the defective frames" in shown("bundle", "show", tmp_path / "dark-cal1.bundle")
