"""Engines of the small bundle, made once, and folders in memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.inference import Engine, open_engine
from tests.small_bundle import copy_of

MEMORY, LEAST_BYTES = Path("/dev/shm"), 4 << 30


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is room: a line reports that a busy disk does not answer, and tests would fail."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < LEAST_BYTES:
        yield tmp_path
        return
    with TemporaryDirectory(prefix="heatline-", dir=MEMORY, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the small bundle, which the test damages."""
    return copy_of(bundle, tmp_path / "b")


@pytest.fixture(scope="session")
def openvino(bundle: Bundle) -> Engine:
    return open_engine("openvino", bundle.path, bundle.manifest.grid.tile_px, threads=2)


@pytest.fixture(scope="session")
def onnxruntime(bundle: Bundle) -> Engine:
    return open_engine("onnxruntime", bundle.path, bundle.manifest.grid.tile_px, threads=1)
