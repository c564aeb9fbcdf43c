"""Conversion between dtypes."""

from __future__ import annotations

import math
from typing import Any

import torch

from fxpasses.relax import scalar as S
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
