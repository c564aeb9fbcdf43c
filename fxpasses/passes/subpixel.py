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
        weight: [groups * strides * O, I, *window]: of each group the output channels for each place in a stride.
        border: zeros before and after each size.
        dilation: of the window.
    """

    weight: Tensor
    border: list[int]
    dilation: list[int]


def subpixel(
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Subpixel | None:
    """The convolution for a transposed one of *weight* [groups * I, O, *window].

    A pixel of the result at ``q * stride + r`` (before *padding* is cut off) is a
    sum over every *stride*-th tap of the window, from tap ``r``, of the pixels at
    ``q`` and before. So the taps of each ``r`` are a smaller window.
    Along a dim with a stride, a dilated window is one with zeros in it.
    """
    if groups > 1:
        of_groups = [
            subpixel(part, stride, padding, output_padding, dilation, 1) for part in weight.chunk(groups)
        ]
        found = [part for part in of_groups if part is not None]
        return found[0]._replace(weight=torch.cat([part.weight for part in found])) if found else None
    weight = _spread(weight, [1 if s == 1 else d for s, d in zip(stride, dilation, strict=True)])
    dilation = [d if s == 1 else 1 for s, d in zip(stride, dilation, strict=True)]
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
    for k, s, t, d, p, more in zip(window, stride, taps, dilation, padding, output_padding, strict=True):
        border += [(t - 1) * d - p // s, ((k - 1) * d + more - p) // s]
    if min(border) < 0:
        return None
    return Subpixel(parts.reshape(math.prod(stride) * outputs, inputs, *taps).contiguous(), border, dilation)


def _spread(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """*weight* [I, O, *window] with zeros between its taps."""
    if max(dilation) == 1:
        return weight
    window = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    spread = weight.new_zeros(*weight.shape[:2], *window)
    taps = (..., *(slice(None, None, d) for d in dilation))
    spread[taps] = weight
    return spread


def shuffle(
    g: Editor,
    image: fx.Node,
    stride: Sequence[int],
    padding: Sequence[int],
    size: Sequence[int],
    groups: int,
) -> fx.Node:
    """The result, of so many pixels, of *image* [N, *size, groups * strides * O] from the convolution of `subpixel`."""
    batch, *places, channels = shape(image)
    outputs = channels // math.prod(stride)
    dims = len(places)
    parts = reshape(g, image, [batch, *places, groups, *stride, outputs // groups])
    order = [axis for dim in range(1, dims + 1) for axis in (dim, dim + dims + 1)]
    parts = g.call(aten.permute.default, parts, [0, *order, dims + 1, 2 * dims + 2])
    result = reshape(g, parts, [batch, *(n * s for n, s in zip(places, stride, strict=True)), outputs])
    for dim, (s, p, n) in enumerate(zip(stride, padding, size, strict=True), 1):
        if p % s or not same_size(shape(result)[dim], n):
            result = g.call(aten.slice.Tensor, result, dim, p % s, p % s + n, 1)
    return result
