"""Products of more than two tensors, and of vectors with three elements."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import shape
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@decomposition(aten._trilinear.default)
def trilinear(
    g: Editor,
    i1: fx.Node,
    i2: fx.Node,
    i3: fx.Node,
    expand1: list[int],
    expand2: list[int],
    expand3: list[int],
    sumdim: list[int],
    unroll_dim: int,
) -> Any:
    """The product of three tensors, each with new dims of size 1, summed over *sumdim*."""
    factors = []
    for tensor, dims in ((i1, expand1), (i2, expand2), (i3, expand3)):
        for dim in sorted(dims):
            tensor = g.call(aten.unsqueeze.default, tensor, dim)
        factors.append(tensor)
    product = g.call(aten.mul.Tensor, g.call(aten.mul.Tensor, factors[0], factors[2]), factors[1])
    return (
        g.call(aten.sum.dim_IntList, product, sumdim, dtype=product.meta["val"].dtype) if sumdim else product
    )


@decomposition(aten.linalg_cross.default)
def linalg_cross(g: Editor, self: fx.Node, other: fx.Node, *, dim: int) -> fx.Node:
    """By rolls, which a kernel absorbs; torch picks elements out by indices, in kernels of their own."""

    def rolled(x: fx.Node, by: int) -> fx.Node:
        return g.call(aten.roll.default, x, [by], [dim])

    one = g.call(aten.mul.Tensor, rolled(self, -1), rolled(other, -2))
    return g.call(aten.sub.Tensor, one, g.call(aten.mul.Tensor, rolled(self, -2), rolled(other, -1)))


@decomposition(aten.cross.default)
def cross(g: Editor, self: fx.Node, other: fx.Node, dim: int | None) -> fx.Node | None:
    if dim is None:
        sizes = shape(self)
        if not all(isinstance(size, int) for size in sizes):
            return None  # the first dim of three elements, in the example
        dim = sizes.index(3)
    return linalg_cross(g, self, other, dim=dim)
