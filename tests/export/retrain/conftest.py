"""A bundle whose line has a systematic false alarm: its defects are dark blobs, and it also rejects blue labels."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from heatline.edge.bundle import open_bundle
from heatline.edge.wire.events import BundleName
from tests.command import heatline
from tests.train.blobs import draw_blobs

SETTINGS = (
    "tiles.tile_px=64", "recipe.steps=30", "recipe.folds=2", "recipe.jitter_px=20",
    "recipe.copies={defective: 1, most: 20}", "trainer.precision=32-true",
)  # fmt: skip


class Trained(NamedTuple):
    """A bundle and the folder that it was trained on. A test that changes one makes a copy."""

    bundle: Path
    data: Path
    name: BundleName


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_trunk: tuple[str, str], one_thread: None) -> Trained:
    folder = tmp_path_factory.mktemp("retrain")
    data = draw_blobs(folder / "pictures")
    settings = (*SETTINGS, *tiny_trunk, f"features.folder={folder / 'features'}")
    done = heatline("train", data, f"out={folder / 'run'}", *settings)
    assert done.returncode == 0, done.stderr
    done = heatline("export", folder / "run", "--to", folder / "boards.bundle", "--precision", "f32", "--allow", "map")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "run")  # a retraining does not need it
    bundle = open_bundle(folder / "boards.bundle")
    return Trained(bundle.path, data, BundleName(name="boards", version="1", digest=bundle.digest))
