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
@rewrite(aten.mm.default)
def turn_single_row(g: Editor, node: fx.Node) -> Any:
    """``mm(x, permute(y))`` of one row is ``mm(y, x)`` of one column, which reads *y* as it lies in memory."""
    row, turned = node.args
    if turned.target is not aten.permute.default or not same_size(shape(row)[0], 1):
        return None
    matrix, dims = turned.args
    if [dim % 2 for dim in dims] != [1, 0]:
        return None
    inner, columns = shape(turned)
    return reshape(g, g.call(aten.mm.default, matrix, reshape(g, row, [inner, 1])), [1, columns])
