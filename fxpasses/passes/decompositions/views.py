"""Views: reshape, permute, slice and select."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import expand, reshape, shape, told_sizes
from fxpasses.rewrite import Editor

__all__ = ["copied_view"]

aten = torch.ops.aten


@cache
def copied_view(op: OpOverload) -> OpOverload | None:
    """The view that *op* (``permute_copy``, ``split_copy``) copies; None where it copies none."""
    if torch.Tag.view_copy not in op.tags or op._schema.is_mutable:
        return None
    name = op._schema.name.removeprefix("aten::").removesuffix("_copy")
    return getattr(getattr(aten, name), op._overloadname)


@decomposition(aten.view.default, aten.view_copy.default, aten._unsafe_view.default)
def view(g: Editor, self: fx.Node, size: Any) -> fx.Node:
    return g.call(aten.reshape.default, self, told_sizes(size, g.anchor.meta["val"]))


@decomposition(aten._reshape_alias.default)
def _reshape_alias(g: Editor, self: fx.Node, size: Any, stride: Any) -> fx.Node:
    return g.call(aten.reshape.default, self, size)


@decomposition(aten.view_as.default, aten.reshape_as.default)
def view_as(g: Editor, self: fx.Node, other: fx.Node) -> fx.Node:
    return reshape(g, self, shape(other))


@decomposition(aten.expand_as.default)
def expand_as(g: Editor, self: fx.Node, other: fx.Node) -> fx.Node:
    return expand(g, self, shape(other))


@decomposition(aten.flatten.using_ints)
def flatten(g: Editor, self: fx.Node, start_dim: int, end_dim: int) -> fx.Node:
    sizes = shape(self)
    if not sizes:
        return reshape(g, self, [1])
    start, end = start_dim % len(sizes), end_dim % len(sizes)
    return reshape(g, self, [*sizes[:start], math.prod(sizes[start : end + 1]), *sizes[end + 1 :]])


@decomposition(torch.ops.prims.collapse.default)
def collapse(g: Editor, a: fx.Node, start: int, end: int) -> fx.Node:
    return flatten(g, a, start, end) if shape(a) else reshape(g, a, [])


@decomposition(aten.t.default, aten.numpy_T.default)
def t(g: Editor, self: fx.Node) -> fx.Node:
    return g.call(aten.permute.default, self, list(range(self.meta["val"].dim()))[::-1])


@decomposition(aten.mT.default)
def m_t(g: Editor, self: fx.Node) -> fx.Node:
    return transpose(g, self, -2, -1)


@decomposition(aten.transpose.int)
def transpose(g: Editor, self: fx.Node, dim0: int, dim1: int) -> fx.Node:
    dims = list(range(self.meta["val"].dim()))
    if not dims:
        return self
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return g.call(aten.permute.default, self, dims)


@decomposition(aten.squeeze.default)
def squeeze(g: Editor, self: fx.Node) -> fx.Node:
    ones = [i for i, size in enumerate(shape(self)) if isinstance(size, int) and size == 1]
    return g.call(aten.squeeze.dims, self, ones)


@decomposition(aten.squeeze.dim)
def squeeze_dim(g: Editor, self: fx.Node, dim: int) -> fx.Node:
    return g.call(aten.squeeze.dims, self, [dim])


def _sections(g: Editor, self: fx.Node, sizes: Sequence[Any], dim: int) -> tuple[fx.Node, ...]:
    start, parts = 0, []
    for size in sizes:
        parts.append(g.call(aten.slice.Tensor, self, dim, start, start + size, 1))
        start = start + size
    return tuple(parts)


@decomposition(aten.split.Tensor)
def split(g: Editor, self: fx.Node, split_size: int, dim: int) -> Any:
    return _equal_sections(g, self, split_size, dim)


def _equal_sections(g: Editor, self: fx.Node, size: int, dim: int) -> Any:
    whole = shape(self)[dim]
    if not isinstance(whole, int) or not isinstance(size, int):
        return None
    if size == 0:
        return (self,)
    return _sections(g, self, [min(size, whole - i) for i in range(0, whole, size)] or [0], dim)


@decomposition(aten.chunk.default)
def chunk(g: Editor, self: fx.Node, chunks: int, dim: int) -> Any:
    whole = shape(self)[dim]
    if not isinstance(whole, int) or whole == 0:
        return None
    return _equal_sections(g, self, -(-whole // chunks), dim)


@decomposition(aten.split_with_sizes.default)
def split_with_sizes(g: Editor, self: fx.Node, split_sizes: Sequence[Any], dim: int) -> Any:
    sizes = [size.meta["val"] if isinstance(size, fx.Node) else size for size in split_sizes]
    return _sections(g, self, sizes, dim)


@decomposition(aten.split.sizes)
def split_sizes(g: Editor, self: fx.Node, split_size: Sequence[Any], dim: int) -> Any:
    return split_with_sizes(g, self, split_size, dim)


@decomposition(aten.unbind.int)
def unbind(g: Editor, self: fx.Node, dim: int) -> Any:
    whole = shape(self)[dim]
    if not isinstance(whole, int):
        return None
    return tuple(g.call(aten.select.int, self, dim, index) for index in range(whole))
