"""`run_narrow_tiles`: a tile of a product has a single vector where that is enough, which shows at run time.

A schedule annotates the loops over the vectors of a tile with `NARROW`, and the
loop that takes its columns to memory, behind a condition that says where they
end. The pass runs when only loops are left:

1. the tile is written out once more, for a single vector, which is taken where
   it has all columns,
2. columns go to memory a vector at a time, where all of it are within the end.

Without the pass the loops mean the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxpasses.codegen.loop_writer import LoopWriter, at_place, sequence, uses
from fxpasses.codegen.schedules.expressions import int_value
from fxpasses.codegen.schedules.products import NARROW
from fxpasses.relax import tvm_api as T

__all__ = ["run_narrow_tiles"]


def run_narrow_tiles() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.SeqStmt, _narrow)])

    narrow = T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.run_narrow_tiles")
    return T.tvm.transform.Sequential([narrow, T.tirx.transform.ConvertSSA()])


def _narrow(statement: Any) -> Any:
    """*statement* with a tile of one vector beside the one it makes; itself where it makes none."""
    parts = list(statement.seq)
    nests = [_nest(part) for part in parts]
    annotated = [at for at, nest in enumerate(nests) if any(map(_is_annotated, nest))]
    if not annotated or not _stores(nests[annotated[-1]][-1]):
        return statement
    first, last = annotated[0], annotated[-1]
    tile = _Tile(parts[first:last], nests[last])
    return sequence(*parts[:first], tile.made(), tile.stored(parts[last]), *parts[last + 1 :])


def _nest(statement: Any) -> list[Any]:
    """The loops of *statement* that have nothing but the next one inside."""
    loops: list[Any] = []
    while isinstance(statement, T.tirx.For):
        loops.append(statement)
        statement = statement.body
    return loops


def _is_annotated(loop: Any) -> bool:
    return NARROW in (loop.annotations or {})


def _stores(loop: Any) -> bool:
    """Whether it takes the columns of a tile to memory."""
    return _is_annotated(loop) and isinstance(loop.body, T.tirx.IfThenElse)


class _Tile(LoopWriter):
    """The statements for one tile.

    Args:
        parts: those that make it.
        nest: the loops that take it to memory, the last of them along a row.
    """

    def __init__(self, parts: Sequence[Any], nest: Sequence[Any]) -> None:
        *self.rows, self.columns = nest
        super().__init__(str(self.columns.loop_var.ty.dtype))
        self.parts = parts
        self.lanes = int(self.columns.annotations[NARROW])
        self.vectors = int_value(self.columns.extent) // self.lanes  # type: ignore[operator]
        conditions = _conjuncts(self.columns.body.condition)
        self.of_column = [c for c in conditions if uses(c, [self.columns.loop_var])]
        self.of_row = [c for c in conditions if not uses(c, [self.columns.loop_var])]

    def made(self) -> Any:
        """The tile: of one vector, if that has all columns."""
        return T.tirx.IfThenElse(self.has(self.lanes), self.of(self.vectors), self.of(1))

    def of(self, vectors: int) -> Any:
        """The tile of so many *vectors*."""

        def shorter(loop: Any) -> Any:
            if not _is_annotated(loop):
                return loop
            return T.tirx.For(loop.loop_var, loop.min, self.number(vectors), loop.kind, loop.body)

        return sequence(*(T.tvm_ffi.structural_map(part, [(T.tirx.For, shorter)]) for part in self.parts))

    def has(self, column: int) -> Any:
        """Whether the tile may have so many columns and one more."""
        places = {loop.loop_var: self.number(0) for loop in self.rows}
        ends = [condition for condition in self.of_column if isinstance(condition, T.tirx.LT)]
        return at_place(T.tirx.all(*ends), {**places, self.columns.loop_var: self.number(column)})

    def stored(self, store: Any) -> Any:
        """The statement *store*, which takes the tile to memory, a vector at a time."""
        body, column = self.columns.body.then_case, self.columns.loop_var
        within = T.tirx.all(*self.of_column)

        def in_vectors(start: Any) -> Any:
            def at(lane: Any) -> dict[Any, Any]:
                return {column: start + lane}

            def single(lane: Any) -> Any:
                return T.tirx.IfThenElse(at_place(within, at(lane)), at_place(body, at(lane)), None)

            whole = self.over_vectors(1, self.lanes, lambda lane: at_place(body, at(lane)))
            some = T.tirx.IfThenElse(
                at_place(within, {column: start}), self.over("lane", self.number(self.lanes), single), None
            )
            return T.tirx.IfThenElse(at_place(within, at(self.number(self.lanes - 1))), whole, some)

        def row(loop: Any) -> Any:
            if not _is_annotated(loop):
                return loop
            vectors = self.over(
                "vector", self.number(self.vectors), lambda which: in_vectors(which * self.number(self.lanes))
            )
            return T.tirx.IfThenElse(T.tirx.all(*self.of_row), vectors, None) if self.of_row else vectors

        return T.tvm_ffi.structural_map(store, [(T.tirx.For, row)])


def _conjuncts(condition: Any) -> list[Any]:
    if isinstance(condition, T.tirx.And):
        return _conjuncts(condition.a) + _conjuncts(condition.b)
    return [condition]
