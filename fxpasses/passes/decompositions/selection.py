"""Padding, and choices by a mask or an index: `constant_pad_nd`, `where`, `index_put`, slices by an index."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import full, here, reshape, shape
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@decomposition(aten.pad.default)
def pad(g: Editor, self: fx.Node, pad: Any, mode: str, value: float | None) -> Any:
    if mode == "circular":
        return g.call(aten._pad_circular.default, self, pad)
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


@decomposition(aten.threshold_backward.default)
def threshold_backward(g: Editor, grad_output: fx.Node, self: fx.Node, threshold: Any) -> None:
    """Torch's own, whose result has another dtype than its kernel's where the gradient has to be promoted."""
    given, found = grad_output.meta["val"].dtype, torch.result_type(grad_output.meta["val"], self.meta["val"])
    if given != found or given == torch.bool:
        raise UnsupportedOperatorError(
            f"threshold_backward takes a gradient of {given} that it promotes to {found}; cast it before ({here(g)})"
        )


@decomposition(aten.where.ScalarOther)
def where_scalar_other(g: Editor, condition: fx.Node, self: fx.Node, other: Any) -> fx.Node:
    dtype = torch.result_type(self.meta["val"], _number(other))
    return g.call(aten.where.self, condition, self, full(g, [], other, dtype))


@decomposition(aten.where.ScalarSelf)
def where_scalar_self(g: Editor, condition: fx.Node, self: Any, other: fx.Node) -> fx.Node:
    dtype = torch.result_type(other.meta["val"], _number(self))
    return g.call(aten.where.self, condition, full(g, [], self, dtype), other)


@decomposition(aten.index_add.default)
def index_add(g: Editor, self: fx.Node, dim: int, index: fx.Node, source: fx.Node, *, alpha: Any) -> fx.Node:
    """A `scatter_add`, which raises for negative indices as this does."""
    if alpha != 1:
        source = g.call(aten.mul.Scalar, source, alpha)
    return _by_slices(g, aten.scatter_add.default, self, dim, index, source)


@decomposition(aten.index_copy.default)
def index_copy(g: Editor, self: fx.Node, dim: int, index: fx.Node, source: fx.Node) -> fx.Node:
    return _by_slices(g, aten.scatter.src, self, dim, index, source)


def _by_slices(g: Editor, op: Any, self: fx.Node, dim: int, index: fx.Node, source: fx.Node) -> fx.Node:
    """*op* with an index for each element of *source*, in the place of one for each slice."""
    if index.meta["val"].dim() == 0:
        index = reshape(g, index, [1])
    if source.meta["val"].dim() == 0:
        source = reshape(g, source, [1])
    if self.meta["val"].dim() == 0:
        line = _by_slices(g, op, reshape(g, self, [1]), 0, index, source)
        return reshape(g, line, [])
    sizes = shape(source)
    axis = dim % len(sizes)
    places = g.call(aten._to_copy.default, index, dtype=torch.int64)
    for other in range(len(sizes)):
        if other != axis:
            places = g.call(aten.unsqueeze.default, places, other)
    places = g.call(aten.expand.default, places, [-1 if d == axis else size for d, size in enumerate(sizes)])
    return g.call(op, self, axis, places, source)


def _number(value: Any) -> Any:
    return value.meta["val"] if isinstance(value, fx.Node) else value


@decomposition(aten.searchsorted.Tensor)
def searchsorted(
    g: Editor,
    sorted_sequence: fx.Node,
    self: fx.Node,
    *,
    out_int32: bool,
    right: bool,
    side: str | None,
    sorter: fx.Node | None,
) -> Any:
    if sorter is None:
        return None
    in_order = g.call(aten.gather.default, sorted_sequence, -1, sorter, sparse_grad=False)
    return g.call(
        aten.searchsorted.Tensor, in_order, self, out_int32=out_int32, right=right, side=side, sorter=None
    )
