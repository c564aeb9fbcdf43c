"""Linear algebra that raises for matrices it cannot take: the form that checks, as torch's own spelling does not."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.table import decomposition
from fxpasses.passes.decompositions.values import first, reshape, shape
from fxpasses.rewrite import Editor

aten = torch.ops.aten


@decomposition(aten.linalg_cholesky.default)
def cholesky(g: Editor, self: fx.Node, *, upper: bool) -> fx.Node:
    return first(g, g.call(aten.linalg_cholesky_ex.default, self, upper=upper, check_errors=True))


@decomposition(aten.linalg_inv.default)
def inv(g: Editor, A: fx.Node) -> fx.Node:
    return first(g, g.call(aten.linalg_inv_ex.default, A, check_errors=True))


@decomposition(aten.inverse.default)
def inverse(g: Editor, self: fx.Node) -> fx.Node:
    return inv(g, self)


@decomposition(aten.linalg_solve.default)
def solve(g: Editor, A: fx.Node, B: fx.Node, *, left: bool) -> fx.Node:
    return first(g, g.call(aten._linalg_solve_ex.default, A, B, left=left, check_errors=True))


@decomposition(aten.linalg_lu_factor.default)
def lu_factor(g: Editor, A: fx.Node, *, pivot: bool) -> Any:
    return _both(g, g.call(aten.linalg_lu_factor_ex.default, A, pivot=pivot, check_errors=True))


@decomposition(aten.linalg_ldl_factor.default)
def ldl_factor(g: Editor, self: fx.Node, *, hermitian: bool) -> Any:
    return _both(g, g.call(aten.linalg_ldl_factor_ex.default, self, hermitian=hermitian, check_errors=True))


@decomposition(aten.linalg_matrix_power.default)
def matrix_power(g: Editor, self: fx.Node, n: int) -> fx.Node | None:
    return g.call(aten.linalg_matrix_power.default, inv(g, self), -n) if n < 0 else None


@decomposition(aten.linalg_tensorinv.default)
def tensorinv(g: Editor, self: fx.Node, ind: int) -> fx.Node:
    sizes = shape(self)
    rows, columns = sizes[:ind], sizes[ind:]
    return reshape(g, inv(g, reshape(g, self, [math.prod(rows), math.prod(columns)])), [*columns, *rows])


@decomposition(aten.linalg_tensorsolve.default)
def tensorsolve(g: Editor, self: fx.Node, other: fx.Node, dims: list[int] | None) -> fx.Node:
    rank = len(shape(self))
    last = [dim % rank for dim in dims or ()]
    if last:
        self = g.call(aten.permute.default, self, [*(d for d in range(rank) if d not in last), *last])
    found, given = shape(self)[len(shape(other)) :], math.prod(shape(other))
    matrix = reshape(g, self, [given, math.prod(found)])
    return reshape(g, solve(g, matrix, reshape(g, other, [given]), left=True), found)


def _both(g: Editor, factors: fx.Node) -> tuple[fx.Node, fx.Node]:
    return first(g, factors), g.call(operator.getitem, factors, 1)
