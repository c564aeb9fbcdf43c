"""Reductions with their dims spelled out."""

from __future__ import annotations

import operator
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


def _with_correction(op: Any) -> None:
    """The overloads of *op* that say ``unbiased``, by the one with a correction."""

    @decomposition(op.dim)
    def along(g: Editor, self: fx.Node, dim: Any, unbiased: bool, keepdim: bool) -> Any:
        return _results(g, g.call(op.correction, self, dim, correction=int(unbiased), keepdim=keepdim))

    @decomposition(op.default)
    def of_all(g: Editor, self: fx.Node, unbiased: bool) -> Any:
        return _results(g, g.call(op.correction, self, _all_dims(self), correction=int(unbiased)))


def _results(g: Editor, node: fx.Node) -> Any:
    if not isinstance(node.meta["val"], tuple | list):
        return node
    return tuple(g.call(operator.getitem, node, index) for index in range(2))


for _op in (aten.var, aten.std, aten.var_mean, aten.std_mean):
    _with_correction(_op)


@decomposition(aten.std.correction)
def std(g: Editor, self: fx.Node, dim: Any, *, correction: Any, keepdim: bool) -> Any:
    if not self.meta["val"].is_complex():
        return None
    variance = g.call(aten.var.correction, self, dim, correction=correction, keepdim=keepdim)
    return g.call(aten.sqrt.default, variance)


@decomposition(aten.std_mean.correction)
def std_mean(g: Editor, self: fx.Node, dim: Any, *, correction: Any, keepdim: bool) -> Any:
    if not self.meta["val"].is_complex():
        return None
    variance, mean = _results(
        g, g.call(aten.var_mean.correction, self, dim, correction=correction, keepdim=keepdim)
    )
    return g.call(aten.sqrt.default, variance), mean


@decomposition(aten.any.default)
def any_all(g: Editor, self: fx.Node) -> fx.Node:
    return g.call(aten.any.dims, self, _all_dims(self))


@decomposition(aten.any.dim)
def any_dim(g: Editor, self: fx.Node, dim: int, keepdim: bool) -> fx.Node:
    return g.call(aten.any.dims, self, [dim], keepdim)
