"""`run_in_vectors`: loops that store one element in each step, in whole vectors.

A schedule annotates such a loop with `VECTORS` in the place of a split, for
which TVM 0.27 would lose sight of a stretch of memory that runs through
several axes. The pass runs when only loops are left. Where the length is no
multiple of a vector, the last one overlaps the one before; where it turns out
at run time to be less than one, the vector is masked.

Conditions that tell parts of the loop apart, as in a concatenation, are decided
once for a vector; one that two parts share is made element by element.

Without the pass the loop means the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fxpasses.codegen.loop_writer import LoopWriter, at_place, may_run_twice, sequence, uses
from fxpasses.codegen.masked_vectors import first_lanes, may_be_masked
from fxpasses.codegen.schedules.expressions import int_value, op_name, returning_none
from fxpasses.codegen.schedules.kernel import VECTORS
from fxpasses.relax import tvm_api as T

__all__ = ["run_in_vectors"]

_MOST_BORDERS = 8
"""More conditions than this are not worth a branch for each."""

_CHUNK = 128
"""How many vectors a thread takes at a time, of a loop that runs in parallel."""


def run_in_vectors() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        twice = may_run_twice(function)

        def in_vectors(loop: Any) -> Any:
            if VECTORS not in (loop.annotations or {}):
                return loop
            return _Vectors(loop, may_overlap=twice(loop)).statement()

        return T.tvm_ffi.structural_map(function, [(T.tirx.For, in_vectors)], order="pre")

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.run_in_vectors")


class _Vectors(LoopWriter):
    """The statements for one loop."""

    def __init__(self, loop: Any, *, may_overlap: bool) -> None:
        super().__init__(str(loop.loop_var.ty.dtype))
        self.may_overlap = may_overlap
        self.loop, self.lanes = loop, int(loop.annotations[VECTORS])
        self.borders = _borders(loop)

    def statement(self) -> Any:
        """All of it."""
        lanes, count = self.number(self.lanes), self.loop.extent
        vectors = self.simplified(T.tirx.floordiv(count, lanes))
        rest = self.simplified(T.tirx.floormod(count, lanes))
        if self.loop.kind == T.tirx.ForKind.PARALLEL:
            chunk = self.number(_chunk(int_value(vectors)))
            chunks = self.simplified(T.tirx.floordiv(vectors + (chunk - 1), chunk))

            def several(which: Any) -> Any:
                mine = self.simplified(T.tirx.min(chunk, vectors - which * chunk))
                return self.over("vector", mine, lambda v: self.vector((which * chunk + v) * lanes))

            whole = self.over("chunk", chunks, several, T.tirx.ForKind.PARALLEL)
        else:
            whole = self.over("vector", vectors, lambda v: self.vector(v * lanes))
        return sequence(whole, None if int_value(rest) == 0 else self.rest(rest))

    def rest(self, rest: Any) -> Any:
        """What is left behind the last whole vector: one that overlaps it, or shorter ones."""
        count, known = self.loop.extent, int_value(self.loop.extent)
        if known is not None and (known < self.lanes or not self.may_overlap):
            return self.shorter(known - known % self.lanes, known)
        apart = self.over("k", rest, lambda k: self.at(count - rest + k))
        if not self.may_overlap:
            return apart
        overlapping = self.vector(count - self.number(self.lanes))
        if known is not None:
            return overlapping
        long = T.tirx.IfThenElse(rest > self.number(0), overlapping, None)
        return T.tirx.IfThenElse(count < self.number(self.lanes), self.masked() or apart, long)

    def masked(self) -> Any:
        """A vector of which only the first lanes are there; None where it has borders or gaps in memory.

        A masked load may read the first element in the place of others, and has to have one.
        """
        var, store = self.loop.loop_var, self.loop.body
        if self.borders or not isinstance(store, T.tirx.BufferStore):
            return None
        vector = self.over_vectors(1, self.lanes, self.at)
        loads: list[Any] = []
        T.tvm_ffi.structural_walk(store, (T.ir.TensorLoad, returning_none(loads.append)))
        steps = [
            self.simplified(at_place(load.indices[-1], {var: var + 1}) - load.indices[-1]) for load in loads
        ]
        if not may_be_masked(vector) or any(int_value(step) not in (0, 1) for step in steps):
            return None
        count = self.loop.extent
        return T.tirx.IfThenElse(count > self.number(0), first_lanes(count, vector), None)

    def shorter(self, start: int, end: int) -> Any:
        """Vectors of ever fewer lanes."""
        made, lanes = [], self.lanes // 2
        while start < end:
            if lanes <= end - start:
                made.append(self.vector(self.number(start), lanes))
                start += lanes
            lanes //= 2
        return sequence(*made)

    def vector(self, start: Any, lanes: int | None = None) -> Any:
        lanes = lanes or self.lanes
        within = self.within_a_part(self.loop.body, start, lanes)
        if not self.borders:
            return within
        ends = [
            self.placed(border, start + self.number(lane))
            for border in self.borders
            for lane in (0, lanes - 1)
        ]
        crosses = [T.tirx.bitwise_xor(*pair) for pair in zip(ends[::2], ends[1::2], strict=True)]
        apart = self.over("lane", self.number(lanes), lambda lane: self.at(start + lane))
        return T.tirx.IfThenElse(T.tirx.any(*crosses), apart, within)

    def within_a_part(self, body: Any, start: Any, lanes: int) -> Any:
        """A vector of *body* whose elements agree in the conditions."""
        var = self.loop.loop_var
        choice = next(_choices(body, var), None) if self.borders else None
        if choice is None:
            return self.over_vectors(1, lanes, lambda lane: at_place(body, {var: start + lane}))
        condition, *arms = choice.args

        def taken(arm: Any) -> Any:
            chosen = [(T.ir.Call, lambda call: arm if call.same_as(choice) else call)]
            return self.within_a_part(T.tvm_ffi.structural_map(body, chosen), start, lanes)

        return T.tirx.IfThenElse(self.placed(condition, start), *map(taken, arms))

    def at(self, place: Any) -> Any:
        return self.placed(self.loop.body, place)

    def placed(self, expression: Any, place: Any) -> Any:
        return at_place(expression, {self.loop.loop_var: place})


def _choices(body: Any, var: Any) -> Iterator[Any]:
    """The choices in *body* between values whose condition depends on *var*, the outermost first."""
    found: list[Any] = []
    T.tvm_ffi.structural_walk(body, (T.ir.Call, returning_none(found.append)), order="pre")
    return (call for call in found if op_name(call) == "if_then_else" and uses(call.args[0], [var]))


def _borders(loop: Any) -> list[Any]:
    """The comparisons on which the parts of *loop* depend; none where there is one that may turn twice."""
    var, tirx = loop.loop_var, T.tirx
    turning = (tirx.LT, tirx.LE, tirx.GT, tirx.GE)
    found: list[Any] = []

    def split(condition: Any) -> list[Any]:
        if isinstance(condition, tirx.And | tirx.Or):
            return split(condition.a) + split(condition.b)
        if isinstance(condition, tirx.Not):
            return split(condition.a)
        if isinstance(condition, tirx.EQ | tirx.NE):  # it turns where one of these does
            return [b for kind in (tirx.LT, tirx.GT) for b in split(kind(condition.a, condition.b))]
        return [condition] if uses(condition, [var]) else []

    for choice in _choices(loop.body, var):
        found += split(choice.args[0])
    analyzer = T.Analyzer()
    for border in found:
        if not isinstance(border, turning):
            return []
        difference = border.a - border.b
        step = analyzer.simplify(at_place(difference, {var: var + 1}) - difference)
        if int_value(step) is None:
            return []
    return found if len(found) <= _MOST_BORDERS else []


def _chunk(vectors: int | None) -> int:
    """How many vectors a thread takes at a time: equal shares, if they can be."""
    if vectors is None:
        return _CHUNK // 2
    even = max(size for size in range(1, _CHUNK + 1) if vectors % size == 0)
    return even if even >= _CHUNK // 8 else _CHUNK
