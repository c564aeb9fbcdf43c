"""Running sums, products and extremes along a dim.

Floats are accumulated in the next wider type, as PyTorch does: float32 in
float64, half types in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import grid, load, loops, position, store
from fxpasses.relax.ops.reduction import accumulated
from fxpasses.relax.table import lowering
from fxpasses.signature import dtype_name

aten = torch.ops.aten

Step = Callable[[Any, Any], Any]


@cache
def _running(
    step: Step, first: float, dim: int, dtype: str, convert: str, result: str
) -> Callable[[Any], Any]:
    """A kernel that keeps ``total = step(total, x)`` along *dim*, from *first* on."""

    def kernel(x: Any) -> Any:
        def body(x: Any, out: Any) -> None:
            shape = list(x.shape)
            total = T.ir_builder.tirx.alloc_buffer([1], dtype, scope="local")
            with grid(*shape[:dim], *shape[dim + 1 :]) as other:
                store(total, S.const(first, dtype), [0])
                with T.ir_builder.tirx.serial(0, shape[dim] if shape else 1) as k:
                    at = [*other[:dim], k, *other[dim:]] if shape else []
                    value = S.cast(S.cast(load(x, at), convert), dtype)
                    store(total, step(load(total, [0]), value), [0])
                    store(out, S.cast(load(total, [0]), result), at)

        return loops([x], [(x.shape, result)], body, "running")

    return kernel


def _wider(dtype: str) -> str:
    return "float64" if dtype == "float32" else accumulated(dtype)


def _accumulate(b: Any, step: Step, first: int, self: Any, dim: Any) -> Any:
    dim, result = position(dim, len(b.shape_of(self))), dtype_name(b.val.dtype)
    return b.te(_running(step, first, dim, _wider(result), result, result), self)


@lowering(aten.cumsum.default)
def cumsum(b: Any, self: Any, dim: Any, *, dtype: Any) -> Any:
    return _accumulate(b, S.add, 0, self, dim)


@lowering(aten.cumprod.default)
def cumprod(b: Any, self: Any, dim: Any, *, dtype: Any) -> Any:
    return _accumulate(b, S.multiply, 1, self, dim)


@cache
def _running_extreme(name: str, dim: int, dtype: str) -> Callable[[Any], Any]:
    """Values and indices of the extremes so far; of equal ones the last."""
    compute = accumulated(dtype)

    def kernel(x: Any) -> Any:
        def body(x: Any, values: Any, indices: Any) -> None:
            shape = list(x.shape)
            builder = T.ir_builder.tirx
            best = builder.alloc_buffer([1], compute, scope="local")
            place = builder.alloc_buffer([1], "int64", scope="local")
            with grid(*shape[:dim], *shape[dim + 1 :]) as other:
                store(best, S.lowest(compute) if name == "max" else S.highest(compute), [0])
                store(place, T.tirx.const(0, "int64"), [0])
                with builder.serial(0, shape[dim] if shape else 1) as k:
                    at = [*other[:dim], k, *other[dim:]] if shape else []
                    value, known = S.cast(load(x, at), compute), load(best, [0])
                    better = value >= known if name == "max" else value <= known
                    better = (better & S.logical_not(S.isnan(known))) | S.isnan(value)
                    store(place, S.select(better, k.astype("int64"), load(place, [0])), [0])
                    store(best, S.select(better, value, known), [0])
                    store(values, S.cast(load(best, [0]), dtype), at)
                    store(indices, load(place, [0]), at)

        return loops([x], [(x.shape, dtype), (x.shape, "int64")], body, f"running_{name}")

    return kernel


def _extremes(b: Any, name: str, self: Any, dim: Any) -> Any:
    dim = position(dim, len(b.shape_of(self)))
    pair = b.te(_running_extreme(name, dim, b.dtype_of(self)), self)
    return [pair[0], pair[1]]


@lowering(aten.cummax.default)
def cummax(b: Any, self: Any, dim: Any) -> Any:
    return _extremes(b, "max", self, dim)


@lowering(aten.cummin.default)
def cummin(b: Any, self: Any, dim: Any) -> Any:
    return _extremes(b, "min", self, dim)


def _log_add_exp(x: Any, y: Any) -> Any:
    """``log(exp(x) + exp(y))``; infinities of one sign stay."""
    high, low = S.maximum(x, y), S.minimum(x, y)
    raised = S.add(high, S.call_libm("log1p", T.tirx.exp(S.subtract(low, high))))
    return S.select(S.equal(x, y) & S.isinf(x), x, raised)


@lowering(aten.logcumsumexp.default)
def logcumsumexp(b: Any, self: Any, dim: Any) -> Any:
    dim, result = position(dim, len(b.shape_of(self))), dtype_name(b.val.dtype)
    return b.te(_running(_log_add_exp, float("-inf"), dim, _wider(result), result, result), self)
