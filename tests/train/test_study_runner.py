"""A study: its plan, and runs that are trained, evaluated and reported once, also after interruptions.

Trainings are real and tiny. Tests that are not about evaluations use a stand-in for them.
"""

import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from heatline.edge.errors import ConfigError, InputError, Interrupted, TrainingError
from heatline.train.batches import BatchSampler
from heatline.train.compose import compose
from heatline.train.evaluation.result import FILE, SCHEMA, read_evaluation
from heatline.train.files import lock_file
from heatline.train.progress import Track
from heatline.train.run import RunFolder
from heatline.train.study import DEFAULT_PLAN, Plan, Study, StudyStatus, read_plan
from heatline.train.whole_network import read_metrics
from tests.command import complaint, heatline

pytestmark = pytest.mark.usefixtures("one_thread")
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


def evaluate(run: Path, data: Path, *, part: str, folder: Path, track: Track) -> None:
    """Stand in for an evaluation."""
    assert RunFolder(run).read_summary().finished
    (folder / FILE).write_text(json.dumps({"schema": SCHEMA}))


def report(folders: Sequence[Path], out: Path, title: str, *, study: bool) -> None:
    """Stand in for a report."""
    out.mkdir(exist_ok=True)
    (out / "tables.md").write_text("\n".join("/".join(folder.parts[-4:-1]) for folder in folders))


def study(data: Path, out: Path, text: str = PLAN, only: Sequence[str] = ()) -> Study:
    return Study(msgspec.yaml.decode(text, type=Plan), data, out, only)


def work(on: Study, lines: list[str] | None = None) -> StudyStatus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heatline.train.study.evaluate_model", evaluate)
        patch.setattr("heatline.train.study.write_report", report)
        return on.work(None, [].append if lines is None else lines.append)


def times(out: Path) -> dict[Path, int]:
    """Return the time of each checkpoint and evaluation of a folder."""
    files = (*out.rglob("*.ckpt"), *out.rglob(FILE))
    return {file: file.stat().st_mtime_ns for file in files}


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
    file = tmp_path / "plan.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        read_plan(file)
    assert ("\n" in str(raised.value), str(file) in str(raised.value)) == (False, True)


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
    assert (finished / "report" / "tables.md").read_text().splitlines() == [FIRST, SECOND]
    before, lines = times(finished), list[str]()
    assert {run.state for run in work(study(data, finished), lines).runs} == {"evaluated"}
    assert (lines, times(finished)) == ([], before)

    status = work(study(data, finished, PLAN.replace("steps: 4", "steps: 6")))
    assert {run.state for run in status.runs} == {"unlike the plan"}
    assert status.failed[SECOND].startswith("recipe.steps is 6 and was 4 when the run in ")
    assert status.failed[SECOND].endswith(f"delete {finished.resolve() / SECOND}, or choose another --out")
    assert times(finished) == before


@pytest.mark.parametrize("content", [None, '{"schema": 0}', "{"])
def test_an_outdated_evaluation_is_repeated(data: Path, finished: Path, content: str | None) -> None:
    """It is older than its run, of another schema, or damaged."""
    evaluation, lines = finished / SECOND / "evaluation" / FILE, list[str]()
    if content is None:
        os.utime(evaluation, ns=(0, 0))
    else:
        evaluation.write_text(content)
    (evaluation.parent / "old.png").touch()
    work(study(data, finished), lines)
    assert lines == [f"{SECOND}: evaluating"]
    assert [file.name for file in evaluation.parent.iterdir()] == [FILE], "old pictures are deleted"
    assert json.loads(evaluation.read_text()) == {"schema": SCHEMA}


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
    assert lines[0] == f"{SECOND}: continuing"
    assert times(out / FIRST) == before
    for run in (FIRST, SECOND):
        assert read_metrics(RunFolder(out / run).metrics) == read_metrics(RunFolder(finished / run).metrics)


def test_a_failed_run_does_not_stop_others_and_the_exit_code_is_11(data: Path, tmp_path: Path) -> None:
    """There is no group z to test."""
    text = ONE_MODEL.replace("{truth: masks}", "{truth: masks}, leave_one_out: [z, a, c]")
    fails, works = "blobs/z/test_efficientnet", "blobs/a/test_efficientnet"
    status = work(study(data, tmp_path / "study", text, ["*/z/*", "*/a/*"]))
    assert {run.run: run.state for run in status.runs} == {fails: "to do", works: "evaluated"}
    assert (tmp_path / "study" / "report" / "tables.md").read_text() == works
    failed = command(data, tmp_path / "other", tmp_path, text, "--only", "*/z/*")
    assert failed.returncode == TrainingError.exit_code == 11
    assert f"{fails} failed (there is no group 'z' to split off" in complaint(failed)
    assert "0 of 1 runs are evaluated" in failed.stdout
