"""Rows whose result is as large as values say: nonzero elements, repeats, occurrences, unique values.

Each counts first, binds the count to the size that the graph has for it, and
fills a result of that size in the order of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from fxpasses.errors import LoweringError, UnsupportedOperatorError
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import grid, load, loops, product, store, used, when
from fxpasses.relax.ops.sorting import sort_line
from fxpasses.relax.table import lowering
from fxpasses.schema import is_unbound
from fxpasses.tracing.fake_values import broadcast_sizes

aten = torch.ops.aten

Marked = Callable[[Any, list[Any]], Any]
"""Whether the element of a tensor at some position counts; the tensor is read by `load`."""


def _int(number: int) -> Any:
    return T.tirx.IntImm("int64", number)


# -- marked elements -------------------------------------------------------------------


def _differ(x: Any, y: Any) -> Any:
    """Whether two elements are not equal; NaN differs from all."""
    return T.tirx.bitwise_xor(x, y) if S.dtype_of(x) == "bool" else S.not_equal(x, y)


def _nonzero(x: Any, at: list[Any]) -> Any:
    return _differ(load(x, at), S.const(0, str(x.dtype)))


def _first_of_run(x: Any, at: list[Any]) -> Any:
    """Whether an element of a line differs from the one before; the first one counts."""
    (i,) = at
    before = load(x, [T.tirx.max(i - _int(1), _int(0))])
    return T.tirx.any(i == _int(0), _differ(load(x, at), before))


@cache
def _count_kernel(marked: Marked) -> Callable[[Any], Any]:
    def kernel(x: Any) -> Any:
        def body(x: Any, out: Any) -> None:
            store(out, _int(0), [])
            with grid(*x.shape) as at:
                store(out, load(out, []) + S.cast(marked(x, at), "int64"), [])

        return loops([x], [((), "int64")], body, "count")

    return kernel


def _count(b: Any, marked: Marked, value: Any, size: Any) -> None:
    """Bind the size of the result to the number of marked elements."""
    if "complex" in b.dtype_of(value):
        raise UnsupportedOperatorError("complex elements are not compared")
    b.bind_size(size, b.te(_count_kernel(marked), value, name="count"), most=product(b.shape_of(value)))


def _each_marked(x: Any, marked: Marked, limit: Any, use: Callable[[list[Any], Any], None]) -> None:
    """Write loops that call ``use(at, number)`` for each marked element, numbered in order."""
    number = T.ir_builder.tirx.alloc_buffer([1], "int64", scope="local")
    store(number, _int(0), [0])
    with grid(*x.shape) as at, when(T.tirx.all(marked(x, at), load(number, [0]) < limit)):
        use(at, load(number, [0]))
        store(number, load(number, [0]) + _int(1), [0])


@lowering(aten.nonzero.default)
def nonzero(b: Any, self: Any) -> Any:
    return _positions(b, self, b.val.shape[0])


def _positions(b: Any, value: Any, size: Any) -> Any:
    """Where the nonzero elements are, one row each; binds their number to *size*."""
    _count(b, _nonzero, value, size)

    def kernel(x: Any, shape: Any) -> Any:
        def body(x: Any, out: Any) -> None:
            def write(at: list[Any], number: Any) -> None:
                for dim, place in enumerate(at):
                    store(out, place.astype("int64"), [number, _int(dim)])

            _each_marked(x, _nonzero, out.shape[0], write)

        return loops([x], [(shape, "int64")], body, "nonzero")

    return b.te(kernel, value, b.shape([size, len(b.shape_of(value))]), name="nonzero")


def masked_slices(b: Any, value: Any, mask: Any, axis: int) -> Any:
    """``value[:, mask]``, where the dims of *mask* stand from *axis* on."""
    rank = len(b.shape_of(mask))
    if not rank:
        raise UnsupportedOperatorError("a mask without dims adds one")
    positions = _positions(b, mask, b.val.shape[axis])

    def kernel(x: Any, positions: Any, shape: Any) -> Any:
        def element(*at: Any) -> Any:
            picked = [positions(at[axis], _int(dim)) for dim in range(rank)]
            return x(*at[:axis], *picked, *at[axis + 1 :])

        return T.te.compute(tuple(shape), element, name="masked")

    return b.te(kernel, value, positions, b.shape(b.val))


@lowering(aten.masked_select.default)
def masked_select(b: Any, self: Any, mask: Any) -> Any:
    sizes = [argument.meta["val"].shape for argument in b.node.args[:2]]
    shape = b.shape(broadcast_sizes(*sizes))
    self, mask = (b.emit(T.relax.op.broadcast_to(value, shape)) for value in (self, mask))
    _count(b, _nonzero, mask, b.val.shape[0])

    def kernel(x: Any, mask: Any, shape: Any) -> Any:
        def body(x: Any, mask: Any, out: Any) -> None:
            _each_marked(mask, _nonzero, out.shape[0], lambda at, number: store(out, load(x, at), [number]))

        return loops([x, mask], [(shape, str(x.dtype))], body, "masked_select")

    return b.te(kernel, self, mask, b.shape(b.val))


# -- repeats ---------------------------------------------------------------------------


def _repeated(b: Any, repeats: Any, size: Any, output_size: Any) -> Any:
    """The positions of *repeats*, each as often as its element says, in a line of length *size*."""
    if output_size is not None:
        raise UnsupportedOperatorError("whether output_size is the sum of the repeats is not checked")
    b.bind_size(size, b.emit(T.relax.op.sum(b.cast(repeats, "int64"))))

    def kernel(repeats: Any, size: Any) -> Any:
        def body(repeats: Any, out: Any) -> None:
            number = T.ir_builder.tirx.alloc_buffer([1], "int64", scope="local")
            store(number, _int(0), [0])
            with grid(*repeats.shape) as (i,):
                times = S.cast(load(repeats, [i]), "int64")
                with (
                    T.ir_builder.tirx.serial(0, T.tirx.max(times, _int(0))),
                    when(load(number, [0]) < out.shape[0]),
                ):
                    store(out, i.astype("int64"), [load(number, [0])])
                    store(number, load(number, [0]) + _int(1), [0])

        return loops([repeats], [((size,), "int64")], body, "repeated")

    return b.te(kernel, repeats, b.size(size), name="repeated")


@lowering(aten.repeat_interleave.Tensor)
def repeat_interleave(b: Any, repeats: Any, *, output_size: Any) -> Any:
    return b.cast(_repeated(b, repeats, b.val.shape[0], output_size), b.val.dtype)


# -- occurrences of numbers --------------------------------------------------------------


@lowering(aten.bincount.default)
def bincount(b: Any, self: Any, weights: Any, minlength: Any) -> Any:
    (size,) = b.val.shape
    if weights is not None:
        _some(b, b.node.args[0].meta["val"].shape[0])
    least = minlength if isinstance(minlength, int) else None
    b.bind_size(size, b.te(_bins, self, b.size(minlength), name="bins"), least=least)
    weights = [] if weights is None else [weights]
    return b.te(_fill_bins, self, *weights, b.size(size), b.dtype(b.val.dtype), name="bincount")


def _some(b: Any, length: Any) -> None:
    """Refuse a weighted line without elements, where torch's result is of int64 whatever it says."""
    if is_unbound(length):
        b.require(length.node.expr >= 1)
    elif isinstance(length, int) and length == 0:
        raise LoweringError(b.where("torch gives the sums of no weights a wrong dtype"))


def _bins(x: Any, least: Any) -> Any:
    """One more than the largest number in a line; *least* at least."""

    def body(x: Any, out: Any) -> None:
        store(out, least, [])
        with grid(*x.shape) as at:
            store(out, T.tirx.max(load(out, []), S.cast(load(x, at), "int64") + _int(1)), [])

    return loops([x], [((), "int64")], body, "bins")


def _fill_bins(x: Any, *rest: Any) -> Any:
    """How often each number below a size is in a line; the sum of its weights where there are any."""
    *weights, size, dtype = rest

    def body(x: Any, *rest: Any) -> None:
        *weights, out = rest
        with grid(size) as at:
            store(out, S.const(0, dtype), at)
        with grid(*x.shape) as at:
            number = S.cast(load(x, at), "int64")
            with when(T.tirx.all(number >= _int(0), number < size)):  # a negative one is reported
                more = S.cast(load(weights[0], at), dtype) if weights else S.const(1, dtype)
                store(out, load(out, [number]) + more, [number])

    return loops([x, *weights], [((size,), dtype)], body, "bincount")


# -- unique values -----------------------------------------------------------------------


def _runs(b: Any, line: Any, order: Any, shape: Sequence[Any]) -> list[Any]:
    """Values, inverse and counts of the runs of equal elements in *line*.

    *order* says where the elements of *line* were before they were sorted; None
    where they were not. *shape* is that of the inverse.
    """
    values, *_ = b.val
    _count(b, _first_of_run, line, values.shape[0])
    size = b.size(values.shape[0])

    def kernel(x: Any, *rest: Any) -> Any:
        *order, size = rest
        dtype, extent = str(x.dtype), x.shape[0]

        def body(x: Any, *rest: Any) -> None:
            *order, found, inverse, counts = rest
            number = T.ir_builder.tirx.alloc_buffer([1], "int64", scope="local")
            store(number, _int(-1), [0])
            with grid(size) as at:
                store(counts, _int(0), at)
            with grid(extent) as (i,):
                with when(_first_of_run(x, [i])):
                    store(number, load(number, [0]) + _int(1), [0])
                    store(found, load(x, [i]), [load(number, [0])])
                before = load(order[0], [i]) if order else i
                store(inverse, load(number, [0]), [before])
                store(counts, load(counts, [load(number, [0])]) + _int(1), [load(number, [0])])

        results = [((size,), dtype), ((extent,), "int64"), ((size,), "int64")]
        return loops([x, *order], results, body, "unique")

    made = b.te(kernel, line, *([] if order is None else [order]), size, name="unique")
    found, inverse, counts = (b.emit(T.relax.TupleGetItem(made, i)) for i in range(3))
    return [found, b.emit(T.relax.op.reshape(inverse, shape)), counts]


def _unique(b: Any, self: Any, *, sorts: bool, inverse: bool, counts: bool) -> list[Any]:
    shape = b.shape_of(self)
    line, order = b.emit(T.relax.op.reshape(self, [product(shape)])), None
    if sorts:
        line, order = sort_line(b, line)
    results = _runs(b, line, order, shape)
    for wanted, result in ((inverse, 1), (counts, 2)):
        if not wanted:
            val = b.val[result]
            results[result] = T.relax.op.zeros(b.shape(val), b.dtype(val.dtype)) if used(b, result) else None
    return results


@lowering(aten._unique2.default)
def unique(b: Any, self: Any, sorted: Any, return_inverse: Any, return_counts: Any) -> Any:
    return _unique(b, self, sorts=True, inverse=return_inverse, counts=return_counts)


@lowering(aten.unique_consecutive.default)
def unique_consecutive(b: Any, self: Any, return_inverse: Any, return_counts: Any, dim: Any) -> Any:
    if dim is not None:
        raise UnsupportedOperatorError("unique slices are not compared")
    return _unique(b, self, sorts=False, inverse=return_inverse, counts=return_counts)
