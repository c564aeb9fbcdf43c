"""Sorting and what needs an order: topk, kth values, medians, search in sorted values.

NaN counts as greater than all numbers. Sorting is always stable, so equal
values keep their order; of equal values `topk` takes the first ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import torch

from fxpasses.errors import LoweringError, UnsupportedOperatorError
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import (
    grid,
    is_at_most,
    is_static,
    load,
    loops,
    position,
    product,
    rows,
    store,
    when,
)
from fxpasses.relax.ops.reduction import accumulated
from fxpasses.relax.ordering import (
    SHORT,
    TINY,
    Local,
    best_of_row,
    by_length,
    count_nans,
    first_in_row,
    int64,
    ordered_bits,
    select_in_row,
    sort_long_row,
    sort_short_row,
)
from fxpasses.relax.table import lowering

aten = torch.ops.aten

# Up to this k, topk keeps the best so far in order; beyond, it selects them, and sorts these.
_SMALL_K = 64

# Beyond this share of a row, it is sorted as a whole.
_MOST = 4


# -- sort and topk -----------------------------------------------------------------


def _ordered(x: Any, dim: int, count: Any, dtype: str, descending: bool) -> Any:
    """The first *count* values along *dim* (None: all), with their places."""
    compute = accumulated(dtype)
    shape = list(x.shape)
    size = shape[dim] if shape else int64(1)
    wanted = size if count is None else count
    result = [*shape[:dim], wanted, *shape[dim + 1 :]] if shape else []

    def body(x: Any, values: Any, indices: Any) -> None:
        def each_row(sort: Callable[[Any, Any], Any]) -> None:
            with rows(shape, dim) as at:

                def read(k: Any) -> Any:
                    return S.cast(load(x, at(k)), compute)

                def key(k: Any) -> Any:
                    return ordered_bits(read(k), descending=descending)

                _, places = sort(read, key)
                with T.ir_builder.tirx.serial(0, wanted) as k:
                    store(values, load(x, at(load(places, [k]))), at(k))
                    store(indices, load(places, [k]), at(k))

        if isinstance(count, int) and count <= _SMALL_K:
            each_row(lambda read, _: best_of_row(size, count, compute, read, descending))
        elif isinstance(count, int) and not is_at_most(size, _MOST * count):
            each_row(lambda _, key: first_in_row(size, count, key))
        else:
            by_length(
                size,
                (SHORT, lambda: each_row(lambda _, key: sort_short_row(size, key))),
                (None, lambda: each_row(lambda _, key: sort_long_row(size, key))),
            )

    return loops([x], [(result, dtype), (result, "int64")], body, "sorted")


@cache
def _sort_kernel(dim: int, dtype: str, descending: bool) -> Callable[[Any], Any]:
    return lambda x: _ordered(x, dim, None, dtype, descending)


def _sort(b: Any, self: Any, dim: Any, descending: bool) -> Any:
    dim = position(dim, len(b.shape_of(self)))
    pair = b.te(_sort_kernel(dim, b.dtype_of(self), descending), self)
    return [pair[0], pair[1]]


def sort_line(b: Any, line: Any) -> list[Any]:
    """A tensor of one dim sorted upwards, and where its elements were before."""
    return _sort(b, line, 0, False)


@lowering(aten.sort.default)
def sort(b: Any, self: Any, dim: Any, descending: Any) -> Any:
    return _sort(b, self, dim, descending)


@lowering(aten.sort.stable)
def sort_stable(b: Any, self: Any, *, stable: Any, dim: Any, descending: Any) -> Any:
    return _sort(b, self, dim, descending)


@cache
def _topk_kernel(dim: int, dtype: str, largest: bool) -> Callable[[Any, Any], Any]:
    return lambda x, count: _ordered(x, dim, count, dtype, largest)


@lowering(aten.topk.default)
def topk(b: Any, self: Any, k: Any, dim: Any, largest: Any, sorted: Any) -> Any:
    dim = position(dim, len(b.shape_of(self)))
    pair = b.te(_topk_kernel(dim, b.dtype_of(self), largest), self, k)
    return [pair[0], pair[1]]


# -- one value of a given rank -----------------------------------------------------

_Rank = int | Literal["median", "nanmedian", "mode"]
"""A place in ascending order from 0; the lower median, which is NaN if there is one; that of the numbers
alone; or the most frequent value, the least one of several."""


@cache
def _kth_kernel(dim: int, dtype: str, keepdim: bool, rank: _Rank) -> Callable[[Any], Any]:
    """The value of a rank in ascending order, from 0, with its place."""
    compute = accumulated(dtype)

    def kernel(x: Any) -> Any:
        shape = list(x.shape)
        size = shape[dim] if shape else int64(1)
        kept = [int64(1)] if keepdim else []
        result = [*shape[:dim], *kept, *shape[dim + 1 :]] if shape else []

        def body(x: Any, values: Any, indices: Any) -> None:
            def each_row(find: Callable[[Any, Any], Any]) -> None:
                with rows(shape, dim) as at:

                    def read(k: Any) -> Any:
                        return S.cast(load(x, at(k)), compute)

                    def key(k: Any) -> Any:
                        return ordered_bits(read(k))

                    target = at(int64(0))
                    if shape and not keepdim:
                        target = [*target[:dim], *target[dim + 1 :]]
                    if isinstance(size, T.tirx.IntImm):
                        put(at, find(read, key), target)
                    else:
                        with when(size > int64(0)):
                            put(at, find(read, key), target)
                        with when(size < int64(1)):
                            store(values, _of_none(dtype), target)
                            store(indices, int64(0), target)

            def put(at: Any, place: Any, target: Any) -> None:
                found = Local()
                found.set(place)
                store(values, load(x, at(found.get())), target)
                store(indices, found.get(), target)

            by_length(size, *((below, partial(each_row, find)) for below, find in _ways(rank, size)))

        return loops([x], [(result, dtype), (result, "int64")], body, "kth")

    return kernel


def _of_none(dtype: str) -> Any:
    """The median of no elements: no number, and of integers the least."""
    return S.const(math.nan, dtype) if S.is_float(dtype) else S.lowest(dtype)


def _ways(rank: _Rank, size: Any) -> list[tuple[int | None, Callable[[Any, Any], Any]]]:
    """By the length of a row: what finds the place of *rank*, given functions for its elements and their keys."""

    def in_order(sort: Callable[[Any, Any], Any], read: Any, key: Any) -> Any:
        _, places = sort(size, key)
        if rank == "mode":
            return load(places, [_most_frequent(size, lambda k: read(load(places, [k])))])
        return load(places, [_position(rank, size, read)])

    def selected(read: Any, key: Any) -> Any:
        _, place, _ = select_in_row(size, key, _position(rank, size, read))
        return place

    short = partial(in_order, sort_short_row)
    if rank == "mode":
        return [(SHORT, short), (None, partial(in_order, sort_long_row))]
    return [(TINY, short), (None, selected)]


def _position(rank: _Rank, size: Any, read: Callable[[Any], Any]) -> Any:
    """The place of *rank* in ascending order."""
    if isinstance(rank, int):
        return int64(rank)
    middle = T.tirx.floordiv(size - int64(1), int64(2))
    if not S.is_float(S.dtype_of(read(int64(0)))):
        return middle
    nans = count_nans(size, read)
    among = T.tirx.floordiv(T.tirx.max(size - nans - int64(1), int64(0)), int64(2))
    return among if rank == "nanmedian" else S.select(nans > int64(0), size - nans, middle)


def _most_frequent(size: Any, read: Callable[[Any], Any]) -> Any:
    """The last place of the longest run of equal values in order, the first one of equally long runs."""
    builder = T.ir_builder.tirx
    run, longest, found = Local(), Local(), Local()
    for local in (run, longest, found):
        local.set(int64(0))
    with builder.serial(0, size) as k:
        before = T.tirx.max(k.astype("int64") - int64(1), int64(0))
        same = S.equal(read(before), read(k))
        run.set(S.select(same, run.get(), int64(0)) + int64(1))
        with when(run.get() > longest.get()):
            longest.set(run.get())
            found.set(k.astype("int64"))
    return found.get()


def _kth(b: Any, self: Any, dim: Any, keepdim: bool, rank: _Rank) -> list[Any]:
    dim = position(dim, len(b.shape_of(self)))
    shape = b.shape_of(self)
    if shape and is_static(shape[dim], 0) and b.val[0].numel() != 0:
        raise LoweringError(b.where("a row without elements has no such value, in PyTorch neither"))
    pair = b.te(_kth_kernel(dim, b.dtype_of(self), keepdim, rank), self)
    return [pair[0], pair[1]]


@lowering(aten.kthvalue.default)
def kthvalue(b: Any, self: Any, k: Any, dim: Any, keepdim: Any) -> Any:
    if not isinstance(k, int):
        raise UnsupportedOperatorError("kthvalue with a symbolic k")
    return _kth(b, self, dim, keepdim, k - 1)


@lowering(aten.median.dim)
def median_dim(b: Any, self: Any, dim: Any, keepdim: Any) -> Any:
    return _kth(b, self, dim, keepdim, "median")


@lowering(aten.nanmedian.dim)
def nanmedian_dim(b: Any, self: Any, dim: Any, keepdim: Any) -> Any:
    return _kth(b, self, dim, keepdim, "nanmedian")


@lowering(aten.mode.default)
def mode(b: Any, self: Any, dim: Any, keepdim: Any) -> Any:
    return _kth(b, self, dim, keepdim, "mode")


@lowering(aten.median.default)
def median(b: Any, self: Any) -> Any:
    return _of_all(b, self, "median")


@lowering(aten.nanmedian.default)
def nanmedian(b: Any, self: Any) -> Any:
    return _of_all(b, self, "nanmedian")


def _of_all(b: Any, self: Any, rank: _Rank) -> Any:
    if any(is_static(size, 0) for size in b.shape_of(self)):
        dtype = b.dtype_of(self)
        return b.te(lambda x: T.te.compute((), lambda: _of_none(dtype), name="median_of_none"), self)
    flat = b.emit(T.relax.op.reshape(self, [product(b.shape_of(self))]))
    return b.emit(_kth(b, flat, 0, False, rank)[0])


# -- search in sorted values -------------------------------------------------------


@cache
def _search_kernel(dtype: str, result: str, right: bool) -> Callable[[Any, Any], Any]:
    """Where each value would go in the sorted last dim of its sequence."""

    def kernel(sequence: Any, values: Any) -> Any:
        shape, tensors = list(values.shape), [sequence, values]
        size = sequence.shape[-1]

        def body(sequence: Any, values: Any, out: Any) -> None:
            low, high = Local(), Local()
            with grid(*shape) as at:
                outer = at[:-1] if len(sequence.shape) > 1 else []
                value = S.cast(load(values, at), dtype)
                low.set(int64(0))
                high.set(size)
                with T.ir_builder.tirx.While(low.get() < high.get()):
                    middle = low.get() + T.tirx.floordiv(high.get() - low.get(), int64(2))
                    other = S.cast(load(sequence, [*outer, middle]), dtype)
                    reached = other > value if right else other >= value
                    builder = T.ir_builder.tirx
                    with builder.If(reached):
                        with builder.Then():
                            high.set(middle)
                        with builder.Else():
                            low.set(middle + int64(1))
                store(out, low.get().astype(result), at)

        return loops(tensors, [(shape, result)], body, "search")

    return kernel


def _search(b: Any, sequence: Any, values: Any, right: bool) -> Any:
    dtypes = [getattr(torch, b.dtype_of(x)) for x in (sequence, values)]
    dtype = accumulated(b.dtype(torch.promote_types(*dtypes)))
    return b.te(_search_kernel(dtype, b.dtype(b.val.dtype), right), sequence, values)


@lowering(aten.searchsorted.Tensor)
def searchsorted(
    b: Any, sorted_sequence: Any, self: Any, *, out_int32: Any, right: Any, side: Any, sorter: Any
) -> Any:
    if sorter is not None:
        raise UnsupportedOperatorError("searchsorted with a sorter")
    return _search(b, sorted_sequence, self, right or side == "right")


@lowering(aten.bucketize.Tensor)
def bucketize(b: Any, self: Any, boundaries: Any, *, out_int32: Any, right: Any) -> Any:
    return _search(b, boundaries, self, right)
