"""A study: its plan, and runs that are trained, evaluated and reported once, also after interruptions.

Trainings are real and tiny. Tests that are not about evaluations use a stand-in for them.
"""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import msgspec
import pytest

from heatline.edge.errors import ConfigError, InputError, Interrupted, TrainingError
from heatline.train.batches import BatchSampler
from heatline.train.compose import compose, read_config
from heatline.train.evaluation.result import FILE, SCHEMA, read_evaluation
from heatline.train.files import is_locked, lock_file
from heatline.train.run import RunFolder
from heatline.train.study import (
    DEFAULT_PLAN,
    Plan,
    Progress,
    Study,
    StudyStatus,
    describe_remaining,
    format_duration,
    lock_path,
    read_plan,
)
from heatline.train.whole_network import read_metrics
from tests.command import complaint, heatline
from tests.train.blobs import GROUPS

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
PLAN = """
budget: {steps: 4, batch: 4, validate_every: 2}
fractions: [0.5, 0.25, 0.25]
models:
  - {name: test_efficientnet, weights: none}
  - {name: test_vit, weights: none}
data:
  - {name: blobs, folder: blobs, truth: masks}
settings: {tiles.tile_px: 64, recipe.jitter_px: 20, trainer.precision: 32-true}
"""
ONE_MODEL = PLAN.replace("  - {name: test_vit, weights: none}\n", "")
FIRST, SECOND = "blobs/split/test_efficientnet", "blobs/split/test_vit"


def evaluate(run: Path, data: Path, folder: Path) -> None:
    """Stand in for an evaluation."""
    assert RunFolder(run).read_summary().finished
    (folder / FILE).write_text(json.dumps({"schema": SCHEMA}))


def report(folders: Sequence[Path], out: Path, title: str) -> None:
    """Stand in for a report."""
    out.mkdir(exist_ok=True)
    (out / "tables.md").write_text("\n".join("/".join(folder.parts[-4:-1]) for folder in folders))


def plan(text: str = PLAN) -> Plan:
    return msgspec.yaml.decode(text, type=Plan)


def work(study: Study, lines: list[str] | None = None) -> StudyStatus:
    return study.work(report_line=[].append if lines is None else lines.append, evaluate=evaluate, report=report)


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
    assert {run.steps for run in runs} == {200}


def test_a_run_is_configured_by_the_plan(tmp_path: Path) -> None:
    runs = read_plan(DEFAULT_PLAN).runs()
    configs = {run.name: compose(run.overrides(tmp_path, tmp_path / "it's", "none")) for run in (runs[6], runs[-1])}
    pcb, board = configs["deeppcb/split/efficientnet_lite0_d"], configs["hripcb/08/vit_tiny_patch16_224"]
    assert (pcb.split.pattern, pcb.split.fractions, pcb.truth) == ("^(.{5})", [0.7, 0.1, 0.2], "boxes")
    assert (board.data, board.out) == (str(tmp_path / "hripcb_subset"), f"{tmp_path}/it's/hripcb/08/{board.model.name}")
    assert (board.split.group, board.split.val, board.split.test) == ("board", ["10"], ["08"])
    assert (board.recipe.steps, board.recipe.batch, board.recipe.validate_every) == (200, 32, 100)
    assert [
        run.describe_difference(config) for run, config in zip((runs[6], runs[-1]), configs.values(), strict=True)
    ] == [None] * 2
    assert (
        runs[0].describe_difference(board)
        == "model is efficientnet_lite0_d in the plan and was vit_tiny_patch16_224 in the training"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("fractions:", "fraction:"), "unknown field `fraction`"),
        (("test_vit", "test_efficientnet"), "models has test_efficientnet twice"),
        (("name: blobs", "name: report"), "cannot be called report"),
        (("truth: masks", "leave_one_out: [a, b, a]"), "leave_one_out of blobs has a twice"),
        (("truth: masks", "group: group, pattern: '(.)'"), "group and pattern; expected one of them"),
        (("trainer.precision", "recipe.batch"), "settings has recipe.batch, which the study sets itself"),
        (
            ("fractions:", "recipe: heatline\nfractions:"),
            "recipe is heatline, and a study trains whole networks; choose",
        ),
        (("[0.5,", "0.5,"), "is not a plan"),
        (None, "cannot be read"),
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
    with pytest.raises(InputError, match="nowhere is not a folder; name the folder of the data sets"):
        Study(plan(), tmp_path / "nowhere", tmp_path)
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
    assert "0 of 2 runs are evaluated; remaining: 2 to train (time not known), 2 to evaluate" in shown.stdout
    assert not out.exists()
    more = PLAN.replace("settings:", "  - {name: gears, folder: gears}\nsettings:")
    shown = command(data, out, tmp_path, more, "--status", "--json")
    assert [run["state"] for run in json.loads(shown.stdout)["runs"]] == ["to do", "to do"]
    assert f"gears is left out: {data} does not have it" in shown.stderr


def progress(run: str, state: str, steps: int = 0, seconds: float | None = None, model: str | None = None) -> Progress:
    fields = {"run": run, "model": model or run, "state": state, "steps": steps, "of_steps": 200, "seconds": seconds}
    return msgspec.convert(fields, Progress)


def test_remaining_time_is_estimated_from_trained_runs_of_the_same_model_or_of_all() -> None:
    todo = [
        progress("a", "to do"),
        progress("b", "half done", 150),
        progress("c", "to do"),
        progress("d", "done", 200, 600),
    ]
    known = [("a", 100.0), ("a", 300.0), ("b", 4000.0)]
    done = [progress(f"{model}{s}", "done", 200, s, model) for model, s in known]
    assert format_duration(200 + 1000 + 1250) == "41 min"
    assert describe_remaining(todo, [*todo, *done]) == "3 to train (about 41 min), 4 to evaluate"
    assert describe_remaining([progress("a", "unlike the plan")], []) == "1 unlike the plan"
    assert describe_remaining([progress("a", "evaluated")], []) == "nothing"
    assert [format_duration(seconds) for seconds in (4, 61, 3540, 9725)] == ["4 s", "1 min", "59 min", "2 h 42 min"]


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
    assert (first.state, first.at_work) == ("evaluated", False)
    assert (second.state, second.steps, second.at_work) == ("half done", 2, False)
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
    def interrupt(run: Path, data: Path, folder: Path) -> None:
        raise KeyboardInterrupt

    study = Study(plan(ONE_MODEL), data, tmp_path / "study")
    with pytest.raises(
        Interrupted, match="stopped with 0 of 1 runs evaluated; continue with the same command"
    ) as raised:
        study.work(evaluate=interrupt, report=report)
    assert raised.value.exit_code == 130
    (run,) = study.status().runs
    assert (run.state, run.at_work) == ("done", False)


def test_a_failed_run_does_not_stop_others_and_the_exit_code_is_11(data: Path, tmp_path: Path) -> None:
    """There is no group z to test."""
    text = ONE_MODEL.replace("truth: masks", "truth: masks, leave_one_out: [z, a, c]")
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
    assert "0 of 1 runs are evaluated; remaining: 1 to train (time not known), 1 to evaluate" in failed.stdout


def test_a_run_with_other_settings_is_reported_and_not_changed(data: Path, finished: Path) -> None:
    before = checkpoints(finished)
    status = work(Study(plan(PLAN.replace("steps: 4", "steps: 6")), data, finished))
    assert set(states(status).values()) == {"unlike the plan"}
    assert status.remaining == "2 unlike the plan"
    assert status.failed[SECOND] == (
        "recipe.steps is 6 in the plan and was 4 in the training; "
        f"delete {finished.resolve() / SECOND}, or choose another --out"
    )
    assert checkpoints(finished) == before
    elsewhere = Study(plan(PLAN.replace("trainer.precision: 32-true", "trainer.workers: 1")), data, finished)
    assert set(states(elsewhere.status()).values()) == {"evaluated"}


def test_a_run_that_another_process_works_on_is_skipped(data: Path, tmp_path: Path) -> None:
    study = Study(plan(), data, tmp_path / "study", [SECOND])
    lock = lock_path(study.runs[0], tmp_path / "study")
    assert not is_locked(lock)
    with lock_file(lock) as ours:
        assert ours
        lines: list[str] = []
        (run,) = work(study, lines).runs
    assert (run.state, run.at_work, lines) == ("to do", True, [])
    assert not study.status().runs[0].at_work


# Weights.


LEFT_OUT = ONE_MODEL.replace(", weights: none", "").replace("truth: masks", "truth: masks, leave_one_out: [a, b, c]")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("no_hub")
def test_without_imagenet_weights_a_model_starts_at_random_in_all_its_runs(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    out = tmp_path / "study"
    assert work(Study(plan(LEFT_OUT), data, out, ["*/[ab]/*"]), lines).failed == {}
    (warning,) = [line for line in lines if "RANDOM START" in line]
    assert warning.startswith("blobs/a/test_efficientnet: RANDOM START, as will be all runs of test_efficientnet: ")
    assert "cannot be downloaded from timm/" in warning
    for fold in "ab":
        run = RunFolder(out / "blobs" / fold / "test_efficientnet")
        assert read_config(run.config).model.weights == "none"
        assert run.read_summary().weights.source == "random"
    assert {run.weights for run in Study(plan(LEFT_OUT), data, out, ["*/[ab]/*"]).status().runs} == {"random"}


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
    assert (evaluation.subject.part, [truth.truth for truth in evaluation.truths]) == ("test", ["masks"])
    assert len(evaluation.subject.groups) == 1
    assert set(evaluation.subject.groups) < set(GROUPS)
    expected = msgspec.to_builtins(evaluation)
    expected["subject"]["path"] = FIRST
    assert expected["gallery"]
    expected["gallery"] = []
    assert copied == json.loads(json.dumps(expected))
    tables = (results / "tables.md").read_text()
    assert tables == (out / "report" / "tables.md").read_text()
    assert "test_efficientnet" in tables
    assert str(tmp_path) not in tables
    assert (out / "report" / "report.html").exists()
