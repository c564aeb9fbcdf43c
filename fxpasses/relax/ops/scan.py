"""Running sums, products and extremes along a dim.

Floats are accumulated in the next wider type, as PyTorch does: float32 in
float64, half types in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import cache
from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import load, loops, position, product, rows, store, when
from fxpasses.relax.ops.reduction import accumulated
from fxpasses.relax.ordering import Local, int64
from fxpasses.relax.table import lowering
from fxpasses.signature import dtype_name

aten = torch.ops.aten

Step = Callable[[Any, Any], Any]

_TOGETHER = 16
"""Lines that lie side by side in memory run in the lanes of vectors, so many at a time."""


def _scan(
    shape: Sequence[Any],
    dim: int,
    states: Sequence[str],
    start: Callable[..., None],
    step: Callable[..., None],
) -> None:
    """Write the loops of a scan: along each line first ``start``, then ``step`` at each place.

    Args:
        shape: of what is scanned.
        dim: of the lines.
        states: the dtypes of the variables that a line has.
        start: called with the variables.
        step: called with the variables, the position in *shape* and the place in the line.
    """
    builder = T.ir_builder.tirx
    size = shape[dim] if shape else 1

    def along(lines: Callable[[], Any], state: list[Local], at: Callable[[Any, Any], list[Any]]) -> None:
        with lines() as line:
            start(*(variable[line] for variable in state))
        with builder.serial(0, size) as k, lines() as line:
            step(*(variable[line] for variable in state), at(k, line), k)

    if dim >= len(shape) - 1:
        with rows(shape, dim) as place:
            along(lambda: nullcontext(0), [Local(dtype) for dtype in states], lambda k, _: place(k))
        return
    *lead, columns = shape
    chunks = T.tirx.floordiv(columns + (_TOGETHER - 1), _TOGETHER)
    with rows([*lead, chunks], dim, work=product(shape)) as chunk:
        state = [Local(dtype, _TOGETHER) for dtype in states]
        first = chunk(0)[-1] * _TOGETHER

        def at(k: Any, line: Any) -> list[Any]:
            return [*chunk(k)[:-1], first + line]

        with builder.If(first + _TOGETHER <= columns):
            with builder.Then():
                along(lambda: builder.vectorized(0, _TOGETHER), state, at)
            with builder.Else(), builder.serial(0, columns - first) as line:
                along(lambda: nullcontext(line), state, at)


@cache
def _running(
    step: Step, first: float, dim: int, dtype: str, convert: str, result: str
) -> Callable[[Any], Any]:
    """A kernel that keeps ``total = step(total, x)`` along *dim*, from *first* on."""

    def kernel(x: Any) -> Any:
        def body(x: Any, out: Any) -> None:
            def start(total: Local) -> None:
                total.set(S.const(first, dtype))

            def add(total: Local, at: list[Any], k: Any) -> None:
                value = S.cast(S.cast(load(x, at), convert), dtype)
                total.set(step(total.get(), value))
                store(out, S.cast(total.get(), result), at)

            _scan(x.shape, dim, [dtype], start, add)

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
    """Values and indices of the extremes so far; of equal ones the last, and a NaN for good."""
    compute = accumulated(dtype)

    def kernel(x: Any) -> Any:
        def body(x: Any, values: Any, indices: Any) -> None:
            def start(best: Local, place: Local) -> None:
                best.set(S.lowest(compute) if name == "max" else S.highest(compute))
                place.set(int64(0))

            def follow(best: Local, place: Local, at: list[Any], k: Any) -> None:
                value, known = S.cast(load(x, at), compute), best.get()
                worse = value < known if name == "max" else value > known
                last = S.isnan(value) | S.logical_not(S.isnan(known))
                _change([S.logical_not(worse), last], {best: value, place: k.astype("int64")})
                store(values, S.cast(best.get(), dtype), at)
                store(indices, place.get(), at)

            _scan(x.shape, dim, [compute, "int64"], start, follow)

        return loops([x], [(x.shape, dtype), (x.shape, "int64")], body, f"running_{name}")

    return kernel


def _change(conditions: Sequence[Any], values: dict[Local, Any]) -> None:
    """Give variables other values where all *conditions* hold.

    In vectors by a choice; for a single line behind a branch, which is seldom
    taken, so that nothing waits for the comparison.
    """
    if any(variable.count > 1 for variable in values):
        for variable, value in values.items():
            variable.set(S.select(T.tirx.all(*conditions), value, variable.get()))
        return
    with ExitStack() as stack:
        for condition in conditions:
            stack.enter_context(when(condition))
        for variable, value in values.items():
            variable.set(value)


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


@cache
def _running_log_of_sum(dim: int, dtype: str) -> Callable[[Any], Any]:
    """Logarithms of sums of powers of e so far, each of the largest number and of the others relative to its power.

    What a step takes from the one before is then a comparison and a product, and
    the powers and logarithms of many steps run side by side. The largest number's
    own power, one, is not in the sum, which would round a small one off.
    """
    compute = _wider(dtype)

    def kernel(x: Any) -> Any:
        one = S.const(1.0, compute)

        def body(x: Any, out: Any) -> None:
            def start(largest: Local, others: Local) -> None:
                largest.set(S.lowest(compute))
                others.set(S.const(-1.0, compute))  # not even the largest is there

            def add(largest: Local, others: Local, at: list[Any], k: Any) -> None:
                value, known = S.cast(load(x, at), compute), largest.get()
                more = value > known
                apart = S.select(more, S.subtract(known, value), S.subtract(value, known))
                # Also of two infinities of one sign.
                share = S.select(S.equal(value, known), one, T.tirx.exp(apart))
                shrunk = S.multiply(S.add(others.get(), one), share)
                others.set(S.select(more, shrunk, S.add(others.get(), share)))
                largest.set(S.maximum(value, known))
                store(out, S.cast(S.add(largest.get(), T.tirx.log1p(others.get())), dtype), at)

            _scan(x.shape, dim, [compute, compute], start, add)

        return loops([x], [(x.shape, dtype)], body, "running")

    return kernel


@lowering(aten.logcumsumexp.default)
def logcumsumexp(b: Any, self: Any, dim: Any) -> Any:
    return b.te(_running_log_of_sum(position(dim, len(b.shape_of(self))), dtype_name(b.val.dtype)), self)
