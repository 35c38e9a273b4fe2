"""Searches and studies: real trainings of few steps, several processes, interruptions and kills."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import optuna
import pytest

from heatline.edge.errors import ConfigError, InputError, Interrupted, TrainingError
from heatline.train.batches import BatchSampler
from heatline.train.compose import compose, read_config
from heatline.train.evaluation.result import FILE, read_evaluation
from heatline.train.files import lock_file
from heatline.train.run import RunFolder
from tests.command import complaint, heatline, sentence_of
from tests.train.blobs import draw_blobs
from tests.train.trained import NAMED_SPLIT, SMALL, metrics_of

if TYPE_CHECKING:  # they import Lightning, which takes seconds, in each process that collects tests
    from heatline.train.search import SearchReport
    from heatline.train.study import Study, StudyStatus

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Raised when a test itself opens a study or asks it for a trial.
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore:Heartbeat of storage"),
]
TRAINING = [item for item in SMALL if not item.startswith("recipe")]
"""Overrides without a recipe, as a search has its own default."""
SHORT = ("recipe.steps=4", "recipe.validate_every=2", "recipe.jitter_px=20", "search.batches=[4,8]")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw pictures. Those of the test group d, and their masks, cannot be read."""
    folder = draw_blobs(tmp_path_factory.mktemp("search") / "blobs")
    for file in folder.glob("*/d_*"):
        file.write_bytes(b"not a picture")
    return folder


def search(overrides: list[str], **options: Any) -> "SearchReport":
    from heatline.train.search import search

    return search(overrides, **options)


def overrides_for(data: Path, out: Path, *overrides: str) -> list[str]:
    return [f"data={data}", f"out={out}", *TRAINING, *NAMED_SPLIT, *SHORT, *overrides]


class PruneTheSecond(optuna.pruners.BasePruner):
    """Prunes the trial with number 1."""

    def __init__(self, **settings: int) -> None:
        pass

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number == 1


@pytest.fixture(scope="module")
def searched(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "SearchReport", list[str]]:
    """Run a search of three trials, the second pruned; return its folder, its report and its lines."""
    out = tmp_path_factory.mktemp("searches") / "whole"
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.pruners, "MedianPruner", PruneTheSecond)
        report = search(overrides_for(pictures, out, "search.trials=3"), report_line=lines.append)
    return out, report, lines


def states(out: Path) -> list[str]:
    from heatline.train.search import open_study

    return [trial.state.name for trial in open_study(f"sqlite:///{out / 'study.db'}", "test_efficientnet").trials]


def test_a_search_stores_a_run_per_trial_and_the_checkpoints_of_the_best(
    searched: tuple[Path, "SearchReport", list[str]], pictures: Path
) -> None:
    out, report, lines = searched
    assert states(out) == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert (report.wanted, report.finished, report.running) == (3, 3, 0)
    assert len({row.lr for row in report.trials}) == 3
    assert sorted(path.name for path in out.iterdir()) == ["search.lock", "study.db", "trials"]
    for row in report.trials:
        run = RunFolder(out / "trials" / f"{row.trial:04d}")
        assert (row.run, run.checkpoints.exists()) == (str(run.folder), row.trial == report.best.trial)
        config, metrics = read_config(run.config), metrics_of(run)
        assert (config.recipe.lr, config.recipe.batch, config.recipe.select) == (row.lr, row.batch, "accuracy")
        assert 1e-4 <= config.recipe.lr <= 1e-2, "the recipe's interval for a CNN"
        assert row.value == max(metric["val_accuracy"] for metric in metrics)
        assert [metric["step"] for metric in metrics] == ([2] if row.trial == 1 else [2, 4])
        assert row.reason == ("below the median at step 2" if row.trial == 1 else None)
    assert report.best.value == max(row.value or 0 for row in report.trials if row.state == "complete")
    assert sum(line.startswith("train: ") for line in lines) == 1  # the data are described only once

    overrides = overrides_for(pictures, out, "search.trials=3")  # nothing is left to do
    assert json.loads(heatline("search", *overrides, "--json").stdout) == msgspec.to_builtins(report)
    assert f"To train the best again: {report.command}\n" in heatline("search", *overrides).stdout
    again = compose(shlex.split(report.command or "")[2:])
    assert msgspec.structs.replace(again, out="") == msgspec.structs.replace(
        read_config(Path(report.best.run or "") / "config.yaml"), out=""
    )


def test_ctrl_c_fails_the_trial_and_the_same_command_continues(
    pictures: Path, searched: tuple[Path, "SearchReport", list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, out, drawn = BatchSampler.draw, tmp_path / "search", itertools.count(1)

    def interrupt(self: BatchSampler, number: int) -> object:
        if next(drawn) == 6:  # in the second trial
            signal.raise_signal(signal.SIGINT)
        return draw(self, number)

    arguments = overrides_for(pictures, out, "search.trials=2", "search.objective=average_precision")
    monkeypatch.setattr(BatchSampler, "draw", interrupt)
    with pytest.raises(Interrupted, match="stopped with 1 of 2 trials finished; continue with the same command"):
        search(arguments)
    assert states(out) == ["COMPLETE", "FAIL"]
    assert not (out / "trials" / "0001" / "checkpoints").exists()
    written = (out / "trials" / "0000" / "metrics.csv").stat().st_mtime_ns
    report = search(arguments)
    assert (states(out), report.finished) == (["COMPLETE", "FAIL", "COMPLETE"], 2)
    assert (out / "trials" / "0000" / "metrics.csv").stat().st_mtime_ns == written
    # The values of a trial depend only on the seed and its number.
    assert (report.trials[0].lr, report.trials[0].batch) == (searched[1].trials[0].lr, searched[1].trials[0].batch)
    assert report.trials[1].lr != report.trials[2].lr
    monkeypatch.setattr("heatline.train.search.fit", None)  # nothing is left to train
    assert search(arguments).trials == report.trials


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.steps=5", "recipe.steps is 5 and was 4 when the search 'test_efficientnet' was started"),
        ("search.objective=average_precision", "search.objective is average_precision and was accuracy"),
        ("search.lr=[1e-5,1e-3]", r"search.lr is \[1e-05, 0.001\] and was \[0.0001, 0.01\]"),
    ],
)
def test_a_command_with_other_settings_is_refused(
    searched: tuple[Path, "SearchReport", list[str]], pictures: Path, change: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search(overrides_for(pictures, searched[0], "search.trials=3", change))


def test_untrainable_trials_count_and_end_the_search_with_advice(pictures: Path, tmp_path: Path) -> None:
    message = r"the (loss|sum of the validation logits) became (nan|inf|-inf) at step \d; lower the learning rate: .*"
    hopeless = ("search.trials=2", "search.lr=[1e19,1e20]", "recipe.warmup=0")
    with pytest.raises(TrainingError, match=rf"none of 2 trials was completed \({message}\); search lower rates"):
        search(overrides_for(pictures, tmp_path / "search", *hopeless))
    assert states(tmp_path / "search") == ["PRUNED", "PRUNED"]
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.trial=3"], "search does not know the key trial; expected trials, objective, batches, lr,"),
        (["search.trials=0"], "search.trials is 0; expected `int` >= 1"),
        (["search.lr=[1e-4"], "the keys of the search are not YAML: "),
        (["recipe.lr=0.1"], "recipe.lr=0.1 cannot be given to a search: the search chooses it; set its interval"),
        (["recipe.stepz=3"], "there is no key 'recipe.stepz'"),
        (["recipe=heatline"], "recipe=heatline does not train the whole network; choose recipe=finetune or study"),
        (["recipe.lr_interval=[0.1,0.01]"], "recipe.lr_interval is [0.1, 0.01]; expected the lower rate first"),
        (["search.storage=nonsense"], "cannot be used: Could not parse SQLAlchemy URL"),
        (["search.storage=mysql://me:secret@host/x"], "cannot be used: No module named 'MySQLdb'"),
        (["search.storage=sqlite:////nowhere/at/all.db"], "cannot be used: unable to open database file"),
        (["search.storage=sqlite:////etc/hostname"], "cannot be used: file is not a database"),
    ],
)
def test_a_wrong_command_line_or_storage_is_refused_in_one_sentence(
    blobs: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    told = sentence_of(ConfigError, search, [f"data={blobs}", f"out={tmp_path / 'out'}", *overrides])
    assert message in told
    assert "secret" not in told
    assert not (tmp_path / "out" / "trials").exists()


PLAN = """
models:
  - {name: test_efficientnet, settings: {model.weights: none}}
  - {name: test_vit, settings: {model.weights: none}}
data:
  - {name: blobs, folder: blobs, settings: {truth: masks}}
settings:
  {recipe: finetune, recipe.steps: 4, recipe.batch: 4, recipe.validate_every: 2, split.fractions: [0.5, 0.25, 0.25],
   tiles.tile_px: 64, recipe.jitter_px: 20, trainer.precision: 32-true}
"""
ONE_MODEL = PLAN.replace("  - {name: test_vit, settings: {model.weights: none}}\n", "")
FIRST, SECOND = "blobs/split/test_efficientnet", "blobs/split/test_vit"


def study(data: Path, out: Path, text: str = PLAN, only: Sequence[str] = ()) -> "Study":
    from heatline.train.study import Plan, Study

    return Study(msgspec.yaml.decode(text, type=Plan), data, out, only)


def work(on: "Study", lines: list[str] | None = None) -> "StudyStatus":
    return on.work(None, [].append if lines is None else lines.append)


def times(out: Path) -> dict[Path, int]:
    """Return the time of each checkpoint and evaluation of a folder."""
    return {file: file.stat().st_mtime_ns for file in (*out.rglob("*.ckpt"), *out.rglob(FILE))}


@pytest.fixture(scope="module")
def data(blobs: Path) -> Path:
    return blobs.parent


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study that was not interrupted."""
    out = tmp_path_factory.mktemp("finished") / "study"
    status = work(study(data, out))
    assert ({run.state for run in status.runs}, status.failed) == ({"evaluated"}, {})
    return out


def test_the_shipped_plan_runs_every_model_on_the_first_folds_first(tmp_path: Path) -> None:
    from heatline.train.study import DEFAULT_PLAN, read_plan

    runs = read_plan(DEFAULT_PLAN).runs()
    folds = ["magnetic_tile/split", "bsdata/split", "deeppcb/split",
             *(f"hripcb/{board}" for board in ("10", "12", "01", "04", "07", "08"))]  # fmt: skip
    models = ["efficientnet_lite0_d", "mobilenetv3_large_d", "vit_tiny_patch16_224"]
    assert [run.name for run in runs] == [f"{fold}/{model}" for fold in folds for model in models]
    pcb, board = (compose(run.overrides(tmp_path, tmp_path / "it's")) for run in (runs[6], runs[-1]))
    assert (pcb.split.pattern, pcb.split.fractions, pcb.truth) == ("^(.{5})", [0.7, 0.1, 0.2], "boxes")
    assert (board.data, board.out) == (str(tmp_path / "hripcb_subset"), f"{tmp_path}/it's/hripcb/08/{board.model.name}")
    assert (board.split.group, board.split.val, board.split.test) == ("board", ["10"], ["08"])
    assert (board.recipe.steps, board.recipe.batch, board.recipe.validate_every) == (200, 32, 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAN.replace("settings:", "setting:"), "unknown field `setting`"),
        (PLAN.replace("[0.5,", "0.5,"), "is not a plan"),
        (None, "is not a plan: .*No such file"),
    ],
)
def test_a_broken_plan_is_refused_in_one_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    from heatline.train.study import read_plan

    file = tmp_path / "plan.yaml"
    if text is not None:
        file.write_text(text)
    told = sentence_of(ConfigError, read_plan, file)
    assert (re.search(message, told) is not None, str(file) in told) == (True, True), told


def command(data: Path, out: Path, tmp_path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `heatline study` with a plan."""
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    return heatline("study", data, "--out", out, "--plan", file, *options)


def test_missing_data_and_unknown_runs_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has none of the plan's data sets \(blobs\)"):
        study(tmp_path, tmp_path)
    told = "no run of the plan matches --only x; runs have names such as blobs/split/test_eff"
    with pytest.raises(ConfigError, match=told):
        study(data, tmp_path, only=["x"])
    assert [run.name for run in study(data, tmp_path, only=["*/test_v*", "other/*"]).runs] == [SECOND]


def test_the_command_shows_the_progress_works_and_copies_figures_without_paths(data: Path, tmp_path: Path) -> None:
    out, results = tmp_path / "study", tmp_path / "results"
    text = ONE_MODEL.replace("\nsettings:", "\n  - {name: gears, folder: gears}\nsettings:")
    shown = command(data, out, tmp_path, text, "--status")
    assert (shown.returncode, out.exists()) == (0, False)
    assert re.search(rf"^ *{FIRST} +to do", shown.stdout, flags=re.MULTILINE)
    assert "0 of 1 runs are evaluated" in shown.stdout
    assert f"gears is left out: {data} does not have it" in shown.stderr
    worked = command(data, out, tmp_path, text, "--results", str(results), "--json")
    assert [run["state"] for run in json.loads(worked.stdout)["runs"]] == ["evaluated"], worked.stderr
    evaluation = read_evaluation(out / FIRST / "evaluation")
    assert (evaluation.subject.part, len(evaluation.subject.groups)) == ("test", 1)
    expected = msgspec.to_builtins(evaluation)
    expected["subject"]["path"] = FIRST
    found = {str(path.relative_to(results)): path.read_text() for path in results.rglob("*") if path.is_file()}
    assert set(found) == {f"{FIRST}.json", "tables.md"}
    assert json.loads(found[f"{FIRST}.json"]) == json.loads(json.dumps(expected))
    assert found["tables.md"] == (out / "report" / "tables.md").read_text()
    assert not any(str(tmp_path) in text for text in found.values())


def test_a_finished_study_has_all_results_and_is_not_repeated(data: Path, finished: Path) -> None:
    for name in (FIRST, SECOND):
        summary = RunFolder(finished / name).read_summary()
        assert (summary.finished, summary.steps) == (True, 4)
        assert Path(name).name in (finished / "report" / "tables.md").read_text()
    evaluation = read_evaluation(finished / SECOND / "evaluation")
    for name in ("precision", "recall", "f1", "jaccard", "accuracy", "pointing", "pointing_gated"):
        assert evaluation.figures[f"max.{name}"] == pytest.approx(evaluation.figures[f"study.{name}"], abs=1e-4), name
        assert f"min.{name}" in evaluation.figures
    before, lines = times(finished), list[str]()
    assert {run.state for run in work(study(data, finished), lines).runs} == {"evaluated"}
    assert (lines, times(finished)) == ([], before)

    status = work(study(data, finished, PLAN.replace("steps: 4", "steps: 6")))
    assert {run.state for run in status.runs} == {"unlike the plan"}
    assert status.failed[SECOND].startswith("recipe.steps is 6 and was 4 when the run in ")
    assert status.failed[SECOND].endswith(f"delete {finished.resolve() / SECOND}, or choose another --out")
    assert times(finished) == before


def test_an_outdated_evaluation_is_repeated(data: Path, finished: Path) -> None:
    """It is older than its run, of another schema, or damaged."""
    evaluation, lines, on = finished / SECOND / "evaluation" / FILE, list[str](), study(data, finished)
    os.utime(evaluation, ns=(0, 0))
    assert on.status().runs[1].state == "done"
    for content in ('{"schema": 0}', "{"):
        evaluation.write_text(content)
        assert on.status().runs[1].state == "done"
    (evaluation.parent / "old.png").touch()
    work(on, lines)
    assert lines == [f"{SECOND}: evaluating"]
    assert not (evaluation.parent / "old.png").exists()
    assert read_evaluation(evaluation.parent).subject.model == "test_vit"


def test_a_stopped_study_continues_and_leaves_a_run_that_another_works_on(
    data: Path, tmp_path: Path, finished: Path
) -> None:
    """The first run draws its four batches; the second is stopped after its validation at step 2."""
    out, draws, draw, lines = tmp_path / "study", itertools.count(1), BatchSampler.draw, list[str]()

    def draw_or_end(self: BatchSampler, step: int) -> object:
        if next(draws) == 4 + 4:
            signal.raise_signal(signal.SIGINT)
        return draw(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchSampler, "draw", draw_or_end)
        with pytest.raises(Interrupted, match="1 of 2 runs evaluated; continue with the same command"):
            work(study(data, out))
    on = study(data, out)
    assert [run.state for run in on.status().runs] == ["evaluated", "half done"]
    with lock_file(out / "locks" / f"{SECOND}.lock") as ours:
        assert ours
        assert [run.state for run in work(on, lines).runs] == ["evaluated", "half done"]
    before = times(out / FIRST)
    assert {run.state for run in work(on, lines).runs} == {"evaluated"}
    assert (lines[0], times(out / FIRST)) == (f"{SECOND}: continuing", before)
    for run in (FIRST, SECOND):
        assert metrics_of(RunFolder(out / run)) == metrics_of(RunFolder(finished / run))


def test_a_failed_run_does_not_stop_others_and_the_exit_code_is_11(data: Path, tmp_path: Path) -> None:
    """There is no group z to test."""
    text = ONE_MODEL.replace("{truth: masks}", "{truth: masks}, leave_one_out: [z, a, c]")
    fails, works = "blobs/z/test_efficientnet", "blobs/a/test_efficientnet"
    status = work(study(data, tmp_path / "study", text, ["*/z/*", "*/a/*"]))
    assert {run.run: run.state for run in status.runs} == {fails: "to do", works: "evaluated"}
    assert read_evaluation(tmp_path / "study" / works / "evaluation").subject.groups == ["a"]
    failed = command(data, tmp_path / "other", tmp_path, text, "--only", "*/z/*")
    assert failed.returncode == TrainingError.exit_code == 11
    assert f"{fails} failed (there is no group 'z' to split off" in complaint(failed)
    assert "0 of 1 runs are evaluated" in failed.stdout
