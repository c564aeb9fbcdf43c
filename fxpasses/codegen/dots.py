"""`run_dots`: products of matrices that both lie along what is summed, as sums of vectors for a few of each.

A schedule annotates the loop over the columns of such a product with `DOTS`;
the loop over its rows and the one over what is summed are inside. The pass
runs when only loops are left. For a few rows and columns at a time, each of
their products has a vector of sums in registers, whose lanes are added up at
the end. What is left of rows and columns is made one by one.

Without the pass the loops mean the same.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.combination import combination, is_overwritten
from fxpasses.codegen.loop_writer import LoopWriter, at_place, sequence
from fxpasses.codegen.schedules.few import DOTS
from fxpasses.relax import tvm_api as T

__all__ = ["run_dots"]


def run_dots() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.For, _dots)], order="pre")

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.run_dots")


def _dots(loop: Any) -> Any:
    """What *loop* does, in tiles; the loop itself where it is no product with the annotation."""
    if DOTS not in (loop.annotations or {}):
        return loop
    nest = [loop]
    while isinstance(nest[-1].body, T.tirx.For):
        nest.append(nest[-1].body)
    total = nest[-1].body
    if len(nest) != 3 or not isinstance(total, T.tirx.BufferStore):
        return loop
    found = combination(total.value, lambda value: is_overwritten(value, total))
    return loop if found is None else _Dots(total, found.term, *nest).statement()


class _Dots(LoopWriter):
    """The statements for one product.

    Args:
        total: the statement that adds one term.
        term: what it adds.
        columns: the loop over the columns.
        rows: the loop over the rows.
        summed: the loop over what is summed.
    """

    def __init__(self, total: Any, term: Any, columns: Any, rows: Any, summed: Any) -> None:
        super().__init__(str(columns.loop_var.ty.dtype))
        self.total, self.term = total, term
        self.columns, self.rows, self.summed = columns, rows, summed
        self.lanes, *self.sizes = (int(number) for number in columns.annotations[DOTS])

    def statement(self) -> Any:
        """All of it."""
        most_rows, most_columns = self.sizes

        def all_rows(j: Any, columns: int) -> Any:
            return self.along(self.rows, most_rows, lambda i, rows: self.tile(i, rows, j, columns))

        return self.along(self.columns, most_columns, all_rows)

    def along(self, loop: Any, size: int, body: Any) -> Any:
        """*body* for so many steps of *loop* at a time, and for one at a time of those that are left."""
        steps = self.number(size)
        whole = self.simplified(T.tirx.floordiv(loop.extent, steps))
        left = self.simplified(T.tirx.floormod(loop.extent, steps))
        return sequence(
            self.over("tile", whole, lambda tile: body(tile * steps, size), loop.kind),
            self.over("one", left, lambda one: body(whole * steps + one, 1)),
        )

    def tile(self, i: Any, rows: int, j: Any, columns: int) -> Any:
        """The products of so many rows from *i* on with so many columns from *j* on."""
        tirx, zero = T.tirx, T.tirx.const(0, str(self.total.buffer.dtype))
        length, lanes, k = self.summed.extent, self.number(self.lanes), self.summed.loop_var
        whole = self.simplified(tirx.floordiv(length, lanes))
        rest = self.simplified(tirx.floormod(length, lanes))
        size = (self.number(rows * columns * self.lanes),)
        sums = tirx.decl_buffer(size, str(zero.ty.dtype), "sums", scope="local", layout=None)

        def each(body: Any) -> Any:
            """``body(place, start)`` for the vector of sums from *start* on, of the row and column in *place*."""

            def vector(row: Any, column: Any) -> Any:
                start = (row * self.number(columns) + column) * lanes
                return body({self.rows.loop_var: i + row, self.columns.loop_var: j + column}, start)

            def of_row(row: Any) -> Any:
                return self.over("column", self.number(columns), lambda c: vector(row, c), unrolled)

            unrolled = tirx.ForKind.UNROLLED
            return self.over("row", self.number(rows), of_row, unrolled)

        def now(at: Any) -> Any:
            return tirx.BufferLoad(sums, [at])

        def vectors(value: Any, lanes: int = self.lanes) -> Any:
            """``value(place, lane, the sum so far)`` as the sum of each lane."""

            def vector(place: dict[Any, Any], start: Any) -> Any:
                def each_lane(lane: Any) -> Any:
                    new = value(place, lane, start + lane)
                    return tirx.BufferStore(sums, new, [start + lane])

                return self.over_vectors(1, lanes, each_lane)

            return each(vector)

        def term(place: dict[Any, Any], at: Any) -> Any:
            return at_place(self.term, {**place, k: at})

        def last(place: dict[Any, Any], lane: Any, at: Any) -> Any:
            """Of the vector that ends with the last term, those that are in none before."""
            new = term(place, length - lanes + lane)
            return now(at) + tirx.Select(lane >= lanes - rest, new, zero)

        def steps(step: Any) -> Any:
            return vectors(lambda place, lane, at: now(at) + term(place, step * lanes + lane))

        def folded(by: int) -> Any:
            return vectors(lambda _, __, at: now(at) + now(at + self.number(by)), by)

        def stored(place: dict[Any, Any], start: Any) -> Any:
            indices = [at_place(index, place) for index in self.total.indices]
            before = tirx.BufferLoad(self.total.buffer, indices)
            return tirx.BufferStore(self.total.buffer, before + now(start), indices)

        return sequence(
            tirx.AllocBuffer(sums),
            vectors(lambda *_: zero),
            self.over("k", whole, steps),
            tirx.IfThenElse(rest > self.number(0), vectors(last), None),
            *(folded(self.lanes >> by) for by in range(1, self.lanes.bit_length())),
            each(stored),
        )
