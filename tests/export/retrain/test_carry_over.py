"""What was calibrated on the line stays in a retrained bundle, or the user is told to calibrate again."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from heatline.edge.bundle import Bundle, open_bundle, write_bundle
from heatline.edge.bundle.manifest import (
    PRODUCT_TILES,
    CameraPlausible,
    Manifest,
    ProductReference,
    Reference,
    Tensor,
)
from heatline.edge.drift import OF_POSE
from heatline.export.retrain import new_bundle
from heatline.export.retrain.new_bundle import carry_over, carry_references, describe_calibrations, export_next
from heatline.export.retrain.plan import Plan
from heatline.train.readers import LabelledFolder
from heatline.train.run import TrainedRun, restore_config
from tests.export.retrain.conftest import Trained

FILES = PRODUCT_TILES, "product_tiles.side.npz"
QUANTILES = [1.0, 2.0, 3.0, 4.0, 5.0]
REFERENCE = Reference(77, {"brightness": QUANTILES, "score": QUANTILES, "evidence": QUANTILES}, {"saturation": "grey"})


def changed(manifest: Manifest, **calibration: Any) -> Manifest:
    return msgspec.structs.replace(manifest, calibration=msgspec.structs.replace(manifest.calibration, **calibration))


@pytest.fixture
def calibrated(trained: Trained, tmp_path: Path) -> Bundle:
    """The bundle as if thresholds and one camera were calibrated on the line."""
    first = open_bundle(trained.bundle)
    plausible = first.manifest.calibration.plausible
    assert plausible is not None
    of_line = msgspec.structs.replace(plausible, frames=77)
    manifest = changed(
        first.manifest,
        plausible=of_line,
        plausible_by_camera={"side": CameraPlausible(of_line, [], [], REFERENCE)},
        reference=REFERENCE,
        frames=77,
    )
    for name in FILES:
        (tmp_path / name).write_text(f"of the line: {name}")
    return replace(
        first,
        path=tmp_path,
        manifest=msgspec.structs.replace(
            manifest,
            provenance={**manifest.provenance, "calibrations": [{"false_reject": 0.01}, {"camera": "side"}]},
            files={**manifest.files, **dict.fromkeys(FILES, "1" * 64)},
        ),
    )


def test_the_appearance_stays_and_the_thresholds_do_not(calibrated: Bundle, trained: Trained) -> None:
    new = changed(open_bundle(trained.bundle).manifest, score_threshold=1.5)
    calibration, files = carry_over(calibrated, new, finetuned=False)
    assert calibration.score_threshold == 1.5
    assert calibration.plausible == calibrated.manifest.calibration.plausible
    side = calibration.plausible_by_camera["side"]
    assert side.plausible == calibration.plausible
    for reference in (calibration.reference, side.reference):
        assert reference is not None
        assert reference.measures == {"brightness": QUANTILES}, "scores are logits of the old model"
        assert reference.unwatched["score"] == "the model was trained again since the calibration"
        assert reference.unwatched["saturation"] == "grey"
    assert files == {name: f"of the line: {name}".encode() for name in FILES}
    (note,) = describe_calibrations(
        calibrated.manifest, msgspec.structs.replace(new, calibration=calibration), Path("new.bundle")
    )
    assert "the old thresholds come from 77 frames by heatline calibrate" in note
    assert "run heatline calibrate new.bundle again" in note


def test_nothing_is_carried_over_to_other_features(calibrated: Bundle, trained: Trained) -> None:
    new = open_bundle(trained.bundle).manifest
    assert carry_over(calibrated, new, finetuned=True) == (new.calibration, {})
    assert describe_calibrations(calibrated.manifest, new, Path("new.bundle"))[1] == (
        "the bounds of camera side belong to the features of the old model; run heatline cameras calibrate again"
    )


OF_LINE = {"": ProductReference("product.png", (9, 8), 3, "of the line")}
OF_SIDE = {"side": ProductReference("product.side.png", (9, 8), 3, "of the line")}
OF_TRAINING = {"": ProductReference("product.png", (5, 5), 12, "of the training")}


@pytest.mark.parametrize(
    ("of_old", "of_new", "compares", "expected"),
    [
        (OF_LINE, {}, True, OF_LINE),
        (OF_LINE, OF_TRAINING, True, OF_LINE),
        (OF_SIDE, OF_TRAINING, True, {**OF_TRAINING, **OF_SIDE}),
        (OF_LINE, {}, False, {}),
        ({}, OF_TRAINING, True, OF_TRAINING),
    ],
)
def test_the_references_of_the_line_stay_where_the_new_model_compares(
    calibrated: Bundle,
    of_old: dict[str, ProductReference],
    of_new: dict[str, ProductReference],
    compares: bool,
    expected: dict[str, ProductReference],
) -> None:
    with_pose = Reference(77, {"brightness": QUANTILES, **dict.fromkeys(OF_POSE, QUANTILES)}, {})
    tensors = msgspec.structs.replace(
        calibrated.manifest.tensors, difference=Tensor("difference", "uint8", [None, 8, 8, 8])
    )
    was = msgspec.structs.replace(changed(calibrated.manifest, reference=with_pose), tensors=tensors, references=of_old)
    new = msgspec.structs.replace(
        calibrated.manifest, tensors=tensors if compares else calibrated.manifest.tensors, references=of_new
    )
    for each in of_old.values():
        (calibrated.path / each.file).write_text(each.file)
    old = replace(calibrated, manifest=was)
    carried = {each.file: each.file.encode() for each in of_old.values() if compares}
    assert carry_references(old, new) == (expected, carried)
    calibration, _ = carry_over(old, new, finetuned=False)
    assert calibration.reference is not None
    assert set(calibration.reference.measures) == {"brightness", *(OF_POSE if compares else ())}
    notes = [note for note in describe_calibrations(was, new, Path("new.bundle")) if "compares frames" in note]
    assert len(notes) == (not compares)


def test_without_a_calibration_the_appearance_is_the_new_one(trained: Trained) -> None:
    old = open_bundle(trained.bundle)
    new = changed(old.manifest, plausible=None)
    assert carry_over(old, new, finetuned=False) == (new.calibration, {})
    assert describe_calibrations(old.manifest, new, Path("new.bundle")) == []


def test_the_appearance_of_the_line_stays_in_the_second_retraining(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first new bundle was not calibrated itself. As if each training gave the first bundle again."""
    first = open_bundle(trained.bundle)
    assert first.manifest.calibration.plausible is not None
    of_line = msgspec.structs.replace(first.manifest.calibration.plausible, frames=77)
    manifest = changed(first.manifest, plausible=of_line)
    provenance = {**manifest.provenance, "calibrations": [{"false_reject": 0.01}]}
    calibrated = replace(first, manifest=msgspec.structs.replace(manifest, provenance=provenance))

    def export_run(_: object, target: Path, **settings: Any) -> Bundle:
        files = {name: (first.path / name).read_bytes() for name in first.manifest.files}
        return write_bundle(target, msgspec.structs.replace(first.manifest, version=settings["version"]), files)

    monkeypatch.setattr(new_bundle, "export_run", export_run)
    config = restore_config(first.manifest.provenance["training"]["config"], tmp_path)
    run = cast(TrainedRun, SimpleNamespace(config=config))
    folder = LabelledFolder(trained.data, "masks", (), "labels.csv", {})
    plan = Plan([], [], frozenset(), frozenset())
    once = export_next(calibrated, run, folder, tmp_path / "once.bundle", plan, str)
    twice = export_next(once, run, folder, tmp_path / "twice.bundle", plan, str)
    assert twice.manifest.version == "1+retrain2"
    assert [each.manifest.calibration.plausible for each in (once, twice)] == [of_line, of_line]
    assert twice.manifest.provenance["retraining"]["appearance_of_line"]
    plain = export_next(first, run, folder, tmp_path / "plain.bundle", plan, str)
    assert not plain.manifest.provenance["retraining"]["appearance_of_line"]
