"""A study: its plan, and runs that are trained, evaluated and reported once, also after interruptions.

Trainings are real and tiny. Tests that are not about evaluations use a stand-in for them.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
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
from tests.train.blobs import GROUPS

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
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


def plan(text: str = PLAN) -> Plan:
    return msgspec.yaml.decode(text, type=Plan)


def work(study: Study, lines: list[str] | None = None, evaluate: Callable[..., None] = evaluate) -> StudyStatus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heatline.train.study.evaluate_model", evaluate)
        patch.setattr("heatline.train.study.write_report", report)
        return study.work(None, [].append if lines is None else lines.append)


def states(status: StudyStatus) -> dict[str, str]:
    return {run.run: run.state for run in status.runs}


def checkpoints(out: Path) -> dict[str, int]:
    """Return the time of each checkpoint of a folder."""
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in sorted(out.rglob("*.ckpt"))}


@pytest.fixture(scope="module")
def data(blobs: Path) -> Path:
    return blobs.parent


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study that was not interrupted."""
    out = tmp_path_factory.mktemp("finished") / "study"
    status = work(Study(plan(), data, out))
    assert set(states(status).values()) == {"evaluated"}
    assert status.failed == {}
    return out


# The plan.


def test_the_shipped_plan_runs_every_model_on_the_first_folds_first() -> None:
    runs = read_plan(DEFAULT_PLAN).runs()
    folds = [name.rpartition("/")[0] for name in (run.name for run in runs)][::3]
    assert folds == [
        "magnetic_tile/split", "bsdata/split", "deeppcb/split", "hripcb/10",
        "hripcb/12", "hripcb/01", "hripcb/04", "hripcb/07", "hripcb/08",
    ]  # fmt: skip
    models = ["efficientnet_lite0_d", "mobilenetv3_large_d", "vit_tiny_patch16_224"]
    assert [run.model.name for run in runs] == models * len(folds)
    assert {run.settings["recipe.steps"] for run in runs} == {200}


def test_a_run_is_configured_by_the_plan(tmp_path: Path) -> None:
    runs = read_plan(DEFAULT_PLAN).runs()
    configs = {run.name: compose(run.overrides(tmp_path, tmp_path / "it's")) for run in (runs[6], runs[-1])}
    pcb, board = configs["deeppcb/split/efficientnet_lite0_d"], configs["hripcb/08/vit_tiny_patch16_224"]
    assert (pcb.split.pattern, pcb.split.fractions, pcb.truth) == ("^(.{5})", [0.7, 0.1, 0.2], "boxes")
    assert (board.data, board.out) == (str(tmp_path / "hripcb_subset"), f"{tmp_path}/it's/hripcb/08/{board.model.name}")
    assert (board.split.group, board.split.val, board.split.test) == ("board", ["10"], ["08"])
    assert (board.recipe.steps, board.recipe.batch, board.recipe.validate_every) == (200, 32, 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("settings:", "setting:"), "unknown field `setting`"),
        (("[0.5,", "0.5,"), "is not a plan"),
        (None, "is not a plan: .*No such file"),
    ],
)
def test_a_broken_plan_is_refused_in_one_sentence(tmp_path: Path, change: tuple[str, str] | None, message: str) -> None:
    file = tmp_path / "plan.yaml"
    if change is not None:
        assert change[0] in PLAN
        file.write_text(PLAN.replace(*change))
    with pytest.raises(ConfigError, match=message) as raised:
        read_plan(file)
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)


def test_every_key_of_a_plan_is_documented() -> None:
    text = (ROOT / "docs" / "study.md").read_text()
    documented = set(re.findall(r"^\| `([a-z_.]+)` \|", text, flags=re.MULTILINE))
    exist = set()
    for field in msgspec.structs.fields(Plan):
        inside = msgspec.inspect.type_info(field.type)
        struct = getattr(getattr(inside, "item_type", inside), "cls", None)
        exist |= {field.name} if struct is None else {f"{field.name}.{key}" for key in struct.__struct_fields__}
    assert documented >= exist
    assert {key for key in documented if key.split(".")[0] in Plan.__struct_fields__} == exist


# Data and status.


def command(data: Path, out: Path, tmp_path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `heatline study` with a plan."""
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    return heatline("study", data, "--out", out, "--plan", file, *options)


def test_missing_data_and_unknown_runs_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has none of the plan's data sets \(blobs\)"):
        Study(plan(), tmp_path, tmp_path)
    with pytest.raises(
        ConfigError, match="no run of the plan matches --only x; runs have names such as blobs/split/test_eff"
    ):
        Study(plan(), data, tmp_path, ["x"])
    assert [run.name for run in Study(plan(), data, tmp_path, ["*/test_v*", "other/*"]).runs] == [SECOND]


def test_the_status_prints_the_progress_and_does_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shown = command(data, out, tmp_path, PLAN, "--status")
    assert shown.returncode == 0
    assert re.search(rf"^ *{FIRST} +to do", shown.stdout, flags=re.MULTILINE)
    assert "0 of 2 runs are evaluated" in shown.stdout
    assert not out.exists()
    more = PLAN.replace("\nsettings:", "\n  - {name: gears, folder: gears}\nsettings:")
    shown = command(data, out, tmp_path, more, "--status", "--json")
    assert [run["state"] for run in json.loads(shown.stdout)["runs"]] == ["to do", "to do"]
    assert f"gears is left out: {data} does not have it" in shown.stderr


# Work.


def test_a_finished_study_has_all_results_and_is_not_repeated(data: Path, finished: Path) -> None:
    for name in (FIRST, SECOND):
        run = RunFolder(finished / name)
        assert (run.read_summary().finished, run.read_summary().steps) == (True, 4)
        assert (run.folder / "evaluation" / FILE).exists()
    assert (finished / "report" / "tables.md").read_text().splitlines() == [FIRST, SECOND]
    before = checkpoints(finished)
    evaluations = {file: file.stat().st_mtime_ns for file in finished.rglob(FILE)}
    lines: list[str] = []
    assert set(states(work(Study(plan(), data, finished), lines)).values()) == {"evaluated"}
    assert lines == []
    assert checkpoints(finished) == before
    assert {file: file.stat().st_mtime_ns for file in finished.rglob(FILE)} == evaluations


@pytest.mark.parametrize("why", ["the run is newer", "the schema is old", "it is damaged"])
def test_an_outdated_evaluation_is_repeated(data: Path, finished: Path, why: str) -> None:
    evaluation = finished / SECOND / "evaluation" / FILE
    if why == "the run is newer":
        os.utime(evaluation, ns=(0, 0))
    else:
        evaluation.write_text('{"schema": 0}' if why == "the schema is old" else "{")
    (evaluation.parent / "old.png").touch()
    study = Study(plan(), data, finished)
    assert states(study.status())[SECOND] == "done"
    lines: list[str] = []
    work(study, lines)
    assert lines == [f"{SECOND}: evaluating"]
    assert json.loads(evaluation.read_text()) == {"schema": SCHEMA}
    assert not (evaluation.parent / "old.png").exists()


def test_a_crashed_study_continues_and_ends_with_the_same_runs(data: Path, tmp_path: Path, finished: Path) -> None:
    """The first run draws its four batches; the second crashes after its validation at step 2."""
    out, draws, draw = tmp_path / "study", iter(range(1000)), BatchSampler.draw

    def draw_or_crash(self: BatchSampler, step: int) -> object:
        if next(draws) == 4 + 3:
            raise RuntimeError("crash")
        return draw(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchSampler, "draw", draw_or_crash)
        with pytest.raises(RuntimeError, match="crash"):
            work(Study(plan(), data, out))
    study = Study(plan(), data, out)
    first, second = study.status().runs
    assert first.state == "evaluated"
    assert (second.state, second.steps) == ("half done", 2)
    before = checkpoints(out / first.run)
    lines: list[str] = []
    status = work(study, lines)
    assert set(states(status).values()) == {"evaluated"}
    assert lines[0] == f"{second.run}: continuing"
    assert checkpoints(out / first.run) == before
    for run in (first.run, second.run):
        assert read_metrics(RunFolder(out / run).metrics) == read_metrics(RunFolder(finished / run).metrics)
    assert status.report == str(out / "report")


def test_ctrl_c_ends_a_study_in_good_order(data: Path, tmp_path: Path) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    study = Study(plan(ONE_MODEL), data, tmp_path / "study")
    with pytest.raises(
        Interrupted, match="stopped with 0 of 1 runs evaluated; continue with the same command"
    ) as raised:
        work(study, evaluate=interrupt)
    assert raised.value.exit_code == 130
    (run,) = study.status().runs
    assert run.state == "done"


def test_a_failed_run_does_not_stop_others_and_the_exit_code_is_11(data: Path, tmp_path: Path) -> None:
    """There is no group z to test."""
    text = ONE_MODEL.replace("{truth: masks}", "{truth: masks}, leave_one_out: [z, a, c]")
    fails, works = "blobs/z/test_efficientnet", "blobs/a/test_efficientnet"
    lines: list[str] = []
    status = work(Study(plan(text), data, tmp_path / "study", ["*/z/*", "*/a/*"]), lines)
    assert states(status) == {fails: "to do", works: "evaluated"}
    assert status.failed[fails].startswith("there is no group 'z' to split off")
    assert f"{fails}: failed: {status.failed[fails]}" in lines
    assert (tmp_path / "study" / "report" / "tables.md").read_text() == works
    failed = command(data, tmp_path / "other", tmp_path, text, "--only", "*/z/*")
    assert failed.returncode == TrainingError.exit_code == 11
    assert f"{fails} failed (there is no group 'z'" in complaint(failed)
    assert "0 of 1 runs are evaluated" in failed.stdout


def test_a_run_with_other_settings_is_reported_and_not_changed(data: Path, finished: Path) -> None:
    before = checkpoints(finished)
    status = work(Study(plan(PLAN.replace("steps: 4", "steps: 6")), data, finished))
    assert set(states(status).values()) == {"unlike the plan"}
    assert status.failed[SECOND].startswith("recipe.steps is 6 and was 4 when the run in ")
    assert status.failed[SECOND].endswith(f"delete {finished.resolve() / SECOND}, or choose another --out")
    assert checkpoints(finished) == before


def test_a_run_that_another_process_works_on_is_skipped(data: Path, tmp_path: Path) -> None:
    study = Study(plan(), data, tmp_path / "study", [SECOND])
    with lock_file(tmp_path / "study" / "locks" / f"{SECOND}.lock") as ours:
        assert ours
        lines: list[str] = []
        (run,) = work(study, lines).runs
    assert (run.state, lines) == ("to do", [])


# The whole command.


def test_figures_are_copied_without_pictures_and_without_paths(data: Path, tmp_path: Path) -> None:
    out, results = tmp_path / "study", tmp_path / "results"
    shown = command(data, out, tmp_path, ONE_MODEL, "--results", str(results), "--json")
    assert shown.returncode == 0, shown.stderr
    status = json.loads(shown.stdout)
    assert [run["state"] for run in status["runs"]] == ["evaluated"]
    assert status["report"] == str(out / "report")
    assert sorted(str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()) == [
        f"{FIRST}.json", "tables.md",
    ]  # fmt: skip
    copied = msgspec.json.decode((results / f"{FIRST}.json").read_bytes())
    assert str(tmp_path) not in json.dumps(copied)
    evaluation = read_evaluation(out / FIRST / "evaluation")
    assert (evaluation.subject.part, evaluation.truth) == ("test", "masks")
    assert len(evaluation.subject.groups) == 1
    assert set(evaluation.subject.groups) < set(GROUPS)
    expected = msgspec.to_builtins(evaluation)
    expected["subject"]["path"] = FIRST
    assert copied == json.loads(json.dumps(expected))
    tables = (results / "tables.md").read_text()
    assert tables == (out / "report" / "tables.md").read_text()
    assert "test_efficientnet" in tables
    assert str(tmp_path) not in tables
    assert (out / "report" / "report.html").exists()
