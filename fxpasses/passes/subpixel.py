"""Transposed convolutions as convolutions that make all pixels of a stride as channels of one pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx

from fxpasses.passes.decompositions.values import reshape, shape
from fxpasses.rewrite import Editor
from fxpasses.tracing.fake_values import same_size

__all__ = ["Subpixel", "shuffle", "subpixel"]

aten = torch.ops.aten


class Subpixel(NamedTuple):
    """The convolution in the place of a transposed one.

    Attributes:
        weight: [strides * O, I, *window]: the output channels for each place in a stride.
        border: zeros before and after each size.
    """

    weight: Tensor
    border: list[int]


def subpixel(
    weight: Tensor, stride: Sequence[int], padding: Sequence[int], output_padding: Sequence[int]
) -> Subpixel | None:
    """The convolution for a transposed one of *weight* [I, O, *window] without dilation or groups.

    A pixel of the result at ``q * stride + r`` (before *padding* is cut off) is a
    sum over every *stride*-th tap of the window, from tap ``r``, of the pixels at
    ``q`` and before. So the taps of each ``r`` are a smaller window.
    """
    inputs, outputs, *window = weight.shape
    taps = [-(-k // s) for k, s in zip(window, stride, strict=True)]
    missing = [[0, t * s - k] for k, t, s in zip(window, taps, stride, strict=True)]
    padded = torch.nn.functional.pad(weight, [size for pair in reversed(missing) for size in pair])
    dims = range(len(window))
    # [I, O, taps, stride, taps, stride], the taps turned round
    parts = padded.reshape(inputs, outputs, *(n for pair in zip(taps, stride, strict=True) for n in pair))
    parts = parts.flip([2 + 2 * dim for dim in dims])
    parts = parts.permute(*(3 + 2 * dim for dim in dims), 1, 0, *(2 + 2 * dim for dim in dims))
    border: list[int] = []
    for k, s, t, p, more in zip(window, stride, taps, padding, output_padding, strict=True):
        border += [t - 1 - p // s, (k + more - 1 - p) // s]
    if min(border) < 0:
        return None
    return Subpixel(parts.reshape(math.prod(stride) * outputs, inputs, *taps).contiguous(), border)


def shuffle(
    g: Editor, image: fx.Node, stride: Sequence[int], padding: Sequence[int], size: Sequence[int]
) -> fx.Node:
    """The result, of so many pixels, of *image* [N, *size, strides * O] from the convolution of `subpixel`."""
    batch, *places, channels = shape(image)
    outputs = channels // math.prod(stride)
    dims = len(places)
    parts = reshape(g, image, [batch, *places, *stride, outputs])
    order = [axis for dim in range(1, dims + 1) for axis in (dim, dim + dims)]
    parts = g.call(aten.permute.default, parts, [0, *order, 2 * dims + 1])
    result = reshape(g, parts, [batch, *(n * s for n, s in zip(places, stride, strict=True)), outputs])
    for dim, (s, p, n) in enumerate(zip(stride, padding, size, strict=True), 1):
        if p % s or not same_size(shape(result)[dim], n):
            result = g.call(aten.slice.Tensor, result, dim, p % s, p % s + n, 1)
    return result
