"""`run_turned`: kernels that read along another axis than they write, by squares that are turned in registers.

A schedule annotates the loop along which memory is read with `TURNED`; the one
along which it is written is inside. The pass runs when only loops are left. A
square is read in as many vectors as a vector has lanes, turned by exchanging
ever larger parts of pairs of them, and written in vectors. Where a length is
no multiple, the last square overlaps the one before; where one that is known
only at run time leaves no room for a square, the loops stay as they are.

A third loop may be inside, over a unit of a few elements that lie side by side
on both sides: a vector has fewer units than lanes, and whole units are exchanged.

Without the pass the loops mean the same.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.loop_writer import LoopWriter, at_place, may_run_twice
from fxpasses.codegen.schedules.expressions import int_value, returning_none
from fxpasses.codegen.schedules.turned import TURNED
from fxpasses.relax import tvm_api as T

__all__ = ["run_turned"]

_SOURCES = 2
"""How many squares are turned for one that is written, as of the parts of a complex number."""

_BITS = {"bfloat16": "uint16"}
"""What is exchanged for numbers that TVM 0.27 has no shuffles of."""


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
    writing, store = loop.body, loop.body.body
    unit = store if isinstance(store, T.tirx.For) else None
    if unit is not None:
        store = unit.body
    if not isinstance(store, T.tirx.BufferStore):
        return loop
    length = 1 if unit is None else int_value(unit.extent) or 0
    lanes = int(loop.annotations[TURNED])
    if length == 0 or lanes % length:
        return loop
    count = lanes // length
    if not may_overlap and any((int_value(each.extent) or 1) % count for each in (loop, writing)):
        return loop
    unknown = [each.extent for each in (loop, writing) if int_value(each.extent) is None]
    found: list[Any] = []
    T.tvm_ffi.structural_walk(store.value, (T.ir.TensorLoad, returning_none(found.append)))
    across = [
        load
        for load in found
        if _step(load, loop.loop_var) in (length, -length) and _step(load, writing.loop_var) != length
    ]
    sources: list[Any] = []
    for load in across:
        if not any(T.tvm_ffi.structural_equal(load, source) for source in sources):
            sources.append(load)
    if not 0 < len(sources) <= _SOURCES or len({_step(load, loop.loop_var) for load in sources}) > 1:
        return loop
    if unit is not None and not all(
        _step(access, unit.loop_var) == 1 and (access in across or _step(access, writing.loop_var) == length)
        for access in (*found, store)
    ):
        return loop
    squares = _Squares(loop, writing, store, sources, unit).statement()
    room = [size >= T.tirx.const(count, size.ty.dtype) for size in unknown]
    plain = T.tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body)
    return T.tirx.IfThenElse(T.tirx.all(*room), squares, plain) if room else squares


def _step(access: Any, var: Any) -> int | None:
    """How far apart neighbours along a loop lie in memory."""
    (index,) = access.indices
    return int_value(T.Analyzer().simplify(at_place(index, {var: var + 1}) - index))


class _Squares(LoopWriter):
    """The statements for one kernel.

    Args:
        reading: the loop along which memory is read.
        writing: the one along which it is written.
        store: the statement inside.
        sources: what it reads across.
        unit: the loop over what stays together, if there is one.
    """

    def __init__(self, reading: Any, writing: Any, store: Any, sources: list[Any], unit: Any) -> None:
        super().__init__(str(reading.loop_var.ty.dtype))
        self.reading, self.writing, self.store, self.sources = reading, writing, store, sources
        self.lanes = int(reading.annotations[TURNED])
        self.unit = 1 if unit is None else int(unit.extent)
        self.rows = self.lanes // self.unit
        self.first = {} if unit is None else {unit.loop_var: self.number(0)}
        self.backwards = _step(sources[0], reading.loop_var) == -self.unit

    def statement(self) -> Any:
        """All of it."""
        return self.over_starts(
            self.reading, lambda j: self.over_starts(self.writing, lambda i: self.square(i, j))
        )

    def over_starts(self, loop: Any, body: Any) -> Any:
        """*body* for the first place of each square along a loop."""
        rows = self.number(self.rows)
        whole = int_value(self.simplified(T.tirx.floormod(loop.extent, rows))) == 0

        def at(which: Any) -> Any:
            start = which * rows
            return body(start if whole else T.tirx.min(start, self.simplified(loop.extent - rows)))

        count = self.simplified(T.tirx.floordiv(loop.extent + (rows - self.number(1)), rows))
        return self.over("square", count, at, loop.kind)

    def square(self, i: Any, j: Any) -> Any:
        """The square from *i* on along what is written, and from *j* on along what is read."""
        statements: list[Any] = []
        squares = [self.turned(source, i, j, statements) for source in self.sources]
        columns = reversed(range(self.rows)) if self.backwards else range(self.rows)
        statements += [
            self.written(i, j + self.number(place), squares, column) for place, column in enumerate(columns)
        ]
        return T.tirx.SeqStmt(statements)

    def turned(self, source: Any, i: Any, j: Any, statements: list[Any]) -> Any:
        """The buffer with the square of *source*, which *statements* read and turn."""
        tirx, lanes, rows = T.tirx, self.lanes, self.rows
        size = (self.number(rows * lanes),)
        dtype = _BITS.get(str(source.source.dtype), str(source.source.dtype))
        now, then = (
            tirx.decl_buffer(size, dtype, name, scope="local", layout=None) for name in ("rows", "columns")
        )
        statements += [tirx.AllocBuffer(now), tirx.AllocBuffer(then)]
        last = self.number(rows - 1)
        places = {
            **self.first,
            self.writing.loop_var: i,
            self.reading.loop_var: j + last if self.backwards else j,
        }
        (start,) = source.indices
        for row in range(rows):
            at = at_place(start, {**places, self.writing.loop_var: i + self.number(row)})
            read = tirx.BufferLoad(source.source, [self.ramp(at)])
            statements.append(self.put(now, row, _reinterpreted(read, dtype)))
        part = 1
        while part < rows:
            for row in range(rows):
                if not row & part:
                    pair = [self.row(now, row), self.row(now, row + part)]
                    for which, indices in enumerate(_exchanged(lanes, part * self.unit)):
                        statements.append(self.put(then, row + which * part, tirx.Shuffle(pair, indices)))
            now, then, part = then, now, 2 * part
        return now

    def written(self, i: Any, j: Any, squares: list[Any], column: int) -> Any:
        """What is stored along a column of the sources, which is a row of the turned *squares*."""
        tirx = T.tirx
        start = self.number(column * self.lanes)

        def element(lane: Any) -> Any:
            def at(index: Any) -> Any:
                if self.unit == 1:
                    return at_place(index, {self.writing.loop_var: i + lane, self.reading.loop_var: j})
                # The lanes of several units lie side by side.
                return (
                    at_place(index, {**self.first, self.writing.loop_var: i, self.reading.loop_var: j}) + lane
                )

            def replaced(load: Any) -> Any:
                for source, square in zip(self.sources, squares, strict=True):
                    if T.tvm_ffi.structural_equal(load, source):
                        return _reinterpreted(
                            tirx.BufferLoad(square, [start + lane]), str(source.source.dtype)
                        )
                return load if self.unit == 1 else tirx.BufferLoad(load.source, [at(load.indices[0])])

            value = T.tvm_ffi.structural_map(self.store.value, [(T.ir.TensorLoad, replaced)])
            value = at(value) if self.unit == 1 else value
            return tirx.BufferStore(self.store.buffer, value, [at(index) for index in self.store.indices])

        return self.over_vectors(1, self.lanes, element)

    # -- rows of a square --------------------------------------------------------------------

    def ramp(self, start: Any) -> Any:
        return T.tirx.Ramp(start, self.number(1), self.lanes)

    def row(self, square: Any, row: int) -> Any:
        return T.tirx.BufferLoad(square, [self.ramp(self.number(row * self.lanes))])

    def put(self, square: Any, row: int, value: Any) -> Any:
        return T.tirx.BufferStore(square, value, [self.ramp(self.number(row * self.lanes))])


def _reinterpreted(value: Any, dtype: str) -> Any:
    """The bits of *value* as numbers of *dtype*."""
    own = value.ty.dtype
    return (
        value
        if str(own.with_lanes(1)) == dtype
        else T.tirx.reinterpret(f"{dtype}x{own.lanes}" if own.lanes > 1 else dtype, value)
    )


def _exchanged(lanes: int, part: int) -> tuple[list[int], list[int]]:
    """The lanes of two vectors, one after the other, once each second part of the first is exchanged with
    the part before it of the second."""
    first = [at if not at & part else lanes + at - part for at in range(lanes)]
    second = [at + part if not at & part else lanes + at for at in range(lanes)]
    return first, second
