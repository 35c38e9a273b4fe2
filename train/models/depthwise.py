"""Depthwise convolutions with fixed filters, which make a step of fine-tuning several times as fast on a CPU.

On CPUs, torch's backward pass of a depthwise convolution takes 5 to 50 times as long as the forward pass: for the
filters, and at stride 2 in bf16 also for the images. The gradient of the filters is not computed here. The gradient of
the images is a forward convolution: of the output's gradient, with stride - 1 zeros between its cells, by the rotated
filters (transposed convolution; Dumoulin & Visin 2016, section 4.6).
"""

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn.functional import conv2d


class _ByImages(torch.autograd.Function):
    """Depthwise convolution of images [N, C, H, W] with filters [C, 1, k, k]; only the images get a gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, filters: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(filters)
        ctx.height_width, ctx.stride, ctx.padding = images.shape[2:], stride, padding
        return conv2d(images, filters.to(images.dtype), None, stride, padding, groups=len(filters))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,), (filters,) = gradients, ctx.saved_tensors
        reach = filters.shape[-1] - 1
        if ctx.stride > 1:
            spread_hw = [side + 2 * ctx.padding - reach for side in ctx.height_width]
            spread = gradient.new_zeros(*gradient.shape[:2], *spread_hw).contiguous(memory_format=torch.channels_last)
            spread[:, :, :: ctx.stride, :: ctx.stride] = gradient
            gradient = spread
        rotated = filters.flip(2, 3).to(gradient.dtype)
        return conv2d(gradient, rotated, None, 1, reach - ctx.padding, groups=len(filters)), None, None, None


class FixedDepthwise(nn.Module):
    """Replaces a depthwise convolution; its filters become a buffer of the same name."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", conv.weight.detach())
        self._stride = conv.stride[0]
        self._padding = None if isinstance(conv, Conv2dSame) else int(conv.padding[0])

    def forward(self, images: Tensor) -> Tensor:
        padding = self._padding
        if padding is None:
            images, padding = pad_same(images, list(self.weight.shape[2:]), [self._stride] * 2), 0
        return _ByImages.apply(images, self.weight, self._stride, padding)  # type: ignore[no-any-return,no-untyped-call]


def fix_depthwise_filters(network: nn.Module) -> None:
    """Replace each depthwise convolution that `FixedDepthwise` supports, in place."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and type(child) in (nn.Conv2d, Conv2dSame) and _is_plain(child):
                setattr(module, name, FixedDepthwise(child))


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether it has one square filter per channel, no bias, no dilation, and numeric or timm's `same` padding."""
    square = [conv.kernel_size, conv.stride, *([] if isinstance(conv, Conv2dSame) else [conv.padding])]
    return (
        1 < conv.groups == conv.in_channels == conv.out_channels
        and conv.bias is None
        and conv.dilation == (1, 1)
        and all(isinstance(pair, tuple) and len(set(pair)) == 1 for pair in square)
    )
