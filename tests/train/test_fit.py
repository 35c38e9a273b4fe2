"""Training, from a folder of pictures to a run that can be loaded; small pictures, small tiles, few steps."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import ConfigError, HeatlineError, InputError, Interrupted, TrainingError
from heatline.train.batches import BatchSampler, cosine
from heatline.train.compose import compose
from heatline.train.config import Provenance, RecipeConfig, TrainConfig
from heatline.train.fit import fit
from heatline.train.models.build import choose_precision
from heatline.train.run import RunFolder, load_run
from heatline.train.whole_network import COLUMNS, Budget, MetricsTable, merit, read_metrics
from tests.command import complaint, heatline
from tests.train.blobs import draw_blobs, sort_tiles, write_labels
from tests.train.trained import NAMED_SPLIT, SMALL

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
"""So that another process sums in the same order as this one."""
PLATEAU = ("recipe.schedule=plateau", "recipe.lr=1e-7", "recipe.validate_every=1", "recipe.steps=8")
"""So low a rate that no validation is better than the first, so the schedule lowers it."""


def configured(data: Path, out: Path, *overrides: str) -> TrainConfig:
    split = () if data.name == "tiles" else NAMED_SPLIT
    return compose([f"data={data}", f"out={out}", *SMALL, *split, *overrides])


def weights(run: RunFolder, name: str = "last") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.checkpoints / f"{name}.ckpt", weights_only=True)["state_dict"]
    return state


def assert_same_training(one: RunFolder, other: RunFolder) -> None:
    assert read_metrics(one.metrics) == read_metrics(other.metrics)
    assert_same_weights(one, other)


def assert_same_weights(one: RunFolder, other: RunFolder) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


@pytest.fixture(scope="session")
def run(trained_run: Path) -> RunFolder:
    """An uninterrupted training."""
    return RunFolder(trained_run)


@pytest.fixture(scope="module")
def plateau_run(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fit(configured(blobs, tmp_path_factory.mktemp("plateau") / "whole", *PLATEAU))


def test_a_run_writes_the_documented_files(run: RunFolder) -> None:
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "checkpoints", "config.yaml", "metrics.csv", "run.json",
    ]  # fmt: skip
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    rows = read_metrics(run.metrics)
    assert [row["step"] for row in rows] == [3, 6]
    assert set(rows[0]) == set(COLUMNS)
    assert rows[1]["lr"] == 0
    summary = run.read_summary()
    assert summary.finished
    assert (summary.steps, summary.data, summary.truth) == (6, "blobs", "masks")
    assert summary.groups == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    best = next(row for row in rows if row["step"] == summary.best_step)
    assert summary.val == {name: value for name, value in best.items() if name.startswith("val_")}
    majority = 1 - summary.tiles["val"]["defective"] / sum(summary.tiles["val"].values())
    assert summary.val["val_majority_share"] == pytest.approx(max(majority, 1 - majority))
    assert summary.tiles["train"]["ambiguous"] > 0  # training leaves them out, evaluation does not
    assert summary.seconds > 0
    assert torch.__version__.startswith(summary.versions["torch"])  # which may lack the build, as in 2.13.0+cpu


def test_a_run_is_loaded_with_its_best_weights_its_data_and_its_split(run: RunFolder) -> None:
    loaded = load_run(run.folder)
    assert not loaded.model.training
    assert loaded.model.map_hw == (4, 4)
    best = weights(run, "best")
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, best[f"model.{name}"])
    assert loaded.data.groups() == ["a", "b", "c", "d"]
    assert [image.group for image in loaded.split.images(loaded.data, "val")] == ["c"] * 3
    assert loaded.config.resume is False


def test_the_same_seed_trains_the_same_model_also_where_processes_cut_the_batches(
    run: RunFolder, blobs: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about forking with threads, and more workers than cores
        again = fit(configured(blobs, tmp_path / "run", "trainer.workers=2"))
    assert_same_training(again, run)


def test_the_rate_is_lowered_on_a_plateau(plateau_run: RunFolder) -> None:
    rates = [row["lr"] for row in read_metrics(plateau_run.metrics)]
    assert rates[0] == 1e-7
    assert rates[-1] == pytest.approx(1e-8)


DRAW_OR_DIE = """
import os, signal, sys
from heatline.train.compose import compose
from heatline.train.fit import fit
from heatline.train.batches import BatchSampler

draw, killed_at = BatchSampler.draw, int(sys.argv[1])

def draw_or_die(self, step):
    if step == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(self, step)

BatchSampler.draw = draw_or_die
fit(compose(sys.argv[2:]))
"""


SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}


def interrupt(by: str, step: int, out: Path, overrides: list[str]) -> None:
    """Start a training, and end it after that step."""
    at = step + 1  # batches are drawn one step ahead
    if by == "SIGKILL":
        command = [sys.executable, "-c", DRAW_OR_DIE, str(at), *overrides]
        killed = subprocess.run(command, capture_output=True, env=os.environ | ONE_THREAD, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        return
    draw, as_killed = BatchSampler.draw, out.with_name("as killed")

    def draw_or_end(self: BatchSampler, number: int) -> Any:
        if number == at:
            if by in SIGNALS:
                os.kill(os.getpid(), SIGNALS[by])
            else:
                shutil.copytree(out, as_killed)
                raise RuntimeError("crash")
        return draw(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchSampler, "draw", draw_or_end)
        if by not in SIGNALS:
            with pytest.raises(RuntimeError, match="crash"):
                fit(compose(overrides))
        else:
            before = {number: signal.getsignal(number) for number in SIGNALS.values()}
            with pytest.raises(Interrupted, match=f"resume it with: heatline train out={out} resume=true$") as stopped:
                fit(compose(overrides))
            assert {number: signal.getsignal(number) for number in SIGNALS.values()} == before
            assert stopped.value.exit_code == 130
    if by == "copy":
        shutil.rmtree(out)
        as_killed.rename(out)


@pytest.mark.parametrize(
    ("by", "step", "schedule"),
    [
        ("copy", 4, "cosine"),  # continues with the files of a training that runs, as a kill leaves them
        pytest.param("SIGKILL", 4, "cosine", marks=pytest.mark.long),  # kills a real process between two validations
        ("SIGTERM", 4, "cosine"),
        pytest.param("Ctrl-C", 4, "cosine", marks=pytest.mark.long),
        ("crash", 6, "plateau"),  # resumes from the previous checkpoint
        pytest.param("crash", 1, "cosine", marks=pytest.mark.long),  # before the first checkpoint
        pytest.param("Ctrl-C", 3, "cosine", marks=pytest.mark.long),  # just after a validation
        pytest.param("Ctrl-C", 5, "plateau", marks=pytest.mark.long),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    request: pytest.FixtureRequest, blobs: Path, tmp_path: Path, step: int, by: str, schedule: str
) -> None:
    whole: RunFolder = request.getfixturevalue("run" if schedule == "cosine" else "plateau_run")
    out = tmp_path / "run"
    recipe = () if schedule == "cosine" else PLATEAU
    interrupt(by, step, out, [f"data={blobs}", f"out={out}", *SMALL, *NAMED_SPLIT, *recipe])
    begun = RunFolder(out).read_summary()
    assert not begun.finished
    assert (out / "cache" / "index.json").exists()  # frames are not decoded again
    RunFolder(out).write_summary(msgspec.structs.replace(begun, weights=Provenance("the hub")))
    resumed = fit(compose([f"out={out}", "resume=true"]))
    assert_same_training(resumed, whole)
    summary = resumed.read_summary()
    assert (summary.finished, summary.val) == (True, whole.read_summary().val)
    if step >= 3:  # with a checkpoint, the provenance of the initial weights is stored
        assert summary.weights.source == "the hub"
    assert not (out / "cache").exists()


@pytest.mark.parametrize("step", [4, pytest.param(6, marks=pytest.mark.long)])  # 6: it writes its last checkpoint
def test_a_full_disk_loses_no_file_and_no_step_of_the_training(
    run: RunFolder, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    written, (_, hard) = MetricsTable.on_validation_end, resource.getrlimit(resource.RLIMIT_FSIZE)

    def and_then_the_disk_is_full(self: MetricsTable, trainer: Any, module: Any) -> None:
        written(self, trainer, module)
        if trainer.global_step == step:  # files may not grow, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    monkeypatch.setattr(MetricsTable, "on_validation_end", and_then_the_disk_is_full)
    out = tmp_path / "run"
    try:
        with pytest.raises(TrainingError, match=r"cannot be written .*its previous content is unchanged") as full:
            fit(configured(blobs, out, "recipe.validate_every=2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    monkeypatch.undo()
    assert "\n" not in str(full.value)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step - 2
    resumed = fit(compose([f"out={out}", "resume=true"]))
    assert resumed.read_summary().finished
    assert [row["step"] for row in read_metrics(resumed.metrics)] == [2, 4, 6]
    assert_same_weights(resumed, run)  # validations change no weight


def test_a_finished_run_is_neither_overwritten_nor_trained_again(run: RunFolder, blobs: Path) -> None:
    before = run.last.stat().st_mtime_ns
    again = heatline("train", f"data={blobs}", f"out={run.folder}", *SMALL, *NAMED_SPLIT)
    assert again.returncode == ConfigError.exit_code
    assert "already holds a run; continue it with resume=true, or choose another folder" in complaint(again)
    resumed = heatline("train", f"out={run.folder}", "resume=true", "--json")
    assert resumed.returncode == 0
    assert json.loads(resumed.stdout) == {"run": str(run.folder)} | msgspec.to_builtins(run.read_summary())
    assert f"{run.folder} is already finished" in resumed.stderr
    assert "always the majority" in heatline("train", f"out={run.folder}", "resume=true").stdout
    assert run.last.stat().st_mtime_ns == before


def test_a_finished_run_needs_its_pictures_no_more(run: RunFolder, blobs: Path, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(run.folder, tmp_path / "run"))
    text = copy.config.read_text()
    assert str(blobs) in text
    copy.config.write_text(text.replace(str(blobs), str(tmp_path / "gone")))
    resumed = heatline("train", f"out={copy.folder}", "resume=true")
    assert (resumed.returncode, "is already finished" in resumed.stderr) == (0, True)


def test_the_loss_falls_and_blobs_are_found(blobs: Path, tmp_path: Path) -> None:
    overrides = (
        "model=efficientnet_lite0_d", "model.weights=imagenet", "recipe.steps=16", "recipe.validate_every=8",
        "recipe.lr=0.003",
    )  # fmt: skip
    run = fit(configured(blobs, tmp_path / "run", *overrides))
    rows = read_metrics(run.metrics)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    assert run.read_summary().val["val_ap"] > 0.9
    assert run.read_summary().weights.licence == "Apache-2.0"


def test_good_and_defective_folders_train_by_the_studys_recipe(tmp_path: Path) -> None:
    data = sort_tiles(tmp_path / "tiles")
    small = ["recipe=study", *(item for item in SMALL if item != "recipe=finetune")]
    run = fit(compose([f"data={data}", f"out={tmp_path / 'run'}", *small, "split.fractions=[0.5,0.5,0]"]))
    summary = run.read_summary()
    assert (summary.truth, summary.recipe, summary.groups["test"]) == ("labels", "study", [])
    assert sum(summary.tiles["train"].values()) == sum(summary.tiles["val"].values()) == 12


@pytest.mark.parametrize(
    ("overrides", "kind", "excerpt"),
    [
        (["data=SPOILT"], InputError, "a_0.png is not a picture that can be decoded"),
        (["split.val=[z]"], ConfigError, "there is no group 'z'"),
        (["split.pattern=_(\\d)", "split.val=[2]", "split.test=[]"], TrainingError, "0 are defective"),
        (["split.pattern=_(\\d)", "split.val=[0,1]", "split.test=[]"], TrainingError, "0 are defective"),
        (["model.weights=nowhere.pth"], HeatlineError, "nowhere.pth is not a file"),
        (["trainer.accelerator=abacus"], ConfigError, "Lightning cannot train with accelerator=abacus"),
        (["trainer.precision=3-bit"], ConfigError, "precision=3-bit"),
        (["out=DATA"], ConfigError, "is the data; name a folder"),
        (["out=FILE"], ConfigError, "is a file; name a folder"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_and_leaves_no_run(
    blobs: Path, tmp_path: Path, overrides: list[str], kind: type[HeatlineError], excerpt: str
) -> None:
    (tmp_path / "file").touch()
    places = {"DATA": blobs, "FILE": tmp_path / "file", "SPOILT": tmp_path / "blobs"}
    for name, path in places.items():
        overrides = [item.replace(name, str(path)) for item in overrides]
    if f"data={tmp_path / 'blobs'}" in overrides:
        (draw_blobs(tmp_path / "blobs") / "images" / "a_0.png").write_bytes(b"no picture")
    with pytest.raises(kind) as raised:
        fit(configured(blobs, tmp_path / "run", *overrides))
    assert excerpt in str(raised.value).replace("trainer.", "")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "config.yaml").exists()  # so the corrected command can be given again


@pytest.mark.parametrize("recipe", ["heatline", "finetune"])
@pytest.mark.parametrize(
    ("name", "foreign"), [("cache/notes.txt", "cache/notes.txt"), ("report/report.html", "report"), ("tex", "tex")]
)
def test_a_folder_of_other_things_is_refused_and_left_as_it_was(
    blobs: Path, tmp_path: Path, recipe: str, name: str, foreign: str
) -> None:
    own = tmp_path / "mine" / name
    own.parent.mkdir(parents=True)
    own.write_text("years of work")
    with pytest.raises(ConfigError, match=re.escape(f"mine holds '{foreign}', which no training wrote")):
        fit(compose([f"data={blobs}", f"out={tmp_path / 'mine'}", f"recipe={recipe}"]))
    assert [path.name for path in own.parent.iterdir()] == [own.name]


def test_decoded_frames_of_a_stopped_training_are_no_obstacle(
    run: RunFolder, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("heatline.train.whole_network.BatchSampler", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(configured(blobs, out))
    assert [path.name for path in out.iterdir()] == ["cache"]
    assert_same_weights(fit(configured(blobs, out)), run)
    assert not (out / "cache").exists()


def test_pictures_that_mislead_are_reported(blobs: Path, tmp_path: Path) -> None:
    """A defective picture whose mask is empty."""
    lines: list[str] = []
    fit(configured(blobs, tmp_path / "sound", "recipe.steps=1"), report_line=lines.append)
    assert not any("left out" in line for line in lines)
    data = draw_blobs(tmp_path / "blobs")
    cv2.imwrite(str(data / "masks" / "a_2.png"), np.zeros((150, 200), np.uint8))
    labels = {f"{group}_{n}.png": n < 2 or group == "a" for group in "abcd" for n in range(3)}
    write_labels(data, [(name, "defective" if bad else "good", name[0]) for name, bad in labels.items()])
    fit(configured(data, tmp_path / "run", "recipe.steps=1"), report_line=lines.append)
    assert any("1 picture is left out" in line and "a_2.png" in line for line in lines)


def test_a_loss_that_is_not_finite_ends_the_training_with_advice(blobs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+; lower the learning rate"):
        fit(configured(blobs, tmp_path / "run", "recipe.lr=1e20", "recipe.warmup=0"))


def test_a_folder_that_holds_no_run_or_no_checkpoint_is_not_loaded(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run of `heatline train` \(.*run\.json.*\); name the folder"):
        load_run(tmp_path)
    with pytest.raises(InputError, match=r"nowhere is not a run of `heatline train` \(.*No such file"):
        load_run(tmp_path / "nowhere")
    for name in ("config.yaml", "run.json"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    with pytest.raises(TrainingError, match=r"has no best\.ckpt"):
        load_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(run.best.read_bytes()[:5000])
    with pytest.raises(TrainingError, match="cannot be loaded"):
        load_run(tmp_path)


def test_training_ends_early_without_improvement_and_is_then_finished(blobs: Path, tmp_path: Path) -> None:
    never_better = ("recipe.lr=1e-12", "recipe.steps=40", "recipe.validate_every=2", "recipe.patience=2")
    run = fit(configured(blobs, tmp_path / "run", *never_better, "recipe.warmup=0"))
    summary = run.read_summary()
    assert summary.finished
    assert summary.steps < 40
    rows = read_metrics(run.metrics)
    assert len(rows) - 1 - [row["step"] for row in rows].index(summary.best_step) == 2
    # A killed training resumes from the last validation, not from the best one.
    assert torch.load(run.last, weights_only=True)["global_step"] == summary.steps
    assert torch.load(run.best, weights_only=True)["global_step"] == summary.best_step
    assert not run.cache.exists()


def test_the_best_checkpoint_is_chosen_by_the_metric_of_the_recipe(blobs: Path, tmp_path: Path) -> None:
    """Five is not divisible by three: training continues to the next validation."""
    run = fit(configured(blobs, tmp_path / "run", "recipe.select=accuracy", "recipe.steps=5", "recipe.lr=0.03"))
    rows = read_metrics(run.metrics)
    assert [row["step"] for row in rows] == [3, 6]
    best = max(rows, key=lambda row: (round(row["val_accuracy"], 3), -row["val_loss"]))
    assert run.read_summary().best_step == best["step"]


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_zero() -> None:
    rates = [cosine(step, steps=100, warmup=0.1) for step in range(101)]
    assert rates[0] < 0.1
    assert max(rates) == rates[10] == 1
    assert rates[55] == pytest.approx(0.5, abs=0.01)
    assert rates[100] == pytest.approx(0)
    assert cosine(0, steps=1, warmup=0) == 1


def test_among_equals_in_average_precision_the_lower_loss_is_better() -> None:
    def of(average_precision: float, loss: float) -> float:
        return float(
            merit(torch.tensor(average_precision, dtype=torch.float64), torch.tensor(loss, dtype=torch.float64))
        )

    assert of(0.9999999, 0.01) > of(1.0, 0.02)
    assert of(0.95, 5.0) > of(0.94, 0.01)


def test_bf16_is_used_where_it_is_fast_unless_another_precision_is_set() -> None:
    assert choose_precision("32-true", "auto")[0] == "32-true"
    assert choose_precision("bf16-mixed", "auto")[0] == "bf16-mixed"
    flags = Path("/proc/cpuinfo").read_text()
    fast = "avx512_bf16" in flags or "amx_bf16" in flags
    assert choose_precision("auto", "cpu")[0] == ("bf16-mixed" if fast else "32-true")


@pytest.fixture(scope="module")
def recipe() -> RecipeConfig:
    return compose(["data=x", "recipe=finetune"]).finetune


def test_an_epoch_is_a_pass_over_the_samples_and_is_followed_by_a_validation() -> None:
    study = compose(["recipe=study", "data=x", "recipe.epochs=3"]).recipe
    assert Budget.of(study, samples=65, per_step=32) == Budget(steps=9, validate_every=3)
    in_steps = compose(["recipe=study", "data=x", "recipe.steps=7", "recipe.validate_every=50"]).recipe
    assert in_steps.epochs is None
    assert Budget.of(in_steps, samples=65, per_step=32) == Budget(steps=7, validate_every=7)


@given(steps=st.integers(1, 500), wanted=st.integers(1, 500))
def test_the_last_step_is_followed_by_a_validation(recipe: RecipeConfig, steps: int, wanted: int) -> None:
    budget = Budget.of(msgspec.structs.replace(recipe, steps=steps, validate_every=wanted), samples=100, per_step=10)
    assert budget.steps % budget.validate_every == 0
    assert budget.validate_every <= wanted
    assert steps <= budget.steps < steps + budget.steps // budget.validate_every
