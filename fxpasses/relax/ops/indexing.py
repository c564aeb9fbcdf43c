"""Elements read or written at positions that other tensors hold.

Every position is wrapped and clamped (`safe_index`), so that an invalid index
never reads or writes memory outside the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import (
    accumulator,
    const,
    convert,
    grid,
    highest,
    is_static,
    load,
    loops,
    lowest,
    position,
    product,
    safe_index,
    store,
    when,
)
from fxpasses.relax.ops.counting import masked_slices
from fxpasses.relax.ordering import Local
from fxpasses.relax.table import lowering

aten = torch.ops.aten

_MASKS = ("bool", "uint8")


# -- reading -------------------------------------------------------------------------


@lowering(aten.embedding.default)
def embedding(
    b: Any, weight: Any, indices: Any, padding_idx: Any, scale_grad_by_freq: Any, sparse: Any
) -> Any:
    return _take(b, weight, indices, 0)


@lowering(aten.index_select.default)
def index_select(b: Any, self: Any, dim: Any, index: Any) -> Any:
    if not b.shape_of(self):
        return T.relax.op.reshape(self, b.shape(b.val))
    return _take(b, self, _as_line(b, index), position(dim, b.val.dim()))


@lowering(aten.gather.default)
def gather(b: Any, self: Any, dim: Any, index: Any, *, sparse_grad: Any) -> Any:
    if not b.shape_of(self):  # every valid index is 0
        return T.relax.op.broadcast_to(self, b.shape(b.val))
    axis = position(dim, b.val.dim())
    index = _as_line(b, index)

    def kernel(x: Any, index: Any, shape: Any) -> Any:
        def element(*at: Any) -> Any:
            where = at or (0,)
            along = safe_index(index(*where), x.shape[axis])
            return x(*where[:axis], along, *where[axis + 1 :])

        return T.te.compute(tuple(shape), element, name="gather")

    return b.te(kernel, self, index, b.shape(b.val))


@lowering(aten.index.Tensor)
def index(b: Any, self: Any, indices: Any) -> Any:
    given = [axis for axis, tensor in enumerate(indices) if tensor is not None]
    if len(given) == 1 and b.dtype_of(indices[given[0]]) in _MASKS:
        return masked_slices(b, self, indices[given[0]], given[0])
    layout = _IndexLayout.of(b, self, indices)

    def kernel(x: Any, tensors: Any, shape: Any) -> Any:
        def element(*at: Any) -> Any:
            return x(*layout.source(at, x.shape, tensors))

        return T.te.compute(tuple(shape), element, name="index")

    return b.te(kernel, self, layout.tensors, b.shape(b.val))


def _take(b: Any, value: Any, index: Any, axis: int) -> Any:
    """Slices of *value* along *axis*; the dims of *index* stand in the place of that axis."""
    rank = len(b.shape_of(index))

    def kernel(x: Any, index: Any, shape: Any) -> Any:
        def element(*at: Any) -> Any:
            along = safe_index(index(*at[axis : axis + rank]), x.shape[axis])
            return x(*at[:axis], along, *at[axis + rank :])

        return T.te.compute(tuple(shape), element, name="take")

    return b.te(kernel, value, index, b.shape(b.val))


@dataclass(frozen=True)
class _IndexLayout:
    """Where the dims of ``x[i, :, j]`` come from, by the rules of torch and NumPy.

    Attributes:
        tensors: the index tensors.
        axes: the axis of ``x`` that each of them picks from.
        first: the first dim of the result that comes from the tensors, which are
            broadcast together.
        shape: their broadcast shape.
        rank: the rank of ``x``.
    """

    tensors: list[Any]
    axes: list[int]
    first: int
    shape: list[Any]
    rank: int

    @staticmethod
    def of(b: Any, value: Any, indices: Sequence[Any]) -> _IndexLayout:
        axes = [axis for axis, tensor in enumerate(indices) if tensor is not None]
        tensors = [indices[axis] for axis in axes]
        for tensor in tensors:
            if b.dtype_of(tensor) in _MASKS:
                raise UnsupportedOperatorError(
                    "a mask as an index gives a result whose size depends on the values of the mask; "
                    "keep the size with torch.where, or give positions"
                )
        shapes = [b.shape_of(tensor) for tensor in tensors]
        rank = max(len(shape) for shape in shapes)
        shape = []
        for dim in range(-rank, 0):
            sizes = [s[dim] for s in shapes if len(s) >= -dim]
            shape.append(next((size for size in sizes if not is_static(size, 1)), sizes[0]))
        # Index tensors with a full slice between them put their dims in front.
        adjacent = axes == list(range(axes[0], axes[-1] + 1))
        return _IndexLayout(tensors, axes, axes[0] if adjacent else 0, shape, len(b.shape_of(value)))

    def source(self, at: Sequence[Any], sizes: Sequence[Any], tensors: Sequence[Any]) -> list[Any]:
        """The position in ``x`` of the element *at* of the result."""
        shared = at[self.first : self.first + len(self.shape)]
        rest = iter([*at[: self.first], *at[self.first + len(self.shape) :]])
        by_axis = dict(zip(self.axes, tensors, strict=True))
        return [
            safe_index(_read(by_axis[axis], shared), sizes[axis]) if axis in by_axis else next(rest)
            for axis in range(self.rank)
        ]

    def result_shape(self, sizes: Sequence[Any], shape: Sequence[Any]) -> list[Any]:
        """The shape of ``x[i, :, j]`` where *sizes* are those of ``x``."""
        rest = [size for axis, size in enumerate(sizes) if axis not in self.axes]
        return [*rest[: self.first], *shape, *rest[self.first :]]


def _read(tensor: Any, at: Sequence[Any]) -> Any:
    """The element of *tensor*, broadcast to as many dims as *at* has."""
    own = at[len(at) - len(tensor.shape) :]
    where = [0 if is_static(size, 1) else i for i, size in zip(own, tensor.shape, strict=True)]
    return tensor(*where) if isinstance(tensor, T.te.Tensor) else load(tensor, where)


# -- writing -------------------------------------------------------------------------


@lowering(aten.index_put.default)
def index_put(b: Any, self: Any, indices: Any, values: Any, accumulate: Any) -> Any:
    masks = [tensor for tensor in indices if tensor is not None and b.dtype_of(tensor) in _MASKS]
    values = b.cast(values, b.val.dtype)
    if masks:
        return _put_masked(b, self, indices, values, accumulate)
    layout = _IndexLayout.of(b, self, indices)
    count = len(layout.tensors)

    def kernel(x: Any, tensors: Any, values: Any, shape: Any) -> Any:
        def body(*buffers: Any) -> None:
            x, *tensors, values, out = buffers
            _copy(x, out)
            with grid(*layout.result_shape(x.shape, shape)) as at:
                target = layout.source(at, x.shape, tensors[:count])
                value = _read(values, at)
                store(out, _sum(load(out, target), value) if accumulate else value, target)

        return loops([x, *tensors, values], [(x.shape, str(x.dtype))], body, "index_put")

    return b.te(kernel, self, layout.tensors, values, layout.shape)


def _put_masked(b: Any, self: Any, indices: Sequence[Any], values: Any, accumulate: bool) -> Any:
    """``self[:, mask] = values``: values are taken in the order of the true elements."""
    axes = [axis for axis, tensor in enumerate(indices) if tensor is not None]
    if len(axes) > 1:
        raise UnsupportedOperatorError(
            "a mask together with other index tensors has no lowering; use torch.where"
        )
    first, mask = axes[0], indices[axes[0]]
    rank = len(b.shape_of(mask))
    rest = b.val.dim() - rank
    # The dim of values that runs along the true elements; without it, or with
    # size 1, all of them get the same.
    sizes = b.shape_of(values)
    along = first - (rest + 1) + len(sizes)
    counted = along >= 0 and not is_static(sizes[along], 1)

    def split(at: Sequence[Any]) -> tuple[Any, Any]:
        return at[first : first + rank], [*at[:first], *at[first + rank :]]

    def everywhere(x: Any, mask: Any, values: Any) -> Any:
        def element(*at: Any) -> Any:
            inside, others = split(at)
            value = _read(values, [*others[:first], T.tirx.IntImm("int64", 0), *others[first:]])
            put = _sum(x(*at), value) if accumulate else value
            return T.tirx.if_then_else(convert(mask(*inside), "bool"), put, x(*at))

        return T.te.compute(x.shape, element, name="put_masked")

    def in_order(x: Any, mask: Any, values: Any) -> Any:
        def body(x: Any, mask: Any, values: Any, out: Any, count: Any) -> None:
            _copy(x, out)
            store(count, const(0, "int64"), [0])
            with grid(*mask.shape) as inside, when(load(mask, inside)):
                with grid(*x.shape[:first], *x.shape[first + rank :]) as others:
                    current = T.tirx.min(load(count, [0]), values.shape[along] - 1)
                    value = _read(values, [*others[:first], current, *others[first:]])
                    target = [*others[:first], *inside, *others[first:]]
                    store(out, _sum(load(out, target), value) if accumulate else value, target)
                store(count, load(count, [0]) + const(1, "int64"), [0])

        results = [(x.shape, str(x.dtype)), ((1,), "int64")]
        return loops([x, mask, values], results, body, "put_masked")[0]

    return b.te(in_order if counted else everywhere, self, mask, values)


@lowering(aten.masked_scatter.default)
def masked_scatter(b: Any, self: Any, mask: Any, source: Any) -> Any:
    shape = b.shape(b.val)
    value = b.emit(T.relax.op.broadcast_to(self, shape))
    where = b.emit(T.relax.op.broadcast_to(mask, shape))
    if any(is_static(size, 0) for size in b.shape_of(source)):
        return value  # torch allows it where the mask is false everywhere
    line = b.emit(T.relax.op.reshape(source, [product(b.shape_of(source))]))

    def kernel(x: Any, mask: Any, source: Any) -> Any:
        def body(x: Any, mask: Any, source: Any, out: Any, count: Any) -> None:
            store(count, const(0, "int64"), [0])
            with grid(*x.shape) as at:
                store(out, load(x, at), at)
                with when(load(mask, at)):
                    store(out, load(source, [T.tirx.min(load(count, [0]), source.shape[0] - 1)]), at)
                    store(count, load(count, [0]) + const(1, "int64"), [0])

        results = [(x.shape, str(x.dtype)), ((1,), "int64")]
        return loops([x, mask, source], results, body, "masked_scatter")[0]

    return b.te(kernel, value, where, line)


@lowering(aten.scatter.src)
def scatter_src(b: Any, self: Any, dim: Any, index: Any, src: Any) -> Any:
    return _scatter(b, self, dim, index, src, "replace")


@lowering(aten.scatter.value)
def scatter_value(b: Any, self: Any, dim: Any, index: Any, value: Any) -> Any:
    return _scatter(b, self, dim, index, value, "replace")


@lowering(aten.scatter_add.default)
def scatter_add(b: Any, self: Any, dim: Any, index: Any, src: Any) -> Any:
    return _scatter(b, self, dim, index, src, "sum")


@lowering(aten.scatter.reduce)
def scatter_with(b: Any, self: Any, dim: Any, index: Any, src: Any, *, reduce: Any) -> Any:
    return _scatter(b, self, dim, index, src, {"add": "sum", "multiply": "prod"}[reduce])


@lowering(aten.scatter.value_reduce)
def scatter_value_with(b: Any, self: Any, dim: Any, index: Any, value: Any, *, reduce: Any) -> Any:
    return _scatter(b, self, dim, index, value, {"add": "sum", "multiply": "prod"}[reduce])


@lowering(aten.scatter_reduce.two)
def scatter_reduce(
    b: Any, self: Any, dim: Any, index: Any, src: Any, reduce: Any, *, include_self: Any
) -> Any:
    return _scatter(b, self, dim, index, src, reduce, include_self)


def _scatter(
    b: Any, self: Any, dim: int, index: Any, source: Any, reduce: str, include_self: bool = True
) -> Any:
    """``self[index[i, j], j] (op)= source[i, j]``, the positions of *index* in order."""
    if any(is_static(size, 0) for size in b.shape_of(index)):
        return self
    axis = position(dim, b.val.dim())
    dtype = b.dtype(b.val.dtype)
    if dtype == "bool" and reduce in ("amax", "amin"):
        raise UnsupportedOperatorError("extremes of truth values are not scattered")
    work = dtype if reduce == "replace" else accumulator(dtype)
    combine, identity = _REDUCTIONS[reduce]
    is_tensor = isinstance(source, T.relax.Var) and isinstance(source.ty, T.TensorType)
    self, index = _as_line(b, self), _as_line(b, index)
    positions, index = b.shape_of(index), b.behind_expand(index)
    sources = [_as_line(b, source)] if is_tensor else []

    def kernel(x: Any, index: Any, sources: Any, number: Any, positions: Any) -> Any:
        def body(x: Any, index: Any, *buffers: Any) -> None:
            sources, (out, *count) = buffers[: len(buffers) - extra], buffers[len(buffers) - extra :]

            def place(at: Sequence[Any]) -> Any:
                # Of an expanded index one element says where a whole row goes, in vectors.
                own = [0 if is_static(size, 1) else i for size, i in zip(index.shape, at, strict=True)]
                return safe_index(load(index, own), x.shape[axis])

            @contextmanager
            def each() -> Iterator[tuple[list[Any], list[Any]]]:
                """A loop over the positions of the index, with where in the result each goes."""
                *lead, last = positions
                whole = axis < len(lead) and is_static(index.shape[-1], 1)
                row = Local()
                with grid(*lead) as outer:
                    if whole:
                        row.set(place([*outer, 0]))
                    with T.ir_builder.tirx.serial(0, last) as k:
                        at = [*outer, k]
                        yield at, [*at[:axis], row.get() if whole else place(at), *at[axis + 1 :]]

            with grid(*x.shape) as at:
                store(out, convert(load(x, at), work), at)
                if count:
                    store(count[0], const(int(include_self), "int64"), at)
            if not include_self:
                with each() as (_, target):
                    store(out, identity(work), target)
            with each() as (at, target):
                value = load(sources[0], at) if sources else const(number, dtype)
                store(out, combine(load(out, target), convert(value, work)), target)
                if count:
                    store(count[0], load(count[0], target) + const(1, "int64"), target)

        results = [(x.shape, work)] + ([(x.shape, "int64")] if reduce == "mean" else [])
        extra = len(results)
        found = loops([x, index, *sources], results, body, "scatter")
        if reduce == "mean":
            found = _mean(found[0], found[1], work)
        if work == dtype:
            return found
        return T.te.compute(x.shape, lambda *at: found(*at).astype(dtype), name="round")

    result = b.te(kernel, self, index, sources, None if is_tensor else source, positions)
    return result if b.val.dim() else T.relax.op.reshape(result, [])


def _as_line(b: Any, value: Any) -> Any:
    """A tensor without dims as one with a single dim; others as they are."""
    return value if b.shape_of(value) else b.emit(T.relax.op.reshape(value, [b.size(1)]))


def _mean(total: Any, count: Any, dtype: str) -> Any:
    def element(*at: Any) -> Any:
        number = convert(T.tirx.max(count(*at), const(1, "int64")), dtype)
        if dtype.startswith("float"):
            return total(*at) / number
        return T.tirx.floordiv(total(*at), number)

    return T.te.compute(total.shape, element, name="mean")


def _sum(a: Any, b: Any) -> Any:
    return T.tirx.any(a, b) if str(a.ty.dtype) == "bool" else a + b


def _product(a: Any, b: Any) -> Any:
    return T.tirx.all(a, b) if str(a.ty.dtype) == "bool" else a * b


def _extreme(pick: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Maximum or minimum in which a NaN on either side wins."""

    def combine(a: Any, b: Any) -> Any:
        result = pick(a, b)
        if str(a.ty.dtype).startswith(("float", "bfloat")):
            return T.tirx.Select(T.tirx.isnan(a), a, T.tirx.Select(T.tirx.isnan(b), b, result))
        return result

    return combine


_REDUCTIONS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[str], Any]]] = {
    "replace": (lambda a, b: b, lambda dtype: const(0, dtype)),
    "sum": (_sum, lambda dtype: const(0, dtype)),
    "mean": (_sum, lambda dtype: const(0, dtype)),
    "prod": (_product, lambda dtype: const(1, dtype)),
    "amax": (_extreme(lambda a, b: T.tirx.max(a, b)), lowest),
    "amin": (_extreme(lambda a, b: T.tirx.min(a, b)), highest),
}


def _copy(source: Any, target: Any) -> None:
    with grid(*source.shape) as at:
        store(target, load(source, at), at)
