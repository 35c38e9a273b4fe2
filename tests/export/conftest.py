"""Small models and their graphs, exported once per process of pytest: an export takes seconds. Tests only read them."""

import pytest
import torch

from heatline.edge.reference.difference import CHANNELS
from heatline.export.onnx_graph import Graphs, to_graphs
from heatline.train.config import CnnConfig
from heatline.train.models.build import build_model
from heatline.train.models.dense import DenseClassifier, Projection, dense_classifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import RolloutClassifier
from tests.toy_vit import ToyViT

TILE = 64


def build_cnn() -> ExplainedClassifier:
    """An untrained CNN, always the same."""
    torch.manual_seed(0)
    config = CnnConfig(name="x", timm="test_efficientnet.r160_in1k", weights="none", stride=16)
    return build_model(config, TILE)[0].eval()


@pytest.fixture(scope="session")
def small_cnn(one_thread: None) -> ExplainedClassifier:
    return build_cnn()


@pytest.fixture(scope="session")
def cnn_graphs(small_cnn: ExplainedClassifier) -> Graphs:
    return to_graphs(small_cnn, TILE)


@pytest.fixture(scope="session")
def comparing_model(one_thread: None) -> DenseClassifier:
    """An untrained dense model that compares tiles with a reference, always the same."""
    torch.manual_seed(0)
    config = CnnConfig(name="x", timm="test_efficientnet.r160_in1k", weights="none", stride=None, head="dense")
    model, _ = dense_classifier(config, TILE)
    model.head.difference = Projection(CHANNELS, model.head.width, 1)
    return model.eval()


@pytest.fixture(scope="session")
def discarding_vit(one_thread: None) -> RolloutClassifier:
    """A toy ViT that discards half of its attention: with 17 tokens and two layers, 0.9 would leave patches without."""
    torch.manual_seed(0)
    model = ToyViT(tile_px=TILE)
    model.discard_ratio = 0.5
    with torch.no_grad():
        for block in model.network.blocks:
            block.attn.qkv.weight *= 4.0  # trained attention is not uniform
    return model.eval()


@pytest.fixture(scope="session")
def vit_graphs(discarding_vit: RolloutClassifier) -> Graphs:
    return to_graphs(discarding_vit, TILE)
