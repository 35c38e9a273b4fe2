"""Prototypes of good cells and the distance to them, in NumPy, PyTorch and ONNX."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.util.sampling import k_means
from heatline.export.onnx_graph import to_graphs
from heatline.train.models.explained import NEAREST, Novelty, concatenate_cells
from tests.train.test_dense_model import built, tiles

pytestmark = pytest.mark.usefixtures("one_thread")


def good_cells(count: int, channels: int, seed: int = 0) -> NDArray[np.float32]:
    """From a correlated normal distribution with a mean other than 0."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(channels, channels)))[0]
    return np.asarray(rng.normal(size=(count, channels)) * rng.uniform(1, 9, channels) @ turn + 5, np.float32)


def distances(known: Novelty, cells: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Of cells [n, c] to the nearest prototype."""
    whitened = (cells - known.mean.numpy()) @ known.whitening.numpy()
    return np.array([np.linalg.norm(known.prototypes.numpy() - cell, axis=1).min() for cell in whitened])


def test_good_cells_are_whitened() -> None:
    good = good_cells(3000, 4)
    known = Novelty.of(good, seed=0)
    whitened = (good - known.mean.numpy()) @ known.whitening.numpy()
    np.testing.assert_allclose(np.cov(whitened, rowvar=False), np.eye(4), atol=0.02)


def test_k_means_finds_clusters_that_lie_apart() -> None:
    rng = np.random.default_rng(1)
    true = np.array([[0, 0], [9, 0], [0, 9]], np.float32)
    points = (true.repeat(50, axis=0) + rng.normal(0, 0.1, (150, 2))).astype(np.float32)
    spread = min(np.abs(k_means(points, 3, seed)[:, None] - true).sum(axis=2).min(axis=0).max() for seed in range(5))
    assert spread < 0.2
    assert len(k_means(points[:2], 3, 0)) == 2


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_a_head_adds_the_distance_of_each_cell_of_stride_16(seed: int, gain: float, offset: float) -> None:
    """A cell of 2x2 of the features of stride 8 and one of stride 16; those of stride 4 do not count."""
    rng = np.random.default_rng(seed)
    novelty = Novelty.of(good_cells(300, 5, seed), seed)
    features = [rng.normal(5, 4, (2, channels, side, side)) for channels, side in ((1, 8), (2, 4), (3, 2))]
    fine, coarse = features[1:]
    cells = np.concatenate([fine.reshape(2, 2, 2, 2, 2, 2).mean(axis=(3, 5)), coarse], axis=1)
    expected = distances(novelty, np.moveaxis(cells, 1, 3).reshape(-1, 5)).clip(NEAREST).reshape(2, 2, 2)

    stages = [torch.from_numpy(each).float() for each in features]
    np.testing.assert_allclose(concatenate_cells(stages, (4, 8, 16)), cells, rtol=1e-5, atol=2e-6)  # float32, near 0
    assert (novelty(stages, (4, 8, 16)) == 0).all()  # before `weigh`
    novelty.weigh(offset, gain)
    found = novelty(stages, (4, 8, 16)).numpy()
    assert found.shape == (2, 4, 4)
    corners = found[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # not interpolated
    np.testing.assert_allclose(corners, gain * (expected.reshape(2, 4) - offset), rtol=1e-2, atol=2e-2 * gain)


def test_a_model_with_novelty_is_loaded_and_exported_as_it_is() -> None:
    model = built()
    with torch.no_grad():
        features = model.features(tiles(8))
        cells = concatenate_cells(features, model.head.strides).permute(0, 2, 3, 1).flatten(0, 2).numpy()
        plain = model(tiles(3))[1]
        model.head.novelty = Novelty.of(cells, 0)
        torch.testing.assert_close(model(tiles(3))[1], plain)
        model.head.novelty.weigh(0.5, 2.0)
        logits, maps = model(tiles(3))
        distance = model.head.novelty.distance(model.features(tiles(3)), model.head.strides)
    torch.testing.assert_close(maps, plain + 2 * (distance - 0.5))
    again = built(seed=1)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(tiles(3)), (logits, maps))

    session = onnxruntime.InferenceSession(to_graphs(model, 64).onnx)
    for count in (1, 3):
        found = session.run(None, {"tiles": tiles(count).numpy()})
        np.testing.assert_allclose(found[1], maps[:count], atol=1e-3)
