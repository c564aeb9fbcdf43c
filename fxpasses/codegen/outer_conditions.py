"""`conditions_outside`: a condition on which no step of a loop depends is asked once, around the loop.

Where several axes of sizes known at run time are one loop, TVM 0.27 asks in
each block whether the first of them is within its size. Behind such a condition
the passes that follow would not find the one statement that they look for.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.loop_writer import uses
from fxpasses.codegen.schedules.expressions import returning_none
from fxpasses.relax import tvm_api as T

__all__ = ["conditions_outside"]


def conditions_outside() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.For, _outside)])

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.conditions_outside")


def _outside(loop: Any) -> Any:
    inner = loop.body
    if not isinstance(inner, T.tirx.IfThenElse) or inner.else_case is not None:
        return loop
    if (
        loop.kind != T.tirx.ForKind.SERIAL
        or uses(inner.condition, [loop.loop_var])
        or _reads(inner.condition)
    ):
        return loop
    return T.tirx.IfThenElse(inner.condition, _with_body(loop, inner.then_case), None)


def _reads(condition: Any) -> bool:
    """Whether *condition* may change while the loop runs."""
    found: list[Any] = []
    T.tvm_ffi.structural_walk(condition, ((T.ir.TensorLoad, T.ir.Call), returning_none(found.append)))
    return bool(found)


def _with_body(loop: Any, body: Any) -> Any:
    return T.tirx.For(
        loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations
    )
