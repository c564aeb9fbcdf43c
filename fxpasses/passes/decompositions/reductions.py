"""Reductions with their dims spelled out."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.rewrite import Editor

aten = torch.ops.aten


def _all_dims(self: fx.Node) -> list[int]:
    return list(range(self.meta["val"].dim()))


@decomposition(aten.sum.default)
def sum_all(g: Editor, self: fx.Node, *, dtype: Any) -> fx.Node:
    return g.call(aten.sum.dim_IntList, self, _all_dims(self), False, dtype=dtype)


@decomposition(aten.mean.default)
def mean_all(g: Editor, self: fx.Node, *, dtype: Any) -> fx.Node:
    return g.call(aten.mean.dim, self, _all_dims(self), False, dtype=dtype)


@decomposition(aten.var.dim)
def var_dim(g: Editor, self: fx.Node, dim: Any, unbiased: bool, keepdim: bool) -> fx.Node:
    return g.call(aten.var.correction, self, dim, correction=int(unbiased), keepdim=keepdim)


@decomposition(aten.var.default)
def var_all(g: Editor, self: fx.Node, unbiased: bool) -> fx.Node:
    return g.call(aten.var.correction, self, _all_dims(self), correction=int(unbiased))


@decomposition(aten.any.default)
def any_all(g: Editor, self: fx.Node) -> fx.Node:
    return g.call(aten.any.dims, self, _all_dims(self))


@decomposition(aten.any.dim)
def any_dim(g: Editor, self: fx.Node, dim: int, keepdim: bool) -> fx.Node:
    return g.call(aten.any.dims, self, [dim], keepdim)
