"""Tensors made from numbers and sizes."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import const, convert
from fxpasses.relax.table import lowering

aten = torch.ops.aten


@lowering(aten.full.default)
def full(b: Any, size: Any, fill_value: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> Any:
    name = b.dtype(b.val.dtype)
    if isinstance(getattr(fill_value, "ty", None), T.TensorType):  # a number that is read from a tensor
        return T.relax.op.broadcast_to(b.cast(fill_value, name), b.shape(b.val))

    def kernel(shape: Any, value: Any) -> Any:
        # A zero that TVM would see through makes zeros of products with inf and NaN.
        return T.te.compute(tuple(shape), lambda *_: S.const(value, name), name="full")

    return b.te(kernel, b.shape(b.val), fill_value)


@lowering(aten.arange.start_step)
def arange(
    b: Any, start: Any, end: Any, step: Any, *, dtype: Any, layout: Any, device: Any, pin_memory: Any
) -> Any:
    name = b.dtype(b.val.dtype)
    # torch counts in double for float types, and in int64 for integers, where
    # a fraction of start or step is lost before counting begins.
    counter = "float64" if b.val.dtype.is_floating_point else "int64"
    numbers = [const(n, counter) if isinstance(n, bool | int | float) else n for n in (start, step)]

    def kernel(shape: Any, start: Any, step: Any) -> Any:
        def element(i: Any) -> Any:
            first = convert(start, counter)
            value = first + convert(i, counter) * convert(step, counter)
            # TVM drops the sum with a first of 0, and 0 times a negative step is -0.0.
            return convert(T.tirx.Select(i == 0, first, value), name)

        return T.te.compute(tuple(shape), element, name="arange")

    return b.te(kernel, b.shape(b.val), *numbers)


@lowering(aten.tril.default)
def tril(b: Any, self: Any, diagonal: Any) -> Any:
    return _triangle(b, self, diagonal, lambda row, column, diagonal: column - row <= diagonal)


@lowering(aten.triu.default)
def triu(b: Any, self: Any, diagonal: Any) -> Any:
    return _triangle(b, self, diagonal, lambda row, column, diagonal: column - row >= diagonal)


def _triangle(b: Any, value: Any, diagonal: Any, inside: Any) -> Any:
    def kernel(x: Any, diagonal: Any) -> Any:
        def element(*at: Any) -> Any:
            return T.tirx.Select(inside(*at[-2:], diagonal), x(*at), const(0, str(x.dtype)))

        return T.te.compute(x.shape, element, name="triangle")

    return b.te(kernel, value, b.size(diagonal))
