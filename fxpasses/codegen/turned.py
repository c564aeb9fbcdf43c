"""`run_turned`: kernels that read along another axis than they write, by squares that are turned in registers.

A schedule annotates the loop along which memory is read with `TURNED`; the one
along which it is written is inside. The pass runs when only loops are left. A
square is read in as many vectors as a vector has lanes, turned by exchanging
ever larger parts of pairs of them, and written in vectors. Where a length is
no multiple, the last square overlaps the one before; where one that is known
only at run time leaves no room for a square, the loops stay as they are.

Without the pass the loops mean the same.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.loop_writer import LoopWriter, at_place, may_run_twice
from fxpasses.codegen.schedules.expressions import int_value, returning_none
from fxpasses.codegen.schedules.turned import TURNED
from fxpasses.relax import tvm_api as T

__all__ = ["run_turned"]


def run_turned() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        twice = may_run_twice(function)

        def turned(loop: Any) -> Any:
            return _turned(loop, may_overlap=twice(loop)) if TURNED in (loop.annotations or {}) else loop

        return T.tvm_ffi.structural_map(function, [(T.tirx.For, turned)], order="pre")

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.run_turned")


def _turned(loop: Any, *, may_overlap: bool) -> Any:
    if not isinstance(loop.body, T.tirx.For):
        return loop
    lanes = int(loop.annotations[TURNED])
    if not may_overlap and any((int_value(each.extent) or 1) % lanes for each in (loop, loop.body)):
        return loop
    unknown = [each.extent for each in (loop, loop.body) if int_value(each.extent) is None]
    store = loop.body.body
    if not isinstance(store, T.tirx.BufferStore):
        return loop
    found: list[Any] = []
    T.tvm_ffi.structural_walk(store.value, (T.ir.TensorLoad, returning_none(found.append)))
    across = [
        load
        for load in found
        if _step(load, loop.loop_var) in (1, -1) and _step(load, loop.body.loop_var) != 1
    ]
    if not across or not all(T.tvm_ffi.structural_equal(load, across[0]) for load in across):
        return loop
    squares = _Squares(loop, loop.body, store, across[0]).statement()
    room = [size >= T.tirx.const(lanes, size.ty.dtype) for size in unknown]
    plain = T.tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body)
    return T.tirx.IfThenElse(T.tirx.all(*room), squares, plain) if room else squares


def _step(load: Any, var: Any) -> int | None:
    """How far apart neighbours along a loop lie in memory."""
    (index,) = load.indices
    return int_value(T.Analyzer().simplify(at_place(index, {var: var + 1}) - index))


class _Squares(LoopWriter):
    """The statements for one kernel.

    Args:
        reading: the loop along which memory is read.
        writing: the one along which it is written.
        store: the statement inside.
        source: what it reads across.
    """

    def __init__(self, reading: Any, writing: Any, store: Any, source: Any) -> None:
        super().__init__(str(reading.loop_var.ty.dtype))
        self.reading, self.writing, self.store, self.source = reading, writing, store, source
        self.lanes = int(reading.annotations[TURNED])
        self.backwards = _step(source, reading.loop_var) == -1

    def statement(self) -> Any:
        """All of it."""
        return self.over_starts(
            self.reading, lambda j: self.over_starts(self.writing, lambda i: self.square(i, j))
        )

    def over_starts(self, loop: Any, body: Any) -> Any:
        """*body* for the first place of each square along a loop."""
        lanes = self.number(self.lanes)
        whole = int_value(self.simplified(T.tirx.floormod(loop.extent, lanes))) == 0

        def at(which: Any) -> Any:
            start = which * lanes
            return body(start if whole else T.tirx.min(start, self.simplified(loop.extent - lanes)))

        count = self.simplified(T.tirx.floordiv(loop.extent + (lanes - self.number(1)), lanes))
        return self.over("square", count, at, loop.kind)

    def square(self, i: Any, j: Any) -> Any:
        """The square from *i* on along what is written, and from *j* on along what is read."""
        tirx, lanes = T.tirx, self.lanes
        size, dtype = (self.number(lanes * lanes),), str(self.source.source.dtype)
        now, then = (
            tirx.decl_buffer(size, dtype, name, scope="local", layout=None) for name in ("rows", "columns")
        )
        statements = [tirx.AllocBuffer(now), tirx.AllocBuffer(then)]
        last = self.number(lanes - 1)
        places = {self.writing.loop_var: i, self.reading.loop_var: j + last if self.backwards else j}
        (start,) = self.source.indices
        for row in range(lanes):
            at = at_place(start, {**places, self.writing.loop_var: i + self.number(row)})
            statements.append(self.put(now, row, tirx.BufferLoad(self.source.source, [self.ramp(at)])))
        part = 1
        while part < lanes:
            for row in range(lanes):
                if not row & part:
                    pair = [self.row(now, row), self.row(now, row + part)]
                    for which, indices in enumerate(_exchanged(lanes, part)):
                        statements.append(self.put(then, row + which * part, tirx.Shuffle(pair, indices)))
            now, then, part = then, now, 2 * part
        columns = reversed(range(lanes)) if self.backwards else range(lanes)
        statements += [
            self.written(i, j + self.number(place), now, column) for place, column in enumerate(columns)
        ]
        return tirx.SeqStmt(statements)

    def written(self, i: Any, j: Any, turned: Any, column: int) -> Any:
        """What is stored along a column of the source, which is a row of the turned square."""
        tirx = T.tirx
        start = self.number(column * self.lanes)

        def element(lane: Any) -> Any:
            def replaced(load: Any) -> Any:
                is_source = T.tvm_ffi.structural_equal(load, self.source)
                return tirx.BufferLoad(turned, [start + lane]) if is_source else load

            value = T.tvm_ffi.structural_map(self.store.value, [(T.ir.TensorLoad, replaced)])
            places = {self.writing.loop_var: i + lane, self.reading.loop_var: j}
            indices = [at_place(index, places) for index in self.store.indices]
            return tirx.BufferStore(self.store.buffer, at_place(value, places), indices)

        return self.over_vectors(1, self.lanes, element)

    # -- rows of a square --------------------------------------------------------------------

    def ramp(self, start: Any) -> Any:
        return T.tirx.Ramp(start, self.number(1), self.lanes)

    def row(self, square: Any, row: int) -> Any:
        return T.tirx.BufferLoad(square, [self.ramp(self.number(row * self.lanes))])

    def put(self, square: Any, row: int, value: Any) -> Any:
        return T.tirx.BufferStore(square, value, [self.ramp(self.number(row * self.lanes))])


def _exchanged(lanes: int, part: int) -> tuple[list[int], list[int]]:
    """The lanes of two vectors, one after the other, once each second part of the first is exchanged with
    the part before it of the second."""
    first = [at if not at & part else lanes + at - part for at in range(lanes)]
    second = [at + part if not at & part else lanes + at for at in range(lanes)]
    return first, second
