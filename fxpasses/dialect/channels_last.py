"""Convolution and pooling of images laid out [N, H, W, C]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "conv_channels_last",
    "max_pool2d_channels_last",
    "pack_weight",
    "packed_width",
    "unpack_weight",
]


def packed_width(channels: int, lanes: int) -> int:
    """How many output channels lie side by side in a packed weight: a vector's worth, or all of them if fewer."""
    return min(channels, lanes)


def pack_weight(weight: Tensor, width: int) -> Tensor:
    """[O, I, *window] as [ceil(O / width), *window, I, width]: what one step of a kernel reads lies side by side.

    Behind the last channel there are zeros.
    """
    padded = F.pad(weight, [*[0, 0] * (weight.dim() - 1), 0, -weight.shape[0] % width])
    outputs, inputs, *window = padded.shape
    blocks = padded.reshape(outputs // width, width, inputs, *window)
    return blocks.movedim((2, 1), (-2, -1)).contiguous(memory_format=torch.contiguous_format)


def unpack_weight(packed: Tensor, channels: int) -> Tensor:
    """Inverse of `pack_weight`, for a weight of so many output *channels*."""
    blocks, *window, inputs, width = packed.shape
    return packed.movedim((-1, -2), (1, 2)).reshape(blocks * width, inputs, *window)[:channels]


@torch.library.custom_op("fxpasses::conv_channels_last", mutates_args=())
def conv_channels_last(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    channels: int,
) -> Tensor:
    """Convolution of *input* [N, *size, C], of one to three dims of size, with a packed weight.

    Args:
        weight: see `pack_weight`.
        stride: for each dim of size, as are dilation and padding.
        padding: zeros before and after each.
        dilation: of the window.
        groups: as for `torch.nn.functional.conv2d`.
        channels: of the result, without those that fill up the packed weight.

    Returns:
        [N, *size, channels] in the dtype of *input*.
    """
    around = [size for i in range(len(padding) - 2, -1, -2) for size in padding[i : i + 2]]
    image = F.pad(input.movedim(-1, 1), around)
    none = [0] * len(stride)
    filters = unpack_weight(weight, channels)
    result = torch.convolution(image, filters, None, list(stride), none, list(dilation), False, none, groups)
    return result.movedim(1, -1).contiguous(memory_format=torch.contiguous_format)


@conv_channels_last.register_fake
def _(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    channels: int,
) -> Tensor:
    batch, *places, _ = input.shape
    _, *window, _, _ = weight.shape
    sizes = [
        (size + before + after - d * (k - 1) - 1) // s + 1
        for size, before, after, k, s, d in zip(
            places, padding[::2], padding[1::2], window, stride, dilation, strict=True
        )
    ]
    return input.new_empty((batch, *sizes, channels))


@torch.library.custom_op("fxpasses::max_pool2d_channels_last", mutates_args=())
def max_pool2d_channels_last(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """`torch.nn.functional.max_pool2d` of *input* [N, H, W, C]; gives [N, H', W', C]."""
    result = F.max_pool2d(
        input.permute(0, 3, 1, 2), kernel_size, list(stride), list(padding), list(dilation), ceil_mode
    )
    return result.permute(0, 2, 3, 1).contiguous(memory_format=torch.contiguous_format)


@max_pool2d_channels_last.register_fake
def _(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    result = F.max_pool2d(
        input.permute(0, 3, 1, 2), kernel_size, list(stride), list(padding), list(dilation), ceil_mode
    )
    return input.new_empty(result.permute(0, 2, 3, 1).shape)
