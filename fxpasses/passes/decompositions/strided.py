"""`as_strided`: the one operator whose meaning lies in memory, as a selection of elements.

It reads the strides that its operand had at capture, so `decompose_to_core_aten`
spells it out before any call that the operand comes from: a dropped `contiguous`
would change them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxpasses.errors import UnsupportedOperatorError, source_line
from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import reshape
from fxpasses.rewrite import Editor

__all__ = ["READS_STRIDES"]

aten = torch.ops.aten

READS_STRIDES = frozenset({aten.as_strided.default, aten.as_strided_copy.default})


@decomposition(*READS_STRIDES)
def as_strided(g: Editor, self: fx.Node, size: Any, stride: Any, storage_offset: Any) -> fx.Node:
    """The elements of *self* at positions of its memory.

    Raises:
        UnsupportedOperatorError: sizes are symbolic, or it reads memory that
            belongs to no element of *self*.
    """
    val = self.meta["val"]
    own = val.storage_offset()
    start = 0 if storage_offset is None else storage_offset - own
    known = [start, *size, *stride, *val.shape, *val.stride()]
    if not all(isinstance(number, int) for number in known):
        raise _refusal(g, "it has symbolic sizes")
    order = sorted(range(val.dim()), key=lambda dim: (-val.stride(dim), -val.shape[dim]))
    if not val.permute(order).is_contiguous():
        raise _refusal(g, "its operand has gaps in memory")
    places = torch.full((), start, dtype=torch.int64)
    for length, step in zip(size, stride, strict=True):
        places = places.unsqueeze(-1) + torch.arange(length) * step
    if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < val.numel():
        raise _refusal(g, "it reads memory outside of its operand")
    line = self if order == sorted(order) else g.call(aten.permute.default, self, order)
    line = reshape(g, line, [val.numel()])
    if math.prod(size) == val.numel() and torch.equal(places.flatten(), torch.arange(val.numel())):
        return reshape(g, line, list(size))
    places = g.constant(places.flatten(), "places")
    return reshape(g, g.call(aten.index_select.default, line, 0, places), list(size))


def _refusal(g: Editor, reason: str) -> UnsupportedOperatorError:
    node = g._anchor
    where = source_line(node) if node is not None else None
    return UnsupportedOperatorError(f"as_strided cannot be spelled out, since {reason} ({where or node})")


@decomposition(aten.diagonal_scatter.default)
def diagonal_scatter(g: Editor, self: fx.Node, src: fx.Node, offset: int, dim1: int, dim2: int) -> Any:
    val = self.meta["val"]
    rank = val.dim()
    ends = [dim1 % rank, dim2 % rank]
    rows, columns = (val.shape[end] for end in ends)
    if not isinstance(rows, int) or not isinstance(columns, int):
        return None
    length = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    if length == 0:
        return self
    order = [dim for dim in range(rank) if dim not in ends] + ends
    back = sorted(range(rank), key=order.__getitem__)
    line = torch.arange(length)
    places = [
        g.constant(line + max(0, -offset), "rows"),
        g.constant(line + max(0, offset), "columns"),
    ]
    indices: Sequence[Any] = [*itertools.repeat(None, rank - 2), *places]
    moved = g.call(aten.permute.default, self, order)
    put = g.call(aten.index_put.default, moved, indices, src, False)
    return g.call(aten.permute.default, put, back)
