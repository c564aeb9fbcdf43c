"""`normalize_matmul`: one spelling of each matrix product, whatever its strides were.

Tracing below autograd shows the choices that ATen makes by strides: a product
with a shared matrix as a batched one, a bias added before or after the result
takes its shape. These are brought to the form that `linear` decomposes to.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.values import reshape, shape
from fxpasses.passes.normalize_kwargs import on_full_form
from fxpasses.rewrite import Editor, rewrite
from fxpasses.tracing.fake_values import same_size

__all__ = ["normalize_matmul"]

aten = torch.ops.aten


def _shared_matrix(g: Editor, node: fx.Node) -> Any:
    """``bmm(a, expand(b))`` is one `mm` with all rows of *a*."""
    left, right = node.args
    if right.target is not aten.expand.default:
        return None
    matrix = right.args[0]
    sizes = shape(matrix)
    if len(sizes) == 3 and isinstance(sizes[0], int) and sizes[0] == 1:
        matrix = reshape(g, matrix, sizes[1:])
    elif len(sizes) != 2:
        return None
    batch, rows, inner = shape(left)
    product = g.call(aten.mm.default, reshape(g, left, [batch * rows, inner]), matrix)
    return reshape(g, product, [batch, rows, shape(matrix)[1]])


def _biased(g: Editor, node: fx.Node) -> Any:
    """``add(reshape(mm), bias)`` is ``reshape(addmm)`` for a bias along the last dim."""
    left, right = node.args[:2]
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or node.kwargs["alpha"] != 1:
        return None
    if left.meta["val"].dtype != right.meta["val"].dtype:
        return None
    for product, bias in ((left, right), (right, left)):
        mm = product.args[0] if product.target is aten.reshape.default else product
        if mm.target is not aten.mm.default or len(product.users) != 1 or len(mm.users) != 1:
            continue
        columns = shape(mm)[1]
        if len(shape(bias)) != 1 or not same_size(shape(bias)[0], columns):
            continue
        if not shape(product) or not same_size(shape(product)[-1], columns):
            continue
        if not mm.meta["val"].dtype.is_floating_point:
            continue
        if product is not mm and not same_size(math.prod(shape(product)[:-1]), shape(mm)[0]):
            continue
        return reshape(g, g.call(aten.addmm.default, bias, *mm.args), shape(node))
    return None


_RULES = {aten.bmm.default: _shared_matrix, aten.add.Tensor: _biased}


@on_full_form
@rewrite(*_RULES)
def normalize_matmul(g: Editor, node: fx.Node) -> Any:
    """Merge a bias into the product before it, and the rows of a batch that shares its matrix."""
    return _RULES[node.target](g, node)
