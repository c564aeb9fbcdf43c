"""Matrix products.

Half types are multiplied and summed in float32 and rounded once, at the end.
"""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import accumulator, is_at_most, product
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
        bias = b.cast(self, dtype)
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
    is_static = isinstance(terms, T.tirx.IntImm)
    dtype = accumulator(b.dtype_of(left), terms if is_static else 0, _LONG_ALONE if few else _LONG)
    return b.emit(T.relax.op.matmul(left, right, out_dtype=dtype))


def _scalar(value: Any, dtype: str) -> Any:
    kind = getattr(torch, dtype)
    return T.relax.const(value if kind.is_floating_point else torch.tensor(int(value)).to(kind).item(), dtype)
