"""Depthwise convolutions with filters that stay: torch's own are the oracle."""

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from heatline.train.models.dense import FixedDepthwise, fix_depthwise_filters

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("size", [(9, 10), (12, 11), (13, 13)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (5, 1, 0), (5, 2, 2), (3, 3, 1), (3, 2, 0)])
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_outputs_and_gradients_are_those_of_torch(
    kind: type[nn.Conv2d], kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = kind(4, 4, kernel, stride=stride, padding=padding, groups=4, bias=False).double()
    images = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    expected = conv(images)
    found = FixedDepthwise(conv)(images)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, images, gradient), torch.autograd.grad(expected, images, gradient)
    )


def test_in_bf16_images_get_their_gradient_in_bf16() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 5, stride=2, padding=2, groups=4, bias=False)
    images = torch.randn(2, 4, 9, 9, requires_grad=True)
    (expected,) = torch.autograd.grad(conv(images).square().sum(), images)
    short = images.detach().bfloat16().requires_grad_()
    (found,) = torch.autograd.grad(FixedDepthwise(conv)(short).float().square().sum(), short)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)


def test_only_depthwise_convolutions_are_replaced_and_their_names_stay() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Sequential(nn.ReLU(), Conv2dSame(4, 4, 3, groups=4, bias=False)),
    )
    names = list(network.state_dict())
    fix_depthwise_filters(network)
    replaced = [name for name, module in network.named_modules() if isinstance(module, FixedDepthwise)]
    assert replaced == ["0", "4.1"]
    assert list(network.state_dict()) == names
    assert {name for name, _ in network.named_parameters()} == set(names) - {"0.weight", "4.1.weight"}
