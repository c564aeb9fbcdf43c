"""Reductions and scans."""

from __future__ import annotations

import math

import torch

from fxpasses.testing.drawers import (
    ALL,
    FLOAT,
    INT,
    NUMERIC,
    WIDE,
    Motif,
    Row,
    choose,
    dim,
    dims,
    flag,
    integer,
    new_dtype,
    optional,
    rows,
    same,
    tensor,
)

__all__ = ["REDUCTION"]

aten = torch.ops.aten

_keepdim = optional(flag)


REDUCTION: list[Row | Motif] = [
    Row(aten.sum.default, {"self": tensor(ALL), "dtype": optional(new_dtype(*WIDE, *INT))}),
    *rows(
        {
            "self": tensor(ALL, (1, 4)),
            "dim": dims(),
            "keepdim": _keepdim,
            "dtype": optional(new_dtype(*NUMERIC)),
        },
        aten.sum.dim_IntList,
        aten.sum.dim_IntList,
    ),
    Row(aten.mean.default, {"self": tensor(FLOAT)}),
    Row(aten.mean.default, {"self": tensor(ALL), "dtype": new_dtype(*FLOAT)}),
    *rows(
        {
            "self": tensor(FLOAT, (1, 4)),
            "dim": dims(),
            "keepdim": _keepdim,
            "dtype": optional(new_dtype(*WIDE)),
        },
        aten.mean.dim,
        aten.mean.dim,
    ),
    Row(aten.prod.dim_int, {"self": tensor(NUMERIC, (1, 3)), "dim": dim(), "keepdim": _keepdim}),
    *rows(
        {"self": tensor(ALL, (1, 4)), "dim": dims(), "keepdim": _keepdim},
        aten.amax.default,
        aten.amin.default,
    ),
    Row(aten.amax.default, {"self": tensor(NUMERIC)}),
    *rows({"self": tensor(NUMERIC, (1, 4)), "dim": dim(), "keepdim": _keepdim}, aten.max.dim, aten.min.dim),
    *rows({"self": tensor(ALL)}, aten.max.default, aten.min.default),
    *rows(
        {"self": tensor(NUMERIC, (1, 4)), "dim": dim(), "keepdim": _keepdim},
        aten.argmax.default,
        aten.argmin.default,
    ),
    Row(aten.argmax.default, {"self": tensor(NUMERIC)}),
    Row(aten.aminmax.default, {"self": tensor(NUMERIC, (1, 4)), "dim": dim(), "keepdim": _keepdim}),
    *rows({"self": tensor(ALL, (1, 4)), "dim": dim(), "keepdim": _keepdim}, aten.any.dim, aten.all.dim),
    *rows({"self": tensor(ALL, (1, 4)), "dim": dims(), "keepdim": _keepdim}, aten.any.dims, aten.all.dims),
    *rows({"self": tensor(ALL)}, aten.any.default, aten.all.default),
    *rows(
        {
            "self": tensor(FLOAT, (1, 4)),
            "dim": optional(dims()),
            "correction": optional(choose(0, 1)),
            "keepdim": _keepdim,
        },
        aten.var.correction,
        aten.std.correction,
        aten.var_mean.correction,
    ),
    Row(aten.logsumexp.default, {"self": tensor(FLOAT, (1, 4)), "dim": dims(), "keepdim": _keepdim}),
    Row(
        aten.linalg_vector_norm.default,
        {
            "self": tensor(WIDE, (1, 4)),
            "ord": optional(choose(1, 2, math.inf, 3)),
            "dim": dims(),
            "keepdim": _keepdim,
        },
    ),
    *rows({"self": tensor(NUMERIC, (1, 4)), "dim": dim()}, aten.cumsum.default, aten.cumprod.default),
    Row(
        aten.cumsum.default,
        {"self": tensor(ALL, (1, 4)), "dim": dim(), "dtype": new_dtype(*WIDE, torch.int64)},
    ),
    *rows(
        {"self": tensor(FLOAT, (1, 4)), "dim": dim()},
        aten.softmax.int,
        aten.log_softmax.int,
        aten.softmax.int,
    ),
    *rows(
        {"self": tensor(FLOAT, (1, 4)), "dim": dim(), "half_to_float": choose(False)},
        aten._softmax.default,
        aten._log_softmax.default,
    ),
    Row(aten.count_nonzero.dim_IntList, {"self": tensor(ALL, (1, 4)), "dim": dims()}),
    *rows({"self": tensor(NUMERIC, (1, 3))}, aten.median.default, aten.nanmedian.default, aten.prod.default),
    *rows(
        {"self": tensor(NUMERIC, (1, 3)), "dim": dim(), "keepdim": optional(flag)},
        aten.median.dim,
        aten.nanmedian.dim,
        aten.mode.default,
    ),
    Row(
        aten.kthvalue.default,
        {
            "self": tensor(FLOAT, (1, 3)),
            "k": integer(1, 2),
            "dim": optional(dim()),
            "keepdim": optional(flag),
        },
    ),
    *rows({"self": tensor(NUMERIC, (1, 4)), "dim": dim()}, aten.cummax.default, aten.cummin.default),
    Row(aten.logcumsumexp.default, {"self": tensor(FLOAT, (1, 3)), "dim": dim()}),
    Row(aten.nansum.default, {"self": tensor(FLOAT, (1, 3)), "dim": lambda g, a: [dim()(g, a)]}),
    Row(aten.std_mean.correction, {"self": tensor(FLOAT, (2, 3)), "dim": lambda g, a: [dim()(g, a)]}),
    Row(aten.diff.default, {"self": tensor(NUMERIC, (1, 3)), "n": choose(1, 2), "dim": optional(dim())}),
    Row(
        aten.norm.ScalarOpt_dim,
        {"self": tensor(FLOAT, (1, 3)), "p": choose(1, 2, 3), "dim": lambda g, a: [dim()(g, a)]},
    ),
    Row(aten.dist.default, {"self": tensor(FLOAT, (1, 2)), "other": same("self"), "p": choose(2, 1)}),
    Row(aten.trace.default, {"self": tensor(NUMERIC, (2, 2))}),
]
