"""Softmax and its logarithm, each one kernel; half types in float32, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import accumulator, position
from fxpasses.relax.ops.reduction import Axes, accumulated, finish
from fxpasses.relax.table import lowering
from fxpasses.signature import dtype_name

aten = torch.ops.aten

_SHORT = 4096
"""The most terms that are added in float32, in as many sums as a vector has lanes; lengths that are
not known count as short."""


@cache
def _kernel(dim: int, logarithm: bool, source: str, result: str) -> Callable[[Any], Any]:
    dtype = accumulated(source)

    def kernel(x: Any) -> Any:
        axes = Axes(x.shape, (dim,) if x.shape else (), True)

        def value(*index: Any) -> Any:
            return S.cast(x(*index), dtype)

        def of_row(tensor: Any, index: Any) -> Any:
            return tensor(*(0 if at in axes.dims else i for at, i in enumerate(index)))

        def reduced(reducer: Any, element: Callable[..., Any], name: str) -> Any:
            loop = axes.loop()
            if not loop:
                return T.te.compute(axes.result, element, name=name)
            return T.te.compute(
                axes.result, lambda *index: reducer(element(*axes.at(index, loop)), axis=loop), name=name
            )

        wide = accumulator(dtype, axes.count if isinstance(axes.count, T.tirx.IntImm) else 0, _SHORT)

        def total_of(term: Callable[..., Any]) -> Any:
            total = reduced(T.te.sum, lambda *index: S.cast(term(*index), wide), "total")
            return finish(total, lambda v: S.cast(v, dtype))

        # A NaN that the maximum loses comes back by the sum.
        largest = reduced(T.te.max, value, "largest")

        def below(*index: Any) -> Any:
            return S.subtract(value(*index), of_row(largest, index))

        if logarithm:
            total = total_of(lambda *index: T.tirx.exp(below(*index)))

            def element(*index: Any) -> Any:
                return S.cast(S.subtract(below(*index), T.tirx.log(of_row(total, index))), result)

        else:
            raised = T.te.compute(x.shape, lambda *index: T.tirx.exp(below(*index)), name="raised")
            total = total_of(lambda *index: raised(*index))

            def element(*index: Any) -> Any:
                return S.cast(S.divide(raised(*index), of_row(total, index)), result)

        return T.te.compute(x.shape, element, name="result")

    return kernel


def _softmax(b: Any, self: Any, dim: Any, logarithm: bool) -> Any:
    dim = position(dim, len(b.shape_of(self)))
    return b.te(_kernel(dim, logarithm, b.dtype_of(self), dtype_name(b.val.dtype)), self)


@lowering(aten._softmax.default)
def softmax(b: Any, self: Any, dim: Any, half_to_float: Any) -> Any:
    return _softmax(b, self, dim, False)


@lowering(aten._log_softmax.default)
def log_softmax(b: Any, self: Any, dim: Any, half_to_float: Any) -> Any:
    return _softmax(b, self, dim, True)
