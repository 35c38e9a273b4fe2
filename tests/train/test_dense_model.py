"""Dense heads on timm trunks: maps of stride 8, and logits from their highest cells."""

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from heatline.edge.errors import ConfigError
from heatline.train.config import CnnConfig
from heatline.train.models.dense import (
    DenseClassifier,
    FineTuned,
    LaterStages,
    TileFeatures,
    dense_classifier,
)

pytestmark = pytest.mark.usefixtures("one_thread")

TILE_PX = 64
CONFIG = CnnConfig(name="small", timm="test_efficientnet", weights="none", stride=None, head="dense", width=16)


def built(timm: str = CONFIG.timm, tile_px: int = TILE_PX, seed: int = 0) -> DenseClassifier:
    torch.manual_seed(seed)
    model, _ = dense_classifier(msgspec.structs.replace(CONFIG, timm=timm), tile_px)
    return model.eval()


def tiles(count: int, tile_px: int = TILE_PX) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, tile_px, tile_px, 3), np.uint8))


@pytest.mark.parametrize(
    ("timm", "channels", "strides"),
    [
        ("tf_efficientnet_lite0.in1k", (24, 40, 80, 112), (4, 8, 16, 16)),  # of stride 16, both of its stages
        ("mobilenetv3_large_100.ra_in1k", (24, 40, 80, 112), (4, 8, 16, 16)),
        ("tf_efficientnetv2_s.in1k", (48, 64, 128, 160), (4, 8, 16, 16)),
        ("resnet18.a1_in1k", (64, 128, 256), (4, 8, 16)),
    ],
)
def test_features_are_those_of_strides_4_8_and_16_and_the_map_is_of_stride_8(
    timm: str, channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    model = built(timm, 224)
    assert (model.head.channels, model.head.strides, model.map_hw) == (channels, strides, (28, 28))
    with torch.no_grad():
        features = model.features(tiles(1, 224))
        logits, maps = model(tiles(1, 224))
    assert [tuple(each.shape[1:]) for each in features] == [
        (count, 224 // stride, 224 // stride) for count, stride in zip(channels, strides, strict=True)
    ]
    assert maps.shape == (1, 28, 28)
    highest = np.sort(maps.numpy().ravel())[-16:]
    assert logits.item() == pytest.approx(highest.mean(), abs=1e-5)


def test_networks_of_different_structure_share_no_features() -> None:
    """Their weights have the same names and, from the same seed, the same values; padding and epsilon differ."""
    one, other = built("efficientnet_b0", 32), built("tf_efficientnet_b0", 32)
    state = other.trunk.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.trunk.state_dict().items())
    assert TileFeatures(one, 32).identity == TileFeatures(built("efficientnet_b0", 32), 32).identity
    assert TileFeatures(one, 32).identity != TileFeatures(other, 32).identity


def test_the_head_on_extracted_features_gives_the_models_map() -> None:
    model = built()
    with torch.no_grad():
        logits, maps = model(tiles(3))
        extracted = TileFeatures(model, TILE_PX)(tiles(3))
        torch.testing.assert_close(model.head(extracted), maps, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(maps.flatten(1).topk(16).values.mean(dim=1), logits, rtol=1e-5, atol=1e-5)
    assert maps.std() > 0


def test_cells_are_the_means_of_2x2_of_the_first_features_of_stride_16() -> None:
    model = built("tf_efficientnet_lite0.in1k")
    assert model.shown_by == 2
    with torch.no_grad():
        logits, maps = model(tiles(3))
        came = model.with_features(tiles(3))
        features = model.features(tiles(3))[2]
    torch.testing.assert_close(came[:2], (logits, maps), rtol=1e-5, atol=1e-5)
    _, channels, rows, columns = features.shape
    cells = features.reshape(3, channels, rows // 2, 2, columns // 2, 2).mean(dim=(3, 5)).permute(0, 2, 3, 1)
    assert tuple(cells.shape[1:]) == model.cells_shape(tiles(1).shape[1])
    torch.testing.assert_close(came[2], cells, rtol=1e-5, atol=1e-5)


def test_a_tile_has_the_same_map_whatever_its_neighbours() -> None:
    model = built()
    with torch.no_grad():
        _, together = model(tiles(4))
        _, alone = model(tiles(4)[2:3])
    torch.testing.assert_close(together[2:3], alone, rtol=1e-5, atol=1e-5)


def test_only_the_head_is_trained() -> None:
    model = built()
    assert not any(each.requires_grad for each in model.trunk.parameters())
    assert all(each.requires_grad for each in model.head.parameters())


def test_the_scale_of_features_does_not_influence_a_standardised_head() -> None:
    torch.manual_seed(0)
    head = built().head
    sizes = zip(head.channels, head.strides, strict=True)
    features = [torch.randn(6, channels, 64 // stride, 64 // stride) for channels, stride in sizes]
    scaled = [5 + 30 * each for each in features]
    with torch.no_grad():
        head.standardise(features)
        expected = head(features)
        head.standardise(scaled)
        torch.testing.assert_close(head(scaled), expected, rtol=1e-3, atol=1e-3)


def test_another_head_for_the_same_features_has_other_weights() -> None:
    head = built().head
    other = head.untrained()
    assert (other.channels, other.strides, other.width) == (head.channels, head.strides, head.width)
    assert not torch.equal(head.out.weight, other.out.weight)


def test_an_untrained_model_starts_from_the_odds_it_is_given() -> None:
    model = built()
    model.start_from(-3.5)
    assert model.head.out.bias.item() == -3.5


def test_no_cell_is_below_the_floor_and_evidence_above_it_stays_as_it_is() -> None:
    model = built()
    with torch.no_grad():
        model.head.floor.fill_(-1000.0)
        unbounded = model.head(model.features(tiles(2)))
        middle = unbounded.median()
        model.head.floor.copy_(middle)
        bounded = model.head(model.features(tiles(2)))
        expected = torch.logaddexp(unbounded, middle)
    assert (bounded > middle).all()
    torch.testing.assert_close(bounded, expected, rtol=1e-4, atol=1e-4)


# The identity of features in the cache.


def identity(model: DenseClassifier, tile_px: int = TILE_PX) -> str:
    return TileFeatures(model, tile_px).identity


def test_the_identity_of_features_depends_on_trunk_and_tiles_not_on_the_head() -> None:
    model, same = built(), built()
    expected = identity(model)
    assert identity(same) == expected
    torch.nn.init.normal_(model.head.out.weight)
    model.head.standardise(model.features(tiles(2)))
    assert identity(model) == expected
    assert identity(model, 96) != expected
    assert identity(built(seed=1)) != expected
    with torch.no_grad():
        next(iter(same.trunk.parameters())).view(-1)[0] += 1e-6
    assert identity(same) != expected
    other_colours = built()
    other_colours._mean += 1
    assert identity(other_colours) != expected


def test_the_identity_of_features_includes_running_averages_of_the_trunk() -> None:
    model = built()
    before = identity(model)
    name = next(name for name, _ in model.trunk.named_buffers() if name.endswith("running_mean"))
    model.trunk.get_buffer(name)[0] += 1
    assert identity(model) != before


# Later stages, for fine-tuning.


@pytest.mark.parametrize("timm", ["test_efficientnet", "resnet18.a1_in1k", "mobilenetv3_small_050.lamb_in1k"])
def test_the_later_stages_compute_all_features_from_the_first(timm: str) -> None:
    model = built(timm)
    stages = LaterStages(model.trunk).eval()
    with torch.no_grad():
        features = model.features(tiles(2))
        for found, expected in zip(stages(features[0]), features, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(FineTuned(stages, model.head)(features), model.head(features), rtol=1e-4, atol=1e-4)


def test_trained_later_stages_are_copied_to_the_trunk() -> None:
    model = built()
    stages = LaterStages(model.trunk).train()
    assert not any(each.training for each in stages.modules() if isinstance(each, torch.nn.BatchNorm2d))
    with torch.no_grad():
        features = model.features(tiles(2))
        for parameter in stages.parameters():
            parameter += 0.01
        stages.eval().copy_to(model.trunk)
        for found, expected in zip(model.features(tiles(2)), stages(features[0]), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# Unsupported networks.


@pytest.mark.parametrize(
    ("timm", "tile_px", "excerpt"),
    [
        (
            "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
            224,
            r"has stages of strides \[16\], .* recipe=heatline needs strides 4, 8, 16",
        ),
        ("mixer_s16_224", 224, r"has stages of strides .* needs strides 4, 8, 16"),
        ("test_efficientnet", 72, r"tiles have 72 px; .* tiles.tile_px a multiple of 16"),
    ],
)
def test_a_network_without_these_stages_is_refused_in_a_sentence(timm: str, tile_px: int, excerpt: str) -> None:
    with pytest.raises(ConfigError, match=excerpt) as refused:
        built(timm, tile_px)
    assert "\n" not in str(refused.value)
