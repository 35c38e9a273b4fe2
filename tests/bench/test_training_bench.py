"""`heatline bench training`, on small pictures and tiles."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bench.training
from bench.spread import Spread
from bench.training import measure_training
from tests.train.blobs import draw_blobs
from train.batches import Batch, TrainingBatches
from train.classifier import ClassifierTraining
from train.compose import compose

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = (
    "recipe=finetune", "tiles.tile_px=64", "recipe.batch=8", "split.val=[c]", "split.test=[d]",
    "trainer.accelerator=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_blobs(tmp_path_factory.mktemp("bench") / "blobs")


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [("cosine", 1), *(pytest.param(one, 2, marks=pytest.mark.long) for one in ("cosine", "plateau"))],
)
def test_drawing_counts_for_real_batches_only_and_both_kinds_are_stepped_on_alike(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, steps: int
) -> None:
    """By a clock on which a batch takes 1 s to draw and a step 3 s. Lightning draws one batch ahead, which must not
    blur the two kinds.
    """
    now_s = 0.0
    stepped: list[Batch] = []
    draw, step = TrainingBatches.batch, ClassifierTraining.training_step

    def drawn(*arguments: Any) -> Any:
        nonlocal now_s
        now_s += 1
        return draw(*arguments)

    def noted(self: ClassifierTraining, batch: Batch, batch_idx: int) -> Tensor:
        nonlocal now_s
        now_s += 3
        stepped.append(batch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(bench.training, "perf_counter", lambda: now_s)
    monkeypatch.setattr(TrainingBatches, "batch", drawn)
    monkeypatch.setattr(ClassifierTraining, "training_step", noted)
    config = compose([f"data={blobs}", f"out={tmp_path / 'run'}", *SMALL, f"recipe.schedule={schedule}"])
    found = measure_training(config, steps=steps, repetitions=2)
    assert found.runs == [{"real": 8 / 4, "random": 8 / 3}] * 2
    assert (found.real_tiles_per_s, found.real_to_random) == (Spread(2, 2, 2), Spread(0.75, 0.75, 0.75))
    assert (found.drawing_ms_per_batch, found.tiles_per_batch) == (1000, 8)
    assert 0 < found.drawing_shares["augment"] < 1
    looks_random = [abs(float(batch.tiles.float().std()) - 73.9) < 1 for batch in stepped]  # 256 / sqrt(12)
    assert len(set(looks_random)) == 2
    assert {batch.tiles.shape for batch in stepped} == {torch.Size([8, 64, 64, 3])}
    assert {float(batch.labels.mean()) for batch in stepped} == {float(stepped[0].labels.mean())}
    assert not (tmp_path / "run").exists()
