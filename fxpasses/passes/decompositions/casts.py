"""Copies and casts."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import cast, expand, shape
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@decomposition(
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh.default,
    aten.resolve_conj.default,
    aten.resolve_neg.default,
    aten.lift.default,
    aten.positive.default,
)
def alias(g: Editor, self: fx.Node) -> fx.Node:
    return self


@decomposition(aten.clone.default, aten.contiguous.default)
def clone(g: Editor, self: fx.Node, *, memory_format: Any) -> fx.Node:
    return self


@decomposition(torch.ops.prims.copy_strided.default)
def copy_strided(g: Editor, a: fx.Node, stride: Any) -> fx.Node:
    return a


@decomposition(aten.copy.default)
def copy(g: Editor, self: fx.Node, src: fx.Node, non_blocking: bool) -> fx.Node:
    return cast(g, expand(g, src, shape(self)), self.meta["val"].dtype)


@decomposition(aten.to.dtype)
def to_dtype(
    g: Editor, self: fx.Node, dtype: torch.dtype, non_blocking: bool, copy: bool, memory_format: Any
) -> fx.Node:
    return cast(g, self, dtype)


@decomposition(torch.ops.prims.convert_element_type.default)
def convert_element_type(g: Editor, a: fx.Node, dtype: torch.dtype) -> fx.Node:
    return cast(g, a, dtype)


@decomposition(aten.to.dtype_layout)
def to_dtype_layout(
    g: Editor,
    self: fx.Node,
    *,
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: Any,
    non_blocking: bool,
    copy: bool,
    memory_format: Any,
) -> fx.Node:
    return cast(g, self, dtype)


@decomposition(aten.to.device)
def to_device(
    g: Editor, self: fx.Node, device: Any, dtype: Any, non_blocking: bool, copy: bool, memory_format: Any
) -> fx.Node:
    return cast(g, self, dtype)


@decomposition(aten.to.other)
def to_other(
    g: Editor, self: fx.Node, other: fx.Node, non_blocking: bool, copy: bool, memory_format: Any
) -> fx.Node:
    return cast(g, self, other.meta["val"].dtype)


@decomposition(aten.type_as.default)
def type_as(g: Editor, self: fx.Node, other: fx.Node) -> fx.Node:
    return cast(g, self, other.meta["val"].dtype)


@decomposition(aten._to_copy.default)
def _to_copy(
    g: Editor,
    self: fx.Node | complex,
    *,
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: Any,
    non_blocking: bool,
    memory_format: Any,
) -> Any:
    if not isinstance(self, fx.Node):  # the number of an operator under `vmap`
        return g.call(aten.full.default, [], self, dtype=dtype)
    if dtype is None or dtype == self.meta["val"].dtype:
        return self
    if any(x is not None for x in (layout, device, pin_memory, memory_format)) or non_blocking:
        return g.call(aten._to_copy.default, self, dtype=dtype)
    return None


@decomposition(aten.item.default)
def item(g: Editor, self: fx.Node) -> fx.Node:
    """The same call under its core name; a call of its own would make a symbol of its own."""
    node = g._anchor
    assert node is not None
    node.target = aten._local_scalar_dense.default
    return node
