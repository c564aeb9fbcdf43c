"""Convolution and pooling of images laid out [N, H, W, C]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "conv2d_channels_last",
    "max_pool2d_channels_last",
    "pack_weight",
    "packed_width",
    "unpack_weight",
]


def packed_width(channels: int, lanes: int) -> int:
    """How many output channels lie side by side in a packed weight: a vector's worth, or all of them if fewer."""
    return min(channels, lanes)


def pack_weight(weight: Tensor, width: int) -> Tensor:
    """[O, I, KH, KW] as [ceil(O / width), KH, KW, I, width]: what one step of a kernel reads lies side by side.

    Behind the last channel there are zeros.
    """
    padded = F.pad(weight, [0, 0, 0, 0, 0, 0, 0, -weight.shape[0] % width])
    outputs, inputs, *window = padded.shape
    return (
        padded.reshape(outputs // width, width, inputs, *window)
        .permute(0, 3, 4, 2, 1)
        .contiguous(memory_format=torch.contiguous_format)
    )


def unpack_weight(packed: Tensor, channels: int) -> Tensor:
    """Inverse of `pack_weight`, for a weight of so many output *channels*."""
    blocks, *window, inputs, width = packed.shape
    return packed.permute(0, 4, 3, 1, 2).reshape(blocks * width, inputs, *window)[:channels]


@torch.library.custom_op("fxpasses::conv2d_channels_last", mutates_args=())
def conv2d_channels_last(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    channels: int,
) -> Tensor:
    """Convolution of *input* [N, H, W, C] with a packed weight.

    Args:
        weight: see `pack_weight`.
        stride: of height and width.
        padding: zeros before and after the height, before and after the width.
        dilation: of height and width.
        groups: as for `torch.nn.functional.conv2d`.
        channels: of the result, without those that fill up the packed weight.

    Returns:
        [N, H', W', channels] in the dtype of *input*.
    """
    top, bottom, left, right = padding
    image = F.pad(input.permute(0, 3, 1, 2), [left, right, top, bottom])
    result = F.conv2d(image, unpack_weight(weight, channels), None, list(stride), 0, list(dilation), groups)
    return result.permute(0, 2, 3, 1).contiguous(memory_format=torch.contiguous_format)


@conv2d_channels_last.register_fake
def _(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    channels: int,
) -> Tensor:
    batch, height, width, _ = input.shape
    _, *window, _, _ = weight.shape
    sizes = [
        (size + before + after - d * (k - 1) - 1) // s + 1
        for size, before, after, k, s, d in zip(
            (height, width), padding[::2], padding[1::2], window, stride, dilation, strict=True
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
