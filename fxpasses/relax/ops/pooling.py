"""Maximum and average over windows, fixed and adaptive, of one to three dims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import accumulator, const, convert, is_known, lowest, used
from fxpasses.relax.table import lowering
from fxpasses.relax.window_means import window_means

aten = torch.ops.aten


@lowering(aten.max_pool2d_with_indices.default)
def max_pool2d(
    b: Any, self: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> Any:
    return _max(b, self, _Window(2, kernel_size, stride, padding, dilation))


@lowering(aten.max_pool3d_with_indices.default)
def max_pool3d(
    b: Any, self: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> Any:
    return _max(b, self, _Window(3, kernel_size, stride, padding, dilation))


@lowering(aten.adaptive_max_pool2d.default)
def adaptive_max_pool2d(b: Any, self: Any, output_size: Any) -> Any:
    return _max(b, self, _Adaptive(2))


@lowering(aten.adaptive_max_pool3d.default)
def adaptive_max_pool3d(b: Any, self: Any, output_size: Any) -> Any:
    return _max(b, self, _Adaptive(3))


@lowering(aten._adaptive_avg_pool2d.default)
def adaptive_avg_pool2d(b: Any, self: Any, output_size: Any) -> Any:
    return _mean(b, self, _Adaptive(2))


@lowering(aten._adaptive_avg_pool3d.default)
def adaptive_avg_pool3d(b: Any, self: Any, output_size: Any) -> Any:
    return _mean(b, self, _Adaptive(3))


@lowering(aten.avg_pool1d.default)
def avg_pool1d(
    b: Any, self: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any, count_include_pad: Any
) -> Any:
    return _mean(b, self, _Window(1, kernel_size, stride, padding), count_include_pad)


@lowering(aten.avg_pool2d.default)
def avg_pool2d(
    b: Any,
    self: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: Any,
    count_include_pad: Any,
    divisor_override: Any,
) -> Any:
    return _mean(b, self, _Window(2, kernel_size, stride, padding), count_include_pad, divisor_override)


@lowering(aten.avg_pool3d.default)
def avg_pool3d(
    b: Any,
    self: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: Any,
    count_include_pad: Any,
    divisor_override: Any,
) -> Any:
    return _mean(b, self, _Window(3, kernel_size, stride, padding), count_include_pad, divisor_override)


# -- windows ---------------------------------------------------------------------------


class _Window:
    """A window of fixed size that moves by a stride over a padded input.

    ``ceil_mode`` needs no treatment: it shows in the size of the result alone,
    and a window that sticks out is cut.
    """

    def __init__(self, dims: int, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> None:
        self.dims = dims
        self.kernel = _each(kernel, dims)
        self.stride = _each(stride, dims) if stride else self.kernel
        self.padding = _each(padding, dims)
        self.dilation = _each(dilation, dims)

    def extent(self, dim: int, size: Any, results: Any) -> Any:
        """How many positions a window has at most."""
        return self.kernel[dim]

    def place(self, dim: int, at: Any, k: Any, size: Any, results: Any) -> tuple[Any, Any]:
        """Where the k-th position of a window is, and whether it is inside the input."""
        place = at * self.stride[dim] - self.padding[dim] + k * self.dilation[dim]
        last = (results - 1) * self.stride[dim] - self.padding[dim]
        last = last + (self.kernel[dim] - 1) * self.dilation[dim]
        conditions = [place >= 0] if self.padding[dim] else []
        if not T.Analyzer().can_prove(last < size):
            conditions.append(place < size)
        return place, conditions

    def count(self, dim: int, at: Any, size: Any, results: Any, with_padding: bool) -> Any:
        """How many positions a mean divides by."""
        tirx = T.tirx
        start = at * self.stride[dim] - self.padding[dim]
        end = tirx.min(start + self.kernel[dim], size + self.padding[dim])
        if with_padding:
            return end - start
        return tirx.min(end, size) - tirx.max(start, tirx.IntImm("int64", 0))


class _Adaptive:
    """Windows that divide the input evenly among the results."""

    def __init__(self, dims: int) -> None:
        self.dims = dims

    def extent(self, dim: int, size: Any, results: Any) -> Any:
        if (each := self._even(size, results)) is not None:
            return each
        if not (isinstance(size, T.tirx.IntImm) and isinstance(results, T.tirx.IntImm)):
            return T.tirx.floordiv(size + results - 1, results) + 1
        i, o = int(size), int(results)
        return max(-(-(at + 1) * i // o) - at * i // o for at in range(o))

    def place(self, dim: int, at: Any, k: Any, size: Any, results: Any) -> tuple[Any, Any]:
        start = self._start(at, size, results)
        if self._even(size, results) is not None:
            return start + k, []
        return start + k, [start + k < start + self.count(dim, at, size, results)]

    def count(self, dim: int, at: Any, size: Any, results: Any, with_padding: bool = True) -> Any:
        if (each := self._even(size, results)) is not None:
            return each
        end = T.tirx.floordiv((at + 1) * size + results - 1, results)
        return end - self._start(at, size, results)

    def has_known_lengths(self, sizes: Sequence[Any], results: Sequence[Any]) -> bool:
        """Whether the lengths of all windows are numbers, or the same everywhere."""
        pairs = list(zip(sizes[-self.dims :], results[-self.dims :], strict=True))
        return all(is_known(size) and is_known(result) for size, result in pairs) or all(
            self._even(size, result) is not None for size, result in pairs
        )

    def _even(self, size: Any, results: Any) -> Any:
        """How many positions every window has, if that is known to be one number."""
        analyzer = T.Analyzer()
        if analyzer.can_prove(T.tirx.floormod(size, results) == 0):
            return analyzer.simplify(T.tirx.floordiv(size, results))
        return None

    def _start(self, at: Any, size: Any, results: Any) -> Any:
        return T.tirx.floordiv(at * size, results)


# -- kernels ---------------------------------------------------------------------------


def _max(b: Any, value: Any, window: Any) -> Any:
    """The greatest of each window, and its position in the flattened spatial dims.

    The first of equals wins; a NaN wins over all, and the last NaN over others.
    """
    dtype = b.dtype_of(value)
    work = accumulator(dtype)
    with_positions = used(b, 1)

    def kernel(x: Any, shape: Any) -> Any:
        te, tirx = T.te, T.tirx
        sizes, results = x.shape[-window.dims :], shape[-window.dims :]
        if work != dtype and with_positions:
            # TVM 0.27 reads bfloat16 as integers inside a reduction of several values.
            narrow = x
            x = te.compute(narrow.shape, lambda *at: narrow(*at).astype(work), name="widened")

        def greater(new: Any, old: Any) -> Any:
            above = new > old
            return tirx.any(above, tirx.isnan(new)) if work.startswith("float") else above

        def element(position: bool) -> Callable[..., Any]:
            def at_result(*at: Any) -> Any:
                axes = _axes(window, sizes, results)
                source, inside = _places(window, at, axes, sizes, results)
                read = x(*at[: -window.dims], *source)
                outside = lowest(work)
                found = convert(read, work)
                if inside:
                    found = tirx.if_then_else(tirx.all(*inside), found, outside)
                if not position:
                    return best(found, axis=axes)
                flat: Any = tirx.IntImm("int64", 0)
                for place, size in zip(source, sizes, strict=True):
                    flat = flat * size + place
                if inside:
                    flat = tirx.if_then_else(tirx.all(*inside), flat, const(-1, "int64"))
                return best_with_place((flat, found), axis=axes)

            return at_result

        best = te.comm_reducer(
            lambda old, new: tirx.Select(greater(new, old), new, old), lambda _: lowest(work), name="best"
        )

        def better(old: Any, new: Any) -> Any:
            take = tirx.all(new[0] >= 0, tirx.any(greater(new[1], old[1]), old[0] < 0))
            return tirx.Select(take, new[0], old[0]), tirx.Select(take, new[1], old[1])

        best_with_place = te.comm_reducer(
            better, lambda *_: (const(-1, "int64"), lowest(work)), name="best_with_place"
        )
        found = te.compute(tuple(shape), element(with_positions), name="max_pool")
        places = None
        if with_positions:
            places, found = found
        if work != dtype:
            wide = found
            found = te.compute(tuple(shape), lambda *at: wide(*at).astype(dtype), name="round")
        return found if places is None else [found, places]

    found = b.te(kernel, value, b.shape(b.val[0]))
    return (b.emit(found[0]), b.emit(found[1])) if with_positions else (found, None)


def _mean(b: Any, value: Any, window: Any, with_padding: bool = True, divisor: int | None = None) -> Any:
    dtype = b.dtype_of(value)
    work = accumulator(dtype)

    def kernel(x: Any, shape: Any) -> Any:
        te, tirx = T.te, T.tirx
        sizes, results = x.shape[-window.dims :], shape[-window.dims :]

        def total(*at: Any) -> Any:
            axes = _axes(window, sizes, results)
            source, inside = _places(window, at, axes, sizes, results)
            found = convert(x(*at[: -window.dims], *source), work)
            if inside:
                found = tirx.if_then_else(tirx.all(*inside), found, const(0, work))
            return te.sum(found, axis=axes)

        summed = te.compute(tuple(shape), total, name="total")

        def mean(*at: Any) -> Any:
            count: Any = tirx.IntImm("int64", 1 if divisor is None else divisor)
            if divisor is None:
                for dim, i in enumerate(at[-window.dims :]):
                    count = count * window.count(dim, i, sizes[dim], results[dim], with_padding)
            if work.startswith("float"):
                return convert(summed(*at) / convert(count, work), dtype)
            if divisor is None:
                # A vector's lanes behind the last window compute, too, and the processor traps a division by zero.
                count = tirx.max(count, tirx.IntImm("int64", 1))
            return tirx.truncdiv(summed(*at), convert(count, work))

        return te.compute(tuple(shape), mean, name="avg_pool")

    shape = b.shape(b.val)
    if isinstance(window, _Adaptive) and not window.has_known_lengths(b.shape_of(value), shape):
        return b.te(lambda x: window_means(x, shape, window.dims, work), value)
    return b.te(kernel, value, shape)


def _axes(window: Any, sizes: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    return [
        T.te.reduce_axis((0, window.extent(dim, sizes[dim], results[dim])), name=f"k{dim}")
        for dim in range(window.dims)
    ]


def _places(
    window: Any, at: Sequence[Any], axes: Sequence[Any], sizes: Sequence[Any], results: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """Where an element of the window is, and the conditions for it to be inside the input."""
    places, conditions = [], []
    for dim, i in enumerate(at[-window.dims :]):
        place, inside = window.place(dim, i, axes[dim], sizes[dim], results[dim])
        places.append(place)
        conditions += inside
    return places, conditions


def _each(sizes: Any, dims: int) -> list[int]:
    """One size for each dim; torch lets a single one stand for all."""
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    return sizes * dims if len(sizes) == 1 else sizes
