"""Reductions: sums, products, extremes, truth, variance, norms.

Half types are accumulated in float32 and rounded once. A maximum or minimum
with a NaN is NaN. Of equal extremes the first one gives the index.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from fxpasses.errors import LoweringError, UnsupportedOperatorError
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.elementwise import Element, elementwise
from fxpasses.relax.kernel import LONG_SUM, accumulator, is_static, position, product, used
from fxpasses.relax.table import lowering
from fxpasses.signature import dtype_name

aten = torch.ops.aten


# -- reducers ----------------------------------------------------------------------


@cache
def reducer(name: str) -> Any:
    """A TE reducer; made at first use, since it needs TVM."""
    combine, identity = {
        "sum": (S.add, lambda dtype: S.const(0, dtype)),
        "prod": (S.multiply, lambda dtype: S.const(1, dtype)),
        "max": (S.greatest, S.lowest),
        "min": (S.least, S.highest),
    }[name]
    if name == "sum":
        return T.te.sum
    return T.te.comm_reducer(combine, identity, name=name)


def accumulated(dtype: str, terms: Any = 0) -> str:
    """The dtype that values of *dtype* are accumulated in; see `accumulator` for a sum of so many *terms*."""
    return "uint8" if dtype == "bool" else accumulator(dtype, terms)


# -- the kernel of a reduction -----------------------------------------------------


class Axes:
    """Which dims of a tensor are reduced, and how positions of result and tensor correspond.

    A reduction of one element is none: over dims of size 1 there is no loop.
    """

    def __init__(self, shape: Sequence[Any], dims: Sequence[int], keepdim: bool) -> None:
        self.shape, self.dims, self.keepdim = list(shape), sorted(dims), keepdim
        self.kept = [size for dim, size in enumerate(shape) if dim not in self.dims]
        one = T.tirx.IntImm("int64", 1)
        full = [one if dim in self.dims else size for dim, size in enumerate(shape)]
        self.result = full if keepdim else self.kept
        self.count = product([shape[dim] for dim in self.dims])
        self.looped = [dim for dim in self.dims if not is_static(shape[dim], 1)]

    def loop(self) -> list[Any]:
        """New axes to reduce over, one for each reduced dim of more than one element."""
        return [T.te.reduce_axis((0, self.shape[dim]), name=f"k{dim}") for dim in self.looped]

    def at(self, index: Sequence[Any], inner: Sequence[Any] = ()) -> list[Any]:
        """The position in the tensor of a position in the result and one in the looped dims: the first by default."""
        outer = iter([i for dim, i in enumerate(index) if not (self.keepdim and dim in self.dims)])
        reduced = dict(zip(self.looped, inner, strict=bool(inner)))
        return [reduced.get(dim, 0) if dim in self.dims else next(outer) for dim in range(len(self.shape))]

    @property
    def is_empty(self) -> bool:
        """Whether a reduced dim is known to have no elements."""
        return any(is_static(self.shape[dim], 0) for dim in self.dims)


def fold(x: Any, axes: Axes, name: str, dtype: str, element: Element) -> Any:
    """The TE tensor of a reduction of ``element(x)``, which has *dtype*."""
    loop = axes.loop()
    if not loop:
        return T.te.compute(axes.result, lambda *index: element(x(*axes.at(index))), name=name)

    def reduced(*index: Any) -> Any:
        return reducer(name)(element(x(*axes.at(index, loop))), axis=loop)

    return T.te.compute(axes.result, reduced, name=name)


def filled(axes: Axes, number: float, dtype: str) -> Any:
    """The TE tensor of a reduction over no elements."""
    return T.te.compute(axes.result, lambda *index: S.const(number, dtype), name="empty")


def finish(tensor: Any, element: Element) -> Any:
    """*element* of each value of a TE tensor; the tensor itself where that changes nothing."""
    probe = T.tirx.Var("probe", tensor.dtype)
    if element(probe) is probe:
        return tensor
    return T.te.compute(tensor.shape, lambda *index: element(tensor(*index)), name="result")


def dims_of(dim: Any, rank: int) -> tuple[int, ...]:
    """The reduced dims of a ``dim`` argument; None and an empty list mean all."""
    if rank == 0:
        return ()
    if dim is None or dim == []:
        return tuple(range(rank))
    dims = [dim] if isinstance(dim, int) else dim
    return tuple(sorted({position(d, rank) for d in dims}))


_SINGLE = {"primfunc_attrs": {"op_pattern": 3}}
"""Of a kernel that is one reduction, so that what is computed for it is fused with it.

TVM 0.27 takes one that ends in another type than it sums up in for a product, which it fuses only with what follows.
"""


def _over(
    b: Any, self: Any, dim: Any, keepdim: bool, kernel: Callable[..., Any], *args: Any, **attrs: Any
) -> Any:
    """The reduction ``kernel(dims, keepdim, *args)`` of *self*; *attrs* as those of ``b.te``.

    One over all dims keeps them until its end: schedules split a reduction
    along a loop of its result.
    """
    rank = len(b.shape_of(self))
    dims = dims_of(dim, rank)
    is_whole = len(dims) == rank > 0 and not keepdim
    made = b.te(kernel(dims, keepdim or is_whole, *args), self, **attrs)
    if not is_whole:
        return made
    if not isinstance(b.val, tuple | list):
        return b.emit(T.relax.op.reshape(made, []))
    return [b.emit(T.relax.op.reshape(b.emit(made[index]), [])) for index in range(len(b.val))]


# -- sums, products, extremes, truth -----------------------------------------------


_EMPTY = {"sum": 0, "prod": 1, "max": False}  # the last one for `any`; other maxima need elements


@cache
def _plain(
    dims: tuple[int, ...], keepdim: bool, name: str, convert: str, result: str
) -> Callable[[Any], Any]:
    """A reduction of the values converted to the dtype *convert*."""

    def kernel(x: Any) -> Any:
        axes = Axes(x.shape, dims, keepdim)
        dtype = accumulated(convert, axes.count if name == "sum" else 0)
        if axes.is_empty:
            return filled(axes, _EMPTY[name], result)
        total = fold(x, axes, name, dtype, lambda v: S.cast(S.cast(v, convert), dtype))
        return finish(total, lambda v: S.cast(v, result))

    return kernel


def _reduce(b: Any, name: str, self: Any, dim: Any, keepdim: bool, convert: str) -> Any:
    if name in ("max", "min") and convert != "bool" and b.val.numel() != 0:
        shape = b.shape_of(self)
        if any(is_static(shape[place], 0) for place in dims_of(dim, len(shape))):
            raise LoweringError(b.where("no elements have no extreme, in PyTorch neither"))
    # The product of parts may be infinite where the whole is zero by then.
    rows = _rows(b, self, dim) if convert != "bool" and name != "prod" else 0
    if rows:
        shape = b.shape_of(self)
        work = accumulated(convert, product(shape) if name == "sum" else 0)
        self = b.te(_plain(tuple(range(rows, len(shape))), True, name, convert, work), self, **_SINGLE)
        convert = work
    return _over(b, self, dim, keepdim, _plain, name, convert, dtype_name(b.val.dtype), **_SINGLE)


_SHARED, _PARTS = 1 << 17, 16
"""A reduction of so many elements to one runs in threads, each of which takes some of so many parts or more."""


def _rows(b: Any, self: Any, dim: Any) -> int:
    """The number of leading dims whose rows are reduced first, in threads; 0 where that does not pay."""
    shape = b.shape_of(self)
    if len(dims_of(dim, len(shape))) < len(shape) or not all(isinstance(n, T.tirx.IntImm) for n in shape):
        return 0
    sizes = [int(size) for size in shape]
    parts = list(itertools.accumulate(sizes, operator.mul))
    rows = next((rank for rank, count in enumerate(parts, 1) if count >= _PARTS), 0)
    return rows if rows < len(sizes) and parts[-1] >= max(_SHARED, parts[rows - 1] * LONG_SUM) else 0


@lowering(aten.sum.dim_IntList)
def sum_dims(b: Any, self: Any, dim: Any, keepdim: Any, *, dtype: Any) -> Any:
    return _reduce(b, "sum", self, dim, keepdim, dtype_name(b.val.dtype))


@lowering(aten.prod.default)
def prod_all(b: Any, self: Any, *, dtype: Any) -> Any:
    return _reduce(b, "prod", self, None, False, dtype_name(b.val.dtype))


@lowering(aten.prod.dim_int)
def prod_dim(b: Any, self: Any, dim: Any, keepdim: Any, *, dtype: Any) -> Any:
    return _reduce(b, "prod", self, dim, keepdim, dtype_name(b.val.dtype))


@lowering(aten.amax.default)
def amax(b: Any, self: Any, dim: Any, keepdim: Any) -> Any:
    return _reduce(b, "max", self, dim, keepdim, b.dtype_of(self))


@lowering(aten.amin.default)
def amin(b: Any, self: Any, dim: Any, keepdim: Any) -> Any:
    return _reduce(b, "min", self, dim, keepdim, b.dtype_of(self))


@lowering(aten.max.default)
def max_all(b: Any, self: Any) -> Any:
    return _reduce(b, "max", self, None, False, b.dtype_of(self))


@lowering(aten.min.default)
def min_all(b: Any, self: Any) -> Any:
    return _reduce(b, "min", self, None, False, b.dtype_of(self))


@lowering(aten.any.dims)
def any_dims(b: Any, self: Any, dim: Any, keepdim: Any) -> Any:
    if dim == []:  # no dims here, unlike elsewhere
        return elementwise(b, lambda x: S.cast(x, "bool"), self, compute=b.dtype_of(self))
    return _reduce(b, "max", self, dim, keepdim, "bool")


# -- means and variances -----------------------------------------------------------


@cache
def _mean(dims: tuple[int, ...], keepdim: bool, convert: str, result: str) -> Callable[[Any], Any]:
    def kernel(x: Any) -> Any:
        axes = Axes(x.shape, dims, keepdim)
        dtype = accumulated(convert, axes.count)
        if axes.is_empty:
            return filled(axes, math.nan, result)
        total = fold(x, axes, "sum", dtype, lambda v: S.cast(v, dtype))
        count = S.const(axes.count, dtype)
        return finish(total, lambda v: S.cast(S.divide(v, count), result))

    return kernel


@lowering(aten.mean.dim)
def mean_dim(b: Any, self: Any, dim: Any, keepdim: Any, *, dtype: Any) -> Any:
    convert = result = dtype_name(b.val.dtype)
    rows = _rows(b, self, dim)
    if rows:  # the mean of the means of parts of one size
        shape = b.shape_of(self)
        convert = accumulated(result, product(shape))
        self = b.te(_mean(tuple(range(rows, len(shape))), True, convert, convert), self, **_SINGLE)
    return _over(b, self, dim, keepdim, _mean, convert, result, **_SINGLE)


@cache
def _variance(
    dims: tuple[int, ...], keepdim: bool, correction: float, result: str, means: bool, root: bool = False
) -> Callable[[Any], Any]:
    """The variance in two passes, or with *root* the deviation, and with *means* also the mean.

    As in eager PyTorch it is accumulated in float64: the squares of numbers that float32 and
    bfloat16 hold may be beyond both ends of float32. Those of float16 are not.
    """

    def kernel(x: Any) -> Any:
        kept, axes = Axes(x.shape, dims, True), Axes(x.shape, dims, keepdim)
        dtype = accumulated(result, axes.count) if result == "float16" else "float64"
        if axes.is_empty:
            nothing = [filled(axes, math.nan, result) for _ in range(1 + means)]
            return nothing if means else nothing[0]
        count = S.const(kept.count, dtype)
        total = fold(x, kept, "sum", dtype, lambda v: S.cast(v, dtype))
        mean = T.te.compute(total.shape, lambda *index: S.divide(total(*index), count), name="mean")

        def square(*index: Any) -> Any:
            centre = mean(*(0 if dim in dims else i for dim, i in enumerate(index)))
            deviation = S.subtract(S.cast(x(*index), dtype), centre)
            return S.multiply(deviation, deviation)

        squares = T.te.compute(x.shape, square, name="squares")
        spread = fold(squares, axes, "sum", dtype, lambda v: v)
        zero = S.const(0.0, dtype)
        freedom = S.maximum(zero, S.subtract(count, S.const(correction, dtype)))
        if correction < 0:  # the variance of nothing is not a number all the same
            freedom = S.select(S.equal(count, zero), zero, freedom)

        def spread_of(total: Any) -> Any:
            variance = S.divide(total, freedom)
            return S.cast(T.te.sqrt(variance) if root else variance, result)

        variance = finish(spread, spread_of)
        if not means:
            return variance
        shaped = T.te.compute(
            axes.result, lambda *index: S.cast(mean(*axes.at(index)), result), name="mean_result"
        )
        return [variance, shaped]

    return kernel


def _correction(correction: Any) -> float:
    return 1.0 if correction is None else float(correction)


@lowering(aten.var.correction)
def var(b: Any, self: Any, dim: Any, *, correction: Any, keepdim: Any) -> Any:
    return _over(b, self, dim, keepdim, _variance, _correction(correction), dtype_name(b.val.dtype), False)


@lowering(aten.var_mean.correction)
def var_mean(b: Any, self: Any, dim: Any, *, correction: Any, keepdim: Any) -> Any:
    result = dtype_name(b.val[0].dtype)
    pair = _over(b, self, dim, keepdim, _variance, _correction(correction), result, True)
    return [pair[0], pair[1]]


@lowering(aten.std.correction)
def std(b: Any, self: Any, dim: Any, *, correction: Any, keepdim: Any) -> Any:
    """Of a variance that the result's dtype may not hold."""
    result = dtype_name(b.val.dtype)
    return _over(b, self, dim, keepdim, _variance, _correction(correction), result, False, True)


@lowering(aten.std_mean.correction)
def std_mean(b: Any, self: Any, dim: Any, *, correction: Any, keepdim: Any) -> Any:
    result = dtype_name(b.val[0].dtype)
    pair = _over(b, self, dim, keepdim, _variance, _correction(correction), result, True, True)
    return [pair[0], pair[1]]


# -- positions of extremes ---------------------------------------------------------


@cache
def _extreme(
    dims: tuple[int, ...], keepdim: bool, name: str, dtype: str, results: tuple[bool, bool]
) -> Callable[[Any], Any]:
    """The values and the indices of the extremes; *results* says which of them are wanted.

    The extreme first, then the least index that has it: both run in vectors,
    and need no reduction of pairs, in which TVM misreads bfloat16.
    """
    compute = accumulated(dtype)

    def kernel(x: Any) -> Any:
        kept, axes = Axes(x.shape, dims, True), Axes(x.shape, dims, keepdim)
        extreme = fold(x, kept, name, compute, lambda v: S.cast(v, compute))
        loop = axes.loop()

        def candidate(index: Sequence[Any]) -> Any:
            at = axes.at(index, loop)
            value, best = S.cast(x(*at), compute), extreme(*(0 if d in dims else i for d, i in enumerate(at)))
            found = S.equal(value, best)
            if S.is_float(compute):
                found = found | (S.isnan(value) & S.isnan(best))
            place: Any = T.tirx.IntImm("int64", 0)
            for k, dim in zip(loop, axes.looped, strict=True):
                place = place * x.shape[dim] + k.var.astype("int64")
            return S.select(found, place, S.highest("int64"))

        def place(*index: Any) -> Any:
            return T.te.min(candidate(index), axis=loop) if loop else candidate(index)

        made = []
        if results[0]:
            made.append(
                T.te.compute(
                    axes.result, lambda *index: S.cast(extreme(*axes.at(index)), dtype), name="value"
                )
            )
        if results[1]:
            made.append(T.te.compute(axes.result, place, name="place"))
        return made if len(made) > 1 else made[0]

    return kernel


def _index_of(b: Any, name: str, self: Any, dim: Any, keepdim: Any) -> Any:
    return _over(b, self, dim, keepdim, _extreme, name, b.dtype_of(self), (False, True))


def _with_index(b: Any, name: str, self: Any, dim: Any, keepdim: Any) -> Any:
    dims = dims_of(dim, len(b.shape_of(self)))
    if not used(b, 1):
        return [b.te(_plain(dims, keepdim, name, b.dtype_of(self), b.dtype_of(self)), self), None]
    pair = b.te(_extreme(dims, keepdim, name, b.dtype_of(self), (True, True)), self)
    return [pair[0], pair[1]]


@lowering(aten.argmax.default)
def argmax(b: Any, self: Any, dim: Any, keepdim: Any) -> Any:
    return _index_of(b, "max", self, dim, keepdim)


@lowering(aten.argmin.default)
def argmin(b: Any, self: Any, dim: Any, keepdim: Any) -> Any:
    return _index_of(b, "min", self, dim, keepdim)


@lowering(aten.max.dim)
def max_dim(b: Any, self: Any, dim: Any, keepdim: Any) -> Any:
    return _with_index(b, "max", self, dim, keepdim)


@lowering(aten.min.dim)
def min_dim(b: Any, self: Any, dim: Any, keepdim: Any) -> Any:
    return _with_index(b, "min", self, dim, keepdim)


# -- norms -------------------------------------------------------------------------


def _is_not_zero(v: Any) -> Any:
    one, zero = S.const(1.0, S.dtype_of(v)), S.const(0.0, S.dtype_of(v))
    return S.select(S.not_equal(v, zero), one, zero)


def power_sum(order: float) -> tuple[Element, Element]:
    """What a norm adds up of each size, and what it makes of the sum; order 0 counts those that are not 0."""
    if order == 0:
        return _is_not_zero, lambda v: v
    if order == 1:
        return lambda v: v, lambda v: v
    if order == 2:
        return lambda v: S.multiply(v, v), lambda v: T.tirx.sqrt(v)
    return (
        lambda v: S.power(v, S.const(order, S.dtype_of(v))),
        lambda v: S.power(v, S.const(1.0 / order, S.dtype_of(v))),
    )


@cache
def _norm(
    dims: tuple[int, ...], keepdim: bool, order: float, convert: str, result: str
) -> Callable[[Any], Any]:

    def kernel(x: Any) -> Any:
        axes = Axes(x.shape, dims, keepdim)
        dtype = accumulated(convert, axes.count)

        def size(v: Any) -> Any:
            return T.tirx.abs(S.cast(S.cast(v, convert), dtype))

        if axes.is_empty:
            return filled(axes, 0.0, result)
        if math.isinf(order):
            extreme = fold(x, axes, "max" if order > 0 else "min", dtype, size)
            return finish(extreme, lambda v: S.cast(v, result))
        term, root = power_sum(order)
        total = fold(x, axes, "sum", dtype, lambda v: term(size(v)))
        return finish(total, lambda v: S.cast(root(v), result))

    return kernel


@lowering(aten.linalg_vector_norm.default)
def vector_norm(b: Any, self: Any, ord: Any, dim: Any, keepdim: Any, *, dtype: Any) -> Any:
    if not isinstance(ord, int | float):
        raise UnsupportedOperatorError("a norm whose order is a size")
    result = dtype_name(b.val.dtype)
    return _over(b, self, dim, keepdim, _norm, float(ord), result, result)
