"""Pooling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import first
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@decomposition(aten.max_pool2d.default)
def max_pool2d(
    g: Editor, self: fx.Node, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> fx.Node:
    def full(values: Any) -> list[int]:
        values = list(values)
        return values * 2 if len(values) == 1 else values

    kernel = full(kernel_size)
    return first(
        g,
        g.call(
            aten.max_pool2d_with_indices.default,
            self,
            kernel,
            full(stride) if stride else kernel,
            full(padding),
            full(dilation),
            ceil_mode,
        ),
    )


@decomposition(aten.adaptive_avg_pool1d.default)
def adaptive_avg_pool1d(g: Editor, self: fx.Node, output_size: Any) -> fx.Node:
    plane = g.call(aten.unsqueeze.default, self, -2)
    return g.call(aten.squeeze.dims, adaptive_avg_pool2d(g, plane, [1, *output_size]), [-2])


@decomposition(aten.adaptive_avg_pool2d.default)
def adaptive_avg_pool2d(g: Editor, self: fx.Node, output_size: Any) -> fx.Node:
    if list(output_size) == [1, 1]:
        return g.call(aten.mean.dim, self, [-1, -2], True)
    return g.call(aten._adaptive_avg_pool2d.default, self, output_size)


@decomposition(aten.adaptive_avg_pool3d.default)
def adaptive_avg_pool3d(g: Editor, self: fx.Node, output_size: Any) -> fx.Node:
    if list(output_size) == [1, 1, 1]:
        return g.call(aten.mean.dim, self, [-1, -2, -3], True)
    return g.call(aten._adaptive_avg_pool3d.default, self, output_size)


@decomposition(aten.max_unpool2d.default)
def max_unpool2d(g: Editor, self: fx.Node, indices: fx.Node, output_size: Any) -> fx.Node:
    return _unpooled(g, self, indices, output_size)


@decomposition(aten.max_unpool3d.default)
def max_unpool3d(
    g: Editor, self: fx.Node, indices: fx.Node, output_size: Any, stride: Any, padding: Any
) -> fx.Node:
    return _unpooled(g, self, indices, output_size)


def _unpooled(g: Editor, self: fx.Node, indices: fx.Node, output_size: Any) -> fx.Node:
    """Each value at its place in a plane of zeros; a place that there is none of is an error."""
    val = self.meta["val"]
    lead = list(val.shape[: -len(output_size)])
    plane = [*lead, math.prod(output_size)]
    zeros = g.call(aten.full.default, plane, 0, dtype=val.dtype, device=val.device)
    given = [*lead, math.prod(val.shape[-len(output_size) :])]
    flat = [g.call(aten.reshape.default, tensor, given) for tensor in (indices, self)]
    placed = g.call(aten.scatter.src, zeros, -1, *flat)
    return g.call(aten.reshape.default, placed, [*lead, *output_size])
