"""Matrix products.

Half types are multiplied and summed in float32 and rounded once, at the end.
"""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import WITH_TAIL, accumulator, convert, few_rows, is_at_most, is_known, product
from fxpasses.relax.table import lowering

aten = torch.ops.aten


@lowering(aten.mm.default)
def mm(b: Any, self: Any, mat2: Any) -> Any:
    return b.cast(_product(b, self, mat2), b.val.dtype)


@lowering(aten.bmm.default)
def bmm(b: Any, self: Any, mat2: Any) -> Any:
    return b.cast(_product(b, self, mat2), b.val.dtype)


@lowering(aten.addmm.default)
def addmm(b: Any, self: Any, mat1: Any, mat2: Any, *, beta: Any, alpha: Any) -> Any:
    op = T.relax.op
    result = _product(b, mat1, mat2)
    dtype = b.dtype_of(result)
    if alpha != 1:
        result = b.emit(op.multiply(result, _scalar(alpha, dtype)))
    if beta != 0:  # with beta=0 even a nan in self does not count
        bias = b.cast(b.of_shape(self, b.shape_of(result)), dtype)
        if beta != 1:
            bias = b.emit(op.multiply(bias, _scalar(beta, dtype)))
        result = b.emit(op.add(result, bias))
    return b.cast(result, b.val.dtype)


_LONG, _LONG_ALONE, _FEW = 1 << 16, 1 << 12, 16
"""How many products are added up in float32, also where there are a few results alone, and how many these are."""


def _product(b: Any, left: Any, right: Any) -> Any:
    """The product in the dtype that it is summed in: float64 where it is very long, as a tile adds up in order."""
    *rows, terms = b.shape_of(left)
    few = is_at_most(product([*rows, b.shape_of(right)[-1]]), _FEW)
    dtype = accumulator(b.dtype_of(left), terms if is_known(terms) else 0, _LONG_ALONE if few else _LONG)
    turned = _turned(b, left, right)
    if turned is not None:
        return b.te(_product_with_turned, left, turned, dtype, name="matmul", primfunc_attrs=WITH_TAIL)
    return b.emit(T.relax.op.matmul(left, right, out_dtype=dtype))


def _turned(b: Any, left: Any, right: Any) -> Any:
    """The tensor that *right* turns for this call alone; None where it is no such, or has to be turned.

    Where sizes show at run time, the kernel decides then.
    """
    sizes = [*b.shape_of(left), *b.shape_of(right)]
    *_, rows, terms = b.shape_of(left)
    are_few = not all(map(is_known, sizes)) or bool(T.Analyzer().simplify(few_rows(rows, terms)))
    return b.behind_turn(right) if are_few and len(b.node.args[-1].users) == 1 else None


def _product_with_turned(left: Any, turned: Any, dtype: str) -> Any:
    te = T.te
    *batch, rows, terms = left.shape
    columns = turned.shape[-2]
    k = te.reduce_axis((0, terms), name="k")
    right = te.compute((*batch, terms, columns), lambda *at: turned(*at[:-2], at[-1], at[-2]), name="turned")

    def element(*at: Any) -> Any:
        *which, i, j = at
        return te.sum(convert(left(*which, i, k), dtype) * convert(right(*which, k, j), dtype), axis=k)

    return te.compute((*batch, rows, columns), element, name="matmul")


def _scalar(value: Any, dtype: str) -> Any:
    kind = getattr(torch, dtype)
    return T.relax.const(value if kind.is_floating_point else torch.tensor(int(value)).to(kind).item(), dtype)
