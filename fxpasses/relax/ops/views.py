"""Data movement by shape: views, slices, concatenation and padding.

Nothing here computes a value, so every row is exact for every dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import free_symbols, free_unbacked_symbols
from torch.utils._sympy.value_ranges import bound_sympy

from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import const, is_known, is_static, position, product
from fxpasses.relax.table import lowering

aten = torch.ops.aten


# -- views -------------------------------------------------------------------------


@lowering(aten.reshape.default)
def reshape(b: Any, self: Any, shape: Any) -> Any:
    return _as_shape(b, self)


@lowering(aten.squeeze.dim)
def squeeze_dim(b: Any, self: Any, dim: Any) -> Any:
    return _as_shape(b, self)


@lowering(aten.squeeze.dims)
def squeeze_dims(b: Any, self: Any, dim: Any) -> Any:
    return _as_shape(b, self)


@lowering(aten.unsqueeze.default)
def unsqueeze(b: Any, self: Any, dim: Any) -> Any:
    return _as_shape(b, self)


@lowering(aten.permute.default)
def permute(b: Any, self: Any, dims: Any) -> Any:
    axes = [position(dim, len(dims)) for dim in dims]
    if axes == sorted(axes):
        return self
    return T.relax.op.permute_dims(self, axes)


@lowering(aten.expand.default)
def expand(b: Any, self: Any, size: Any, *, implicit: Any) -> Any:
    return T.relax.op.broadcast_to(self, b.shape(b.val))


def _as_shape(b: Any, value: Any) -> Any:
    """The elements of *value* in the shape of the result; no copy when it runs."""
    return T.relax.op.reshape(value, b.shape(b.val))


# -- elements picked by arithmetic on positions ---------------------------------------


@lowering(aten.slice.Tensor)
def slice_(b: Any, self: Any, dim: Any, start: Any, end: Any, step: Any) -> Any:
    axis = position(dim, b.val.dim())
    size = b.shape_of(self)[axis]
    first = _bound(b, "start", start, size)
    length = b.val.shape[axis]
    if _is_new(b, length):  # a bound depends on values, and nothing is known of it
        last = size if end is None else T.tirx.min(_bound(b, "end", end, size), size)
        taken = T.tirx.floordiv(T.tirx.max(last - first, b.size(0)) + step - 1, b.size(step))
        b.bind_size(length, b.number(taken, "int64"), most=size)
    return _slice(b, self, axis, first, step, b.shape(b.val))


def _is_new(b: Any, size: Any) -> bool:
    """Whether the call gives *size* a symbol of its own, which no argument has."""
    if not isinstance(size, torch.SymInt) or not size.node.expr.is_Symbol:
        return False
    given = [node.meta["val"] for node in b.node.all_input_nodes]
    return size.node.expr in free_unbacked_symbols((size,)) - free_symbols(given)


@lowering(aten.split_with_sizes.default)
def split_with_sizes(b: Any, self: Any, split_sizes: Any, dim: Any) -> Any:
    start: Any = b.size(0)
    parts = []
    for size, val in zip(split_sizes, b.val, strict=True):
        parts.append(_slice(b, self, position(dim, val.dim()), start, 1, b.shape(val)))
        start = start + b.size(size)
    return tuple(parts)


@lowering(aten.select.int)
def select(b: Any, self: Any, dim: Any, index: Any) -> Any:
    axis = position(dim, b.val.dim() + 1)
    index = _wrapped(b, "index", index, b.shape_of(self)[axis])
    return _pick(b, self, lambda at, index: [*at[:axis], index, *at[axis:]], index)


@lowering(aten.diagonal.default)
def diagonal(b: Any, self: Any, offset: Any, dim1: Any, dim2: Any) -> Any:
    rank = b.val.dim() + 1
    first, second = position(dim1, rank), position(dim2, rank)

    def source(at: Sequence[Any]) -> list[Any]:
        rest = iter(at[:-1])
        along = {first: at[-1] + max(-offset, 0), second: at[-1] + max(offset, 0)}
        return [along[axis] if axis in along else next(rest) for axis in range(rank)]

    return _pick(b, self, source)


@lowering(aten.unfold.default)
def unfold(b: Any, self: Any, dimension: Any, size: Any, step: Any) -> Any:
    rank = b.val.dim() - 1
    if rank == 0:
        return _as_shape(b, self)
    axis = position(dimension, rank)
    return _pick(b, self, lambda at, step: [*at[:axis], at[axis] * step + at[-1], *at[axis + 1 : -1]], step)


@lowering(aten.flip.default)
def flip(b: Any, self: Any, dims: Any) -> Any:
    axes = {position(dim, b.val.dim()) for dim in dims}

    def source(at: Sequence[Any], *sizes: Any) -> list[Any]:
        return [sizes[axis] - 1 - i if axis in axes else i for axis, i in enumerate(at)]

    return _pick(b, self, source, *b.shape_of(self))


@lowering(aten.roll.default)
def roll(b: Any, self: Any, shifts: Any, dims: Any) -> Any:
    sizes = b.shape_of(self)
    if not dims:  # the elements in their order, whatever the shape
        flat = [product(sizes)]
        line = T.relax.op.reshape(self, flat)
        return T.relax.op.reshape(_rolled(b, b.emit(line), {0: shifts[0]}, flat), b.shape(b.val))
    by_axis: dict[int, Any] = {}
    for shift, dim in zip(shifts, dims, strict=True):
        axis = position(dim, b.val.dim())
        by_axis[axis] = by_axis.get(axis, 0) + shift
    if not sizes:
        return self
    if len(by_axis) > 1 or all(map(is_known, sizes)):
        return _rolled(b, self, by_axis, sizes)
    ((axis, shift),) = by_axis.items()
    rows = _in_rows(sizes, axis)  # along the last axis, however short what lies behind it turns out to be
    line = b.emit(T.relax.op.reshape(self, rows))
    made = _rolled(b, line, {1: shift * product(sizes[axis + 1 :])}, rows)
    return T.relax.op.reshape(b.emit(made), b.shape(b.val))


@lowering(aten.repeat.default)
def repeat(b: Any, self: Any, repeats: Any) -> Any:
    sizes = b.shape_of(self)
    if not sizes:
        return _pick(b, self, lambda at: [])

    # The repeats of a dim are a dim of their own, so that each lies side by side in memory.
    own = len(repeats) - len(sizes)
    apart: list[Any] = [b.size(count) for count in repeats[:own]]
    places = []
    for count, size in zip(repeats[own:], sizes, strict=True):
        apart += [*([] if is_static(b.size(count), 1) else [b.size(count)]), size]
        places.append(len(apart) - 1)

    def source(at: Sequence[Any]) -> list[Any]:
        return [at[place] for place in places]

    return T.relax.op.reshape(b.emit(_pick(b, self, source, shape=apart)), b.shape(b.val))


@lowering(aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default)
def reflection_pad(b: Any, self: Any, padding: Any) -> Any:
    def reflected(i: Any, size: Any) -> Any:
        i = T.tirx.Select(i < 0, -i, i)
        return T.tirx.Select(i >= size, 2 * size - 2 - i, i)

    return _padded_by(b, self, padding, reflected)


@lowering(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default)
def replication_pad(b: Any, self: Any, padding: Any) -> Any:
    def clamped(i: Any, size: Any) -> Any:
        return T.tirx.max(T.tirx.min(i, size - 1), T.tirx.IntImm("int64", 0))

    return _padded_by(b, self, padding, clamped)


@lowering(aten._pad_circular.default)
def pad_circular(b: Any, self: Any, pad: Any) -> Any:
    pads = _pads(pad, b.val.dim())
    grows = all(isinstance(size, int) and size >= 0 for size in pad)
    amounts = [size for sizes in pads.values() for size in sizes]

    def kernel(x: Any, shape: Any, *amounts: Any) -> Any:
        tirx, zero, last = T.tirx, T.tirx.IntImm("int64", 0), _in_memory(shape)
        along = dict(zip(pads, zip(amounts[::2], amounts[1::2], strict=True), strict=True))

        def parts(axis: int, i: Any) -> tuple[Any, ...]:
            """The place in the tensor, how far it moves if it is in a border, and whether that is before or behind."""
            before, after = along[axis]
            first = zero if grows else tirx.max(-before, zero)
            end = x.shape[axis] if grows else x.shape[axis] + tirx.min(after, zero)
            place = i - before
            return place, end - first, place < first, place >= end

        def wrapped(axis: int, i: Any) -> Any:
            place, length, before, behind = parts(axis, i)
            return inside(axis, place + length * (before.astype("int64") - behind.astype("int64")))

        def inside(axis: int, place: Any) -> Any:
            # Where one border cuts off what the other repeats, PyTorch reads memory that nobody has written.
            return place if grows else tirx.max(tirx.min(place, x.shape[axis] - 1), zero)

        def element(*at: Any) -> Any:
            places = [wrapped(axis, i) if axis in along else i for axis, i in enumerate(at)]
            if last not in along:
                return x(*places)
            # Each part lies side by side in memory.
            place, length, before, behind = parts(last, at[last])
            three = (inside(last, i) for i in (place + length, place - length, place))
            first, end, kept = (x(*places[:last], i, *places[last + 1 :]) for i in three)
            return tirx.if_then_else(before, first, tirx.if_then_else(behind, end, kept))

        return T.te.compute(tuple(shape), element, name="pick")

    return b.te(kernel, self, b.shape(b.val), *amounts)


def _slice(b: Any, value: Any, axis: int, start: Any, step: Any, shape: list[Any]) -> Any:
    def source(at: Sequence[Any], start: Any, step: Any) -> list[Any]:
        return [*at[:axis], start + at[axis] * step, *at[axis + 1 :]]

    return _pick(b, value, source, start, b.size(step), shape=shape)


def _rolled(b: Any, value: Any, shifts: dict[int, Any], sizes: list[Any]) -> Any:
    axes, last = list(shifts), _in_memory(sizes)

    def kernel(x: Any, sizes: Sequence[Any], *shifts: Any) -> Any:
        tirx, along = T.tirx, dict(zip(axes, shifts, strict=True))
        shift = tirx.floormod(along.pop(last, 0), tirx.max(sizes[last], tirx.IntImm("int64", 1)))

        def at_source(at: Sequence[Any], i: Any) -> Any:
            places = [
                tirx.floormod(place - along[axis], sizes[axis]) if axis in along else place
                for axis, place in enumerate(at)
            ]
            return x(*places[:last], i, *places[last + 1 :])

        def element(*at: Any) -> Any:
            if is_static(shift, 0):
                return at_source(at, at[last])
            # In two parts, each of which lies side by side in memory.
            behind, before = (at_source(at, at[last] + by) for by in (sizes[last] - shift, -shift))
            return tirx.if_then_else(at[last] < shift, behind, before)

        return T.te.compute(tuple(sizes), element, name="roll")

    return b.te(kernel, value, sizes, *shifts.values())


def _in_memory(sizes: Sequence[Any]) -> int:
    """The last axis that may have more than one element, along which memory is read."""
    return max((axis for axis, size in enumerate(sizes) if not is_static(size, 1)), default=0)


def _padded_by(b: Any, value: Any, padding: Sequence[int], inside: Callable[[Any, Any], Any]) -> Any:
    pads = _pads(padding, b.val.dim())
    befores = [before for before, _ in pads.values()]

    def kernel(x: Any, shape: Any, sizes: Sequence[Any], *before: Any) -> Any:
        along, last = dict(zip(pads, before, strict=True)), _in_memory(shape)

        def element(*at: Any) -> Any:
            places = [
                inside(i - along[axis], sizes[axis]) if axis in along else i for axis, i in enumerate(at)
            ]
            if last not in along:
                return x(*places)
            # The part that is no border lies side by side in memory.
            place = at[last] - along[last]
            within = T.tirx.all(place >= 0, place < sizes[last])
            return T.tirx.if_then_else(within, x(*places[:last], place, *places[last + 1 :]), x(*places))

        return T.te.compute(tuple(shape), element, name="pick")

    return b.te(kernel, value, b.shape(b.val), b.shape_of(value), *befores)


def _pick(b: Any, value: Any, source: Callable[..., list[Any]], *args: Any, shape: Any = None) -> Any:
    """A kernel whose element at ``at`` is that of *value* at ``source(at, *args)``.

    Expressions with symbols reach the kernel through *args* only: it has
    symbols of its own.
    """

    def kernel(x: Any, shape: Any, *args: Any) -> Any:
        return T.te.compute(tuple(shape), lambda *at: x(*source(at, *args)), name="pick")

    return b.te(kernel, value, b.shape(b.val) if shape is None else shape, *args)


def _bound(b: Any, name: str, value: Any, size: Any) -> Any:
    """The start of a slice as an expression: counted from the end where negative, and clipped."""
    value = _wrapped(b, name, 0 if value is None else value, size)
    if isinstance(value, T.tirx.IntImm) and isinstance(size, T.tirx.IntImm):
        return b.size(min(max(int(value), 0), int(size)))
    return value


def _wrapped(b: Any, name: str, value: Any, size: Any) -> Any:
    """The argument *name* as an index: counted from the end where negative."""
    if isinstance(value, int):
        return b.size(value) + size if value < 0 else b.size(value)
    names = [argument.name for argument in b.node.target._schema.arguments]
    place = b.node.args[names.index(name)].meta["val"].node.expr
    if bound_sympy(place, b.emission.ranges).lower >= 0:  # torch takes the sizes themselves to be 1 or more
        return value
    wrapped = T.tirx.Select(value < 0, value + size, value)
    return T.tirx.max(wrapped, T.tirx.IntImm("int64", 0))


# -- several tensors, or a value where there is none ------------------------------------


@lowering(aten.cat.default)
def cat(b: Any, tensors: Any, dim: Any) -> Any:
    axis = position(dim, b.val.dim())
    # torch allows a 1-d tensor without elements among tensors of any rank.
    parts = [
        b.cast(tensor, b.val.dtype)
        for tensor in tensors
        if len(b.shape_of(tensor)) == b.val.dim() and not is_static(b.shape_of(tensor)[axis], 0)
    ]
    if len(parts) == 1:
        return parts[0]
    wide = b.shape(b.val)
    # Sizes may be equal by an assertion alone.
    parts = [b.of_shape(part, [*wide[:axis], b.shape_of(part)[axis], *wide[axis + 1 :]]) for part in parts]
    if is_known(wide[axis]) or axis == b.val.dim() - 1:
        return T.relax.op.concat(parts, axis)
    # Along the last axis, however short what lies behind it turns out to be.
    parts = [b.emit(T.relax.op.reshape(part, _in_rows(b.shape_of(part), axis))) for part in parts]
    return T.relax.op.reshape(b.emit(T.relax.op.concat(parts, 1)), wide)


def _in_rows(sizes: Sequence[Any], axis: int) -> list[Any]:
    """The shape [before, from *axis* on] of the same elements."""
    return [product(sizes[:axis]), product(sizes[axis:])]


@lowering(aten.constant_pad_nd.default)
def constant_pad_nd(b: Any, self: Any, pad: Any, value: Any) -> Any:
    pads = _pads(pad, b.val.dim())
    dtype = b.dtype(b.val.dtype)

    def kernel(x: Any, shape: Any, before: Any) -> Any:
        def element(*at: Any) -> Any:
            source = [i - before[axis] if axis in pads else i for axis, i in enumerate(at)]
            inside = [
                condition for axis in pads for condition in (source[axis] >= 0, source[axis] < x.shape[axis])
            ]
            return T.tirx.if_then_else(T.tirx.all(*inside), x(*source), const(value, dtype))

        return T.te.compute(tuple(shape), element, name="pad")

    before = [b.size(pads[axis][0] if axis in pads else 0) for axis in range(b.val.dim())]
    if not pads:
        return self
    if any(is_static(size, 0) for size in b.shape_of(self)):
        return _filled(b, value)
    return b.te(kernel, self, b.shape(b.val), before)


@lowering(aten.select_scatter.default)
def select_scatter(b: Any, self: Any, src: Any, dim: Any, index: Any) -> Any:
    axis = position(dim, b.val.dim())

    def kernel(x: Any, src: Any, index: Any) -> Any:
        def element(*at: Any) -> Any:
            rest = [*at[:axis], *at[axis + 1 :]]
            return T.tirx.if_then_else(at[axis] == index, src(*rest), x(*at))

        return T.te.compute(x.shape, element, name="select_scatter")

    return b.te(kernel, self, b.cast(src, b.val.dtype), _wrapped(b, "index", index, b.shape_of(self)[axis]))


@lowering(aten.slice_scatter.default)
def slice_scatter(b: Any, self: Any, src: Any, dim: Any, start: Any, end: Any, step: Any) -> Any:
    axis = position(dim, b.val.dim())
    size = b.shape_of(self)[axis]
    if is_static(b.shape_of(src)[axis], 0):
        return self

    def kernel(x: Any, src: Any, start: Any) -> Any:
        def element(*at: Any) -> Any:
            offset = at[axis] - start
            taken = T.tirx.floordiv(offset, step)
            inside = [offset >= 0, taken < src.shape[axis]]
            if step != 1:
                inside.append(T.tirx.floormod(offset, step) == 0)
            source = src(*at[:axis], taken, *at[axis + 1 :])
            return T.tirx.if_then_else(T.tirx.all(*inside), source, x(*at))

        return T.te.compute(x.shape, element, name="slice_scatter")

    return b.te(kernel, self, b.cast(src, b.val.dtype), _bound(b, "start", start, size))


def _filled(b: Any, value: Any) -> Any:
    dtype = b.dtype(b.val.dtype)

    def kernel(shape: Any) -> Any:
        return T.te.compute(tuple(shape), lambda *_: const(value, dtype), name="full")

    return b.te(kernel, b.shape(b.val))


def _pads(pad: Sequence[Any], rank: int) -> dict[int, tuple[Any, Any]]:
    """The sizes before and after each padded axis; torch lists them from the last axis on."""
    return {
        rank - 1 - k: (pad[2 * k], pad[2 * k + 1])
        for k in range(len(pad) // 2)
        if not all(isinstance(size, int) and size == 0 for size in pad[2 * k : 2 * k + 2])
    }
