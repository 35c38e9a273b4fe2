"""The recipe `heatline` as a user meets it: from a folder of pictures to a bundle that inspects, and what may go wrong.

Small pictures, small tiles, few steps.
"""

import itertools
import json
import re
import shutil
import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from heatline.edge.bundle import open_bundle, open_verified_engine
from heatline.edge.bundle.pooling import pool
from heatline.edge.bundle.store import open_screening
from heatline.edge.calibration.thresholds import lowest_defect_of, score_threshold
from heatline.edge.cli.bundle_formatting import describe_bound
from heatline.edge.frames import Frame, Stamp
from heatline.edge.images import read_rgb
from heatline.edge.inference import open_engine
from heatline.edge.inference.engine import infer_features
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.inspection.screening import ScreeningStage
from heatline.train.compose import read_config
from heatline.train.dense import cross_validation, improve
from heatline.train.dense.samples import Sampler
from heatline.train.dense.tiles import OutOfFold
from heatline.train.evaluation.evaluated import prepare_run
from heatline.train.evaluation.gallery import GAP_PX
from heatline.train.evaluation.result import read_evaluation
from heatline.train.models.dense import TOP_CELLS
from heatline.train.run import RunFolder, load_run
from tests.command import complaint, heatline, successful
from tests.conftest import write_picture
from tests.train.blobs import GROUPS, draw_blobs, draw_boards, photograph, sort_tiles
from tests.train.trained import TINY

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def first(blobs: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A finished run, and its output."""
    return train(blobs, tmp_path_factory.mktemp("dense") / "run", tiny)


@pytest.fixture(scope="module")
def bundle(first: tuple[RunFolder, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's bundle. After so few steps its map may look stuck."""
    target, both = tmp_path_factory.mktemp("dense") / "bundle", ("--fast", "--precision", "f32")
    assert heatline("export", first[0].folder, "--to", target, *both).returncode == 2
    return export(first[0], target, "--fast", "--screen")


@pytest.fixture(scope="module")
def shipped_trunk(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a run on the trunk that a training takes where no other is named."""
    folder = tmp_path_factory.mktemp("shipped")
    run, _ = train(blobs, folder / "run", (*TINY, f"features.folder={folder / 'features'}"))
    return export(run, folder / "bundle")


def export(run: RunFolder, target: Path, *which: str) -> Path:
    successful(heatline("export", run.folder, "--to", target, *(which or ("--precision", "f32")), "--allow", "map"))
    return target


def train(data: Path, out: Path, tiny: tuple[str, ...], *overrides: str) -> tuple[RunFolder, str]:
    """Train; return the run, and what was printed."""
    done = successful(heatline("train", data, f"out={out}", *tiny, *overrides))
    return RunFolder(out), " ".join((done.stderr + done.stdout).split())


def test_a_training_needs_only_a_folder(blobs: Path, tmp_path: Path) -> None:
    """Only keys that make it short; the environment names the folder of the cache."""
    short, environment = ("recipe.steps=2", "recipe.copies.most=4"), {"XDG_CACHE_HOME": str(tmp_path)}
    done = successful(heatline("train", blobs, *short, cwd=tmp_path, env=environment))
    missed = re.search(r"missed +(\d+) of 8 defective pictures", done.stdout)
    assert ("minutes=10" in done.stdout) == (missed[1] != "0"), "a hint where something was missed"
    assert re.search(r"rejected good pictures +\d of 4, each judged by a threshold", done.stdout)
    assert (tmp_path / "runs" / "efficientnet_lite0_dense" / "report" / "report.html").exists()
    assert any((tmp_path / "heatline" / "features").glob("*.features"))


def test_a_run_reports_its_assumptions_and_writes_all_its_files(first: tuple[RunFolder, str], blobs: Path) -> None:
    run, output = first
    for told in (
        "Groups are the column 'group' of labels.csv: 4 groups.",
        "to expect: on 5 measured sets, 10 pictures with marked defects found ",
        "warning: only 4 groups have a good picture",
        "no reference: the pictures show no fixed pose: ",
        "12 steps for each of 2 folds and for the model",
        f"report: {run.report / 'report.html'}",
    ):
        assert told in output
    assert re.findall(r"training, steps: (\d+) of 36", output)[::9] == ["4", "36"], "as no terminal shows a bar"
    summary, config = run.read_summary(), read_config(run.config)
    assert (summary.finished, summary.folds, summary.labelled, summary.truth) == (True, 2, "tiles", "masks")
    assert summary.groups == {"train": list(GROUPS), "val": [], "test": []}
    assert (config.recipe.name, config.data) == ("heatline", str(blobs))
    assert not run.cache.exists()
    assert "2-fold cross-validation over 4 groups" in (run.report / "report.html").read_text(encoding="utf-8")


def test_a_training_says_which_classes_pass_and_counts_by_thresholds_of_the_other_folds(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """The second defective picture of each group has a mask and shows nothing; a speck makes a tile ambiguous."""
    data = draw_blobs(tmp_path / "blobs")
    rng, mask = np.random.default_rng(1), np.zeros((150, 200), np.uint8)
    mask[30:33, 30:34] = 255
    for group in GROUPS:
        cv2.imwrite(str(data / "images" / f"{group}_1.png"), rng.normal(150, 12, (150, 200, 3)).clip(0, 255))
        cv2.imwrite(str(data / "masks" / f"{group}_1.png"), mask)
    rows = (data / "labels.csv").read_text().split()
    cls = ["cls", *(("disc", "speck", "none")[int(row[2])] for row in rows[1:])]
    (data / "labels.csv").write_text("\n".join(f"{row},{name}" for row, name in zip(rows, cls, strict=True)))
    done = successful(heatline("train", data, f"out={tmp_path / 'run'}", *tiny))
    run = RunFolder(tmp_path / "run")
    evaluation = read_evaluation(run.report)
    figures, shown = evaluation.figures, dict(re.split("  +", row, maxsplit=1) for row in done.stdout.splitlines()[1:])
    assert next(iter(shown)) == "escapes"
    assert "whole kinds of defects pass: all speck 4 of 4 (at 5 %, " in shown["escapes"] == evaluation.warnings[0]
    assert shown["missed by size"].startswith("below 16x16 px 4 of 4 (at 5 %, ")
    assert shown["tile AP"] == f"{figures['tile.average_precision']:.3f}"
    assert shown["missed"].startswith(f"{figures['frame.escaped_frames']} of 8 ")

    # Each picture is judged by a threshold from the other folds.
    answers = OutOfFold.read(run.out_of_fold)
    fold_of = dict(zip(answers.frames.tolist(), answers.fold.tolist(), strict=True))
    for frame in evaluation.frames:
        others = [other for other in evaluation.frames if fold_of[other.image] != fold_of[frame.image]]
        good, groups = zip(*[(each.score, str(each.group)) for each in others if not each.defective], strict=True)
        lowest = lowest_defect_of([other.score for other in others if other.defective])
        assert frame.threshold == pytest.approx(score_threshold(list(good), 0.01, lowest, list(groups))[0])
    rejected = sum(frame.score >= (frame.threshold or 0) for frame in evaluation.frames if not frame.defective)
    calibration = open_bundle(export(run, tmp_path / "bundle")).manifest.calibration
    counts = evaluation.calibration.held_out_rejected, figures["frame.rejected_frames"], calibration.held_out_rejected
    assert counts == (rejected,) * 3
    told = [(each.kind, each.missed, each.frames) for each in calibration.missed if each.kind != "disc"]
    assert told[:2] == [("speck", 4, 4), ("below 16x16 px", 4, 4)]


def test_the_bundle_states_its_pooling_and_has_thresholds_from_out_of_fold_predictions(
    first: tuple[RunFolder, str], bundle: Path
) -> None:
    """The score threshold lies between the highest logits of good and defective pictures, by the run's own file."""
    manifest, frames = open_bundle(bundle).manifest, read_evaluation(first[0].report).frames
    calibration = manifest.calibration
    assert set(manifest.map_gate.precisions) == {"f32", "bf16"}, "--fast tries no int8"
    lowest = min(frame.score for frame in frames if frame.defective)
    highest = max(frame.score for frame in frames if not frame.defective)
    assert (manifest.map.identity, manifest.map.hw) == ("top-mean(map, 16) == logit", (8, 8))
    assert (calibration.frames, calibration.frames_are) == (4, "good frames of held-out groups")
    assert calibration.score_threshold == pytest.approx((highest + lowest) / 2, abs=1e-3)
    assert (calibration.score_by, calibration.groups) == ("margin", 4)
    assert calibration.coldest_defect == pytest.approx(lowest, abs=1e-3)
    assert calibration.evidence_threshold <= calibration.score_threshold


def test_the_bundle_has_a_screening_stage_that_clears_tiles_and_changes_no_verdict(
    first: tuple[RunFolder, str], bundle: Path, blobs: Path
) -> None:
    """What it was set by are the held-out tiles of the run's own file. Each of 8 of the 12 pictures shows two discs."""
    opened, logits = open_bundle(bundle), OutOfFold.read(first[0].out_of_fold).logit
    stated, cleared = opened.manifest.screening, 0
    assert stated is not None
    assert stated.frames == (logits.reshape(12, -1).max(axis=1) >= stated.score_threshold).sum() > 0
    assert 0 < stated.detected <= 16
    with closing(open_verified_engine(opened).engine) as engine, closing(open_screening(opened)) as small:
        stage = ScreeningStage(stated, small, opened.manifest.grid.tile_px, opened.screening_plausibility())
        inspectors = [Inspector(opened.manifest, engine, screening=each) for each in (None, stage)]
        for path in sorted((blobs / "images").iterdir()):
            frame = Frame(Stamp(path.stem, 1), read_rgb(path), "RGB8")  # the stage tries each camera
            whole, screened = (inspector.finish(inspector.start(frame)) for inspector in inspectors)
            assert (screened.verdict, screened.implausible) == (whole.verdict, None), path.name
            assert screened.screened is not None
            cleared += screened.screened.cleared
    assert cleared > 0


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
    """Of its training pictures; to features of random weights, another light is another product."""
    opened = open_bundle(request.getfixturevalue(bundle_of))
    pictures = sorted((blobs / "images").iterdir())
    with closing(open_verified_engine(opened, "openvino").engine) as engine:
        inspector = Inspector(opened.manifest, engine, plausibility=opened.plausibility())
        for path, change in itertools.product(pictures, changes):
            rgb, mask = read_rgb(path), cv2.imread(str(blobs / "masks" / path.name), cv2.IMREAD_GRAYSCALE)
            if change == "beside":  # no disc lies at the border
                rgb = cv2.copyMakeBorder(rgb, 10, 0, 10, 0, cv2.BORDER_REFLECT_101)[: len(rgb), : rgb.shape[1]]
                mask = None if mask is None else np.roll(mask, 10, (0, 1))
            lit = np.clip(rgb * {"brighter": 1.2, "darker": 0.8}.get(change, 1), 0, 255).astype(np.uint8)
            found = inspector.finish(inspector.start(Frame(Stamp("test", 1), np.ascontiguousarray(lit), "RGB8")))
            verdict = "GOOD" if mask is None else "DEFECT"
            assert (found.implausible, found.verdict) == (None, verdict), (path.name, change)
            if mask is not None:
                count, labels = cv2.connectedComponents(mask)
                boxes = [region.box_xyxy for region in found.regions]
                hit = {*np.concatenate([labels[y0:y1, x0:x1].ravel() for x0, y0, x1, y1 in boxes]).tolist()} - {0}
                assert len(hit) == count - 1, (path.name, change)


def test_the_bundle_knows_what_the_product_looks_like(
    first: tuple[RunFolder, str], bundle: Path, blobs: Path, tmp_path: Path
) -> None:
    """Its features come from the graph, in both engines and in batches, as from the model."""
    opened = open_bundle(bundle)
    tiles, plausible = opened.golden().tiles, opened.manifest.calibration.plausible
    assert plausible.frames == len(list((blobs / "images").iterdir()))
    with torch.no_grad():
        expected = load_run(first[0].folder).model.with_features(torch.from_numpy(tiles.copy()))[2].numpy()
    for kind, batch in itertools.product(("openvino", "onnxruntime"), (1, 5)):
        with closing(open_engine(kind, bundle, 64, batch=batch)) as engine:  # type: ignore[arg-type]
            found = infer_features(engine, tiles)
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    grey, odd = read_rgb(blobs / "images" / "a_0.png"), tmp_path / "odd"
    for name, picture in (("black", grey * 0), ("small", grey[::2, ::2])):
        write_picture(odd / f"{name}.png", picture)
    done = heatline("inspect", bundle, odd, "--out", tmp_path / "found", "--json")
    assert done.returncode == 9
    black, small = (json.loads(line) for line in done.stdout.splitlines())
    assert {(event["verdict"], event["reason"]) for event in (black, small)} == {("NO_VERDICT", "failed.implausible")}
    assert "brightness 0, expected" in black["detail"]
    assert "height" in small["detail"]


@pytest.mark.parametrize(
    ("removed", "told", "labelled", "truth", "judged_by"),
    [
        ("masks/*", "of pictures labelled as a whole", "pictures", "labels", ["val_picture_auroc"]),
        ("masks/[!a]*", " with masked defects, ", "tiles", "masks", ["val_ap"]),
        ("*/*_[01].png", "No picture is defective: a training can only use synthetic", "tiles", "labels", []),
    ],
)
def test_labels_are_enough_as_they_come(
    blobs: Path, tiny: tuple[str, ...], tmp_path: Path, removed: str, told: str, labelled: str, truth: str,
    judged_by: list[str],
) -> None:  # fmt: skip
    data = shutil.copytree(blobs, tmp_path / "blobs")
    for file in data.glob(removed):
        file.unlink()
    if not any((data / "masks").iterdir()):
        (data / "masks").rmdir()
    if not judged_by:
        (data / "labels.csv").unlink()
        (data / "images").rename(data / "good")
    run, output = train(data, tmp_path / "run", tiny)
    summary = run.read_summary()
    assert told in output
    assert (summary.labelled, summary.truth, summary.folds) == (labelled, truth, 2)
    assert (set(judged_by) <= set(summary.val), bool(summary.val)) == (True, bool(judged_by))
    assert (run.report / "report.html").exists()


@pytest.mark.parametrize(
    ("count", "overrides", "excerpt"),
    [
        (
            1,
            (),
            "there is only 1 good picture; add good pictures, at least one, to {tiles}/good, and type: heatline tr",
        ),
        (
            3,
            ("split.pattern=^([gd])",),
            "all good pictures are in one group, 'g', by what '^([gd])' finds in the file name; add good pictures of "
            "other groups, or name other groups: split.pattern='^(.+)\\.' (g00 of g00.png)",
        ),
        (3, ("recipe.folds=1",), "no cross-validation, and no report: recipe.folds=1"),
    ],
)
def test_a_training_on_too_few_pictures_or_groups_says_why_it_is_not_validated_and_what_to_type(
    tmp_path: Path, tiny: tuple[str, ...], count: int, overrides: tuple[str, ...], excerpt: str
) -> None:
    data = sort_tiles(tmp_path / "tiles", count)
    run, output = train(data, tmp_path / "run", tiny, *overrides)
    calibration = prepare_run(load_run(run.folder), 0.01).settings.calibration
    summary = run.read_summary()
    assert (summary.not_validated is None, summary.folds, run.out_of_fold.exists()) == (False, None, False)
    assert excerpt.replace("{tiles}", str(data)) in output
    assert calibration.held_out_rejected is None, "trained on the frames that set its thresholds"
    assert describe_bound(calibration).startswith("not known")


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of boards in a fixed pose."""
    return draw_boards(tmp_path_factory.mktemp("boards") / "boards", good=2)


@pytest.fixture(scope="module")
def compared(boards: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A run on them, and its output."""
    return train(boards, tmp_path_factory.mktemp("compared") / "run", tiny)


def test_a_training_compares_boards_in_a_fixed_pose_without_settings(compared: tuple[RunFolder, str]) -> None:
    run, output = compared
    found, loaded = run.read_summary().reference, load_run(run.folder)
    assert "reference: all pictures are compared with one reference" in output
    assert re.search(r"the reference is kept: average precision of tiles 0\.\d+ without, [01]\.\d+ with it,", output)
    assert (found.scope, found.kept, found.misaligned, found.alignment["frames"]) == ("product", True, [], 16)
    assert {**run.read_summary().val, "val_cell_ap": found.compared["val_cell_ap"]} == found.compared
    assert found.compared["val_ap"] > found.without["val_ap"]
    assert 1 < found.alignment["median_shift_px"] < found.alignment["highest_shift_px"] < 2 * 6 * 2**0.5
    assert all(loaded.references.of(image) is not None for image in loaded.data.images)
    page = " ".join(run.page.read_text(encoding="utf-8").partition('<section id="reference">')[2].split())
    assert "All pictures are compared with one reference; the model compares frames with it." in page
    assert f"{found.without['val_ap']:.3f}" in page
    height, width, _ = loaded.data.images[0].pixels().shape
    shapes = {read_rgb(file).shape for file in (run.report / "pictures").iterdir()}
    assert shapes == {(height, 3 * width + 2 * GAP_PX, 3)}, "the frame, its reference and its heatmap"


def test_a_screening_stage_compares_as_its_bundle_does_and_both_kinds_are_measured(
    first: tuple[RunFolder, str],
    bundle: Path,
    compared: tuple[RunFolder, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    comparing = export(compared[0], tmp_path / "bundle", "--fast", "--screen")
    for opened, compares in ((bundle, False), (comparing, True)):
        with closing(open_screening(open_bundle(opened))) as small:
            assert small.compares == compares
    for name, count in {"FRAMES": 4, "ROUNDS": 1, "TIMED_ALONE": 2}.items():
        monkeypatch.setattr(f"heatline.bench.screening.{name}", count)
    for opened, run in ((bundle, first[0]), (comparing, compared[0])):
        found = heatline("bench", "screening", opened, run.folder, "--size", "128x128", "--json")
        rows = json.loads(successful(found).stdout)["rows"]
        assert [row["changed"] for row in rows] == [0] * 5
        assert rows[0]["run_in_full"] < min(1, rows[-1]["run_in_full"])
    refused = heatline("bench", "screening", comparing, first[0].folder)
    assert (refused.returncode, "is not its run" in complaint(refused)) == (14, True)


def test_frames_that_cannot_be_aligned_are_named_have_no_verdict_and_set_no_threshold(
    boards: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    data, odd = shutil.copytree(boards, tmp_path / "boards"), ["b_1.png", "c_2.png"]  # a defective and a good one
    for name in odd:
        write_picture(data / "images" / name, photograph(7, (0, 0), 1))
    good = write_picture(tmp_path / "good.png", photograph(0, (0, 0), 1))
    run, output = train(data, tmp_path / "run", tiny, f"reference={good}", "recipe.finetune_steps=2")
    found = run.read_summary().reference
    assert f"are compared with {good}" in output
    assert "warning: 2 pictures (b_1.png, c_2.png) cannot be aligned with the reference; a line gives" in output
    assert (found.misaligned, found.alignment["frames"]) == (odd, 14)
    assert "2 pictures cannot be aligned, and a line gives" in run.page.read_text(encoding="utf-8")
    assert read_evaluation(run.report).calibration.frames == 7
    (told,) = json.loads(heatline("evaluate", run.folder, "--part", "all", "--json").stdout)["evaluations"]
    assert [Path(each["image"]).name for each in told["implausible"]] == odd
    assert all("does not show what the reference shows" in each["why"] for each in told["implausible"])
    assert len(told["frames"]) == 14


@pytest.mark.parametrize(
    ("drawn", "overrides", "told", "kept"),
    [
        pytest.param(
            {"designs": True, "good": 4}, ("reference=on",), "of each of 4 groups are compared", True,
            marks=pytest.mark.long,
        ),
        ({"groups": "ab", "good": 2, "masks": False}, (), "AUROC of pictures", None),
        pytest.param({"defective": 0, "masks": False}, (), "no defects", None, marks=pytest.mark.long),
        ({"defective": 0, "masks": False}, ("reference=on",), "the model compares frames with the reference", True),
        pytest.param({}, ("recipe.folds=1", "reference=on"), "the model compares", True, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_a_reference_works_with_every_kind_of_training(
    tiny: tuple[str, ...],
    tmp_path: Path,
    drawn: dict[str, Any],
    overrides: tuple[str, ...],
    told: str,
    kept: bool | None,
) -> None:
    folder, output = train(draw_boards(tmp_path / "boards", **drawn), tmp_path / "run", tiny, *overrides)
    summary, run = folder.read_summary(), load_run(folder.folder)
    compares = getattr(run.model, "compares", None)
    assert told in output
    assert (run.references is not None) == compares
    if kept is not None:
        assert (summary.reference is not None and summary.reference.kept) == compares == kept


@pytest.mark.parametrize(
    ("stopped_by", "resumed_by"),
    [(signal.SIGTERM, "resume=true"), pytest.param(signal.SIGINT, "the same command", marks=pytest.mark.long)],
)
def test_a_stopped_training_leaves_nothing_that_looks_finished_and_can_be_resumed(
    blobs: Path, tiny: tuple[str, ...], tmp_path: Path, stopped_by: signal.Signals, resumed_by: str
) -> None:
    draw, out = Sampler.draw, f"out={tmp_path / 'run'}"

    def interrupt(self: Sampler, step: int) -> Any:
        if step == 5:
            signal.raise_signal(stopped_by)
        return draw(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "draw", interrupt)
        stopped = heatline("train", blobs, out, *tiny)
    assert stopped.returncode == 130
    assert f"resume it with: heatline train {out} resume=true" in complaint(stopped)
    refused = heatline("export", tmp_path / "run", "--to", tmp_path / "bundle")
    assert (refused.returncode, "is not finished" in complaint(refused)) == (9, True)
    words = (blobs, *tiny) if resumed_by == "the same command" else ()
    resumed = successful(heatline("train", out, *words, "resume=true"))
    assert "all were in the cache" in " ".join(resumed.stderr.split())
    assert RunFolder(tmp_path / "run").read_summary().finished


def test_minutes_improve_the_first_result_and_a_stop_leaves_the_best_so_far(
    blobs: Path, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds of 4, 8, ... steps; Ctrl-C in the second one, and the time is over in the fourth. Tiles are large enough
    to be divided into windows."""
    monkeypatch.setattr(improve, "FIRST_STEPS", 4)
    monkeypatch.setattr(improve, "TRIAL_STEPS", 2)
    monkeypatch.setattr(cross_validation, "LEAST_GAIN", -1.0)  # so that fewer cells score a tile
    run, draw, late_s, summaries = RunFolder(tmp_path / "run"), Sampler.draw, 0.0, []
    once = threading.Lock()
    monkeypatch.setattr(improve, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late_s))

    def interrupt(self: Sampler, step: int) -> Any:
        nonlocal late_s
        if step == 12 + 4 + 1 and once.acquire(blocking=False):  # of several networks: a second Ctrl-C stops the report
            signal.raise_signal(signal.SIGINT)
        if step == 12 + 4 + 8 + 16:
            late_s = 3600.0
        return draw(self, step)

    monkeypatch.setattr(Sampler, "draw", interrupt)
    stopped = heatline("train", blobs, f"out={run.folder}", *tiny, "tiles.tile_px=128", "minutes=60")
    assert (stopped.returncode, "the best result so far is in" in complaint(stopped)) == (130, True)
    for words in ((), ("resume=true",)):
        done = heatline("train", f"out={run.folder}", *words) if words else stopped
        summary, found = run.read_summary(), OutOfFold.read(run.out_of_fold)
        summaries.append(summary)
        assert summary.finished == bool(words), done.stderr
        loaded = load_run(run.folder)
        assert loaded.model.top_cells == summary.top_cells != TOP_CELLS
        np.testing.assert_array_equal(found.logit, pool(found.map.astype(np.float32), summary.top_cells))
        highest = {image.name_in_folder: -np.inf for image in loaded.data.images}
        per_picture = np.repeat(found.frames, len(found.logit) // len(found.frames))
        for name, logit in zip(per_picture.tolist(), found.logit.tolist(), strict=True):
            highest[name] = max(highest[name], logit)
        is_good = np.array([name.endswith("_2.png") for name in highest])
        logits = np.array([*highest.values()])
        wins = (logits[~is_good, None] > logits[is_good]).mean()  # the area under the curve, by its definition
        assert wins == pytest.approx(summary.val["val_picture_auroc"]), "result and figures belong together"
        assert read_evaluation(run.report).figures["frame.defective_frames"] == 8
    first, last = summaries
    assert last.rounds[: len(first.rounds)] == first.rounds
    assert [each.steps for each in last.rounds[1:]] in ([4, 8], [4, 8, 16]), "two rounds that gain nothing end it, too"
    assert "What the minutes gained" in (run.report / "report.html").read_text()
    reached = [improve.merit(each.figures) for each in last.rounds if each.kept]
    assert reached == sorted(set(reached))
    assert last.val == [each.figures for each in last.rounds if each.kept][-1]


@pytest.mark.parametrize("report", ["torn", None])
def test_resuming_a_finished_run_writes_the_report_that_is_missing_or_unreadable(
    first: tuple[RunFolder, str], tmp_path: Path, report: str | None
) -> None:
    run = RunFolder(shutil.copytree(first[0].folder, tmp_path / "run"))
    expected, before = read_evaluation(run.report), run.best.stat().st_mtime_ns
    if report is None:
        shutil.rmtree(run.report)
    else:
        (run.report / "evaluation.json").write_text(report)
    resumed = heatline("train", f"out={run.folder}", "resume=true")
    assert (resumed.returncode, "missed" in resumed.stdout) == (0, True), resumed.stderr
    assert read_evaluation(run.report).frames == expected.frames
    assert "is already finished" in heatline("train", f"out={run.folder}", "resume=true").stderr
    assert run.best.stat().st_mtime_ns == before, "nothing was trained again"


@pytest.mark.parametrize("group", ["d", "e"])
def test_pictures_added_or_regrouped_after_the_training_are_refused_at_export(
    blobs: Path, first: tuple[RunFolder, str], tmp_path: Path, group: str
) -> None:
    data = shutil.copytree(blobs, tmp_path / "blobs")
    run = RunFolder(shutil.copytree(first[0].folder, tmp_path / "run"))
    run.config.write_text(run.config.read_text().replace(str(blobs), str(data)))
    shutil.copy(data / "images" / "d_2.png", data / "images" / "d_3.png")
    labels = (data / "labels.csv").read_text().replace(",d\n", f",{group}\n")
    (data / "labels.csv").write_text(f"{labels}d_3.png,good,{group}\n")
    refused = heatline("export", run.folder, "--to", tmp_path / "bundle")
    assert (refused.returncode, (tmp_path / "bundle").exists()) == (9, False)
    assert "holds other pictures or groups than when" in complaint(refused)
