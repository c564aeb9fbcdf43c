"""Matrix products: one form, whatever the strides."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from fxpasses.errors import FxpassesError
from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import expand, full, here, reshape, shape
from fxpasses.rewrite import Editor
from fxpasses.tracing.fake_values import broadcast_sizes

aten = torch.ops.aten


@decomposition(aten.linear.default)
def linear(g: Editor, input: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
    if weight.meta["val"].dim() == 1:
        weight = g.call(aten.unsqueeze.default, weight, 0)
        return reshape(g, linear(g, input, weight, bias), shape(input)[:-1])
    matrix = g.call(aten.permute.default, weight, [1, 0])
    flat = reshape(g, input, [math.prod(shape(input)[:-1]), shape(input)[-1]])
    if bias is None:
        product = g.call(aten.mm.default, flat, matrix)
    else:
        product = g.call(aten.addmm.default, bias, flat, matrix)
    return reshape(g, product, [*shape(input)[:-1], shape(matrix)[1]])


@decomposition(aten.matmul.default)
def matmul(g: Editor, self: fx.Node, other: fx.Node) -> fx.Node:
    left, right = shape(self), shape(other)
    if len(left) == 0 or len(right) == 0:
        raise FxpassesError(f"matmul of a 0-d tensor ({here(g)}); multiply instead")
    if len(left) == 1:
        product = matmul(g, reshape(g, self, [1, *left]), other)
        sizes = shape(product)
        return reshape(g, product, sizes[:-2] + sizes[-1:] if len(right) > 1 else [])
    if len(right) == 1:
        product = matmul(g, self, reshape(g, other, [*right, 1]))
        return reshape(g, product, shape(product)[:-1])
    if len(right) == 2:
        flat = reshape(g, self, [math.prod(left[:-1]), left[-1]])
        return reshape(g, g.call(aten.mm.default, flat, other), [*left[:-1], right[-1]])
    batch = broadcast_sizes(left[:-2], right[:-2])
    a = reshape(g, expand(g, self, batch + left[-2:]), [math.prod(batch), *left[-2:]])
    c = reshape(g, expand(g, other, batch + right[-2:]), [math.prod(batch), *right[-2:]])
    return reshape(g, g.call(aten.bmm.default, a, c), [*batch, left[-2], right[-1]])


@decomposition(aten.mv.default)
def mv(g: Editor, self: fx.Node, vec: fx.Node) -> fx.Node:
    return matmul(g, self, vec)


@decomposition(aten.dot.default)
def dot(g: Editor, self: fx.Node, tensor: fx.Node) -> fx.Node:
    return matmul(g, self, tensor)


@decomposition(aten.addmm.default)
def addmm(g: Editor, self: fx.Node, mat1: fx.Node, mat2: fx.Node, *, beta: Any, alpha: Any) -> Any:
    if beta == 1 and alpha == 1:
        return None
    if _unread(mat1, alpha):
        product = _zeros(g, [shape(mat1)[0], shape(mat2)[1]], mat1)
    else:
        product = g.call(aten.mm.default, mat1, mat2)
    return _plus(g, self, product, beta, alpha)


@decomposition(aten.addmv.default)
def addmv(g: Editor, self: fx.Node, mat: fx.Node, vec: fx.Node, *, beta: Any, alpha: Any) -> fx.Node:
    product = _zeros(g, shape(mat)[:1], mat) if _unread(mat, alpha) else matmul(g, mat, vec)
    return _plus(g, self, product, beta, alpha)


@decomposition(aten.addbmm.default)
def addbmm(g: Editor, self: fx.Node, batch1: fx.Node, batch2: fx.Node, *, beta: Any, alpha: Any) -> fx.Node:
    if _unread(batch1, alpha):
        total = _zeros(g, [shape(batch1)[1], shape(batch2)[2]], batch1)
    else:
        products = g.call(aten.bmm.default, batch1, batch2)
        total = g.call(aten.sum.dim_IntList, products, [0], dtype=products.meta["val"].dtype)
    return _plus(g, self, total, beta, alpha)


@decomposition(aten.baddbmm.default)
def baddbmm(g: Editor, self: fx.Node, batch1: fx.Node, batch2: fx.Node, *, beta: Any, alpha: Any) -> fx.Node:
    (count, rows, terms), columns = shape(batch1), shape(batch2)[2]
    in_blas = statically_known_true(rows * terms * columns >= _BATCHES_IN_BLAS)
    if in_blas and _unread(batch1, alpha):
        products = _zeros(g, [count, rows, columns], batch1)
    else:
        products = g.call(aten.bmm.default, batch1, batch2)
    return _plus(g, self, products, beta, alpha)


_BATCHES_IN_BLAS = 400
"""Products for a matrix of a batch, from which on eager PyTorch leaves the batch to BLAS."""


def _unread(matrix: fx.Node, alpha: Any) -> bool:
    """Whether eager PyTorch does not read *matrix*, so that no NaN in it counts: BLAS for an alpha of 0."""
    return bool(alpha == 0) and matrix.meta["val"].dtype in (torch.float32, torch.float64)


def _zeros(g: Editor, sizes: list[Any], like: fx.Node) -> fx.Node:
    return full(g, sizes, 0.0, like.meta["val"].dtype)


def _plus(g: Editor, self: fx.Node, product: fx.Node, beta: Any, alpha: Any) -> fx.Node:
    """``beta * self + alpha * product``; with a beta of 0 even a NaN in *self* does not count."""
    product = _scaled(g, product, alpha)
    return product if beta == 0 else g.call(aten.add.Tensor, product, _scaled(g, self, beta))


def _scaled(g: Editor, node: fx.Node, factor: Any) -> fx.Node:
    dtype = node.meta["val"].dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        factor = int(factor)  # eager cuts it off, too
    return node if factor == 1 else g.call(aten.mul.Scalar, node, factor)
