"""One tiny CNN, trained once per session: the run that tests of training, search, evaluation and export share."""

from pathlib import Path

import pytest

from tests.command import heatline
from tests.train.blobs import draw_blobs

SMALL = (
    "model=test_efficientnet", "model.stride=16", "model.weights=none", "tiles.tile_px=64", "recipe=finetune",
    "recipe.batch=8", "recipe.steps=6", "recipe.validate_every=3", "recipe.jitter_px=20", "trainer.precision=32-true",
)  # fmt: skip
"""Six steps of a network of 100,000 parameters, with maps of 4x4 cells."""
NAMED_SPLIT = ("split.val=[c]", "split.test=[d]")


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of four groups, with masks and labels.csv. Tests that change them draw their own."""
    return draw_blobs(tmp_path_factory.mktemp("pictures") / "blobs")


@pytest.fixture(scope="session")
def trained_run(blobs: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The folder of the finished run that `heatline train` leaves. Tests that change it copy it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    done = heatline("train", f"data={blobs}", f"out={out}", *SMALL, *NAMED_SPLIT, "--json")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def trained_bundle(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's bundle, as `heatline export` makes it, of f32 only. Tests that change it copy it."""
    bundle = tmp_path_factory.mktemp("exported") / "blobs"
    done = heatline("export", trained_run, "--to", bundle, "--precision", "f32", "--json")
    assert done.returncode == 0, done.stderr
    return bundle
