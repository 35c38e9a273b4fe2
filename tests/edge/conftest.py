"""Engines of the small bundle, made once."""

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.inference import Engine, open_engine


@pytest.fixture(scope="session")
def openvino(bundle: Bundle) -> Engine:
    return open_engine("openvino", bundle.path, bundle.manifest.grid.tile_px, threads=2)


@pytest.fixture(scope="session")
def onnxruntime(bundle: Bundle) -> Engine:
    return open_engine("onnxruntime", bundle.path, bundle.manifest.grid.tile_px, threads=1)
