"""Small calls that decompositions are made of."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxpasses.errors import source_line
from fxpasses.rewrite import Editor
from fxpasses.tracing.fake_values import same_size

__all__ = ["cast", "expand", "first", "full", "here", "reshape", "shape", "told_sizes"]

aten = torch.ops.aten


def shape(node: fx.Node) -> list[Any]:
    """The sizes of a value, ints and SymInts."""
    return list(node.meta["val"].shape)


def told_sizes(sizes: Sequence[Any], val: torch.Tensor) -> list[Any]:
    """The numbers among *sizes*, and in the place of the others those of *val*, of which torch may know more."""
    return [
        size if isinstance(size, int) and size >= 0 else known
        for size, known in zip(sizes, val.shape, strict=True)
    ]


def reshape(g: Editor, node: fx.Node, sizes: Sequence[Any]) -> fx.Node:
    """*node* in another shape; itself where it has it."""
    now = shape(node)
    if len(now) == len(sizes) and all(map(same_size, now, sizes)):
        return node
    return g.call(aten.reshape.default, node, list(sizes))


def expand(g: Editor, node: fx.Node, sizes: Sequence[Any]) -> fx.Node:
    """*node* expanded to *sizes*; itself where it has them."""
    now = shape(node)
    if len(now) == len(sizes) and all(map(same_size, now, sizes)):
        return node
    return g.call(aten.expand.default, node, list(sizes))


def cast(g: Editor, self: fx.Node, dtype: torch.dtype | None) -> fx.Node:
    """*self* in another dtype; itself where it has it, or none is asked for."""
    if dtype is None or self.meta["val"].dtype == dtype:
        return self
    return g.call(aten._to_copy.default, self, dtype=dtype)


def full(g: Editor, size: Any, value: Any, dtype: Any) -> fx.Node:
    """A tensor of one value, by default of the default dtype."""
    dtype = dtype if dtype is not None else torch.get_default_dtype()
    return g.call(aten.full.default, size, value, dtype=dtype)


def first(g: Editor, node: fx.Node) -> fx.Node:
    """Result 0 of a call with several results."""
    return g.call(operator.getitem, node, 0)


def here(g: Editor) -> str:
    """The source line of the call that is spelled out."""
    return source_line(g.anchor) or "no source line"
