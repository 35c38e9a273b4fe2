"""The recipe `heatline` as a user meets it: from a folder of pictures to a bundle that inspects, and what may go wrong.

Small pictures, small tiles, few steps.
"""

import json
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from heatline.edge.bundle import open_bundle, open_verified_engine
from heatline.edge.calibration.thresholds import lowest_defect_of, score_threshold
from heatline.edge.cli.bundle_formatting import describe_bound
from heatline.edge.errors import Interrupted
from heatline.edge.frames import Frame, Stamp
from heatline.edge.images import read_rgb
from heatline.edge.inference import open_engine
from heatline.edge.inference.devices import computes_bf16, shared_core
from heatline.edge.inference.engine import PROCESSOR, infer_features
from heatline.edge.inspection.inspector import Inspector
from heatline.train.compose import compose, read_config
from heatline.train.config import TilesConfig
from heatline.train.dense.samples import Sampler
from heatline.train.dense.tiles import OutOfFold
from heatline.train.evaluation.evaluate import select_pictures
from heatline.train.evaluation.evaluated import prepare_run
from heatline.train.evaluation.gallery import GAP_PX
from heatline.train.evaluation.result import read_evaluation
from heatline.train.fit import fit
from heatline.train.frames import FrameStore, grid_tiles
from heatline.train.models.dense import DenseClassifier
from heatline.train.readers import LabelledImage, read_folder
from heatline.train.readers.labelled import ReviewedFrame, write_index
from heatline.train.run import RunFolder, RunSummary, load_run
from heatline.train.validation_frames import validation_frames
from tests.command import complaint, heatline
from tests.train.blobs import GROUPS, draw_blobs, sort_tiles, write_labels
from tests.train.boards import draw_boards, photograph

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = (
    "tiles.tile_px=64", "recipe.steps=12", "recipe.folds=2", "recipe.jitter_px=20",
    "recipe.synthetic=10", "recipe.copies={defective: 1, most: 20}", "trainer.precision=32-true",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tiny_trunk: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Settings of a small training; all tests here share a feature cache."""
    return (*SMALL, *tiny_trunk, f"features.folder={tmp_path_factory.mktemp('features')}")


@pytest.fixture(scope="module")
def first(blobs: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A finished run, and its output."""
    out = tmp_path_factory.mktemp("dense") / "run"
    return train(blobs, out, tiny)


@pytest.fixture(scope="module")
def bundle(first: tuple[RunFolder, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's bundle. After so few steps its map may look stuck."""
    return export(first[0], tmp_path_factory.mktemp("dense") / "bundle")


@pytest.fixture(scope="module")
def shipped_trunk(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a run on the trunk that a training takes where no other is named."""
    folder = tmp_path_factory.mktemp("shipped")
    done = heatline("train", blobs, f"out={folder / 'run'}", f"features.folder={folder / 'features'}", *SMALL)
    assert done.returncode == 0, done.stderr
    return export(RunFolder(folder / "run"), folder / "bundle")


def export(run: RunFolder, target: Path) -> Path:
    done = heatline("export", run.folder, "--to", target, "--precision", "f32", "--allow", "map")
    assert done.returncode == 0, done.stderr
    return target


def train(data: Path, out: Path, tiny: tuple[str, ...], *overrides: str) -> tuple[RunFolder, str]:
    done = heatline("train", data, f"out={out}", *tiny, *overrides)
    assert done.returncode == 0, done.stderr
    return RunFolder(out), " ".join(done.stderr.split())


def summary_of(data: Path, folder: Path, tiny: tuple[str, ...], *overrides: str) -> tuple[RunSummary, str]:
    run, output = train(data, folder / "run", tiny, *overrides)
    load_run(run.folder)
    return run.read_summary(), output


def test_a_training_needs_only_a_folder(blobs: Path, tmp_path: Path) -> None:
    """Only keys that make it short; the environment names the folder of the cache."""
    done = heatline(
        "train", blobs, "recipe.steps=2", "recipe.copies.most=4", cwd=tmp_path, env={"XDG_CACHE_HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "runs" / "efficientnet_lite0_dense")
    frames = read_evaluation(run.report).frames
    defective = sum(frame.defective for frame in frames)
    missed = re.search(rf"missed +(\d+) of {defective} defective pictures", done.stdout)
    assert missed is not None
    assert ("recipe.finetune_steps=400" in done.stdout) == (missed[1] != "0"), "a hint where something was missed"
    assert re.search(
        rf"rejected good pictures +\d of {len(frames) - defective}, each judged by a threshold", done.stdout
    )
    assert run.read_summary().recipe == "heatline"
    assert run.report.joinpath("report.html").exists()
    assert any((tmp_path / "heatline" / "features").glob("*.features"))


def test_a_run_reports_its_assumptions_and_writes_all_its_files(first: tuple[RunFolder, str], blobs: Path) -> None:
    run, output = first
    assert "Pictures are good or defective by labels.csv; where the defects are, by masks." in output
    assert "Groups are the column 'group' of labels.csv: 4 groups." in output
    assert "to expect: on 5 measured sets, 10 pictures with marked defects found " in output
    assert "warning: only 4 groups have a good picture" in output
    assert "no reference: the pictures show no fixed pose: " in output
    assert "12 steps for each of 2 folds and for the model" in output
    extracted = re.findall(r"extracting features: (\d+) of (\d+)", output)
    assert extracted[-1][0] == extracted[-1][1]
    assert re.findall(r"training, steps: (\d+) of 36", output)[::9] == ["4", "36"], "as no terminal shows a bar"
    assert f"report: {run.report / 'report.html'}" in output
    summary, config = run.read_summary(), read_config(run.config)
    assert (summary.finished, summary.folds, summary.labelled, summary.truth) == (True, 2, "tiles", "masks")
    assert summary.groups == {"train": list(GROUPS), "val": [], "test": []}
    assert (config.recipe.name, config.data) == ("heatline", str(blobs))
    assert not run.cache.exists()
    page = (run.report / "report.html").read_text(encoding="utf-8")
    assert "2-fold cross-validation over 4 groups" in page


def test_a_training_says_which_classes_pass_and_counts_by_thresholds_of_the_other_folds(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """The second defective picture of each group has a mask and shows nothing; a speck makes a tile ambiguous."""
    data = draw_blobs(tmp_path / "blobs")
    rng = np.random.default_rng(1)
    rows = []
    for group in GROUPS:
        cv2.imwrite(str(data / "images" / f"{group}_1.png"), rng.normal(150, 12, (150, 200, 3)).clip(0, 255))
        mask = np.zeros((150, 200), np.uint8)
        mask[30:33, 30:34] = 255
        cv2.imwrite(str(data / "masks" / f"{group}_1.png"), mask)
        rows += [(f"{group}_{at}.png", "good" if at == 2 else "defective", group) for at in range(3)]
    with (data / "labels.csv").open("w") as file:
        file.write("image,label,group,cls\n")
        file.writelines(f"{','.join(row)},{('disc', 'speck', 'none')[int(row[0][2])]}\n" for row in rows)
    done = heatline("train", data, f"out={tmp_path / 'run'}", *tiny)
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "run")
    evaluation = read_evaluation(run.report)
    shown = dict(re.split("  +", line, maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert next(iter(shown)) == "escapes"
    assert "whole kinds of defects pass: all speck 4 of 4 (at 5 %, " in shown["escapes"]
    assert ", all below 16x16 px 4 of 4 (at 5 %, " in shown["escapes"]
    assert shown["missed by class"].startswith("speck 4 of 4 (at 5 %, ")
    assert shown["missed by size"].startswith("below 16x16 px 4 of 4 (at 5 %, ")
    assert evaluation.warnings[0] == shown["escapes"]

    # The report and the command name the same figures.
    figures = evaluation.figures
    assert shown["tile AP"] == f"{figures['tile.average_precision']:.3f}"
    assert shown["picture AUROC"] == f"{figures['frame.auroc']:.3f}"
    assert shown["missed"].startswith(f"{figures['frame.escaped_frames']} of 8 ")
    judged = f"{figures['frame.rejected_frames']} of 4, each judged by a threshold"
    assert shown["rejected good pictures"].startswith(judged)

    # Each picture is judged by a threshold from the other folds.
    fold_of = dict(
        zip(*(getattr(OutOfFold.read(run.out_of_fold), name).tolist() for name in ("frames", "fold")), strict=True)
    )
    for frame in evaluation.frames:
        others = [other for other in evaluation.frames if fold_of[other.image] != fold_of[frame.image]]
        good = [(other.score, str(other.group)) for other in others if not other.defective]
        lowest = lowest_defect_of([other.score for other in others if other.defective])
        expected, _ = score_threshold([score for score, _ in good], 0.01, lowest, [group for _, group in good])
        assert frame.threshold == pytest.approx(expected)
    rejected = sum(frame.score >= (frame.threshold or 0) for frame in evaluation.frames if not frame.defective)
    assert evaluation.calibration.held_out_rejected == figures["frame.rejected_frames"] == rejected

    # The bundle and its line's page tell the same.
    calibration = open_bundle(export(run, tmp_path / "bundle")).manifest.calibration
    told = [(each.kind, each.missed, each.frames) for each in calibration.missed]
    assert [each for each in told if each[0] != "disc"][:2] == [("speck", 4, 4), ("below 16x16 px", 4, 4)]
    assert calibration.held_out_rejected == rejected


def test_out_of_fold_predictions_cover_every_tile_and_keep_groups_together(first: tuple[RunFolder, str]) -> None:
    run = load_run(first[0].folder)
    answers = OutOfFold.read(first[0].out_of_fold)
    assert list(answers.frames) == [image.name_in_folder for image in run.data.images]
    folds = {(image.group, fold) for image, fold in zip(run.data.images, answers.fold.tolist(), strict=True)}
    assert len(folds) == len(GROUPS)
    assert len({fold for _, fold in folds}) == 2
    assert len(answers.logit) == len(answers.map) == sum(run.summary.tiles["train"].values())
    flat = np.sort(answers.map.astype(np.float64).reshape(len(answers.map), -1), axis=1)
    np.testing.assert_allclose(flat[:, -16:].mean(axis=1), answers.logit, atol=1e-2)  # maps are stored as float16
    assert run.summary.val["val_ap"] > 0.9


def test_a_training_in_bf16_takes_the_same_features_of_tiles_and_others_of_copies(
    blobs: Path, tiny: tuple[str, ...], first: object, tmp_path: Path
) -> None:
    _, output = summary_of(blobs, tmp_path, tiny, "trainer.precision=bf16-mixed")
    found = re.search(r"features of \d+ tiles and (\d+) copies: (\d+ extracted|all were in the cache)", output)
    assert found is not None, output
    in_bf16 = computes_bf16(shared_core(), PROCESSOR)
    assert found[2] == (f"{found[1]} extracted" if in_bf16 else "all were in the cache")


def test_another_seed_extracts_no_features_again(
    blobs: Path, tiny: tuple[str, ...], first: object, tmp_path: Path
) -> None:
    summary, output = summary_of(blobs, tmp_path, tiny, "seed=7", "recipe.lr=0.005")
    assert "copies: all were in the cache" in output
    assert summary.tiles_per_s is None


def test_the_bundle_states_its_pooling_and_has_thresholds_from_out_of_fold_predictions(
    first: tuple[RunFolder, str], bundle: Path, tmp_path: Path
) -> None:
    """The score threshold lies between the highest logits of good and defective pictures, by the run's own file."""
    manifest = open_bundle(bundle).manifest
    assert (manifest.map.identity, manifest.map.hw) == ("top-mean(map, 16) == logit", (8, 8))
    calibration = manifest.calibration
    assert (calibration.frames, calibration.frames_are) == (
        4,
        "good frames of held-out groups",
    )
    run, answers = load_run(first[0].folder), OutOfFold.read(first[0].out_of_fold)
    store = FrameStore.build(run.data.images, tmp_path / "frames")
    frame = grid_tiles(store, range(len(store)), TilesConfig(tile_px=64, overlap_px=2, defective_share=0.01)).frame
    good, defective = (
        [
            float(answers.logit[frame == number].max())
            for number, image in enumerate(run.data.images)
            if image.defective == is_defective
        ]
        for is_defective in (False, True)
    )
    expected = (max(good) + min(defective)) / 2
    assert (calibration.score_threshold, calibration.score_by) == (pytest.approx(expected, abs=1e-3), "margin")
    assert calibration.coldest_defect == pytest.approx(min(defective), abs=1e-3)
    assert calibration.groups == 4
    judged_by_itself = prepare_run(run, 0.01)
    assert judged_by_itself.settings.calibration.held_out_rejected is not None
    assert select_pictures(judged_by_itself).set_threshold == 4
    assert judged_by_itself.held_out == {}, "the folds' models set the thresholds, the final model gives the scores"
    assert calibration.evidence_threshold <= calibration.score_threshold


def test_the_bundle_inspects_pictures(bundle: Path, blobs: Path, tmp_path: Path) -> None:
    done = heatline("inspect", bundle, blobs / "images" / "a_0.png", "--out", tmp_path / "found")
    assert done.returncode == 0, done.stderr
    (event,) = (json.loads(line) for line in (tmp_path / "found" / "verdicts.jsonl").read_text().splitlines())
    assert event["verdict"] == "DEFECT"
    mask = cv2.imread(str(blobs / "masks" / "a_0.png"), cv2.IMREAD_GRAYSCALE)
    x, y = event["regions"][0]["peak_xy"]
    assert mask[max(0, y - 8) : y + 9, max(0, x - 8) : x + 9].any()


@pytest.mark.parametrize(
    ("bundle_of", "changes"),
    [
        ("bundle", ("none",)),
        pytest.param("shipped_trunk", ("none", "brighter", "darker", "beside"), marks=pytest.mark.long),
    ],
)
def test_verdicts_and_discs_found_hold_where_light_or_place_change_a_little(
    request: pytest.FixtureRequest, blobs: Path, bundle_of: str, changes: tuple[str, ...]
) -> None:
    """Of its training pictures; to features of random weights, another light is another product.

    What the changes do to real pictures, docs/bundle.md#robustness measures.
    """
    opened = open_bundle(request.getfixturevalue(bundle_of))
    ways = {
        "none": lambda rgb: rgb,
        "brighter": lambda rgb: np.clip(rgb * 1.2, 0, 255),
        "darker": lambda rgb: rgb * 0.8,
        "beside": lambda rgb: cv2.copyMakeBorder(rgb, 10, 0, 10, 0, cv2.BORDER_REFLECT_101)[: len(rgb), : rgb.shape[1]],
    }
    with closing(open_verified_engine(opened, "openvino").engine) as engine:
        inspector = Inspector(opened.manifest, engine, plausibility=opened.plausibility())
        for path in sorted((blobs / "images").iterdir()):
            rgb = read_rgb(path)
            file = blobs / "masks" / path.name
            mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) if file.exists() else np.zeros(rgb.shape[:2], np.uint8)
            for change in changes:
                changed = np.ascontiguousarray(ways[change](rgb), np.uint8)
                discs = np.roll(mask, 10, (0, 1)) if change == "beside" else mask  # none of them lies at the border
                found = inspector.finish(inspector.start(Frame(Stamp("test", 1), changed, "RGB8")))
                assert found.implausible is None, (path.name, change)
                assert found.verdict == ("DEFECT" if mask.any() else "GOOD"), (path.name, change)
                count, labels = cv2.connectedComponents(discs)
                hit = {label for x0, y0, x1, y1 in (region.box_xyxy for region in found.regions)
                       for label in np.unique(labels[y0:y1, x0:x1]).tolist()} - {0}  # fmt: skip
                assert len(hit) == count - 1, (path.name, change)


def test_the_bundle_knows_what_the_product_looks_like(
    first: tuple[RunFolder, str], bundle: Path, blobs: Path, tmp_path: Path
) -> None:
    """Its features come from the graph, in both engines and in batches, as from the model."""
    opened = open_bundle(bundle)
    tiles = opened.golden().tiles
    model = load_run(first[0].folder).model
    assert isinstance(model, DenseClassifier)
    with torch.no_grad():
        expected = model.with_features(torch.from_numpy(tiles.copy()))[2].numpy()
    for kind in ("openvino", "onnxruntime"):
        for batch in (1, 5):
            with closing(open_engine(kind, bundle, 64, batch=batch)) as engine:  # type: ignore[arg-type]
                found = infer_features(engine, tiles)
            np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    plausible = opened.manifest.calibration.plausible
    assert plausible is not None
    assert plausible.frames == len(list((blobs / "images").iterdir()))
    grey = read_rgb(blobs / "images" / "a_0.png")
    (tmp_path / "odd").mkdir()
    for name, picture in (("black", grey * 0), ("small", grey[::2, ::2])):
        cv2.imwrite(str(tmp_path / "odd" / f"{name}.png"), picture)
    done = heatline("inspect", bundle, tmp_path / "odd", "--out", tmp_path / "found", "--json")
    assert done.returncode == 9
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(event["verdict"], event["reason"]) for event in events] == [("NO_VERDICT", "failed.implausible")] * 2
    assert "brightness 0, expected" in events[0]["detail"]
    assert "height" in events[1]["detail"]


# Labels as they come.


def test_labels_of_pictures_are_enough(blobs: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    data = shutil.copytree(blobs, tmp_path / "blobs")
    shutil.rmtree(data / "masks")
    summary, output = summary_of(data, tmp_path, tiny)
    assert "no annotation marks the defects" in output
    assert "of pictures labelled as a whole" in output
    assert (summary.labelled, summary.truth) == ("pictures", "labels")
    assert "val_picture_auroc" in summary.val


def test_masks_of_some_pictures_and_labels_of_the_others_are_trained_on_together(
    blobs: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    data = shutil.copytree(blobs, tmp_path / "blobs")
    for mask in sorted((data / "masks").iterdir())[1:]:
        mask.unlink()
    summary, output = summary_of(data, tmp_path, tiny)
    assert " with masked defects, " in output
    assert " of pictures labelled as a whole" in output
    assert (summary.labelled, summary.truth) == ("tiles", "masks")


def test_only_good_pictures_are_trained_on_with_synthetic_defects(
    blobs: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    data = tmp_path / "line"
    (data / "good").mkdir(parents=True)
    for group in GROUPS:
        shutil.copy(blobs / "images" / f"{group}_2.png", data / "good")
    summary, output = summary_of(data, tmp_path, tiny)
    assert "No picture is defective: a training can only use synthetic defects on good pictures." in output
    assert summary.folds == 2
    assert summary.val == {}  # only one class
    assert RunFolder(tmp_path / "run").report.joinpath("report.html").exists()


def test_one_fold_means_no_cross_validation(blobs: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    summary, output = summary_of(blobs, tmp_path, tiny, "recipe.folds=1")
    assert (summary.finished, summary.folds) == (True, None)
    assert "12 steps for the model, without a cross-validation" in output
    assert not RunFolder(tmp_path / "run").out_of_fold.exists()
    model = prepare_run(load_run(tmp_path / "run"), 0.01)
    calibration = model.settings.calibration
    told = calibration.held_out_rejected, calibration.false_reject_at_most, model.held_out
    assert told == (None, None, {}), "the model was trained on the frames that set its thresholds"
    assert describe_bound(calibration).startswith("not known")


def test_one_group_is_trained_on_and_is_not_cross_validated(tiny: tuple[str, ...], tmp_path: Path) -> None:
    data = draw_blobs(tmp_path / "blobs")
    rows = [
        (image.name, "good" if image.stem[-1] == "2" else "defective", "only") for image in (data / "images").iterdir()
    ]
    write_labels(data, sorted(rows))
    run, _ = train(data, tmp_path / "run", tiny)
    summary = run.read_summary()
    assert (summary.finished, summary.folds, summary.val) == (True, None, {})
    assert not run.out_of_fold.exists()
    assert not run.report.exists()
    again = heatline("train", f"out={run.folder}", "resume=true")
    assert "is already finished" in again.stderr
    assert "no cross-validation, and no report: all good pictures are in one group, 'only', by column" in again.stdout
    assert "or name other groups: split.pattern='^([^_.]+)' (a of a_0.png)" in again.stdout
    assert validation_frames(load_run(run.folder)).are == "of groups that the model was trained on"


@pytest.mark.parametrize(
    ("make", "overrides", "excerpt"),
    [
        (lambda at: sort_tiles(at, count=2), (), "2-fold cross-validation over 4 groups"),
        (
            lambda at: sort_tiles(at, count=1),
            (),
            "there is only 1 good picture; add good pictures, at least one, to {tiles}/good, "
            "and type: heatline train {tiles}",
        ),
        (
            lambda at: sort_tiles(at, count=3),
            ("split.pattern=^([gd])",),
            "all good pictures are in one group, 'g', by what '^([gd])' finds in the file name; add good pictures of "
            "other groups, or name other groups: split.pattern='^(.+)\\.' (g00 of g00.png)",
        ),
        (lambda at: sort_tiles(at, count=3), ("recipe.folds=1",), "no cross-validation, and no report: recipe.folds=1"),
    ],
)
def test_a_training_on_few_pictures_or_groups_validates_or_says_why_not_and_what_to_type(
    tmp_path: Path, tiny: tuple[str, ...], make: Callable[[Path], Path], overrides: tuple[str, ...], excerpt: str
) -> None:
    done = heatline("train", make(tmp_path / "tiles"), f"out={tmp_path / 'run'}", *tiny, *overrides)
    assert done.returncode == 0, done.stderr
    assert excerpt.replace("{tiles}", str(tmp_path / "tiles")) in done.stdout
    run = RunFolder(tmp_path / "run")
    assert (run.read_summary().folds is None) == (run.read_summary().not_validated is not None)


# With a reference.


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_boards(tmp_path_factory.mktemp("boards") / "boards", good=2)


@pytest.fixture(scope="module")
def compared(boards: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A finished run on boards in a fixed pose, and its output."""
    return train(boards, tmp_path_factory.mktemp("compared") / "run", tiny)


def weights_of(run: RunFolder) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run.best, weights_only=True)["state_dict"]
    return found


def test_a_training_compares_boards_in_a_fixed_pose_without_settings(compared: tuple[RunFolder, str]) -> None:
    run, output = compared
    found = run.read_summary().reference
    assert found is not None
    assert "reference: all pictures are compared with one reference" in output
    assert re.search(
        r"the reference is kept: average precision of tiles 0\.\d+ without, [01]\.\d+ with it, average", output
    )
    assert (found.scope, found.kept, found.misaligned) == ("product", True, [])
    assert {**run.read_summary().val, "val_cell_ap": found.compared["val_cell_ap"]} == found.compared
    assert found.compared["val_ap"] > found.without["val_ap"]
    assert found.alignment["frames"] == 16
    assert 1 < found.alignment["median_shift_px"] < found.alignment["highest_shift_px"] < 2 * 6 * 2**0.5
    assert found.alignment["lowest_confidence"] > 0.6
    loaded = load_run(run.folder)
    assert isinstance(loaded.model, DenseClassifier)
    assert loaded.model.compares
    assert loaded.references is not None
    assert all(loaded.references.of(image) is not None for image in loaded.data.images)


def test_the_report_of_a_training_shows_its_reference_and_what_it_gained(compared: tuple[RunFolder, str]) -> None:
    page = compared[0].page.read_text(encoding="utf-8")
    found = compared[0].read_summary().reference
    assert found is not None
    section = page[page.index('<section id="reference">') :]
    section = section[: section.index("</section>")]
    assert "All pictures are compared with one reference; the model compares frames with it." in " ".join(
        section.split()
    )
    assert "median of 8 pictures" in section
    assert f"at most {found.alignment['highest_shift_px']:.1f} px" in section
    assert f"{found.without['val_ap']:.3f}" in section
    assert f"{found.compared['val_ap']:.3f}" in section
    height, width, _ = load_run(compared[0].folder).data.images[0].pixels().shape
    shapes = {cv2.imread(str(file)).shape for file in (compared[0].report / "pictures").iterdir()}  # type: ignore[union-attr]
    assert shapes == {(height, 3 * width + 2 * GAP_PX, 3)}, "the frame, its reference and its heatmap"


def test_frames_that_cannot_be_aligned_are_named_have_no_verdict_and_set_no_threshold(
    boards: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    data = shutil.copytree(boards, tmp_path / "boards")
    for name in ("b_1", "c_2"):  # a defective and a good one
        cv2.imwrite(str(data / "images" / f"{name}.png"), photograph(7, (0, 0), 1)[..., ::-1])
    cv2.imwrite(str(tmp_path / "good.png"), photograph(0, (0, 0), 1)[..., ::-1])
    run, output = train(data, tmp_path / "run", tiny, f"reference={tmp_path / 'good.png'}")
    assert "warning: 2 pictures (b_1.png, c_2.png) cannot be aligned with the reference; a line gives" in output
    found = run.read_summary().reference
    assert found is not None
    assert (found.misaligned, found.alignment["frames"]) == (["b_1.png", "c_2.png"], 14)
    (run.report / "report.html").unlink()
    assert heatline("train", f"out={run.folder}", "resume=true").returncode == 0
    assert "2 pictures cannot be aligned, and a line gives" in run.page.read_text(encoding="utf-8")
    assert read_evaluation(run.report).calibration.frames == 7
    other = draw_boards(tmp_path / "other", ("x", "y"), good=1, defective=1)
    cv2.imwrite(str(other / "images" / "y_0.png"), photograph(7, (0, 0), 1)[..., ::-1])
    for words, missing in ((("--part", "all"), ["b_1.png", "c_2.png"]), (("--data", other), ["y_0.png"])):
        done = heatline("evaluate", run.folder, *words, "--json")
        assert done.returncode == 0, done.stderr
        (told,) = json.loads(done.stdout)["evaluations"]
        assert [Path(each["image"]).name for each in told["implausible"]] == missing
        assert all("does not show what the reference shows" in each["why"] for each in told["implausible"])
        assert "not like the product, or not aligned with its reference" in " ".join(told["warnings"])
        assert not {Path(each["image"]).name for each in told["frames"]} & set(missing)


def test_other_pictures_are_compared_with_templates_and_designs_of_their_own(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    data = draw_boards(tmp_path / "boards", designs=True, good=3)
    reviewed = tmp_path / "reviewed"
    reviewed.mkdir()
    cv2.imwrite(str(reviewed / "line.png"), photograph(9, (0, 0), 1)[..., ::-1])
    write_index(reviewed, [ReviewedFrame(file="line.png", digest="0" * 64, truth="defective", group="reviewed:1")])
    words = "reference=on", "split.test=[d]", "discover=false", f"reviewed={reviewed}"
    run, _ = train(data, tmp_path / "run", tiny, *words)
    found = run.read_summary().reference
    assert found is not None
    assert (found.misaligned, found.alignment["frames"]) == ([], 15)
    references = load_run(run.folder).references
    assert references is not None
    assert references.designs == ["a", "b", "c", "d"]
    done = heatline("evaluate", run.folder, "--part", "test", "--out", tmp_path / "test")
    assert done.returncode == 0, done.stderr
    assert "no verdict" not in done.stdout


def test_a_model_is_the_same_whether_another_was_trained_beside_it(
    compared: tuple[RunFolder, str],
    boards: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = compared[0].read_summary().reference
    assert found is not None
    on, _ = train(boards, tmp_path / "on", tiny, "reference=on")
    assert on.read_summary().reference.compared == found.compared  # type: ignore[union-attr]
    torch.testing.assert_close(weights_of(on), weights_of(compared[0]), rtol=0, atol=0)
    off, output = train(boards, tmp_path / "off", tiny, "reference=off")
    assert "no reference: reference=off" in output
    assert {**off.read_summary().val, "val_cell_ap": found.without["val_cell_ap"]} == found.without
    assert "val_cell_ap" not in off.read_summary().val, "as before any model compared"
    assert off.read_summary().reference is None
    monkeypatch.setattr("heatline.train.dense.train.LEAST_GAIN", 2.0)
    not_kept, output = train(boards, tmp_path / "not_kept", tiny)
    assert "the reference gains nothing and is not kept" in output
    torch.testing.assert_close(weights_of(not_kept), weights_of(off), rtol=0, atol=0)
    assert load_run(not_kept.folder).references is None


@pytest.mark.parametrize(
    ("drawn", "overrides", "told", "kept"),
    [
        ({"good": 2}, ("reference={good}", "recipe.finetune_steps=2"), "are compared with {good}", True),
        pytest.param(
            {"designs": True, "good": 4},
            ("reference=on",),
            "of each of 4 groups are compared",
            True,
            marks=pytest.mark.long,
        ),
        ({"good": 2, "masks": False}, (), "AUROC of pictures", None),
        pytest.param({"defective": 0, "masks": False}, (), "no defects", None, marks=pytest.mark.long),
        ({"defective": 0, "masks": False}, ("reference=on",), "the model compares frames with the reference", True),
        pytest.param({}, ("recipe.folds=1", "reference=on"), "the model compares", True, marks=pytest.mark.long),
    ],
)
def test_a_reference_works_with_every_kind_of_training(
    tiny: tuple[str, ...],
    tmp_path: Path,
    drawn: dict[str, Any],
    overrides: tuple[str, ...],
    told: str,
    kept: bool | None,
) -> None:
    data, good = draw_boards(tmp_path / "boards", **drawn), tmp_path / "good.png"
    cv2.imwrite(str(good), photograph(0, (0, 0), 1)[..., ::-1])
    words = (each.format(good=good) for each in overrides)
    summary, output = summary_of(data, tmp_path, tiny, *words)
    assert told.format(good=good) in output
    run = load_run(tmp_path / "run")
    assert isinstance(run.model, DenseClassifier)
    if kept is not None:
        assert (summary.reference is not None and summary.reference.kept) == run.model.compares == kept
    assert (run.references is not None) == run.model.compares


def test_a_reference_that_is_wanted_and_cannot_be_is_refused_in_one_sentence(
    blobs: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    refused = heatline("train", blobs, f"out={tmp_path / 'run'}", *tiny, "reference=on")
    assert refused.returncode == 9
    assert "blobs has no fixed pose: " in complaint(refused)
    study = heatline("train", blobs, f"out={tmp_path / 'run'}", "recipe=study", "reference=on")
    assert "reference=on cannot be used by recipe=study; expected auto or off" in complaint(study)


# What goes wrong.


@pytest.mark.parametrize(
    ("stopped_by", "resumed_by"),
    [
        (signal.SIGTERM, "resume=true"),
        pytest.param(signal.SIGINT, "the same command", marks=pytest.mark.long),
    ],
)
def test_a_stopped_training_leaves_nothing_that_looks_finished_and_can_be_resumed(
    blobs: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped_by: signal.Signals,
    resumed_by: str,
) -> None:
    draw = Sampler.draw

    def interrupt(self: Sampler, step: int) -> Any:
        if step == 5:
            os.kill(os.getpid(), stopped_by)
        return draw(self, step)

    words = ("train", blobs, f"out={tmp_path / 'run'}", *tiny)
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "draw", interrupt)
        stopped = heatline(*words)
    assert stopped.returncode == 130
    assert f"resume it with: heatline train out={tmp_path / 'run'} resume=true" in complaint(stopped)
    refused = heatline("export", tmp_path / "run", "--to", tmp_path / "bundle")
    assert refused.returncode == 9
    assert "is not finished" in complaint(refused)
    assert not (tmp_path / "bundle").exists()
    resumed = heatline(
        *(words if resumed_by == "the same command" else ("train", f"out={tmp_path / 'run'}")), "resume=true"
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "all were in the cache" in " ".join(resumed.stderr.split())
    assert RunFolder(tmp_path / "run").read_summary().finished


def test_ctrl_c_before_the_folder_exists_does_not_advise_to_resume_it(
    blobs: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    def ctrl_c(_line: str) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(Interrupted, match="features can be used again: give the same command again"):
        fit(compose([f"data={blobs}", "discover=true", f"out={out}", *tiny]), report_line=ctrl_c)
    assert not out.exists()


def test_a_command_that_names_the_truth_still_discovers_groups_and_trains_once_a_bad_picture_is_gone(
    blobs: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    data = shutil.copytree(blobs, tmp_path / "data")
    (data / "images" / "torn.png").write_bytes(b"\x89PNG")
    (data / "labels.csv").write_text((data / "labels.csv").read_text().replace("group", "board", 1))
    arguments = ("train", data, "truth=labels", f"out={tmp_path / 'run'}", *tiny)
    refused = heatline(*arguments)
    assert (refused.returncode, "torn.png" in complaint(refused)) == (9, True)
    (data / "images" / "torn.png").unlink()
    trained = heatline(*arguments)
    assert trained.returncode == 0, trained.stderr
    printed = " ".join(trained.stderr.split())
    assert "Pictures are good or defective by labels.csv; masks are not used." in printed
    assert "Groups are the column 'board'" in printed
    assert "rejected good pictures" in trained.stdout


def test_a_resumed_run_writes_the_report_that_was_interrupted(
    first: tuple[RunFolder, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    run = RunFolder(shutil.copytree(first[0].folder, tmp_path / "run"))
    (run.report / "report.html").unlink()
    words = ("train", f"out={run.folder}", "resume=true")
    with monkeypatch.context() as patch:
        patch.setattr("heatline.train.fit.write_run_report", interrupt)
        stopped = heatline(*words)
    assert stopped.returncode == 130
    assert f"resume it with: heatline train out={run.folder} resume=true" in complaint(stopped)
    before = run.best.stat().st_mtime_ns
    resumed = heatline(*words)
    assert f"report: {run.report / 'report.html'}" in " ".join(resumed.stderr.split())
    assert (run.report / "report.html").exists()
    assert run.best.stat().st_mtime_ns == before  # nothing was trained again
    assert "is already finished" in heatline(*words).stderr


def test_a_training_guesses_groups_once_and_decodes_each_picture_a_few_times(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To guess its group, to train, to find a fixed pose, to set thresholds, for the report, for a picture in it."""
    data, decoded, pixels = sort_tiles(tmp_path / "tiles", 6), Counter[str](), LabelledImage.pixels

    def counted(image: LabelledImage) -> np.ndarray:
        decoded.update([image.name])
        return pixels(image)

    monkeypatch.setattr(LabelledImage, "pixels", counted)
    run = fit(compose([f"data={data}", "discover=true", f"out={tmp_path / 'run'}", *tiny]))
    assert read_evaluation(run.report).frames
    assert set(decoded) == {image.name for image in read_folder(data).images}
    assert max(decoded.values()) <= 5, decoded


@pytest.mark.parametrize("report", ['{"schema": 2}', "torn"])
def test_resuming_a_finished_run_rewrites_an_unreadable_report(
    first: tuple[RunFolder, str], tmp_path: Path, report: str
) -> None:
    run = RunFolder(shutil.copytree(first[0].folder, tmp_path / "run"))
    expected = read_evaluation(run.report)
    (run.report / "evaluation.json").write_text(report)
    resumed = heatline("train", f"out={run.folder}", "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    assert read_evaluation(run.report).frames == expected.frames
    assert "missed" in resumed.stdout


@pytest.mark.parametrize(
    ("group", "excerpt"),
    [("d", "holds other pictures or groups than when"), ("e", "holds other pictures or groups than when")],
)
def test_pictures_added_or_regrouped_after_the_training_are_refused_at_export(
    blobs: Path, first: tuple[RunFolder, str], tmp_path: Path, group: str, excerpt: str
) -> None:
    data = shutil.copytree(blobs, tmp_path / "blobs")
    run = RunFolder(shutil.copytree(first[0].folder, tmp_path / "run"))
    run.config.write_text(run.config.read_text().replace(str(blobs), str(data)))
    shutil.copy(data / "images" / "d_2.png", data / "images" / "d_3.png")
    labels = data / "labels.csv"
    labels.write_text(labels.read_text().replace(",d\n", f",{group}\n") + f"d_3.png,good,{group}\n")
    refused = heatline("export", run.folder, "--to", tmp_path / "bundle")
    assert refused.returncode == 9
    assert re.search(excerpt, complaint(refused))
    assert not (tmp_path / "bundle").exists()


def test_a_transformer_is_refused(blobs: Path, tmp_path: Path) -> None:
    refused = heatline("train", blobs, "model=vit_tiny_patch16_224", f"out={tmp_path / 'run'}")
    assert "model=vit_tiny_patch16_224 is a ViT; choose recipe=finetune or study, or a CNN" in complaint(refused)
    assert not (tmp_path / "run").exists()
