"""Distances of all pairs of vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.elementwise import within
from fxpasses.relax.kernel import is_static, load, loops, store
from fxpasses.relax.ops.reduction import accumulated, power_sum, reducer
from fxpasses.relax.table import lowering

aten = torch.ops.aten


@lowering(aten._cdist_forward.default)
def _cdist_forward(b: Any, x1: Any, x2: Any, p: Any, compute_mode: Any) -> Any:
    """All distances are summed up directly, as ``donot_use_mm_for_euclid_dist`` asks; it is the exact way."""
    return b.te(_pairs(float(p), skips_nan=True), x1, x2, b.shape(b.val))


@lowering(aten._pdist_forward.default)
def _pdist_forward(b: Any, self: Any, p: Any) -> Any:
    """The distances above the diagonal, row by row."""
    rows, size = b.shape_of(self)[0], b.shape(b.val)[0]

    def kernel(x: Any) -> Any:
        def body(square: Any, out: Any) -> None:
            builder = T.ir_builder.tirx
            with builder.serial(0, rows) as row:
                before = T.tirx.floordiv(row * (2 * rows - row - 1), 2)
                with builder.serial(0, rows - row - 1) as step:
                    store(out, load(square, [row, row + step + 1]), [before + step])

        square = _pairs(float(p))(x, x, [rows, rows])
        return loops([square], [((size,), str(x.dtype))], body, "pdist")

    return b.te(kernel, self)


@cache
def _pairs(order: float, skips_nan: bool = False) -> Callable[[Any, Any, Any], Any]:
    """The norm of the difference of each row of one tensor and each row of another.

    With *skips_nan* the largest difference, the norm of infinite order, is that of the numbers.
    """

    def kernel(x: Any, y: Any, shape: Any) -> Any:
        dtype = str(x.dtype)
        work, length = accumulated(dtype), x.shape[-1]
        if is_static(length, 0):
            return T.te.compute(tuple(shape), lambda *at: S.const(0.0, dtype), name="empty")
        k = T.te.reduce_axis((0, length), name="k")

        def size(*at: Any) -> Any:
            *batch, row, column = at
            left = x(*within(x.shape[:-2], shape[:-2], batch), row, k)
            right = y(*within(y.shape[:-2], shape[:-2], batch), column, k)
            return T.tirx.abs(S.subtract(S.cast(left, work), S.cast(right, work)))

        if math.isinf(order):
            none = S.const(0.0, work)
            term = (lambda v: S.select(S.isnan(v), none, v)) if skips_nan else (lambda v: v)
            root, how = (lambda v: v), "max"
        else:
            (power, root), how = power_sum(order), "sum"
            # Unlike a norm, a distance of order 0 does not count NaN as one more difference.
            term = power if order else lambda v: S.select(S.isnan(v), v, power(v))
        total = T.te.compute(
            tuple(shape), lambda *at: reducer(how)(term(size(*at)), axis=[k]), name="distances"
        )
        return T.te.compute(tuple(shape), lambda *at: S.cast(root(total(*at)), dtype), name="cdist")

    return kernel
