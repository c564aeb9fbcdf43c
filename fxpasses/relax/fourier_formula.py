"""`Formula`: short Fourier transforms of vectors, written out."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

from fxpasses.dialect.fourier_plan import root, split
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import const, load, store

__all__ = ["Complex", "Formula"]

Complex = tuple[Any, Any]
"""The real and the imaginary parts of a vector of numbers."""


class Formula:
    """Statements of a kernel that is written as loops, for vectors of complex numbers.

    Args:
        dtype: of the parts.
        lanes: of a vector.
    """

    _AT_ONCE = 64
    """How many values share a buffer."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        self._buffer: Any = None
        self._used = self._AT_ONCE

    def keep(self, value: Any) -> Any:
        """*value*, which is used several times, in a small buffer, which LLVM makes registers of."""
        if self._used == self._AT_ONCE:
            self._buffer = T.ir_builder.tirx.alloc_buffer(
                (self._AT_ONCE * self.lanes,), self.dtype, scope="local"
            )
            self._used = 0
        at = [self.ramp(self._used * self.lanes)]
        self._used += 1
        store(self._buffer, value, at)
        return load(self._buffer, at)

    def ramp(self, start: Any) -> Any:
        return T.tirx.Ramp(
            start if T.ir.is_prim_expr(start) else T.tirx.IntImm("int64", start),
            T.tirx.IntImm("int64", 1),
            self.lanes,
        )

    def spread(self, value: Any) -> Any:
        return T.tirx.Broadcast(value if T.ir.is_prim_expr(value) else const(value, self.dtype), self.lanes)

    def kept(self, value: Complex) -> Complex:
        return self.keep(value[0]), self.keep(value[1])

    def add(self, x: Complex, y: Complex) -> Complex:
        return self.keep(x[0] + y[0]), self.keep(x[1] + y[1])

    def subtract(self, x: Complex, y: Complex) -> Complex:
        return self.keep(x[0] - y[0]), self.keep(x[1] - y[1])

    def times(self, x: Complex, real: Any, imaginary: Any) -> Complex:
        return (
            x[0] * real - x[1] * imaginary,
            x[0] * imaginary + x[1] * real,
        )

    def turned(self, x: Complex, turns: int, size: int) -> Complex:
        """*x* times ``exp(-2 pi i turns / size)``."""
        turns %= size
        if turns == 0:
            return x
        if 4 * turns % size == 0:
            minus = self.spread(-1.0)
            return {
                1: (x[1], self.keep(x[0] * minus)),
                2: (self.keep(x[0] * minus), self.keep(x[1] * minus)),
                3: (self.keep(x[1] * minus), x[0]),
            }[4 * turns // size]
        return self.kept(self.times(x, *map(self.spread, root(turns, size))))

    def transform(self, values: Sequence[Complex]) -> list[Complex]:
        """The transform of a few vectors of complex numbers."""
        size = len(values)
        if size == 1:
            return [*values]
        if size == 2:
            return [self.add(*values), self.subtract(*values)]
        inner, outer = split(size)
        if outer == 1:
            return self._of_prime(values)
        # Element outer * i + j: first along i, then along j.
        columns = [self.transform(values[j::outer]) for j in range(outer)]
        rows = [
            self.transform([self.turned(columns[j][k], j * k, size) for j in range(outer)])
            for k in range(inner)
        ]
        return [rows[k % inner][k // inner] for k in range(size)]

    def _of_prime(self, values: Sequence[Complex]) -> list[Complex]:
        """Of an odd number of values: sums and differences of opposite ones have real factors."""
        size, half = len(values), len(values) // 2
        first = values[0]
        sums = [self.add(values[j], values[-j]) for j in range(1, half + 1)]
        differences = [self.subtract(values[j], values[-j]) for j in range(1, half + 1)]
        total = tuple(
            self.keep(functools.reduce(operator.add, parts)) for parts in zip(first, *sums, strict=True)
        )
        result = [total] + [first] * (size - 1)
        for k in range(1, half + 1):
            factors = [root(j * k, size) for j in range(1, half + 1)]
            even, odd = (
                tuple(self.keep(self._sum(terms, factors, which, part)) for part in (0, 1))
                for which, terms in enumerate((sums, differences))
            )
            even = self.add(first, even)
            # even + i * odd, where odd has the sign of the turns
            result[k] = self.keep(even[0] - odd[1]), self.keep(even[1] + odd[0])
            result[size - k] = self.keep(even[0] + odd[1]), self.keep(even[1] - odd[0])
        return result

    def _sum(
        self, values: Sequence[Complex], factors: Sequence[Sequence[float]], which: int, part: int
    ) -> Any:
        terms = [
            value[part] * self.spread(factor[which]) for value, factor in zip(values, factors, strict=True)
        ]
        return functools.reduce(operator.add, terms)

    # -- vectors of memory -----------------------------------------------------------------

    def pairs(self, buffer: Any, start: Any, *, backwards: bool = False) -> Complex:
        """The parts of so many pairs as a vector has lanes, in reverse where it is said."""
        both = [load(buffer, [self.ramp(start + at)]) for at in (0, self.lanes)]
        order = range(self.lanes)[::-1] if backwards else range(self.lanes)
        real, imaginary = (
            self.keep(T.tirx.Shuffle(both, [2 * at + part for at in order])) for part in (0, 1)
        )
        return real, imaginary

    def put_pairs(self, buffer: Any, start: Any, value: Complex) -> None:
        for half in (0, 1):
            lanes = [
                at + part * self.lanes
                for at in range(half * self.lanes // 2, (half + 1) * self.lanes // 2)
                for part in (0, 1)
            ]
            store(buffer, T.tirx.Shuffle(list(value), lanes), [self.ramp(start + half * self.lanes)])

    def planes(self, buffer: Any, start: Any, size: int, *, backwards: bool = False) -> Complex:
        """The parts of numbers whose imaginary parts lie *size* behind the real ones."""
        parts = (load(buffer, [self.ramp(start + plane * size)]) for plane in (0, 1))
        if backwards:
            parts = (self.keep(T.tirx.Shuffle([part], [*range(self.lanes)][::-1])) for part in parts)
        real, imaginary = parts
        return real, imaginary

    def put_planes(self, buffer: Any, start: Any, size: int, value: Complex) -> None:
        for plane, part in enumerate(value):
            store(buffer, part, [self.ramp(start + plane * size)])

    def square(self, rows: Sequence[Any]) -> list[Any]:
        """The columns of a square of as many vectors as lanes: ever larger parts of pairs are exchanged."""
        rows, part = list(rows), 1
        while part < self.lanes:
            for row in range(self.lanes):
                if not row & part:
                    pair = [rows[row], rows[row + part]]
                    lanes = range(self.lanes)
                    first = [at if not at & part else self.lanes + at - part for at in lanes]
                    second = [at + part if not at & part else self.lanes + at for at in lanes]
                    rows[row], rows[row + part] = (
                        self.keep(T.tirx.Shuffle(pair, o)) for o in (first, second)
                    )
            part *= 2
        return rows
