"""`run_in_lanes`: reductions along memory as one for each lane of a few vectors, and one of the lanes.

A schedule annotates the loops of a reduction with `LANES`. The pass runs when
only loops are left, and writes ``total = f(total, term(k))`` over them as

1. vectors of lanes, each of which combines every so many terms,
2. a last vector that overlaps the one before where the length is no multiple,
3. a tree that combines halves of the lanes, and ``total`` with what is left.

Fewer terms than lanes, where that shows only at run time, are combined one by one.

Without the pass the loops mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fxpasses.codegen.combination import Combination, combination, is_overwritten
from fxpasses.codegen.loop_writer import LoopWriter, at_place, sequence
from fxpasses.codegen.schedules.expressions import int_value
from fxpasses.codegen.schedules.reductions import LANES
from fxpasses.relax import tvm_api as T

__all__ = ["MOST_VECTORS", "run_in_lanes"]

MOST_VECTORS = 4
"""How many vectors are summed up side by side: a sum takes the time of four to come back."""


def run_in_lanes() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.For, _in_lanes)], order="pre")

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.run_in_lanes")


def _in_lanes(loop: Any) -> Any:
    """What *loop* does, in lanes; the loop itself where it is no reduction with the annotation."""
    outer: list[Any] = []
    body = loop
    while isinstance(body, T.tirx.For) and LANES in (body.annotations or {}):
        outer.append(body)
        body = body.body
    if not outer or not isinstance(body, T.tirx.BufferStore):
        return loop
    inner = outer.pop()
    found = combination(body.value, lambda value: is_overwritten(value, body))
    if found is None:
        return loop
    return _Lanes(body, found, inner, int(inner.annotations[LANES])).statement(outer)


class _Lanes(LoopWriter):
    """The statements for one reduction.

    Args:
        total: the statement that combines one term.
        step: how it does.
        loop: the innermost loop.
        lanes: of a vector.
    """

    def __init__(self, total: Any, step: Combination, loop: Any, lanes: int) -> None:
        super().__init__(str(loop.loop_var.ty.dtype))
        self.total, self.step, self.loop, self.lanes = total, step, loop, lanes
        length = int_value(loop.extent)
        self.vectors = MOST_VECTORS
        while length is not None and self.vectors > 1 and length < 4 * self.vectors * lanes:
            self.vectors //= 2
        self.dtype = str(total.buffer.dtype)
        self.sums = T.tirx.decl_buffer(
            (self.number(self.vectors * lanes),), self.dtype, "lanes", scope="local", layout=None
        )

    def statement(self, outer: Sequence[Any]) -> Any:
        """All of it, in the loops *outer*."""
        tirx = T.tirx

        def within(body: Any) -> Any:
            for loop in reversed(outer):
                body = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)
            return body

        neutral = self.step.neutral(self.dtype)
        start = self.over_vectors(
            self.vectors, self.lanes, lambda at: tirx.BufferStore(self.sums, neutral, [at])
        )
        steps = within(sequence(*self.steps()))
        lanes = tirx.SeqStmt([tirx.AllocBuffer(self.sums), start, steps, *self.tree()])
        length = self.loop.extent
        if int_value(length) is not None:
            return lanes
        short = within(
            self.over("k", length, lambda k: self.stored(self.total.buffer, self.total.indices, self.term(k)))
        )
        return tirx.IfThenElse(length < self.number(self.lanes), short, lanes)

    def steps(self) -> list[Any]:
        """The terms of the innermost loop."""
        tirx = T.tirx
        analyzer = T.Analyzer()
        length, lanes = self.loop.extent, self.number(self.lanes)
        chunk = self.number(self.vectors * self.lanes)
        chunks = analyzer.simplify(tirx.floordiv(length, chunk))
        whole = analyzer.simplify(chunks * chunk)
        single = analyzer.simplify(tirx.floordiv(length - whole, lanes))
        rest = analyzer.simplify(tirx.floormod(length, lanes))
        made = [
            self.over(
                "chunk", chunks, lambda c: self.over_vectors(self.vectors, self.lanes, self.added(c * chunk))
            )
        ]
        if self.vectors > 1:
            made.append(
                self.over(
                    "vector",
                    single,
                    lambda v: self.over_vectors(1, self.lanes, self.added(whole + v * lanes)),
                )
            )
        if int_value(rest) != 0:
            made.append(self.rest(length, rest))
        return made

    def rest(self, length: Any, rest: Any) -> Any:
        """What is left behind the last whole vector: of the last *lanes* terms those that are not in it."""
        tirx = T.tirx
        lanes = self.number(self.lanes)

        def overlapping(lane: Any) -> Any:
            term = self.term(length - lanes + lane)
            new = tirx.Select(lane >= lanes - rest, term, self.step.neutral(self.dtype))
            return self.combined(lane, new)

        vector = self.over_vectors(1, self.lanes, overlapping)
        if int_value(length) is not None:
            return vector
        return tirx.IfThenElse(rest > self.number(0), vector, None)

    def tree(self) -> list[Any]:
        """Halves of the lanes combined until one is left, and that one with the total."""
        made = []
        count = self.vectors * self.lanes
        while count > 1:
            half = count // 2
            whole = min(half, self.lanes)

            def folded(at: Any, half: int = half) -> Any:
                return self.combined(at, T.tirx.BufferLoad(self.sums, [at + self.number(half)]))

            made.append(self.over_vectors(half // whole, whole, folded))
            count = half
        lane = T.tirx.BufferLoad(self.sums, [self.number(0)])
        return [*made, self.stored(self.total.buffer, self.total.indices, lane)]

    # -- pieces ------------------------------------------------------------------------------

    def term(self, at: Any) -> Any:
        """The term at a place of the innermost loop."""
        return at_place(self.step.term, {self.loop.loop_var: at})

    def stored(self, buffer: Any, indices: Sequence[Any], term: Any) -> Any:
        """*term* combined with what *buffer* holds."""
        value = self.step.apply(T.tirx.BufferLoad(buffer, list(indices)), term)
        return T.tirx.BufferStore(buffer, value, list(indices))

    def combined(self, lane: Any, term: Any) -> Any:
        return self.stored(self.sums, [lane], term)

    def added(self, start: Any) -> Callable[[Any], Any]:
        """A vector of terms from *start* on, added to the lanes."""
        return lambda at: self.combined(at, self.term(start + at))
