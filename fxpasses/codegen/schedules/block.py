"""`Block`: what the rules ask about one block of a kernel, which computes one buffer."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fxpasses.codegen.schedules.expressions import int_value, occurrences, op_name, returning_none
from fxpasses.codegen.target import CpuInfo
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import CELL

if TYPE_CHECKING:
    from fxpasses.codegen.schedules.kernel import Kernel

__all__ = ["Block"]

# Calls that take an instruction or two.
_CHEAP = {
    "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "fabs", "floor", "if_then_else", "isnan",
    "likely", "nearbyint", "reinterpret", "round", "shift_left", "shift_right", "trunc",
}  # fmt: skip


class Block:
    """A block of a kernel, as it is now."""

    def __init__(self, kernel: Kernel, rv: Any) -> None:
        self.kernel, self.rv = kernel, rv
        self.stmt = kernel.sch.get(rv)
        self.name: str = self.stmt.name_hint
        body = self.stmt.body
        self.store = body if isinstance(body, T.tirx.BufferStore) else None

    @cached_property
    def kinds(self) -> str:
        """For each axis ``S`` (of the output), ``R`` (summed) or ``O`` (another)."""
        letters = {T.tirx.IterVar.DataPar: "S", T.tirx.IterVar.CommReduce: "R"}
        return "".join(letters.get(axis.iter_type, "O") for axis in self.stmt.iter_vars)

    @cached_property
    def vars(self) -> list[Any]:
        return [axis.var for axis in self.stmt.iter_vars]

    @cached_property
    def extents(self) -> list[int | None]:
        """The length of each axis; None where it is symbolic."""
        return [int_value(axis.dom.extent) for axis in self.stmt.iter_vars]

    @cached_property
    def units(self) -> int:
        """How many axes at the end have a single element."""
        return next((n for n, extent in enumerate(reversed(self.extents)) if extent != 1), len(self.extents))

    @property
    def loops(self) -> list[Any]:
        return list(self.kernel.sch.get_loops(self.rv))

    @cached_property
    def loads(self) -> list[Any]:
        """All loads in the body, the accumulator of a reduction left out."""
        assert self.store is not None
        own = self.store.buffer if "R" in self.kinds else None
        loads: list[Any] = []
        T.tvm_ffi.structural_walk(self.stmt.body, (T.ir.TensorLoad, returning_none(loads.append)))
        return [load for load in loads if own is None or not load.source.same_as(own)]

    @cached_property
    def occurrences(self) -> Counter[Any]:
        """How often each buffer is read where the value is written out as a tree."""
        assert self.store is not None
        return occurrences(self.store.value)

    @cached_property
    def is_plain(self) -> bool:
        """Whether every axis is a loop of its own, so that loops can be told from axes."""
        return len(self.loops) == len(self.vars)

    @cached_property
    def is_elementwise(self) -> bool:
        """Whether each step makes one element of the output from no other."""
        return (
            self.store is not None
            and set(self.kinds) <= {"S"}
            and self.stmt.init is None
            and len(self.store.indices) == len(self.vars)
            and all(i.same_as(v) for i, v in zip(self.store.indices, self.vars, strict=True))
        )

    @cached_property
    def is_reduction(self) -> bool:
        """Whether it is a sum, a maximum or the like, with its summed axes last."""
        return (
            self.store is not None
            and self.stmt.init is not None
            and "R" in self.kinds
            and self.kinds == "S" * self.rank + "R" * (len(self.kinds) - self.rank)
            and len(self.store.indices) == self.rank
            and all(i.same_as(v) for i, v in zip(self.store.indices, self.vars, strict=False))
        )

    @property
    def rank(self) -> int:
        """How many axes are not summed."""
        return self.kinds.count("S")

    @property
    def is_tiled(self) -> bool:
        """Whether it computes tiles [panel, tile, row, column] of a product (`fxpasses.relax.ops.linear`)."""
        return "fxpasses.tiles" in (self.stmt.annotations or {})

    @cached_property
    def places(self) -> set[int]:
        """The axes on which the value depends otherwise than by what it loads."""

        def nothing(load: Any) -> Any:
            return T.tirx.const(0, str(load.source.dtype))

        assert self.store is not None
        return self.uses([T.tvm_ffi.structural_map(self.store.value, [(T.ir.TensorLoad, nothing)])])

    @cached_property
    def has_parts(self) -> bool:
        """Whether its value has conditions on the place, as that of a padding or a concatenation has."""
        found: list[Any] = []

        def visit(call: Any) -> None:
            if op_name(call) == "if_then_else" and self.uses([call.args[0]]):
                found.append(call)

        T.tvm_ffi.structural_walk(self.stmt.body, (T.ir.Call, visit))
        return bool(found)

    @cached_property
    def factors(self) -> tuple[Any, Any] | None:
        """The two loads of ``C[...] = C[...] + A[...] * B[...]``; None for another body, and for a single column."""
        if not self.is_reduction or self.extents[self.rank - 1] == 1:
            return None
        if not isinstance(self.store.value, T.tirx.Add):  # type: ignore[union-attr]
            return None
        total, term = self.store.value.a, self.store.value.b  # type: ignore[union-attr]
        if not isinstance(total, T.ir.TensorLoad) or not total.source.same_as(self.store.buffer):  # type: ignore[union-attr]
            return None
        if not isinstance(term, T.tirx.Mul):
            return None
        sides = tuple(s.value if isinstance(s, T.tirx.Cast) else s for s in (term.a, term.b))
        return sides if all(isinstance(s, T.ir.TensorLoad) for s in sides) else None  # type: ignore[return-value]

    @cached_property
    def cell(self) -> list[int] | None:
        """How many elements are made together along each axis (0 for a vector), where the block says so."""
        sizes = self.stmt.annotations.get(CELL)
        return None if sizes is None else [int(size) for size in sizes]

    @cached_property
    def is_costly(self) -> bool:
        """Whether its value takes more than a few instructions."""
        found: list[Any] = []
        T.tvm_ffi.structural_walk(
            self.stmt.body,
            [
                (T.ir.Call, returning_none(lambda call: found.append(op_name(call) not in _CHEAP))),
                (T.tirx.Div, returning_none(lambda _: found.append(True))),
            ],
        )
        return any(found)

    @cached_property
    def steps(self) -> int:
        """About how many instructions its value takes: choices, comparisons and conversions."""
        found: list[Any] = []
        kinds = (T.tirx.Select, T.tirx.LT, T.tirx.LE, T.tirx.GT, T.tirx.GE, T.tirx.Cast)
        T.tvm_ffi.structural_walk(self.stmt.body, [(kind, returning_none(found.append)) for kind in kinds])
        return len(found)

    @cached_property
    def wraps_round(self) -> bool:
        """Whether an index is the remainder of something other than an axis, as of a roll."""
        parts = [self.stmt.body]
        if self.store is not None:
            parts = [i for access in (self.store, *self.loads) for i in access.indices]
        found: list[Any] = []
        for part in parts:
            T.tvm_ffi.structural_walk(part, (T.tirx.FloorMod, returning_none(found.append)))
        return any(not isinstance(node.a, T.tirx.Var) for node in found)

    def lanes(self, cpu: CpuInfo) -> int:
        """Elements that one vector step makes: as many as fit of the widest type."""
        assert self.store is not None
        dtypes = [load.source.dtype for load in self.loads] + [self.store.buffer.dtype]
        return min(map(cpu.lanes, dtypes))

    def loads_of(self, other: Block) -> list[Any]:
        """The loads of this block that read what *other* makes."""
        assert other.store is not None
        return [load for load in self.loads if load.source.same_as(other.store.buffer)]

    def uses(self, expressions: Any) -> set[int]:
        """The positions of the axes that occur in *expressions*."""
        found: list[Any] = []
        for expression in expressions:
            T.tvm_ffi.structural_walk(expression, (T.tirx.Var, returning_none(found.append)))
        return {i for i, var in enumerate(self.vars) if any(var.same_as(f) for f in found)}
