"""`heatline bench recipes`: trainings on small pictures, evaluated by masks, and continued after an interruption."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from heatline.bench.command import bench as command
from heatline.bench.recipes import judge
from heatline.bench.recipes.folds import Answers, Truth, answers_of
from heatline.bench.recipes.judge import FoldFigures, Verdicts, judge_fold
from heatline.bench.recipes.recipes import FIGURES, Measurement, RecipeResult, read_recipe, tables
from heatline.bench.recipes.sets import SHIPPED, DataSet, read_sets
from heatline.edge.errors import BenchError, ConfigError
from heatline.train.compose import compose
from heatline.train.dense.cross_validation import divide_groups
from heatline.train.dense.tiles import OutOfFold
from heatline.train.metrics import average_precision
from heatline.train.run import load_run
from tests.oracles import components
from tests.train.blobs import draw_blobs

pytestmark = pytest.mark.usefixtures("one_thread")

BLOBS = DataSet(name="blobs", truth="masks", group="group", targets={"hit": 0.9})
TILES = ("tiles.tile_px=64", "trainer.precision=32-true")


def measurement(data: Path, folder: Path, recipe: Any, overrides: Sequence[str], **more: Any) -> Measurement:
    work, results = folder / "work", folder / "results"
    return Measurement(of=BLOBS, recipe=recipe, overrides=overrides, data=data, work=work, results=results, **more)


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


def test_perfect_answers_have_perfect_figures_and_a_hot_good_tile_rejects_its_frame(truth: Truth) -> None:
    answers = perfect_answers(truth, range(6))
    found, shifted = judge_fold(truth, answers), judge_fold(truth, perfect_answers(truth, range(6), 0.5))
    for name in ("tile_ap_clear", "picture_auroc", "pointing_near", "hit"):
        assert getattr(found, name) == 1, name
    assert (found.frames, found.good_frames) == (6, 6)  # 6 good frames set the thresholds; defective tiles do not count
    assert -2 <= found.evidence_threshold <= found.score_threshold < 2
    assert 0.5 < found.pixel_ap < 1  # a cell of 8 px is larger than its defective pixels
    for name in ("pixel_ap", "study_f1", "pointing_near"):
        assert getattr(shifted, name) < getattr(found, name) - 0.2, name
    good = truth.is_clean & (truth.tiles.table.frame < 6)
    answers.logit[np.flatnonzero(good)[0]] = 9
    for each, rejected in ((found, 0), (judge_fold(truth, answers), 1)):
        for at in each.verdicts:
            assert (at.good, at.rejected, at.defective, at.escaped) == (6, rejected, truth.defective[:6].sum(), 0)


def test_small_defects_are_hit_by_their_cells_and_regions_far_from_all_defects_are_false(truth: Truth) -> None:
    answers = perfect_answers(truth, range(6))
    rows = np.flatnonzero(answers.logit > 0)
    first = np.unique(truth.tiles.table.frame[rows], return_index=True)[1]
    answers.logit[np.setdiff1d(rows, rows[first])] = -3  # all defective tiles but one of each frame
    assert judge_fold(truth, dataclasses.replace(answers, top_mean=True)).hit == 1
    assert (judge_fold(truth, dataclasses.replace(answers, top_mean=False)).hit or 0) < 1
    answers = perfect_answers(truth, range(6))
    good = truth.rows(int(np.flatnonzero(answers.calibrating & ~truth.defective)[0]))
    answers.map[good], answers.logit[good] = 0, 0  # above the level of all other good cells, which rounding changes
    assert judge_fold(truth, answers).false_regions == 0
    corners = [truth.rows(frame).start for frame in np.flatnonzero(truth.defective[:6]).tolist()]
    answers.map[next(row for row in corners if not truth.mask(row).any()), :3, :3] = 2  # top left in the frame
    assert judge_fold(truth, answers).false_regions == 1 / truth.defective[:6].sum()


def test_out_of_fold_answers_are_assigned_to_pictures_by_name(truth: Truth) -> None:
    names, of_ten = np.array(truth.tiles.pictures[:10]), truth.tiles.table.frame < 10
    logit = np.arange(np.count_nonzero(of_ten), dtype=np.float32)
    maps = np.zeros((len(logit), 8, 8), np.float16)
    first, second = answers_of(OutOfFold(names, np.arange(10) % 2, logit, maps), truth, seed=3)
    assert first.tested.tolist() == [True, False] * 5 + [False] * (len(first.tested) - 10)
    np.testing.assert_array_equal(first.calibrating, second.tested)
    np.testing.assert_array_equal(first.logit[of_ten], logit)


def test_a_repeated_or_interrupted_measurement_adds_only_missing_results(
    data: Path, truth: Truth, tmp_path: Path, tiny: tuple[str, ...]
) -> None:
    said: list[str] = []

    def end(line: str) -> None:
        said.append(line)
        if "seed 1: training" in line:
            raise KeyboardInterrupt

    one = measurement(data, tmp_path, "heatline", tiny, report_line=end)
    with pytest.raises(KeyboardInterrupt):
        one.measure([0, 1])
    stored = read_recipe(one.file)
    assert [(fold.seed, fold.fold) for fold in stored.folds] == [(0, 0), (0, 1)]
    before = one.file.read_bytes()
    assert measurement(data, tmp_path, "heatline", tiny, report_line=said.append).measure([0]).folds == stored.folds
    assert one.file.read_bytes() == before
    assert said[-1].endswith("seed 0 is done")

    run = OutOfFold.read(tmp_path / "work" / "blobs" / one.file.stem / "seed0" / "out_of_fold.npz")
    _, first = np.unique(truth.tiles.table.frame, return_index=True)
    divided = divide_groups(truth.tiles, compose(["data=.", *tiny]).recipe, seed=0)  # as for finetune and study
    np.testing.assert_array_equal(run.fold, divided[truth.tiles.group[first]])


def test_good_pictures_only_train_one_fold_at_a_time(data: Path, tmp_path: Path, tiny: tuple[str, ...]) -> None:
    """Of four groups, one is tested and one calibrates; the last picture of the others trains, as it is good."""
    overrides = [*(item.replace("recipe.folds=2", "recipe.folds=4") for item in tiny), "truth=good"]
    said: list[str] = []
    one = measurement(data, tmp_path, "heatline", overrides, folds=[1], report_line=said.append)
    assert [(each.fold, each.frames, each.good_frames) for each in one.measure([0]).folds] == [(1, 3, 3)]
    assert any(line.startswith("to expect: no defect has shown") for line in said)
    assert 160 < len(one.name) < 180, "a file's name has 255 letters at most"
    run = load_run(one.work / "blobs" / one.name / "seed0" / "fold1")
    names = {path.name for path in (Path(run.config.data) / "images").iterdir()}
    assert names == {f"{group}_2.png" for group in run.summary.groups["train"]}
    assert run.model.state_dict()["head.novelty.gain"] > 0
    with pytest.raises(ConfigError, match="'good'"):
        measurement(data, tmp_path, "padim", overrides).measure([0])


def test_the_command_writes_results_and_refuses_overrides(data: Path, tmp_path: Path, tiny: tuple[str, ...]) -> None:
    sets = tmp_path / "sets.yaml"
    sets.write_bytes(msgspec.yaml.encode([BLOBS]))
    places = {"--data": data, "--sets": sets, "--work": tmp_path / "work", "--results": tmp_path / "results"}
    arguments = [*(str(each) for pair in places.items() for each in pair), "--seed", "0", *tiny, "--json"]
    printed = json.loads(CliRunner().invoke(command, ["recipes", *arguments], catch_exceptions=False).stdout)
    assert [one.split()[:2] for one in printed["results"]] == [["blobs:", "heatline"]]
    (file,) = (tmp_path / "results").glob("blobs/*.json")
    assert [one.machine["cores"] for one in read_recipe(file).trainings] == [len(os.sched_getaffinity(0))]
    assert "*0.9*" in Path(printed["tables"]).read_text()
    for option, error, words in (
        (["seed=3"], ConfigError, "the bench sets seed itself"),
        (["--fold", "9"], BenchError, "blobs has no fold 9; name one of 0 to 1"),
    ):
        with pytest.raises(error, match=words):
            CliRunner().invoke(command, ["recipes", *arguments, *option], catch_exceptions=False)


def test_a_file_of_data_sets_is_read_or_refused_with_the_reason(tmp_path: Path) -> None:
    assert [one.name for one in read_sets(SHIPPED, ["deeppcb", "bsdata"])] == ["bsdata", "deeppcb"]
    with pytest.raises(ConfigError, match="no data set 'magnetic'; it has magnetic_tile, "):
        read_sets(SHIPPED, ["magnetic"])
    for text, reason in (
        ("- {name: a, truth: masks, group: b, good: templates}", "give a pattern"),
        ("- {name: a, truth: boxes, group: b}", "Invalid enum value 'boxes'"),
    ):
        (tmp_path / "sets.yaml").write_text(text)
        with pytest.raises(ConfigError, match=reason):
            read_sets(tmp_path / "sets.yaml")


masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 13), st.integers(1, 13)))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_pixel_average_precision_agrees_with_its_definition(cells: list[tuple[int, int, int]]) -> None:
    """Each pixel has its cell's evidence; `test_figures` compares `average_precision` with the definition."""
    half = len(cells) // 2
    parts = [np.array(part or [(0, 0, 0)]).T for part in (cells[:half], cells[half:])]  # they come tile by tile
    found = judge.pixel_average_precision((evidence.astype(np.float32), bad, good) for evidence, bad, good in parts)
    pixels = [(value, kind) for value, bad, good in cells for kind in [True] * bad + [False] * good]
    values, kinds = np.array(pixels, np.float64).reshape(-1, 2).T
    assert found == pytest.approx(average_precision(values, kinds > 0, np.ones(len(pixels))))


@given(masks, st.integers(1, 5))
def test_each_cell_counts_the_pixels_that_it_covers(mask: NDArray[np.bool_], cell_px: int) -> None:
    counts = judge.count_in_cells(mask, cell_px)
    expected = np.zeros_like(counts)
    for y, x in zip(*np.nonzero(mask), strict=True):
        expected[y // cell_px, x // cell_px] += 1
    assert counts.shape == tuple(-(-side // cell_px) for side in mask.shape)
    np.testing.assert_array_equal(counts, expected)


@given(masks.map(lambda mask: mask.repeat(3, axis=0).repeat(3, axis=1)), st.integers(1, 6), st.integers(0, 9))
def test_a_found_cell_on_a_pixel_of_a_defect_is_a_hit(mask: NDArray[np.bool_], cell: int, seed: int) -> None:
    defects = [area for area in components(mask) if len(area) >= judge.LEAST_DEFECT_PX]
    labels, count = judge.label_defects(mask)
    assert count == len(defects)
    assert {int(labels[place]) for area in defects for place in area} == set(range(1, count + 1))
    assert np.count_nonzero(labels) == sum(map(len, defects))
    found = np.random.default_rng(seed).random([-(-side // cell) for side in mask.shape]) < 0.1
    hit = [area for area in defects if any(found[y // cell, x // cell] for y, x in area)]
    assert judge.count_hit(labels, found, cell) == len(hit)


@given(masks, st.integers(1, 4), st.integers(0, 9), st.integers(0, 9))
def test_a_found_area_is_false_far_from_defects(mask: NDArray[np.bool_], cell: int, near_px: int, seed: int) -> None:
    found = np.random.default_rng(seed).random([-(-side // cell) for side in mask.shape]) < 0.2
    defective = {(y // cell, x // cell) for y, x in zip(*np.nonzero(mask), strict=True)}
    reach = next(cells for cells in range(10) if cells * cell >= near_px)
    steps = range(-reach, reach + 1)
    near = {(y + dy, x + dx) for y, x in defective for dy in steps for dx in steps}
    expected = [area for area in components(found) if not area & near]
    assert judge.count_false(mask, found, cell, near_px) == len(expected)


def test_the_table_has_means_deviations_sums_and_the_targets_below() -> None:
    def fold(seed: int, number: int, *verdicts: Verdicts, **figures: float | None) -> FoldFigures:
        values: dict[str, Any] = dict.fromkeys(FIGURES) | figures
        counts = {"frames": 4, "good_frames": 2, "score_threshold": 0.0, "evidence_threshold": 0.0}
        return FoldFigures(seed=seed, fold=number, verdicts=list(verdicts), **counts, **values)

    def verdicts(rejected: int, escaped: int) -> Verdicts:
        return Verdicts(wanted=0.01, good=10, rejected=rejected, defective=20, escaped=escaped)

    folds = [fold(0, 0, verdicts(1, 2), hit=0.5), fold(0, 1, verdicts(2, 4), hit=0.7, pixel_ap=0.25)]
    folds.append(fold(1, 0, verdicts(0, 0), hit=0.9))
    both = [
        RecipeResult(set="s", recipe=name, overrides=["a=1|2"], truth="masks", folds=of)
        for name, of in (("padim", [fold(0, 0)]), ("heatline", folds))
    ]
    lines = tables(both, {"s": {"hit": 0.75}}).splitlines()
    head, _, padim, heatline, target = ([cell.strip() for cell in line.split(" | ")] for line in lines[6:11])
    column = head.index(FIGURES["hit"])
    assert heatline[0] == "| heatline a=1\\|2"
    assert [row[column] for row in (padim, heatline, target)] == ["-", "0.700 ± 0.16", "*0.75*"]
    assert heatline[head.index("folds") :] == ["2", "2 |"]
    assert heatline[head.index(FIGURES["pixel_ap"])] == "0.250 ± 0.00"
    assert "| heatline a=1\\|2 | 1 % | 3 of 30 | 6 of 60 |" in lines
