"""`turn_single_row`: the product of a row with a turned matrix is that of the matrix with a column."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.values import reshape, shape
from fxpasses.passes.normalize_kwargs import on_full_form
from fxpasses.rewrite import Editor, rewrite
from fxpasses.tracing.fake_values import same_size

__all__ = ["turn_single_row"]

aten = torch.ops.aten


@on_full_form
@rewrite(aten.mm.default, aten.bmm.default)
def turn_single_row(g: Editor, node: fx.Node) -> Any:
    """``mm(x, permute(y))`` of one row is ``mm(y, x)`` of one column, which reads *y* as it lies in memory.

    So is a batch of them.
    """
    row, turned = node.args
    if turned.target is not aten.permute.default or not same_size(shape(row)[-2], 1):
        return None
    matrix, dims = turned.args
    *batch, inner, columns = shape(turned)
    rank = len(dims)
    if [dim % rank for dim in dims] != [*range(rank - 2), rank - 1, rank - 2]:
        return None
    column = reshape(g, row, [*batch, inner, 1])
    return reshape(g, g.call(node.target, matrix, column), [*batch, 1, columns])
