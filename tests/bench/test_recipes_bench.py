"""`heatline bench recipes`: trainings on small pictures, evaluated by masks, and continued after an interruption."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from heatline.bench.command import bench as command
from heatline.bench.recipes.folds import Answers, Fold, Truth, answers_of
from heatline.bench.recipes.judge import judge_fold
from heatline.bench.recipes.recipes import Measurement, read_recipe
from heatline.bench.recipes.sets import SHIPPED, DataSet, read_sets
from heatline.edge.errors import BenchError, ConfigError, InputError
from heatline.train.compose import compose
from heatline.train.config import DenseRecipeConfig
from heatline.train.dense.cross_validation import divide_groups
from heatline.train.dense.tiles import OutOfFold
from heatline.train.frames import cut
from tests.train.blobs import draw_blobs

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
BLOBS = DataSet(name="blobs", truth="masks", group="group", targets={"hit": 0.9})
TILES = ("tiles.tile_px=64", "trainer.precision=32-true")
DENSE = (*TILES, "recipe.steps=10", "recipe.folds=2", "recipe.jitter_px=20", "recipe.copies={defective: 1, most: 10}")
WHOLE_NETWORK = (
    *TILES,
    "model=test_efficientnet",
    "model.stride=16",
    "model.weights=none",
    "recipe.steps=2",
    "recipe.validate_every=2",
    "recipe.batch=4",
)


def measurement(data: Path, folder: Path, recipe: Any, overrides: Sequence[str], **more: Any) -> Measurement:
    work, results = folder / "work", folder / "results"
    return Measurement(of=BLOBS, recipe=recipe, overrides=overrides, data=data, work=work, results=results, **more)


@pytest.fixture(scope="module")
def dense(tiny_trunk: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides that make a training of the recipe `heatline` small; all tests share a feature cache."""
    return (*DENSE, *tiny_trunk, f"features.folder={tmp_path_factory.mktemp('features')}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw_blobs(folder / "blobs", per_group=2)
    return folder


@pytest.fixture(scope="module")
def truth(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    config = compose([f"data={data / 'blobs'}", "truth=masks", "tiles.tile_px=64"])
    return Truth.of(config, tmp_path_factory.mktemp("frames") / "decoded")


def perfect_answers(truth: Truth, tested: Sequence[int], smear: float = 0.0) -> Answers:
    """Return maps 8x8 of 2 in defective cells and -2 elsewhere, shifted to the right by `smear` of a tile's width."""
    maps = np.stack([np.where(cv2.resize(truth.mask(row).astype(np.float32), (8, 8), interpolation=cv2.INTER_AREA) > 0,
        2, -2) for row in range(len(truth.tiles))]).astype(np.float16)  # fmt: skip
    maps = np.roll(maps, round(8 * smear), axis=2)
    is_tested = np.isin(np.arange(len(truth.store)), tested)
    return Answers(0, 0, maps.max(axis=(1, 2)).astype(np.float32), maps, is_tested, ~is_tested)


def test_perfect_answers_have_perfect_figures(truth: Truth) -> None:
    found = judge_fold(truth, perfect_answers(truth, range(6)))
    for name in ("tile_ap_clear", "picture_auroc", "pointing_near", "hit"):
        assert getattr(found, name) == 1, name
    assert found.rejected == 0
    assert [each.wanted for each in found.verdicts] == [0.01, 0.05]
    for each in found.verdicts:
        assert (each.good, each.rejected, each.defective, each.escaped) == (6, 0, truth.defective[:6].sum(), 0)
    assert (found.frames, found.good_frames) == (6, 6)  # 6 good frames set the thresholds; defective tiles do not count
    assert -2 <= found.evidence_threshold <= found.score_threshold < 2
    assert found.pixel_ap is not None
    assert 0.5 < found.pixel_ap < 1  # a cell of 8 px is larger than its defective pixels
    assert (
        judge_fold(truth, dataclasses.replace(perfect_answers(truth, range(6)), knows_defects=False)).study_f1 is None
    )


def test_small_defects_in_other_tiles_of_a_defective_frame_are_hit_if_logits_are_means_of_the_highest_cells(
    truth: Truth,
) -> None:
    """The logit of all defective tiles but one of each frame is too low, although their cells are not."""
    answers = perfect_answers(truth, range(6))
    first = np.unique(truth.tiles.table.frame[answers.logit > 0], return_index=True)[1]
    rest = np.setdiff1d(np.flatnonzero(answers.logit > 0), np.flatnonzero(answers.logit > 0)[first])
    answers.logit[rest] = -3
    assert len(rest)
    by_cells, by_tiles = (judge_fold(truth, dataclasses.replace(answers, top_mean=mean)).hit for mean in (True, False))
    assert by_cells == 1
    assert by_tiles is not None
    assert by_tiles < 1


def test_a_region_far_from_all_defects_is_false(truth: Truth) -> None:
    answers = perfect_answers(truth, range(6))
    good = truth.rows(int(np.flatnonzero(answers.calibrating & ~truth.defective)[0]))
    answers.map[good], answers.logit[good] = 0, 0  # above the level of all other good cells, which rounding changes
    assert judge_fold(truth, answers).false_regions == 0
    first_rows = [truth.rows(frame).start for frame in np.flatnonzero(truth.defective[:6]).tolist()]
    answers.map[next(row for row in first_rows if not truth.mask(row).any()), :3, :3] = 2  # top left in the frame
    assert judge_fold(truth, answers).false_regions == 1 / truth.defective[:6].sum()


def test_shifted_maps_lower_the_figures_of_location_only(truth: Truth) -> None:
    right, wrong = (judge_fold(truth, perfect_answers(truth, range(6), smear)) for smear in (0.0, 0.5))
    assert right.tile_ap_clear == wrong.tile_ap_clear
    for name in ("pixel_ap", "study_f1", "pointing_near"):
        assert getattr(wrong, name) < getattr(right, name) - 0.2, name


def test_a_hot_good_tile_rejects_its_frame(truth: Truth) -> None:
    answers = perfect_answers(truth, range(6))
    row = next(row for row in range(len(truth.tiles)) if truth.is_clean[row])
    assert truth.tiles.table.frame[row] < 6
    answers.logit[row] = 9
    for each in judge_fold(truth, answers).verdicts:
        assert each.rejected == 1


def test_figures_depend_only_on_tested_and_calibrating_frames(truth: Truth) -> None:
    """Answers for all other frames have no effect."""
    answers = perfect_answers(truth, [0, 1, 2])
    calibrating = answers.calibrating & (np.arange(len(truth.store)) < 9)
    before = msgspec.structs.asdict(judge_fold(truth, Answers(0, 0, *_of(answers), calibrating)))
    others = np.flatnonzero(truth.tiles.table.frame >= 9)
    answers.logit[others], answers.map[others] = np.nan, np.nan
    assert msgspec.structs.asdict(judge_fold(truth, Answers(0, 0, *_of(answers), calibrating))) == before


def test_pixels_beyond_the_frame_do_not_count(tmp_path: Path) -> None:
    """Tiles that extend beyond the frame repeat its edge, which does not enlarge a defect there."""
    draw_blobs(tmp_path / "blobs", frame_hw=(50, 150))
    for file in (tmp_path / "blobs" / "masks").iterdir():
        mask = np.zeros((50, 150), np.uint8)
        mask[40:, 10:60] = 255
        cv2.imwrite(str(file), mask)
    config = compose([f"data={tmp_path / 'blobs'}", "truth=masks", "tiles.tile_px=64"])
    truth = Truth.of(config, tmp_path / "frames")
    tiles = [truth.mask(row) for row in range(len(truth.tiles))]
    assert sum(tile[50:].sum() for tile in tiles) == 0
    assert [int(tile.sum()) for tile in tiles] == truth.tiles.table.defect_px.tolist()
    found = judge_fold(truth, perfect_answers(truth, range(12)[::2]))
    assert (found.tile_ap_clear, found.pointing_near) == (1, 1)


def _of(answers: Answers) -> tuple[NDArray[np.float32], NDArray[np.float16], NDArray[np.bool_]]:
    return answers.logit, answers.map, answers.tested


def test_out_of_fold_answers_are_assigned_to_pictures_by_name(truth: Truth) -> None:
    names, frames = truth.tiles.pictures[:10], truth.tiles.table.frame
    logit = np.arange(np.count_nonzero(frames < 10), dtype=np.float32)
    maps = np.zeros((len(logit), 8, 8), np.float16)
    found = OutOfFold(np.array(names), np.arange(10) % 2, logit, maps)
    first, second = answers_of(found, truth, seed=3)
    assert first.tested[:10].tolist() == [True, False] * 5
    np.testing.assert_array_equal(first.calibrating, second.tested)
    assert not (first.tested | first.calibrating)[10:].any()
    np.testing.assert_array_equal(first.logit[frames < 10], logit)
    with pytest.raises(BenchError, match="other pictures"):
        next(answers_of(OutOfFold(np.array(names), found.fold, logit[1:], maps[1:]), truth, seed=3))


def test_a_repeated_measurement_adds_only_missing_results(
    data: Path, truth: Truth, tmp_path: Path, dense: tuple[str, ...]
) -> None:
    report_lines: list[str] = []

    def measure(recipe: str, seeds: Sequence[int], overrides: Sequence[str], **more: Any) -> dict[str, Any]:
        one = measurement(data, tmp_path, recipe, overrides, report_line=report_lines.append, **more)
        found = one.measure(seeds)
        assert read_recipe(one.file) == found
        return {"file": one.file, "folds": [(fold.seed, fold.fold) for fold in found.folds]}

    ours = measure("heatline", [0], dense)
    assert ours["folds"] == [(0, 0), (0, 1)]
    before = Path(str(ours["file"])).read_bytes()
    assert measure("heatline", [0], dense)["folds"] == ours["folds"]
    assert Path(str(ours["file"])).read_bytes() == before
    assert report_lines[-1].endswith("seed 0 is done")

    run = OutOfFold.read(tmp_path / "work" / "blobs" / Path(str(ours["file"])).stem / "seed0" / "out_of_fold.npz")
    recipe = compose(["data=.", *dense]).recipe
    assert isinstance(recipe, DenseRecipeConfig)
    _, first = np.unique(truth.tiles.table.frame, return_index=True)
    divided = divide_groups(truth.tiles, recipe, seed=0)  # as for finetune and study
    np.testing.assert_array_equal(run.fold, divided[truth.tiles.group[first]])

    by_labels = measurement(data, tmp_path, "heatline", [*dense, "truth=labels"])
    assert by_labels.file != ours["file"]
    assert measure("finetune", [0], WHOLE_NETWORK, folds=[1])["folds"] == [(0, 1)]
    assert measure("finetune", [0], WHOLE_NETWORK, folds=[1])["folds"] == [(0, 1)]


def test_results_before_an_interruption_are_retained(data: Path, tmp_path: Path, dense: tuple[str, ...]) -> None:
    def end(line: str) -> None:
        if "seed 2: training" in line:
            raise KeyboardInterrupt

    one = measurement(data, tmp_path, "heatline", dense, report_line=end)
    with pytest.raises(KeyboardInterrupt):
        one.measure([1, 2])
    stored = read_recipe(one.file)
    assert [(fold.seed, fold.fold) for fold in stored.folds] == [(1, 0), (1, 1)]
    found = measurement(data, tmp_path, "heatline", dense).measure([1, 2])
    assert found.folds[:2] == stored.folds
    assert {fold.seed for fold in found.folds} == {1, 2}


def test_the_command_writes_results_and_tables_and_refuses_reserved_overrides(
    data: Path, tmp_path: Path, dense: tuple[str, ...]
) -> None:
    sets = tmp_path / "sets.yaml"
    sets.write_bytes(msgspec.yaml.encode([BLOBS]))

    def run(*overrides: str) -> str:
        places = {"--data": data, "--sets": sets, "--work": tmp_path / "work", "--results": tmp_path / "results"}
        arguments = [*(str(each) for pair in places.items() for each in pair), "--seed", "0"]
        done = CliRunner().invoke(command, ["recipes", *arguments, *overrides, "--json"])
        if done.exception is not None:
            raise done.exception
        return done.stdout

    printed = json.loads(run(*dense))
    assert [one.split()[:2] for one in printed["results"]] == [["blobs:", "heatline"]]
    (file,) = (tmp_path / "results").glob("blobs/*.json")
    assert [one.machine["cores"] for one in read_recipe(file).trainings] == [len(os.sched_getaffinity(0))]
    assert "*0.9*" in Path(printed["tables"]).read_text()
    with pytest.raises(ConfigError, match="the bench sets seed itself"):
        run(*dense, "seed=3")
    with pytest.raises(BenchError, match="blobs has no fold 9; name one of 0 to 1"):
        run(*dense, "--fold", "9")
    (tmp_path / "results" / "tables.md").unlink()
    (tmp_path / "results" / "tables.md").mkdir()
    with pytest.raises(BenchError, match=r"tables\.md cannot be written"):
        run(*dense)


def test_good_pictures_of_a_separate_folder_are_linked_into_the_data_set(tmp_path: Path) -> None:
    source = tmp_path / "data" / "pcb"
    for name in ("images", "templates", "derived_masks"):
        (source / name).mkdir(parents=True)
        for stem in ("00001_1", "00001_2", "00002_1"):
            cv2.imwrite(
                str(source / name / f"{stem}.png"), np.full((40, 40), 255 * (name == "derived_masks"), np.uint8)
            )
    pcb = DataSet(name="pcb", truth="derived_masks", pattern="^([0-9]{5})", good="templates")
    folder = pcb.pictures(tmp_path / "data", tmp_path / "work")
    assert pcb.overrides(tmp_path / "data", tmp_path / "work")[0] == f"data={folder}"
    config = compose([*pcb.overrides(tmp_path / "data", tmp_path / "work"), "tiles.tile_px=32"])
    truth = Truth.of(config, tmp_path / "frames")
    assert truth.tiles.groups == ("00001", "00002")
    assert {image.name: image.defective for image in truth.store.images} == {
        f"{prefix}{stem}.png": not prefix for stem in ("00001_1", "00001_2", "00002_1") for prefix in ("", "good_")
    }
    assert [truth.store.mask(frame) is not None for frame in range(6)] == truth.defective.tolist()
    with pytest.raises(InputError, match="finds no group in"):
        msgspec.structs.replace(pcb, name="other", folder="pcb", pattern="^(9)").pictures(
            tmp_path / "data", tmp_path / "work"
        )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- {name: a, truth: masks}", "expected one of them"),
        ("- {name: a, truth: masks, group: b, good: templates}", "give a pattern"),
        ("- {name: a, truth: boxes, group: b}", "Invalid enum value 'boxes'"),
        ("nothing", "not a list of data sets"),
    ],
)
def test_an_invalid_file_of_data_sets_is_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "sets.yaml").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_sets(tmp_path / "sets.yaml")


def test_the_shipped_data_sets_can_be_read_and_selected() -> None:
    assert [one.name for one in read_sets(SHIPPED, ["deeppcb", "bsdata"])] == ["bsdata", "deeppcb"]
    with pytest.raises(ConfigError, match="no data set 'magnetic'; it has magnetic_tile, "):
        read_sets(SHIPPED, ["magnetic"])


ANOMALIB = """
import json, sys
from pathlib import Path
import cv2, numpy as np
job = json.loads(Path(sys.argv[1]).read_text())
folder = Path(job["folder"])
print("too little memory" if job["model"] == "padim" else "trained", flush=True)
assert job["model"] != "padim"
good = np.mean([cv2.imread(str(file)).astype(float) for file in (folder / "good").iterdir()], axis=0)
off = [np.abs(cv2.imread(str(folder / "requested" / name)) - good).mean(axis=2) for name in job["requested"]]
maps = np.stack([cv2.resize(each, (8, 8), interpolation=cv2.INTER_AREA) for each in off]).astype(np.float16)
logit = 100 + maps.max(axis=(1, 2)).astype(np.float32)
np.savez(folder / "answers.npz", logit=logit, map=maps, seconds=1.5)
seen = {**job, "good": sorted(file.name for file in (folder / "good").iterdir())}
Path(job["weights"]).with_name("seen.json").write_text(json.dumps(seen))
"""
"""Replaces anomalib, which has an environment of its own: a difference from the mean good tile is a defect."""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    (tmp_path / "stand_in.py").write_text(ANOMALIB)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "stand_in.py"}" "$2"\n')
    python.chmod(0o755)
    return python


def test_anomalibs_models_train_on_clean_tiles_of_other_folds(
    data: Path, truth: Truth, tmp_path: Path, dense: tuple[str, ...], stand_in: Path
) -> None:
    overrides = [*dense, "recipe.folds=3"]
    one = measurement(data, tmp_path, "patchcore", overrides, folds=[0], peers_python=stand_in)
    (figures,) = one.measure([0]).folds
    named = sorted(each for each in overrides if not each.startswith(("trainer.", "features.")))
    assert one.measure([0]).name == " ".join(["patchcore", *named])
    job = json.loads((tmp_path / "work" / "blobs" / "seen.json").read_text())
    recipe = compose(["data=.", *overrides]).recipe
    assert isinstance(recipe, DenseRecipeConfig)
    fold = Fold(0, 0, truth, divide_groups(truth.tiles, recipe, seed=0))
    of = truth.tiles.table.frame
    assert job["good"] == [f"{row:06d}.png" for row in np.flatnonzero(truth.is_clean & fold.trained[of])]
    assert job["requested"] == [f"{row:06d}.png" for row in np.flatnonzero((fold.tested | fold.calibrating)[of])]
    tile = np.empty((64, 64, 3), np.uint8)
    cut(truth.store, int(of[5]), int(truth.tiles.table.y[5]), int(truth.tiles.table.x[5]), tile)
    (tiles,) = (tmp_path / "work" / "blobs").glob("tiles_*")
    stored = cv2.imread(str(tiles / "000005.png"))
    np.testing.assert_array_equal(np.asarray(stored)[..., ::-1], tile)
    assert set(torch.load(job["weights"], weights_only=True)) == set(
        timm.create_model("tf_efficientnet_lite0").state_dict()
    )
    assert figures.study_f1 is None
    assert figures.tile_ap_clear is not None
    assert figures.tile_ap_clear > 0.9  # blobs are the darkest parts
    assert figures.evidence_threshold < 100 < figures.score_threshold  # two different scales


def test_a_failure_of_anomalib_is_reported_in_one_sentence(
    data: Path, tmp_path: Path, dense: tuple[str, ...], stand_in: Path
) -> None:
    one = measurement(data, tmp_path, "padim", [*dense, "recipe.folds=3"], folds=[0], peers_python=stand_in)
    with pytest.raises(BenchError, match=r"anomalib's padim ended with 1: its log ends with: .*AssertionError"):
        one.measure([0])
    with pytest.raises(BenchError, match="make it with `make peers-env`"):
        dataclasses.replace(one, peers_python=tmp_path / "none").measure([0])
    assert not list((tmp_path / "work" / "blobs").glob("tmp*"))
