"""Movement of complex numbers: the pairs move as they are, since their dim is the last one."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import fx

from fxpasses.passes.complexes.table import Pair, complex_row, on_parts, pair, parts
from fxpasses.passes.decompositions.values import cast, full
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@complex_row(aten.reshape.default)
def reshape(g: Editor, self: Any, shape: Any) -> Any:
    return on_parts(g, aten.reshape.default, self, [*shape, 2])


@complex_row(aten.expand.default)
def expand(g: Editor, self: Any, size: Any, *, implicit: Any) -> Any:
    return on_parts(g, aten.expand.default, self, [*size, 2])


@complex_row(aten.permute.default)
def permute(g: Editor, self: Any, dims: Any) -> Any:
    return on_parts(g, aten.permute.default, self, [*(dim % self.rank for dim in dims), self.rank])


@complex_row(aten.unsqueeze.default)
def unsqueeze(g: Editor, self: Any, dim: int) -> Any:
    return on_parts(g, aten.unsqueeze.default, self, dim % (self.rank + 1))


@complex_row(aten.squeeze.dims)
def squeeze(g: Editor, self: Any, dim: Any) -> Any:
    return on_parts(g, aten.squeeze.dims, self, [d % max(self.rank, 1) for d in dim if self.rank])


@complex_row(aten.select.int)
def select(g: Editor, self: Any, dim: int, index: Any) -> Any:
    return on_parts(g, aten.select.int, self, dim % self.rank, index)


@complex_row(aten.slice.Tensor)
def slice_(g: Editor, self: Any, dim: int, start: Any, end: Any, step: Any) -> Any:
    return on_parts(g, aten.slice.Tensor, self, dim % self.rank, start, end, step)


@complex_row(aten.diagonal.default)
def diagonal(g: Editor, self: Any, offset: int, dim1: int, dim2: int) -> Any:
    found = g.call(aten.diagonal.default, self.node, offset, dim1 % self.rank, dim2 % self.rank)
    rank = self.rank - 1  # the diagonal comes last, after the parts
    return Pair(g.call(aten.permute.default, found, [*range(rank - 1), rank, rank - 1]))


@complex_row(aten.flip.default)
def flip(g: Editor, self: Any, dims: Any) -> Any:
    return on_parts(g, aten.flip.default, self, [dim % max(self.rank, 1) for dim in dims if self.rank])


@complex_row(aten.roll.default)
def roll(g: Editor, self: Any, shifts: Any, dims: Any) -> Any:
    if not dims:
        return None
    return on_parts(g, aten.roll.default, self, shifts, [dim % self.rank for dim in dims])


@complex_row(aten.repeat.default)
def repeat(g: Editor, self: Any, repeats: Any) -> Any:
    return on_parts(g, aten.repeat.default, self, [*repeats, 1])


@complex_row(aten.constant_pad_nd.default)
def pad(g: Editor, self: Any, pad: Any, value: Any) -> Any:
    if value != 0:
        return None
    return on_parts(g, aten.constant_pad_nd.default, self, [0, 0, *pad], 0)


@complex_row(aten._pad_circular.default)
def pad_circular(g: Editor, self: Any, pad: Any) -> Any:
    return on_parts(g, aten._pad_circular.default, self, [0, 0, *pad])


@complex_row(aten.index_select.default)
def index_select(g: Editor, self: Any, dim: int, index: Any) -> Any:
    if not self.rank:
        return None
    return on_parts(g, aten.index_select.default, self, dim % self.rank, index)


@complex_row(aten.index.Tensor)
def index(g: Editor, self: Any, indices: Any) -> Any:
    return on_parts(g, aten.index.Tensor, self, indices)


def _at_pairs(g: Editor, index: fx.Node) -> fx.Node:
    """Positions of complex elements as those of both their parts."""
    index = g.call(aten.unsqueeze.default, index, index.meta["val"].dim())
    return g.call(aten.expand.default, index, [*index.meta["val"].shape[:-1], 2])


@complex_row(aten.gather.default)
def gather(g: Editor, self: Any, dim: int, index: fx.Node, *, sparse_grad: bool) -> Any:
    if not self.rank:
        return None
    return on_parts(g, aten.gather.default, self, dim % self.rank, _at_pairs(g, index))


@complex_row(aten.scatter.src)
def scatter(g: Editor, self: Any, dim: int, index: fx.Node, src: Any) -> Any:
    if not self.rank or not isinstance(src, Pair):
        return None
    return on_parts(g, aten.scatter.src, self, dim % self.rank, _at_pairs(g, index), src.node)


@complex_row(aten.scatter_add.default)
def scatter_add(g: Editor, self: Any, dim: int, index: fx.Node, src: Any) -> Any:
    if not self.rank:
        return None
    return on_parts(g, aten.scatter_add.default, self, dim % self.rank, _at_pairs(g, index), src.node)


@complex_row(aten.slice_scatter.default)
def slice_scatter(g: Editor, self: Any, src: Any, dim: int, start: Any, end: Any, step: Any) -> Any:
    if not (isinstance(self, Pair) and isinstance(src, Pair)):
        return None
    return on_parts(g, aten.slice_scatter.default, self, src.node, dim % self.rank, start, end, step)


@complex_row(aten.select_scatter.default)
def select_scatter(g: Editor, self: Any, src: Any, dim: int, index: Any) -> Any:
    if not (isinstance(self, Pair) and isinstance(src, Pair)):
        return None
    return on_parts(g, aten.select_scatter.default, self, src.node, dim % self.rank, index)


@complex_row(aten.index_put.default)
def index_put(g: Editor, self: Any, indices: Any, values: Any, accumulate: bool) -> Any:
    if not (isinstance(self, Pair) and isinstance(values, Pair)):
        return None
    return on_parts(g, aten.index_put.default, self, indices, values.node, accumulate)


@complex_row(aten.sum.dim_IntList)
def sum_dims(g: Editor, self: Any, dim: Any, keepdim: bool, *, dtype: Any) -> Any:
    if dtype is not None:
        return None
    dims = list(range(self.rank)) if not dim else [d % max(self.rank, 1) for d in dim]
    return on_parts(g, aten.sum.dim_IntList, self, dims, keepdim) if self.rank else self


@complex_row(aten.mean.dim)
def mean_dims(g: Editor, self: Any, dim: Any, keepdim: bool, *, dtype: Any) -> Any:
    if dtype is not None or not self.rank:
        return None
    dims = list(range(self.rank)) if not dim else [d % self.rank for d in dim]
    return on_parts(g, aten.mean.dim, self, dims, keepdim)


@complex_row(aten.cumsum.default)
def cumsum(g: Editor, self: Any, dim: int, *, dtype: Any) -> Any:
    return on_parts(g, aten.cumsum.default, self, dim % self.rank) if dtype is None and self.rank else None


@complex_row(aten.cat.default)
def cat(g: Editor, tensors: Any, dim: int) -> Any:
    pairs = [value if isinstance(value, Pair) else pair(g, *parts(g, value)) for value in tensors]
    if len({value.rank for value in pairs}) > 1:
        return None
    dtype = reduce(torch.promote_types, (value.val.dtype for value in pairs))
    return Pair(
        g.call(aten.cat.default, [cast(g, value.node, dtype) for value in pairs], dim % pairs[0].rank)
    )


@complex_row(aten.where.self)
def where(g: Editor, condition: fx.Node, self: Any, other: Any) -> Any:
    (a, b), (c, d) = parts(g, self), parts(g, other)
    return pair(g, *(g.call(aten.where.self, condition, x, y) for x, y in ((a, c), (b, d))))


@complex_row(aten.full.default)
def full_(
    g: Editor, size: Any, fill_value: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any
) -> Any:
    kind = (dtype or torch.get_default_dtype().to_complex()).to_real()
    if isinstance(fill_value, fx.Node):  # a size, or read from a tensor
        return pair(g, full(g, size, fill_value, kind), full(g, [], 0, kind))
    number = complex(fill_value)
    return pair(g, full(g, size, number.real, kind), full(g, size, number.imag, kind))
