"""`run_narrow_tiles`: tiles of a product that run past its end, read and written where they lie.

A schedule annotates the loops over the lanes of a vector with `NARROW`, and the
loop that takes the columns of a tile to memory, behind conditions where the tile
may run past the end. Operands are padded in the tile: what lies behind the end
counts as 0. The pass runs when only loops are left, and asks less often:

1. a tile that has all columns reads and stores whole vectors,
2. another is made a vector at a time, or all at once where their number is known
   or the rows are few; what runs past the end is masked (`first_lanes`),
3. behind the last row, the last row is read again; what is made of it goes nowhere.

Without the pass the loops mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

from fxpasses.codegen.loop_writer import LoopWriter, at_place, sequence, uses
from fxpasses.codegen.masked_vectors import first_lanes
from fxpasses.codegen.schedules.expressions import int_value, occurrences, op_name, returning_none, same
from fxpasses.codegen.schedules.products import NARROW
from fxpasses.relax import tvm_api as T

__all__ = ["run_narrow_tiles"]

_FEW = 4
"""With fewer sums than this, a step waits for the step before it: a sum takes the time of four to come back."""


def run_narrow_tiles() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.SeqStmt, _narrow)])

    narrow = T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.run_narrow_tiles")
    return T.tvm.transform.Sequential([narrow, T.tirx.transform.ConvertSSA()])


def _narrow(statement: Any) -> Any:
    """*statement* with the tile that it makes written out; itself where it makes none."""
    parts = list(statement.seq)
    nests = [_nest(part) for part in parts]
    annotated = [at for at, nest in enumerate(nests) if any(map(_is_annotated, nest))]
    if not annotated or not _stores(nests[annotated[-1]][-1]):
        return statement
    first, last = annotated[0], annotated[-1]
    tile = _Tile(parts[first:last], parts[last], nests[last])
    return sequence(*parts[:first], _quotients_once(tile.statement()), *parts[last + 1 :])


def _nest(statement: Any) -> list[Any]:
    """The loops of *statement* that have nothing but the next one inside."""
    loops: list[Any] = []
    while isinstance(statement, T.tirx.For):
        loops.append(statement)
        statement = statement.body
    return loops


def _is_annotated(loop: Any) -> bool:
    return NARROW in (loop.annotations or {})


def _guarded(loop: Any) -> tuple[list[Any], Any]:
    """The conditions behind which *loop* does what it does, and that."""
    body = loop.body
    if isinstance(body, T.tirx.IfThenElse) and body.else_case is None:
        return _conjuncts(body.condition), body.then_case
    return [], body


def _stores(loop: Any) -> bool:
    """Whether it takes the columns of a tile to memory, behind conditions that `_left` knows."""
    conditions, body = _guarded(loop)
    known = (T.tirx.LT, T.tirx.LE, T.tirx.Or)
    return (
        _is_annotated(loop)
        and isinstance(body, T.tirx.BufferStore)
        and body.buffer.scope() != "local"
        and all(isinstance(condition, known) for condition in conditions)
    )


def _asking(conditions: Sequence[Any]) -> list[Any]:
    """The *conditions* without those that always hold: TVM asks for ``0 <= place``, too."""
    return [
        condition
        for condition in conditions
        if isinstance(condition, T.tirx.Or) or int_value(condition.a) is None
    ]


def _left(condition: Any, place: Any) -> Any:
    """How many there are until *condition* ends, counted from where *place* is 0.

    TVM writes ``place <= n`` for the size ``n + 1``, and takes the larger and the smaller
    of two sizes apart.
    """
    tirx = T.tirx
    if isinstance(condition, tirx.Or | tirx.And):
        either = tirx.max if isinstance(condition, tirx.Or) else tirx.min
        return either(_left(condition.a, place), _left(condition.b, place))
    none, endless = (tirx.IntImm(str(place.ty.dtype), number) for number in (0, 2**31 - 1))
    if not uses(condition, [place]):
        return tirx.Select(condition, endless, none)
    size = condition.b - condition.a
    return at_place(size + 1 if isinstance(condition, tirx.LE) else size, {place: none})


class _Tile(LoopWriter):
    """The statements for one tile.

    Args:
        parts: those that make it.
        store: the one that takes it to memory.
        nest: the loops of that, the last of them along a row.
    """

    def __init__(self, parts: Sequence[Any], store: Any, nest: Sequence[Any]) -> None:
        *self.rows, self.columns = nest
        super().__init__(str(self.columns.loop_var.ty.dtype))
        self.parts, self.store = parts, store
        self.lanes = int(self.columns.annotations[NARROW])
        count, column = int_value(self.columns.extent), self.columns.loop_var
        self.vectors = -(-count // self.lanes)  # type: ignore[operator]
        conditions, self.body = _guarded(self.columns)
        ends = _asking(conditions)
        self.of_row = [end for end in ends if not uses(end, [column])]
        left = [_left(end, column) for end in ends if uses(end, [column])]
        left += [self.columns.extent] if count != self.vectors * self.lanes else []
        self.left = self.simplified(reduce(T.tirx.min, left)) if left else None

    @property
    def waits(self) -> bool:
        """Whether the sums of a single vector are too few for a step not to wait for the one before."""
        return math.prod(int_value(loop.extent) or 1 for loop in self.rows) < _FEW

    def statement(self) -> Any:
        """All of it."""
        start, lanes = self.number(0), self.number(self.lanes)
        whole = self.of(self.vectors, start)
        if self.left is None:
            return whole
        size = self.number(self.lanes * self.vectors)
        columns = int_value(self.simplified(T.tirx.floormod(self.left, size)))  # of the last tile
        if columns == 0:
            return whole
        if columns is not None:
            last = self.of(-(-columns // self.lanes), start, self.left)
        elif self.waits:
            last = self.of(self.vectors, start, self.left)
        else:
            some = self.simplified(T.tirx.floordiv(T.tirx.min(self.left, size) + (lanes - 1), lanes))
            last = self.over("which", some, lambda which: self.of(1, which, self.left - which * lanes))
        return T.tirx.IfThenElse(self.left >= size, whole, last)

    def of(self, vectors: int, first: Any, left: Any = None) -> Any:
        """So many *vectors* from the one with the number *first* on, made and taken to memory.

        No more than *left* of their lanes are there, if that is not None.
        """
        return sequence(
            *(self.made(part, vectors, first, left) for part in self.parts), self.stored(vectors, first, left)
        )

    def made(self, part: Any, vectors: int, first: Any, left: Any) -> Any:
        variables = [loop.loop_var for loop in _nest(part)]
        lane, vector = variables[-1], variables[-2] if self.vectors > 1 else None

        def unpadded(call: Any) -> Any:
            if op_name(call) != "if_then_else":
                return call
            condition, load, _ = call.args
            if uses(condition, [lane]):
                return load if vector is None else at_place(load, {vector: vector + first})
            (row,) = [variable for variable in variables if uses(condition, [variable])]
            last = self.simplified(_left(condition, row) - 1)
            return at_place(load, {row: T.tirx.min(row, last)})

        def shorter(loop: Any) -> Any:
            if _is_annotated(loop):
                plain = T.tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body)
                return self.ended(plain, left, self.number(0) if vector is None else vector)
            if loop.loop_var.same_as(vector):
                return T.tirx.For(loop.loop_var, loop.min, self.number(vectors), loop.kind, loop.body)
            return loop

        return T.tvm_ffi.structural_map(part, [(T.ir.Call, unpadded), (T.tirx.For, shorter)])

    def ended(self, loop: Any, left: Any, vector: Any) -> Any:
        """*loop*, over the lanes of the *vector* of that number, but not beyond those that are *left*."""
        return loop if left is None else first_lanes(left - vector * self.number(self.lanes), loop)

    def stored(self, vectors: int, first: Any, left: Any) -> Any:
        body, column = self.body, self.columns.loop_var
        own = T.tirx.Var("own", self.index)

        def of_tile(load: Any) -> Any:
            return at_place(load, {column: own}) if load.source.scope() == "local" else load

        body = T.tvm_ffi.structural_map(body, [(T.ir.TensorLoad, of_tile)])
        start = first * self.number(self.lanes)

        def vector(number: Any) -> Any:
            at = number * self.number(self.lanes)
            lanes = self.over_vectors(
                1, self.lanes, lambda lane: at_place(body, {own: at + lane, column: start + at + lane})
            )
            return self.ended(lanes, left, number)

        stored = self.over("vector", self.number(vectors), vector, T.tirx.ForKind.UNROLLED)

        def row(loop: Any) -> Any:
            if not _is_annotated(loop):
                return loop
            return T.tirx.IfThenElse(T.tirx.all(*self.of_row), stored, None) if self.of_row else stored

        return T.tvm_ffi.structural_map(self.store, [(T.tirx.For, row)])


def _conjuncts(condition: Any) -> list[Any]:
    if isinstance(condition, T.tirx.And):
        return _conjuncts(condition.a) + _conjuncts(condition.b)
    return [condition]


def _quotients_once(statement: Any) -> Any:
    """*statement* behind the quotients of what does not change in it, which are in memory of the stack."""
    tirx = T.tirx
    inner: list[Any] = []
    binders = [
        (tirx.For, returning_none(lambda loop: inner.append(loop.loop_var))),
        (tirx.Let, returning_none(lambda let: inner.append(let.var))),
    ]
    T.tvm_ffi.structural_walk(statement, binders)
    found: list[tuple[Any, Any]] = []

    def kept(quotient: Any) -> Any:
        if uses(quotient, inner) or occurrences(quotient):
            return quotient
        for value, load in found:
            if same(value, quotient):
                return load
        place = tirx.decl_buffer((1,), str(quotient.ty.dtype), "quotient", scope="local", layout=None)
        found.append((quotient, tirx.BufferLoad(place, [0])))
        return found[-1][1]

    made = T.tvm_ffi.structural_map(
        statement, [(kind, kept) for kind in (tirx.FloorDiv, tirx.FloorMod)], order="pre"
    )
    stores = [
        part
        for value, load in found
        for part in (tirx.AllocBuffer(load.source), tirx.BufferStore(load.source, value, [0]))
    ]
    return sequence(*stores, made)
