"""Conversion between dtypes, of values and of bits."""

from __future__ import annotations

import math
from typing import Any

import torch

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.elementwise import elementwise
from fxpasses.relax.table import lowering
from fxpasses.signature import dtype_name

aten = torch.ops.aten


def _identity(x: Any) -> Any:
    return x


def _one_nan(x: Any) -> Any:
    """A NaN by its usual bits; rounding to bfloat16 makes zeros of some others."""
    return S.select(S.isnan(x), S.const(math.nan, S.dtype_of(x)), x)


@lowering(aten._to_copy.default)
def to_copy(
    b: Any,
    self: Any,
    *,
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: Any,
    non_blocking: Any,
    memory_format: Any,
) -> Any:
    source, target = b.dtype_of(self), dtype_name(b.val.dtype)
    if source == target:
        return self
    if target == "bfloat16" and source in ("float32", "float64"):
        return elementwise(b, _one_nan, self, compute="float32")
    return elementwise(b, _identity, self, compute=source)


@lowering(aten.view.dtype)
def view_dtype(b: Any, self: Any, dtype: Any) -> Any:
    source, target = b.dtype_of(self), dtype_name(dtype)
    if source == target:
        return self
    if getattr(torch, source).itemsize != dtype.itemsize:
        raise UnsupportedOperatorError("elements of another size are joined or cut in memory")
    if target == "bool":
        raise UnsupportedOperatorError("a bool of other bits than 0 and 1 is not one of TVM's")
    if source == "bool":
        return b.cast(self, dtype)
    return b.te(_same_bits, self, target, name="view")


def _same_bits(x: Any, dtype: str) -> Any:
    return T.te.compute(x.shape, lambda *at: T.tirx.reinterpret(dtype, x(*at)), name="view")
