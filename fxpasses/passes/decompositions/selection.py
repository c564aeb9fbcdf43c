"""Padding, and choices by a mask or an index: `constant_pad_nd`, `where` and `index_put`."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import full
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@decomposition(aten.pad.default)
def pad(g: Editor, self: fx.Node, pad: Any, mode: str, value: float | None) -> Any:
    if mode != "constant":
        return None
    return g.call(aten.constant_pad_nd.default, self, pad, 0 if value is None else value)


@decomposition(aten._index_put_impl.default)
def index_put_impl(
    g: Editor, self: fx.Node, indices: Any, values: fx.Node, accumulate: bool, unsafe: bool
) -> fx.Node:
    return g.call(aten.index_put.default, self, indices, values, accumulate)


@decomposition(aten.masked_fill.Scalar)
def masked_fill(g: Editor, self: fx.Node, mask: fx.Node, value: Any) -> Any:
    if isinstance(value, complex):
        return None
    return g.call(aten.where.self, mask, full(g, [], value, self.meta["val"].dtype), self)


@decomposition(aten.where.ScalarOther)
def where_scalar_other(g: Editor, condition: fx.Node, self: fx.Node, other: Any) -> fx.Node:
    dtype = torch.result_type(self.meta["val"], _number(other))
    return g.call(aten.where.self, condition, self, full(g, [], other, dtype))


@decomposition(aten.where.ScalarSelf)
def where_scalar_self(g: Editor, condition: fx.Node, self: Any, other: fx.Node) -> fx.Node:
    dtype = torch.result_type(other.meta["val"], _number(self))
    return g.call(aten.where.self, condition, full(g, [], self, dtype), other)


def _number(value: Any) -> Any:
    return value.meta["val"] if isinstance(value, fx.Node) else value
