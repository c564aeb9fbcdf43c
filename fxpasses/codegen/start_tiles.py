"""`start_whole_tiles`: a tile in registers starts from a value in all its places, also in those that it does not use.

The last tile along an axis may have fewer rows, which shows at run time, and
starts those alone. To LLVM each of the others is then a value that may come from
the tile before: it keeps all of them in registers while other tiles are made,
which are left with memory.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import int_value
from fxpasses.relax import tvm_api as T

__all__ = ["start_whole_tiles"]


def start_whole_tiles() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.SeqStmt, _started)])

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.start_whole_tiles")


def _started(statement: Any) -> Any:
    """*statement* with no condition where what it allocates is given its first value."""
    parts = list(statement.seq)
    for at, part in enumerate(parts[:-1]):
        if isinstance(part, T.tirx.AllocBuffer) and part.buffer.scope() == "local":
            parts[at + 1] = _whole(parts[at + 1], part.buffer)
    return T.tirx.SeqStmt(parts)


def _whole(statement: Any, buffer: Any) -> Any:
    """*statement* without a condition, if all it does is to set places of *buffer* to a number."""
    loops: list[Any] = []
    inner = statement
    while isinstance(inner, T.tirx.For):
        loops.append(inner)
        inner = inner.body
    if not isinstance(inner, T.tirx.IfThenElse) or inner.else_case is not None:
        return statement
    store = inner.then_case
    if not isinstance(store, T.tirx.BufferStore) or not store.buffer.same_as(buffer):
        return statement
    if not isinstance(store.value, T.tirx.FloatImm | T.tirx.IntImm) or not _is_within(store, loops):
        return statement
    made = store
    for loop in reversed(loops):
        made = T.tirx.For(
            loop.loop_var, loop.min, loop.extent, loop.kind, made, loop.thread_binding, loop.annotations
        )
    return made


def _is_within(store: Any, loops: list[Any]) -> bool:
    """Whether each step of *loops* stores to a place that is there."""
    analyzer = T.Analyzer()
    for loop in loops:
        if int_value(loop.min) is None or int_value(loop.extent) is None:
            return False
        analyzer.bind(loop.loop_var, T.ir.Range.from_min_extent(loop.min, loop.extent))
    bounds = [analyzer.const_int_bound(index) for index in store.indices]
    sizes = map(int_value, store.buffer.shape)
    return all(
        size is not None and bound.min_value >= 0 and bound.max_value < size
        for bound, size in zip(bounds, sizes, strict=True)
    )
