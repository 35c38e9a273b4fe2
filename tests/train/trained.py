"""One tiny CNN, trained once per session: the run that tests of training, search, evaluation and export share."""

import csv
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

import heatline as package
from heatline.edge.bundle import open_bundle
from heatline.edge.wire.events import BundleName
from heatline.train.run import RunFolder
from tests.command import heatline, successful
from tests.train.blobs import draw_blobs

SMALL = (
    "model=test_efficientnet", "model.stride=16", "model.weights=none", "tiles.tile_px=64", "recipe=finetune",
    "recipe.batch=8", "recipe.steps=6", "recipe.validate_every=3", "recipe.jitter_px=20", "trainer.precision=32-true",
)  # fmt: skip
"""Six steps of a network of 100,000 parameters, with maps of 4x4 cells."""
TINY = (
    "tiles.tile_px=64", "recipe.steps=12", "recipe.folds=2", "recipe.jitter_px=20",
    "recipe.synthetic=10", "recipe.copies={defective: 1, most: 20}", "trainer.precision=32-true",
)  # fmt: skip
"""A short training by the recipe `heatline`, on the trunk that a training takes where no other is named."""
LONGER = (
    "tiles.tile_px=64", "recipe.steps=30", "recipe.folds=2", "recipe.jitter_px=20",
    "recipe.copies={defective: 1, most: 20}", "trainer.precision=32-true",
)  # fmt: skip
"""A training whose bundle tells blobs from noise."""
NAMED_SPLIT = ("split.val=[c]", "split.test=[d]")


def metrics_of(run: RunFolder) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.csv."""
    with run.metrics.open(newline="") as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of four groups, with masks and labels.csv. A test that changes pictures draws its own."""
    return draw_blobs(tmp_path_factory.mktemp("pictures") / "blobs")


@pytest.fixture(scope="session")
def trained_run(blobs: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The folder of a finished run, trained from Python. A test that changes it makes a copy."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert package.train_model(blobs, "discover=false", *SMALL, *NAMED_SPLIT, out=out) == out
    return out


@pytest.fixture(scope="session")
def trained_bundle(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's bundle, exported from Python in all precisions; it rejects no good frame of the validation.

    A test that changes it makes a copy.
    """
    target = tmp_path_factory.mktemp("exported") / "blobs"
    return package.export_bundle(trained_run, to=target, version="3", false_reject=0.0)


@pytest.fixture(scope="session")
def tiny_trunk(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Settings for a training with a tiny trunk, whose random weights are the same for every seed."""
    import timm
    import torch

    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet")
    with torch.no_grad():  # sets the averages of batch normalisation
        for _ in range(20):
            network(torch.randn(8, 3, 64, 64))
    file = tmp_path_factory.mktemp("trunk") / "test_efficientnet.pth"
    torch.save(network.state_dict(), file)
    return "model=test_efficientnet", f"model.weights={file}"


@pytest.fixture(scope="session")
def tiny(tiny_trunk: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A short training on the tiny trunk; all of them share a feature cache."""
    return (*TINY, *tiny_trunk, f"features.folder={tmp_path_factory.mktemp('features')}")


class Trained(NamedTuple):
    """A bundle of the recipe `heatline` and its training folder. A test that changes one makes a copy."""

    bundle: Path
    data: Path
    name: BundleName


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_trunk: tuple[str, str], one_thread: None) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    data = draw_blobs(folder / "pictures")
    settings = (*LONGER, *tiny_trunk, f"features.folder={folder / 'features'}")
    successful(heatline("train", data, f"out={folder / 'run'}", *settings))
    options = ("--precision", "f32", "--allow", "map", "--screen")
    successful(heatline("export", folder / "run", "--to", folder / "boards.bundle", *options))
    shutil.rmtree(folder / "run")  # a retraining does not need it
    bundle = open_bundle(folder / "boards.bundle")
    return Trained(bundle.path, data, BundleName(name="boards", version="1", digest=bundle.digest))
