"""Matrix products."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from fxpasses.testing.drawers import (
    FLOAT,
    INT,
    NUMERIC,
    OMIT,
    WIDE,
    Motif,
    Row,
)

__all__ = ["MATMUL"]

aten = torch.ops.aten


def _matrix(g: Any, kinds: Iterable[torch.dtype] = NUMERIC, rank: tuple[int, int] = (2, 2)) -> Any:
    return g.tensor(tuple(k for k in kinds if k != torch.int16), rank, "any")


def _mm(g: Any) -> dict[str, Any]:
    a = _matrix(g)
    return {"self": a, "mat2": g.like(a.dtype, (a.shape[1], g.integer(1, 4)))}


def _addmm(g: Any) -> dict[str, Any]:
    a = _matrix(g, FLOAT)
    n = g.integer(1, 4)
    bias = g.like(a.dtype, g.choose(((n,), (a.shape[0], n), (1, n), ())))
    scale = {"beta": g.choose((OMIT, 2, 0.5)), "alpha": g.choose((OMIT, 1, -1.5))}
    return {"self": bias, "mat1": a, "mat2": g.like(a.dtype, (a.shape[1], n)), **scale}


def _bmm(g: Any) -> dict[str, Any]:
    a = _matrix(g, NUMERIC, (3, 3))
    return {"self": a, "mat2": g.like(a.dtype, (a.shape[0], a.shape[2], g.integer(1, 3)))}


def _baddbmm(g: Any) -> dict[str, Any]:
    a = _matrix(g, FLOAT, (3, 3))
    b, m, k = a.shape
    n = g.integer(1, 3)
    bias = g.like(a.dtype, g.choose(((b, m, n), (n,), (m, 1))))
    return {
        "self": bias,
        "batch1": a,
        "batch2": g.like(a.dtype, (b, k, n)),
        "beta": g.choose((OMIT, 2)),
        "alpha": g.choose((OMIT, 0.5)),
    }


def _matmul(g: Any) -> dict[str, Any]:
    a = _matrix(g, FLOAT + INT, (1, 4))
    k = a.shape[-1]
    shape = g.choose([(k,), (k, 2), (2, k, 3), *([(*a.shape[:-2], k, 2), (1, k, 1)] if a.dim() > 2 else [])])
    return {"self": a, "other": g.like(a.dtype, shape)}


def _linear(g: Any) -> dict[str, Any]:
    x = _matrix(g, FLOAT, (1, 4))
    n = g.integer(1, 4)
    bias = g.like(x.dtype, (n,)) if g.flag() else OMIT
    return {"input": x, "weight": g.like(x.dtype, (n, x.shape[-1])), "bias": bias}


def _einsum(g: Any) -> dict[str, Any]:
    equation = g.choose(
        ("ij,jk->ik", "ij,j->i", "bij,bjk->bik", "bij,bkj->bik", "ij->ji", "ij,ij->", "i,j->ij")
    )
    sizes = {letter: g.integer(1, 3) for letter in dict.fromkeys(equation) if letter.isalpha()}
    dtype = g.dtype(FLOAT)
    terms = equation.split("->")[0].split(",")
    return {"equation": equation, "tensors": [g.like(dtype, [sizes[c] for c in term]) for term in terms]}


def _cdist(g: Any) -> dict[str, Any]:
    dtype = g.dtype(WIDE)
    rows, others, size = (g.integer(1, 4) for _ in range(3))
    return {
        "x1": g.like(dtype, (rows, size)),
        "x2": g.like(dtype, (others, size)),
        "p": g.choose((2.0, 1.0, 3.0, math.inf)),
    }


MATMUL: list[Row | Motif] = [
    *[Row(aten.mm.default, _mm)] * 2,
    *[Row(aten.addmm.default, _addmm)] * 2,
    Row(aten.bmm.default, _bmm),
    Row(aten.baddbmm.default, _baddbmm),
    *[Row(aten.matmul.default, _matmul)] * 2,
    *[Row(aten.linear.default, _linear)] * 2,
    Row(aten.einsum.default, _einsum),
    Row(aten.cdist.default, _cdist),
]
