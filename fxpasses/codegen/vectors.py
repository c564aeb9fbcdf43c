"""`run_in_vectors`: loops that store one element in each step, in whole vectors.

A schedule annotates such a loop with `VECTORS` in the place of a split, for
which TVM 0.27 would lose sight of a stretch of memory that runs through
several axes. The pass runs when only loops are left. Where the length is no
multiple of a vector, the last one overlaps the one before.

Without the pass the loop means the same.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.loop_writer import LoopWriter, at_place, may_run_twice, sequence
from fxpasses.codegen.schedules.expressions import int_value
from fxpasses.codegen.schedules.kernel import VECTORS
from fxpasses.relax import tvm_api as T

__all__ = ["run_in_vectors"]

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
        return T.tirx.IfThenElse(count < self.number(self.lanes), apart, long)

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
        return self.over_vectors(1, lanes or self.lanes, lambda lane: self.at(start + lane))

    def at(self, place: Any) -> Any:
        return at_place(self.loop.body, {self.loop.loop_var: place})


def _chunk(vectors: int | None) -> int:
    """How many vectors a thread takes at a time: equal shares, if they can be."""
    if vectors is None:
        return _CHUNK // 2
    even = max(size for size in range(1, _CHUNK + 1) if vectors % size == 0)
    return even if even >= _CHUNK // 8 else _CHUNK
