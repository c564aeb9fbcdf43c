"""Kernels of Fourier transforms: see `fxpasses.dialect.fourier`.

A transform of N = a * b elements is that of the b columns of a grid [a, b], each of
length a, a multiplication by the roots of unity, and that of the a columns of the
grid turned on its side. So vectors run across columns in all that is computed,
and the grid is turned once, in registers. A column is itself done in rounds where
it is long. Where N has a large prime factor, the transform is a convolution, made with
transforms of another length.

Real values of even number are taken in pairs for complex ones, of which there are
half as many; what that mixes up is told apart at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fxpasses.dialect.fourier_plan import Plan, rounds
from fxpasses.relax import tvm_api as T
from fxpasses.relax.fourier_formula import Complex, Formula
from fxpasses.relax.kernel import const, load, store

__all__ = ["Columns", "Rows"]


class Columns:
    """Transforms along vectors: each lane has a column of its own.

    Args:
        dtype: of the parts.
        lanes: of a vector.
        tables: the constants of `fxpasses.dialect.fourier_plan`, as buffers by name.
        forward: the direction.
    """

    def __init__(self, dtype: str, lanes: int, tables: Mapping[str, Any], forward: bool) -> None:
        self.dtype, self.lanes, self.tables, self.forward = dtype, lanes, tables, forward

    def local(self, elements: int) -> Any:
        """Memory of one thread, for *elements* complex numbers."""
        return T.ir_builder.tirx.alloc_buffer((2 * elements,), self.dtype, scope="local")

    def formula(self) -> Formula:
        return Formula(self.dtype, self.lanes)

    def swapped(self, value: Complex) -> Complex:
        """The transform back is that forward with the parts exchanged before and after."""
        return value if self.forward else value[::-1]  # type: ignore[return-value]

    def column(self, size: int, read: Callable[..., Complex], write: Callable[..., None]) -> None:
        """The transform of *size* vectors: ``read(formula, row)`` and ``write(formula, row, value)``."""
        first, second = rounds(size)
        if second == 1:
            f = self.formula()
            for row, value in enumerate(f.transform([read(f, row) for row in range(size)])):
                write(f, row, value)
            return
        turns, between = self.tables[f"turns of {size}"], self.local(size * self.lanes)
        with T.ir_builder.tirx.serial(0, second) as i:
            f = self.formula()
            values = f.transform([read(f, i + second * k) for k in range(first)])
            for k, value in enumerate(values):
                at = i * first + k
                if k:
                    value = f.times(value, *(f.spread(load(turns, [2 * at + part])) for part in (0, 1)))
                f.put_planes(between, at * self.lanes, size * self.lanes, value)
        with T.ir_builder.tirx.serial(0, first) as k:
            self.column(
                second,
                lambda f, i: f.planes(between, (i * first + k) * self.lanes, size * self.lanes),
                lambda f, i, value: write(f, k + i * first, value),
            )

    def across(self, source: Any, result: Any, size: int, width: int, start: Any, scale: float) -> None:
        """A vector of columns of *size* pairs, of which each lies *width* behind the one before, times *scale*."""

        def put(f: Formula, row: Any, value: Complex) -> None:
            if scale != 1.0:
                value = value[0] * f.spread(scale), value[1] * f.spread(scale)
            f.put_pairs(result, 2 * (start + row * width), self.swapped(value))

        self.column(size, lambda f, row: self.swapped(f.pairs(source, 2 * (start + row * width))), put)


class Rows(Columns):
    """Transforms along memory.

    Args:
        size: of a row, in complex numbers.
        plan: of the transforms that one is made with.
        dtype, tables, forward: as for `Columns`.
    """

    def __init__(self, size: int, plan: Plan, dtype: str, tables: Mapping[str, Any], forward: bool) -> None:
        super().__init__(dtype, plan.lanes, tables, forward)
        self.size, self.plan = size, plan

    def transform(self, read: Callable[..., Complex], write: Callable[..., None]) -> None:
        """Of a row: ``read(formula, at)`` and ``write(formula, at, value)`` a vector from *at* on."""
        (self._in_two_rounds if self.plan.size == self.size else self._as_convolution)(read, write)

    def _in_two_rounds(self, read: Callable[..., Complex], write: Callable[..., None]) -> None:
        (a, b), lanes, size = self.plan.columns, self.lanes, self.plan.size
        grid, roots = self.local(size), self.tables["roots"]
        with _starts(b, lanes) as j:
            column = self.local(a * lanes)

            def put(f: Formula, row: Any, value: Complex) -> None:
                turned = f.times(value, *f.planes(roots, row * b + j, size))
                f.put_planes(column, row * lanes, a * lanes, turned)

            self.column(a, lambda f, row: read(f, row * b + j), put)
            with _starts(a, lanes) as k, T.ir_builder.tirx.serial(0, 2) as plane:
                f = self.formula()
                square = [load(column, [f.ramp((plane * a + k + row) * lanes)]) for row in range(lanes)]
                for row, vector in enumerate(f.square(square)):
                    store(grid, vector, [f.ramp(plane * size + (j + row) * a + k)])
        with _starts(a, lanes) as k:
            self.column(
                b,
                lambda f, row: f.planes(grid, row * a + k, size),
                lambda f, row, value: write(f, row * a + k, value),
            )

    def _as_convolution(self, read: Callable[..., Complex], write: Callable[..., None]) -> None:
        """Bluestein's way, see `fxpasses.dialect.fourier_plan.distances`."""
        size, longer = self.size, self.plan.size
        squares, distances = self.tables["squares"], self.tables["distances"]
        values, spectrum = self.local(longer), self.local(longer)
        with _starts(size, self.lanes) as k:
            f = self.formula()
            f.put_planes(values, k, longer, f.times(read(f, k), *f.planes(squares, k, size)))
        self._fill(values, size, longer)
        self._in_two_rounds(
            lambda f, at: f.planes(values, at, longer),
            lambda f, at, value: f.put_planes(
                spectrum, at, longer, f.times(value, *f.planes(distances, at, longer))
            ),
        )
        self._in_two_rounds(
            lambda f, at: f.planes(spectrum, at, longer)[::-1],
            lambda f, at, value: f.put_planes(values, at, longer, value[::-1]),
        )
        with _starts(size, self.lanes) as k:
            f = self.formula()
            write(f, k, f.times(f.planes(values, k, longer), *f.planes(squares, k, size)))

    def _fill(self, values: Any, start: int, size: int) -> None:
        """Zeros in the place of the numbers from *start* on, of so many in all."""
        with _starts(size - start, self.lanes) as k:
            f = self.formula()
            f.put_planes(values, start + k, size, (f.spread(0.0), f.spread(0.0)))

    # -- of complex numbers, of real ones, to real ones ----------------------------------------

    def pairs(self, source: Any, result: Any, row: Any) -> None:
        """A row of pairs from one."""
        start = row * (2 * self.size)
        self.transform(
            lambda f, at: self.swapped(f.pairs(source, start + 2 * at)),
            lambda f, at, value: f.put_pairs(result, start + 2 * at, self.swapped(value)),
        )

    def of_even(self, source: Any, result: Any, row: Any) -> None:
        """A row of the pairs of half a spectrum from one of twice as many real values."""
        size, room = self.size, self.size + 1
        whole = self.local(room)
        self.transform(
            lambda f, at: f.pairs(source, row * (2 * size) + 2 * at),
            lambda f, at, value: f.put_planes(whole, at, room, value),
        )
        for plane in (0, 1):
            store(whole, load(whole, [plane * room]), [plane * room + size])
        with _starts(room, self.lanes) as k:
            f = self.formula()
            x = f.planes(whole, k, room)
            y = f.planes(whole, size - (self.lanes - 1) - k, room, backwards=True)
            even = f.keep(x[0] + y[0]), f.keep(x[1] - y[1])
            odd = f.keep(x[1] + y[1]), f.keep(y[0] - x[0])
            value = f.add(even, f.times(odd, *f.planes(self.tables["halves"], k, room)))
            f.put_pairs(result, row * (2 * room) + 2 * k, value)

    def to_even(self, source: Any, result: Any, row: Any) -> None:
        """A row of twice as many real values from one of the pairs of half a spectrum."""
        size, room = self.size, self.size + 1
        whole, start = self.local(room), row * (2 * room)
        with _starts(room, self.lanes) as k:
            f = self.formula()
            x = f.pairs(source, start + 2 * k)
            y = f.pairs(source, start + 2 * (size - (self.lanes - 1) - k), backwards=True)
            even = f.keep(x[0] + y[0]), f.keep(x[1] - y[1])
            odd = f.keep(x[0] - y[0]), f.keep(x[1] + y[1])
            value = f.add(even, f.times(odd, *f.planes(self.tables["halves"], k, room)))
            f.put_planes(whole, k, room, value)
        first, last = load(source, [start]), load(source, [start + 2 * size])
        store(whole, first + last, [0])
        store(whole, first - last, [room])
        self.transform(
            lambda f, at: f.planes(whole, at, room)[::-1],
            lambda f, at, value: f.put_pairs(result, row * (2 * size) + 2 * at, value[::-1]),
        )

    def of_odd(self, source: Any, result: Any, row: Any) -> None:
        """A row of the pairs of half a spectrum from one of as many real values."""
        size, kept = self.size, self.size // 2 + 1
        whole = self.local(size)
        self.transform(
            lambda f, at: (load(source, [f.ramp(row * size + at)]), f.spread(0.0)),
            lambda f, at, value: f.put_planes(whole, at, size, value),
        )
        with _starts(kept, self.lanes) as k:
            f = self.formula()
            f.put_pairs(result, row * (2 * kept) + 2 * k, f.planes(whole, k, size))

    def to_odd(self, source: Any, result: Any, row: Any) -> None:
        """A row of half of as many real values from one of the pairs of half a spectrum.

        What the other half, which is conjugate, adds to the real parts is the same; the first element has none.
        """
        size, kept = self.size, self.size // 2 + 1
        whole, start = self.local(size), row * (2 * kept)
        with _starts(kept, self.lanes) as k:
            f = self.formula()
            f.put_planes(whole, k, size, f.pairs(source, start + 2 * k))
        self._fill(whole, kept, size)
        store(whole, load(source, [start]) * const(0.5, self.dtype), [0])
        store(whole, const(0.0, self.dtype), [size])
        self.transform(
            lambda f, at: f.planes(whole, at, size)[::-1],
            lambda f, at, value: store(result, value[1], [f.ramp(row * size + at)]),
        )


@contextmanager
def _starts(size: int, lanes: int) -> Iterator[Any]:
    """The first place of each vector; the last overlaps the one before where *size* is no multiple."""
    count = -(-size // lanes)
    if count == 1:
        yield T.tirx.IntImm("int64", 0)
        return
    with T.ir_builder.tirx.serial(0, count) as which:
        start = which * lanes
        yield start if size % lanes == 0 else T.tirx.min(start, T.tirx.IntImm("int64", size - lanes))
