"""`run_by_columns`: reductions across memory, of a few rows at a time.

A schedule annotates the loop over the columns of a reduction with `COLUMNS`;
the loops over what is summed are inside. The pass runs when only loops are
left, and turns them inside out: some rows are combined with the totals of all
columns, a few vectors at a time, before the next rows are read. So memory is
read in a few streams, and the totals stay in the cache.

Without the pass the loops mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fxpasses.codegen.combination import Combination, combination, is_overwritten
from fxpasses.codegen.loop_writer import LoopWriter, at_place, sequence
from fxpasses.codegen.schedules.expressions import int_value
from fxpasses.codegen.schedules.reductions import COLUMNS
from fxpasses.relax import tvm_api as T

__all__ = ["run_by_columns"]

_ROWS = 8
"""How many rows are read side by side; twice as many if that is all."""

_VECTORS = 2
"""How many vectors of totals are in registers at a time."""

_CHUNK = 512
"""About how many columns a thread takes."""


def run_by_columns() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.For, _by_columns)], order="pre")

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.run_by_columns")


def _by_columns(loop: Any) -> Any:
    """What *loop* does, some rows at a time; the loop itself where it is no reduction with the annotation."""
    if COLUMNS not in (loop.annotations or {}):
        return loop
    summed: list[Any] = []
    body = loop.body
    while isinstance(body, T.tirx.For):
        summed.append(body)
        body = body.body
    if not summed or not isinstance(body, T.tirx.BufferStore):
        return loop
    found = combination(body.value, lambda value: is_overwritten(value, body))
    if found is None:
        return loop
    return _Columns(body, found, loop, summed).statement()


class _Columns(LoopWriter):
    """The statements for one reduction.

    Args:
        total: the statement that combines one term.
        step: how it does.
        columns: the loop over the columns.
        summed: the loops inside.
    """

    def __init__(self, total: Any, step: Combination, columns: Any, summed: Sequence[Any]) -> None:
        super().__init__(str(columns.loop_var.ty.dtype))
        self.total, self.step, self.columns, self.summed = total, step, columns, summed
        self.lanes = int(columns.annotations[COLUMNS])

    def statement(self) -> Any:
        """All of it."""
        count, width = self.columns.extent, self.lanes * _VECTORS
        tiles = self.simplified(T.tirx.floordiv(count, self.number(width)))
        start = self.number(0)
        if self.columns.kind == T.tirx.ForKind.PARALLEL:
            share = self.number(max(_CHUNK // width, 1))

            def chunk(which: Any) -> Any:
                first = which * share
                mine = self.simplified(T.tirx.min(share, tiles - first))
                return self.all_rows(_Sweep(self, first * self.number(width), mine, _VECTORS, self.lanes))

            shares = self.simplified(T.tirx.floordiv(tiles + (share - 1), share))
            made = [self.over("chunk", shares, chunk, T.tirx.ForKind.PARALLEL)]
        else:
            made = [self.all_rows(_Sweep(self, start, tiles, _VECTORS, self.lanes))]
        start = self.simplified(tiles * self.number(width))
        for lanes in self.shorter():
            left = self.simplified(T.tirx.floordiv(count - start, self.number(lanes)))
            made.append(self.all_rows(_Sweep(self, start, left, 1, lanes)))
            start = self.simplified(start + left * self.number(lanes))
        return sequence(*made)

    def shorter(self) -> list[int]:
        """The lengths of vectors behind the last whole tile."""
        count = int_value(self.columns.extent)
        if count is None:
            return [self.lanes, 1]
        if count < self.lanes:
            return [count]
        return [self.lanes >> by for by in range(self.lanes.bit_length())]

    def all_rows(self, sweep: _Sweep) -> Any:
        """*sweep* for some rows at a time; None where it has no columns."""
        if int_value(sweep.tiles) == 0:
            return None
        *outer, inner = self.summed
        count = int_value(inner.extent)
        rows = count if count is not None and count <= _ROWS else _ROWS
        blocks = self.simplified(T.tirx.floordiv(inner.extent, self.number(rows)))
        done = self.simplified(blocks * self.number(rows))
        left = self.simplified(inner.extent - done)
        body = sequence(
            self.over("rows", blocks, lambda block: sweep.over_columns(block * self.number(rows), rows)),
            self.over("row", left, lambda row: sweep.over_columns(done + row, 1))
            if int_value(left) is None
            else sweep.over_columns(done, int(left)),
        )
        for loop in reversed(outer):
            body = T.tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)
        return body


class _Sweep:
    """Some tiles of columns, from the column *start* on: each has so many vectors of so many lanes."""

    def __init__(self, columns: _Columns, start: Any, tiles: Any, vectors: int, lanes: int) -> None:
        self.columns, self.start, self.tiles = columns, start, tiles
        self.vectors, self.lanes = vectors, lanes

    def over_columns(self, row: Any, rows: int) -> Any:
        """So many rows, from *row* on, combined with the totals; None for no row."""
        if rows == 0:
            return None
        width = self.columns.number(self.vectors * self.lanes)
        return self.columns.over(
            "tile", self.tiles, lambda tile: self.tile(self.start + tile * width, row, rows)
        )

    def tile(self, start: Any, row: Any, rows: int) -> Any:
        tirx, columns = T.tirx, self.columns
        total, column = columns.total, columns.columns.loop_var
        inner = columns.summed[-1].loop_var
        size = columns.number(self.vectors * self.lanes)
        sums = tirx.decl_buffer((size,), str(total.buffer.dtype), "totals", scope="local", layout=None)

        def places(at: Any) -> list[Any]:
            return [at_place(index, {column: start + at}) for index in total.indices]

        def combined(at: Any, which: Any) -> Any:
            term = at_place(columns.step.term, {column: start + at, inner: row + which})
            return tirx.BufferStore(sums, columns.step.apply(tirx.BufferLoad(sums, [at]), term), [at])

        def each(body: Callable[[Any], Any]) -> Any:
            return columns.over_vectors(self.vectors, self.lanes, body)

        load = each(lambda at: tirx.BufferStore(sums, tirx.BufferLoad(total.buffer, places(at)), [at]))
        steps = columns.over(
            "row",
            columns.number(rows),
            lambda which: each(lambda at: combined(at, which)),
            tirx.ForKind.UNROLLED,
        )
        store = each(lambda at: tirx.BufferStore(total.buffer, tirx.BufferLoad(sums, [at]), places(at)))
        return tirx.SeqStmt([tirx.AllocBuffer(sums), load, steps, store])
