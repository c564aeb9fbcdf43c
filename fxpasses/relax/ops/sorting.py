"""Sorting and what needs an order: topk, kth values, medians, search in sorted values.

NaN counts as greater than all numbers. Sorting is always stable, so equal
values keep their order; of equal values `topk` takes the first ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import grid, load, loops, position, product, store, when
from fxpasses.relax.ops.reduction import accumulated
from fxpasses.relax.table import lowering

aten = torch.ops.aten

# Up to this k, topk keeps the best so far in order; beyond, it sorts.
_SMALL_K = 64


def _int(number: int) -> Any:
    return T.tirx.IntImm("int64", number)


def _before(x: Any, y: Any, descending: bool) -> Any:
    """Whether *x* comes before *y*, which it does not if they are equal."""
    if not S.is_float(S.dtype_of(x)):
        return x > y if descending else x < y
    if descending:
        return (x > y) | (S.isnan(x) & S.logical_not(S.isnan(y)))
    return (x < y) | (S.isnan(y) & S.logical_not(S.isnan(x)))


class _Local:
    """A variable of a kernel written as loops."""

    def __init__(self, dtype: str = "int64") -> None:
        self.buffer = T.ir_builder.tirx.alloc_buffer([1], dtype, scope="local")

    def get(self) -> Any:
        return load(self.buffer, [0])

    def set(self, value: Any) -> None:
        store(self.buffer, value, [0])


@contextmanager
def _rows(shape: Sequence[Any], dim: int) -> Iterator[Callable[[Any], list[Any]]]:
    """A parallel loop over the rows along *dim*; from a place in the row to the position."""
    others = [*shape[:dim], *shape[dim + 1 :]]
    with T.ir_builder.tirx.parallel(0, product(others)) as row:
        rest, index = row, []
        for size in reversed(others):
            index.append(T.tirx.floormod(rest, size))
            rest = T.tirx.floordiv(rest, size)
        index.reverse()
        yield lambda k: [*index[:dim], k, *index[dim:]] if shape else []


def _sort_row(size: Any, dtype: str, read: Callable[[Any], Any], descending: bool) -> tuple[Any, Any]:
    """Write a stable merge sort of a row; the buffers of its keys and places in order."""
    builder = T.ir_builder.tirx
    keys, spare_keys = (builder.alloc_buffer([size], dtype) for _ in range(2))
    places, spare_places = (builder.alloc_buffer([size], "int64") for _ in range(2))
    width, left, right = _Local(), _Local(), _Local()
    with builder.serial(0, size) as k:
        store(keys, read(k), [k])
        store(places, k.astype("int64"), [k])
    width.set(_int(1))
    with builder.While(width.get() < size):
        pair = width.get() * _int(2)
        with builder.serial(0, T.tirx.floordiv(size + pair - _int(1), pair)) as run:
            start = run * pair
            middle = T.tirx.min(start + width.get(), size)
            end = T.tirx.min(start + pair, size)
            left.set(start)
            right.set(middle)
            with builder.serial(0, end - start) as k:
                i, j = left.get(), right.get()
                in_order = _before(load(keys, [j]), load(keys, [i]), descending)
                lazy = T.tirx.if_then_else
                from_right = lazy(i >= middle, True, lazy(j >= end, False, in_order))
                with builder.If(from_right):
                    with builder.Then():
                        _move(keys, spare_keys, right.get(), start + k)
                        _move(places, spare_places, right.get(), start + k)
                        right.set(right.get() + _int(1))
                    with builder.Else():
                        _move(keys, spare_keys, left.get(), start + k)
                        _move(places, spare_places, left.get(), start + k)
                        left.set(left.get() + _int(1))
        with builder.serial(0, size) as k:
            _move(spare_keys, keys, k, k)
            _move(spare_places, places, k, k)
        width.set(width.get() * _int(2))
    return keys, places


def _move(source: Any, target: Any, here: Any, there: Any) -> None:
    store(target, load(source, [here]), [there])


def _best_of_row(
    size: Any, count: int, dtype: str, read: Callable[[Any], Any], descending: bool
) -> tuple[Any, Any]:
    """Write a loop that keeps the first *count* of a row in order; the buffers of keys and places."""
    builder = T.ir_builder.tirx
    keys = builder.alloc_buffer([count], dtype)
    places = builder.alloc_buffer([count], "int64")
    slot = _Local()
    lazy = T.tirx.if_then_else
    with builder.serial(0, size) as k:
        wanted = lazy(k < count, True, _before(read(k), load(keys, [_int(count - 1)]), descending))
        with when(wanted):
            slot.set(T.tirx.min(k.astype("int64"), _int(count - 1)))
            above = slot.get() - _int(1)
            worse = lazy(slot.get() > _int(0), _before(read(k), load(keys, [above]), descending), False)
            with builder.While(worse):
                _move(keys, keys, slot.get() - _int(1), slot.get())
                _move(places, places, slot.get() - _int(1), slot.get())
                slot.set(slot.get() - _int(1))
            store(keys, read(k), [slot.get()])
            store(places, k.astype("int64"), [slot.get()])
    return keys, places


# -- sort and topk -----------------------------------------------------------------


def _ordered(x: Any, dim: int, count: Any, dtype: str, descending: bool) -> Any:
    """The first *count* values along *dim* (None: all), with their places."""
    compute = accumulated(dtype)
    shape = list(x.shape)
    size = shape[dim] if shape else _int(1)
    wanted = size if count is None else count
    result = [*shape[:dim], wanted, *shape[dim + 1 :]] if shape else []

    def body(x: Any, values: Any, indices: Any) -> None:
        with _rows(shape, dim) as at:

            def read(k: Any) -> Any:
                return S.cast(load(x, at(k)), compute)

            if isinstance(count, int) and count <= _SMALL_K:
                keys, places = _best_of_row(size, count, compute, read, descending)
            else:
                keys, places = _sort_row(size, compute, read, descending)
            with T.ir_builder.tirx.serial(0, wanted) as k:
                store(values, S.cast(load(keys, [k]), dtype), at(k))
                store(indices, load(places, [k]), at(k))

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
        size = shape[dim] if shape else _int(1)
        kept = [_int(1)] if keepdim else []
        result = [*shape[:dim], *kept, *shape[dim + 1 :]] if shape else []

        def body(x: Any, values: Any, indices: Any) -> None:
            with _rows(shape, dim) as at:
                keys, places = _sort_row(size, compute, lambda k: S.cast(load(x, at(k)), compute), False)
                place = _place_of(rank, keys, size)
                target = at(_int(0))
                if shape and not keepdim:
                    target = [*target[:dim], *target[dim + 1 :]]
                store(values, S.cast(load(keys, [place]), dtype), target)
                store(indices, load(places, [place]), target)

        return loops([x], [(result, dtype), (result, "int64")], body, "kth")

    return kernel


def _place_of(rank: _Rank, keys: Any, size: Any) -> Any:
    """Where sorted keys hold what *rank* asks for."""
    if isinstance(rank, int):
        return _int(rank)
    if rank == "mode":
        return _most_frequent(keys, size)
    middle = T.tirx.floordiv(size - _int(1), _int(2))
    if not S.is_float(S.dtype_of(load(keys, [_int(0)]))):
        return middle
    if rank == "median":
        return _first_nan(keys, size, middle)
    numbers = _first_nan(keys, size, size)
    return T.tirx.floordiv(T.tirx.max(numbers - _int(1), _int(0)), _int(2))


def _most_frequent(keys: Any, size: Any) -> Any:
    """The last place of the longest run of equal keys, the first one of equally long runs."""
    builder = T.ir_builder.tirx
    run, longest, found = _Local(), _Local(), _Local()
    for local in (run, longest, found):
        local.set(_int(0))
    with builder.serial(0, size) as k:
        before = T.tirx.max(k.astype("int64") - _int(1), _int(0))
        same = S.equal(load(keys, [before]), load(keys, [k]))
        run.set(S.select(same, run.get(), _int(0)) + _int(1))
        with when(run.get() > longest.get()):
            longest.set(run.get())
            found.set(k.astype("int64"))
    return found.get()


def _first_nan(keys: Any, size: Any, otherwise: Any) -> Any:
    """The place of the first NaN in sorted keys, else *otherwise*."""
    found = _Local()
    found.set(otherwise)
    with when(S.isnan(load(keys, [size - _int(1)]))):
        found.set(size - _int(1))
        lazy = T.tirx.if_then_else
        more = lazy(found.get() > _int(0), S.isnan(load(keys, [found.get() - _int(1)])), False)
        with T.ir_builder.tirx.While(more):
            found.set(found.get() - _int(1))
    return found.get()


def _kth(b: Any, self: Any, dim: Any, keepdim: bool, rank: _Rank) -> list[Any]:
    dim = position(dim, len(b.shape_of(self)))
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
            low, high = _Local(), _Local()
            with grid(*shape) as at:
                outer = at[:-1] if len(sequence.shape) > 1 else []
                value = S.cast(load(values, at), dtype)
                low.set(_int(0))
                high.set(size)
                with T.ir_builder.tirx.While(low.get() < high.get()):
                    middle = low.get() + T.tirx.floordiv(high.get() - low.get(), _int(2))
                    other = S.cast(load(sequence, [*outer, middle]), dtype)
                    reached = other > value if right else other >= value
                    builder = T.ir_builder.tirx
                    with builder.If(reached):
                        with builder.Then():
                            high.set(middle)
                        with builder.Else():
                            low.set(middle + _int(1))
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
