"""`heatline bench training`, on small pictures and tiles."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import bench.training
from bench.command import bench as command
from bench.spread import Spread
from bench.training import measure_training
from edge.errors import ConfigError
from tests.train.blobs import draw_blobs
from train.batches import Batch, TrainingBatches
from train.classifier import ClassifierTraining
from train.config import TrainConfig, compose

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("tiles.tile_px=64", "recipe.batch=8", "split.val=[c]", "split.test=[d]", "trainer.accelerator=cpu")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_blobs(tmp_path_factory.mktemp("bench") / "blobs")


def configured(data: Path, out: Path, *overrides: str) -> TrainConfig:
    return compose([f"data={data}", f"out={out}", *SMALL, *overrides])


class Clock:
    """Stands still but for what is charged to it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def charge(self, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, seconds: float) -> None:
        """Let every call of that method take so long."""
        done = getattr(kind, name)

        def charged(*arguments: Any) -> Any:
            self.now_s += seconds
            return done(*arguments)

        monkeypatch.setattr(kind, name, charged)


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_the_time_of_drawing_is_counted_for_real_batches_and_for_them_alone(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """A batch takes 1 s to draw and a step 3 s. Lightning draws one batch ahead, which must not blur the two kinds."""
    clock = Clock()
    monkeypatch.setattr(bench.training, "perf_counter", clock)
    clock.charge(monkeypatch, TrainingBatches, "batch", 1)
    clock.charge(monkeypatch, ClassifierTraining, "training_step", 3)
    config = configured(blobs, tmp_path / "run", f"recipe.schedule={schedule}")
    found = measure_training(config, steps=2, repetitions=2)
    assert found.runs == [{"real": 8 / 4, "random": 8 / 3}] * 2
    assert found.real_tiles_per_s == Spread(2, 2, 2)
    assert found.real_to_random == Spread(0.75, 0.75, 0.75)
    assert found.drawing_ms_per_batch == 1000
    assert found.tiles_per_batch == 8
    assert (found.model, found.data, found.device) == ("efficientnet_lite0_d", "blobs", "cpu")
    assert 0 < found.drawing_shares["augment"] < 1
    assert list(found.drawing_shares.values()) == sorted(found.drawing_shares.values(), reverse=True)
    assert not (tmp_path / "run").exists()


def test_both_kinds_are_stepped_on_alike_and_only_real_ones_show_pictures(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped: list[Batch] = []
    step = ClassifierTraining.training_step

    def noted(self: ClassifierTraining, batch: Batch, batch_idx: int) -> Tensor:
        stepped.append(batch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ClassifierTraining, "training_step", noted)
    found = measure_training(configured(blobs, tmp_path / "run"), steps=1, repetitions=2)
    looks_random = [abs(float(batch.tiles.float().std()) - 73.9) < 1 for batch in stepped]  # 256 / sqrt(12)
    timed = [kind for kind in (False, True) * 2 for _ in range(3)]  # settle, the timed one, one before the next block
    assert looks_random == [True] * bench.training.WARM_UP_STEPS + [True] * 2 + timed
    assert {batch.tiles.shape for batch in stepped} == {torch.Size([8, 64, 64, 3])}
    assert {float(batch.labels.mean()) for batch in stepped} == {float(stepped[0].labels.mean())}
    for run in found.runs:
        assert min(run.values()) > 0
    assert found.real_to_random.lowest <= found.real_to_random.median <= found.real_to_random.highest


@pytest.mark.long
def test_the_command_prints_one_json_object_or_a_table(blobs: Path, tmp_path: Path) -> None:
    """The first on tiles, the second on bags, whose batches differ in size."""
    asked = ["training", f"data={blobs}", *SMALL, "--steps", "1", "--repetitions", "1"]
    out = tmp_path / "training.json"
    done = CliRunner().invoke(command, [*asked, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert json.loads(out.read_text()) == found
    assert found["machine"]["cores"] >= 1
    assert found["runs"][0]["real"] == found["real_tiles_per_s"]["median"]
    shown = CliRunner().invoke(command, [*asked, "truth=labels", "recipe.bags=2"])
    assert shown.exit_code == 0, shown.output
    for name in ("real batches", "random tensors", "real / random", "drawing a batch"):
        assert name in shown.stdout


def test_what_training_refuses_is_refused(blobs: Path) -> None:
    for overrides, says in (([], "data is missing"), ([f"data={blobs}", "trainer.precision=f7"], "cannot train with")):
        done = CliRunner().invoke(command, ["training", *overrides, *SMALL[:4]])
        assert isinstance(done.exception, ConfigError)
        assert says in str(done.exception)
