"""`axes_apart`: a loop over several axes of unknown sizes is a loop over each of them.

A loop that was made of axes, so that its steps are shared among threads, divides
its variable by their sizes in each step. Where these are known only at run time,
that takes longer than a short row does. Here such a loop is taken apart again;
one that runs in threads is cut into chunks before, which begin and end at any
place of an axis.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.loop_writer import LoopWriter, uses
from fxpasses.codegen.schedules.expressions import int_value, occurrences, returning_none, same
from fxpasses.relax import tvm_api as T

__all__ = ["axes_apart"]

_CHUNK, _CHUNKS = 64, 32
"""So many steps are one task of a thread, or fewer where there would not be so many tasks."""

_STORES = 32
"""A step with more statements than this is long, such as the tile of a product, and a division in it short."""


def axes_apart() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.For, _apart)])

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.axes_apart")


def _apart(loop: Any) -> Any:
    kinds = (T.tirx.ForKind.SERIAL, T.tirx.ForKind.PARALLEL)
    if int_value(loop.extent) is not None or loop.kind not in kinds or loop.annotations:
        return loop
    writer = _Apart(loop)
    if writer.size(loop.body, loop.loop_var) is None or _stores(loop.body) > _STORES:
        return loop
    return writer.statement()


def _stores(body: Any) -> int:
    found: list[Any] = []
    T.tvm_ffi.structural_walk(body, (T.tirx.BufferStore, returning_none(found.append)))
    return len(found)


class _Apart(LoopWriter):
    """The statements for one loop."""

    def __init__(self, loop: Any) -> None:
        super().__init__(str(loop.loop_var.ty.dtype))
        self.loop = loop
        self.bound: list[Any] = []
        binders = [
            (T.tirx.For, returning_none(lambda inner: self.bound.append(inner.loop_var))),
            (T.tirx.Bind, returning_none(lambda bind: self.bound.append(bind.var))),
            (T.tirx.Let, returning_none(lambda let: self.bound.append(let.var))),
        ]
        T.tvm_ffi.structural_walk(loop, binders)

    def size(self, body: Any, var: Any) -> Any:
        """What *body* divides *var* by, if that is known only at run time and stays as it is; None otherwise."""
        found: list[Any] = []
        kinds = (T.tirx.FloorDiv, T.tirx.FloorMod)
        T.tvm_ffi.structural_walk(body, [(kind, returning_none(found.append)) for kind in kinds], order="pre")
        sizes = (division.b for division in found if division.a.same_as(var))
        return next((size for size in sizes if int_value(size) is None and self.stays(size)), None)

    def stays(self, size: Any) -> bool:
        """Whether a size is the same in all steps."""
        return not uses(size, self.bound) and not occurrences(size)

    def statement(self) -> Any:
        """All of it."""
        loop, tirx = self.loop, T.tirx
        if loop.kind == tirx.ForKind.SERIAL:
            return self.apart(loop.body, loop.loop_var, loop.min, loop.min + loop.extent)
        share = tirx.floordiv(loop.extent, self.number(_CHUNKS))
        size = tirx.max(tirx.min(share, self.number(_CHUNK)), self.number(1))
        count = tirx.floordiv(loop.extent + size - self.number(1), size)

        def chunk(which: Any) -> Any:
            start = loop.min + which * size
            end = tirx.min(start + size, loop.min + loop.extent)
            return self.apart(loop.body, loop.loop_var, start, end)

        return self.over("chunk", count, chunk, tirx.ForKind.PARALLEL)

    def apart(self, body: Any, var: Any, start: Any, end: Any) -> Any:
        """*body* for *var* from *start* to *end*, in loops that do not divide it."""
        tirx, size = T.tirx, self.size(body, var)
        if size is None:
            return tirx.For(var, start, end - start, tirx.ForKind.SERIAL, body)
        first, last = tirx.floordiv(start, size), tirx.floordiv(end - self.number(1), size)
        round, place = (tirx.Var(name, self.index) for name in ("round", "place"))

        def without(node: Any) -> Any:
            if isinstance(node, tirx.Var):
                return round * size + place if node.same_as(var) else node
            if not (node.a.same_as(var) and same(node.b, size)):
                return node
            return round if isinstance(node, tirx.FloorDiv) else place

        kinds = (tirx.FloorDiv, tirx.FloorMod, tirx.Var)
        body = T.tvm_ffi.structural_map(body, [(kind, without) for kind in kinds], order="pre")
        from_ = tirx.max(start - round * size, self.number(0))
        to = tirx.min(end - round * size, size)
        return tirx.For(
            round,
            first,
            last - first + self.number(1),
            tirx.ForKind.SERIAL,
            self.apart(body, place, from_, to),
        )
