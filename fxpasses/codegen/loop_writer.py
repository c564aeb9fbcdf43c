"""`LoopWriter`: loops of TIR, for passes that write a loop anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxpasses.codegen.schedules.expressions import int_value, returning_none
from fxpasses.relax import tvm_api as T

__all__ = ["LoopWriter", "at_place", "may_run_twice", "sequence", "uses"]


class LoopWriter:
    """Writes loops whose indices have the dtype *index*."""

    def __init__(self, index: str) -> None:
        self.index = index

    def simplified(self, value: Any) -> Any:
        return T.Analyzer().simplify(value)

    def number(self, value: int) -> Any:
        return T.tirx.IntImm(self.index, value)

    def over(self, name: str, extent: Any, body: Callable[[Any], Any], kind: Any = None) -> Any:
        """A loop; none around a single step, and None for no step."""
        if int_value(extent) == 0:
            return None
        if int_value(extent) == 1:
            return body(self.number(0))
        var = T.tirx.Var(name, self.index)
        kind = T.tirx.ForKind.SERIAL if kind is None else kind
        return T.tirx.For(var, self.number(0), extent, kind, body(var))

    def over_vectors(self, count: int, lanes: int, body: Callable[[Any], Any]) -> Any:
        """*body* for each lane of so many vectors."""
        tirx = T.tirx

        def vector(number: Any) -> Any:
            start = number * self.number(lanes)
            return self.over(
                "lane", self.number(lanes), lambda lane: body(start + lane), tirx.ForKind.VECTORIZED
            )

        return self.over("vector", self.number(count), vector, tirx.ForKind.UNROLLED)


def at_place(expression: Any, places: dict[Any, Any]) -> Any:
    """*expression* with other values for the variables of loops."""

    def placed(var: Any) -> Any:
        return next((place for old, place in places.items() if var.same_as(old)), var)

    return T.tvm_ffi.structural_map(expression, [(T.tirx.Var, placed)])


def sequence(*statements: Any) -> Any:
    """The statements in turn, without those that are None; None where all are."""
    present = [statement for statement in statements if statement is not None]
    return T.tirx.SeqStmt(present) if len(present) > 1 else present[0] if present else None


def may_run_twice(function: Any) -> Callable[[Any], bool]:
    """For the loops of *function*: whether steps of one may be made a second time, with the same result.

    They must not where they read what they store to, and not where they make
    one intermediate result of the same places of another: TVM may put both
    into the same memory.
    """
    allocated: list[Any] = []
    T.tvm_ffi.structural_walk(
        function.body, (T.tirx.AllocBuffer, returning_none(lambda made: allocated.append(made.buffer)))
    )

    def is_among(buffer: Any, others: list[Any]) -> bool:
        return any(buffer.same_as(other) for other in others)

    def decide(loop: Any) -> bool:
        running: list[Any] = []
        stored: list[Any] = []
        loaded: list[Any] = []
        T.tvm_ffi.structural_walk(
            loop,
            [
                (T.tirx.For, returning_none(lambda inner: running.append(inner.loop_var))),
                (T.tirx.BufferStore, returning_none(lambda store: stored.append(store.buffer))),
                (T.ir.TensorLoad, returning_none(loaded.append)),
            ],
        )
        moving = [load.source for load in loaded if any(uses(index, running) for index in load.indices)]
        if any(is_among(load.source, stored) for load in loaded):
            return False
        one, other = ([buffer for buffer in some if is_among(buffer, allocated)] for some in (stored, moving))
        return not (one and other)

    return decide


def uses(expression: Any, variables: list[Any]) -> bool:
    """Whether one of the *variables* occurs in *expression*."""
    found: list[Any] = []
    T.tvm_ffi.structural_walk(expression, (T.tirx.Var, returning_none(found.append)))
    return any(var.same_as(other) for var in found for other in variables)
