"""Means over windows that divide an image evenly among the results, of sizes that show at run time.

The rows of each window are added up, all columns at a time; then the columns of
each. So memory is read as it lies, and no step asks whether it is in a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import convert, grid, load, loops, product, rows, store, when
from fxpasses.relax.ordering import Local, int64

__all__ = ["window_means"]

# So many sums side by side wait for none.
_SUMS = 4


def window_means(x: Any, shape: Sequence[Any], dims: int, work: str) -> Any:
    """The tensor expression of the means over the last *dims*, each of a window of *x*, added up in *work*."""
    *heights, width = x.shape[-dims:]
    *results, columns = shape[-dims:]
    images = shape[:-dims]

    def body(x: Any, out: Any) -> None:
        builder = T.ir_builder.tirx
        with rows([*images, 1], len(images), work=product(x.shape)) as place:
            image = place(0)[:-1]
            sums = builder.alloc_buffer([width], work)
            with grid(*results) as at:
                starts, counts = _windows(at, heights, results)
                with grid(width) as (column,):
                    store(sums, T.tirx.const(0, work), [column])
                with grid(*counts) as steps, grid(width) as (column,):
                    places = [start + step for start, step in zip(starts, steps, strict=True)]
                    term = convert(load(x, [*image, *places, column]), work)
                    store(sums, load(sums, [column]) + term, [column])
                _means_of_columns(sums, width, out, [*image, *at], columns, product(counts))

    return loops([x], [(shape, str(x.dtype))], body, "adaptive_avg_pool")


def _windows(at: Sequence[Any], sizes: Sequence[Any], results: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Where the windows of a result start, and how long they are, along each dim."""
    starts, counts = [], []
    for i, size, result in zip(at, sizes, results, strict=True):
        starts.append(T.tirx.floordiv(i * size, result))
        counts.append(T.tirx.floordiv((i + 1) * size + result - 1, result) - starts[-1])
    return starts, counts


def _means_of_columns(sums: Any, width: Any, out: Any, row: Sequence[Any], columns: Any, height: Any) -> None:
    """A row of results: windows of *sums* added up, by the number of elements that each is the sum of."""
    tirx, work = T.tirx, str(sums.dtype)
    # The quotient and the rest of ``column * width`` by *columns*: a division takes longer than a window.
    start, rest = Local(), Local()
    start.set(int64(0))
    rest.set(int64(0))
    each, over = Local(), Local()
    each.set(tirx.floordiv(width, columns))
    over.set(tirx.floormod(width, columns))
    first, total = Local(), Local(work, _SUMS)
    with grid(columns) as (column,):
        first.set(start.get())
        start.set(start.get() + each.get())
        rest.set(rest.get() + over.get())
        with when(rest.get() >= columns):
            start.set(start.get() + int64(1))
            rest.set(rest.get() - columns)
        count = start.get() + convert(rest.get() > int64(0), "int64") - first.get()
        for part in range(_SUMS):
            total[part].set(tirx.const(0, work))
        with grid(tirx.floordiv(count, _SUMS)) as (step,):
            for part in range(_SUMS):
                found = load(sums, [first.get() + step * _SUMS + part])
                total[part].set(total[part].get() + found)
        with grid(tirx.floormod(count, _SUMS)) as (step,):
            found = load(sums, [first.get() + count - 1 - step])
            total[0].set(total[0].get() + found)
        whole = (total[0].get() + total[1].get()) + (total[2].get() + total[3].get())
        mean = whole / convert(height * count, work)
        store(out, convert(mean, str(out.dtype)), [*row, column])
