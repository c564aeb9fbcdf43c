"""Creation: `full` and `arange`."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import cast, expand, full, shape
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@decomposition(aten.zeros.default)
def zeros(g: Editor, size: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> fx.Node:
    return full(g, size, 0, dtype)


@decomposition(aten.ones.default)
def ones(g: Editor, size: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> fx.Node:
    return full(g, size, 1, dtype)


@decomposition(aten.empty.memory_format)
def empty(
    g: Editor, size: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any, memory_format: Any
) -> fx.Node:
    return full(g, size, 0, dtype)


@decomposition(aten.scalar_tensor.default)
def scalar_tensor(g: Editor, s: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> fx.Node:
    return full(g, [], s, dtype)


@decomposition(aten.zeros_like.default)
def zeros_like(
    g: Editor, self: fx.Node, *, dtype: Any, layout: Any, device: Any, pin_memory: Any, memory_format: Any
) -> fx.Node:
    return full(g, shape(self), 0, dtype or self.meta["val"].dtype)


@decomposition(aten.ones_like.default)
def ones_like(
    g: Editor, self: fx.Node, *, dtype: Any, layout: Any, device: Any, pin_memory: Any, memory_format: Any
) -> fx.Node:
    return full(g, shape(self), 1, dtype or self.meta["val"].dtype)


@decomposition(aten.empty_like.default)
def empty_like(
    g: Editor, self: fx.Node, *, dtype: Any, layout: Any, device: Any, pin_memory: Any, memory_format: Any
) -> fx.Node:
    return full(g, shape(self), 0, dtype or self.meta["val"].dtype)


@decomposition(aten.full_like.default)
def full_like(
    g: Editor,
    self: fx.Node,
    fill_value: Any,
    *,
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: Any,
    memory_format: Any,
) -> fx.Node:
    return full(g, shape(self), fill_value, dtype or self.meta["val"].dtype)


@decomposition(aten.new_zeros.default)
def new_zeros(
    g: Editor, self: fx.Node, size: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any
) -> fx.Node:
    return full(g, size, 0, dtype or self.meta["val"].dtype)


@decomposition(aten.new_ones.default)
def new_ones(
    g: Editor, self: fx.Node, size: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any
) -> fx.Node:
    return full(g, size, 1, dtype or self.meta["val"].dtype)


@decomposition(aten.new_full.default)
def new_full(
    g: Editor,
    self: fx.Node,
    size: Any,
    fill_value: Any,
    *,
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: Any,
) -> fx.Node:
    return full(g, size, fill_value, dtype or self.meta["val"].dtype)


@decomposition(aten.arange.default)
def arange(g: Editor, end: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> fx.Node:
    return _arange(g, 0, end, 1, dtype)


@decomposition(aten.arange.start)
def arange_start(
    g: Editor, start: Any, end: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any
) -> fx.Node:
    return _arange(g, start, end, 1, dtype)


def _arange(g: Editor, start: Any, end: Any, step: Any, dtype: Any) -> fx.Node:
    dtype = dtype if dtype is not None else g._anchor.meta["val"].dtype  # type: ignore[union-attr]
    return g.call(aten.arange.start_step, start, end, step, dtype=dtype)


@decomposition(aten.eye.default)
def eye(g: Editor, n: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> fx.Node:
    return _eye(g, n, n, dtype)


@decomposition(aten.eye.m)
def eye_m(g: Editor, n: Any, m: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> fx.Node:
    return _eye(g, n, m, dtype)


def _eye(g: Editor, n: Any, m: Any, dtype: Any) -> fx.Node:
    """By comparing places; PyTorch's own way takes them for uint16 from 256 on, in which no kernel counts."""
    row, column = (_arange(g, 0, size, 1, torch.int64) for size in (n, m))
    same = g.call(aten.eq.Tensor, g.call(aten.unsqueeze.default, row, 1), column)
    return cast(g, same, torch.get_default_dtype() if dtype is None else dtype)


@decomposition(aten.empty_strided.default)
def empty_strided(
    g: Editor, size: Any, stride: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any
) -> fx.Node:
    return full(g, size, 0, dtype)


@decomposition(aten.fill.Scalar)
def fill_scalar(g: Editor, self: fx.Node, value: Any) -> fx.Node:
    return full(g, shape(self), value, self.meta["val"].dtype)


@decomposition(aten.fill.Tensor)
def fill_tensor(g: Editor, self: fx.Node, value: fx.Node) -> fx.Node:
    return expand(g, cast(g, value, self.meta["val"].dtype), shape(self))
