"""Products of more than two tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
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
