"""`partition_loops`: TVM's `LoopPartition`, kept from what TVM 0.27 does wrong with it.

A loop that runs past the end behind a condition is split into one without the
condition and a rest.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import int_value, op_name, returning_none
from fxpasses.relax import tvm_api as T

__all__ = ["partition_loops"]

_HIDDEN = "fxpasses.hidden."


def partition_loops() -> Any:
    """The module pass."""
    prim_func_pass = T.tirx.transform.prim_func_pass
    return T.tvm.transform.Sequential(
        [
            prim_func_pass(_hide, opt_level=0, name="fxpasses.hide_conditions"),
            T.s_tir.transform.LoopPartition(),
            prim_func_pass(_show, opt_level=0, name="fxpasses.show_conditions"),
            prim_func_pass(_same_width, opt_level=0, name="fxpasses.same_width"),
        ]
    )


def _hide(function: Any, _mod: Any, _context: Any) -> Any:
    """Hide comparisons within values whose outcome turns with a size that is known at run time.

    `LoopPartition` would split the loop at them, too, and takes for granted
    that the parts follow each other: of a part whose length turns out to be
    negative, the next one does the elements again, with the wrong value. The
    conditions of statements are left: they say where a loop ends, and not
    where something else begins.
    """
    counted = _counted(function)

    def hide(comparison: Any) -> Any:
        if _variables(comparison) <= counted:
            return comparison
        kind = _HIDDEN + type(comparison).__name__
        return T.tirx.call_pure_extern("bool", kind, comparison.a, comparison.b)

    def keep(statement: Any) -> Any:
        condition = T.tvm_ffi.structural_map(statement.condition, [(T.ir.Call, _shown)])
        return T.tirx.IfThenElse(condition, statement.then_case, statement.else_case)

    hidden = T.tvm_ffi.structural_map(function, [(kind, hide) for kind in _comparisons().values()])
    return T.tvm_ffi.structural_map(hidden, [(T.tirx.IfThenElse, keep)])


def _show(function: Any, _mod: Any, _context: Any) -> Any:
    return T.tvm_ffi.structural_map(function, [(T.ir.Call, _shown)])


def _shown(call: Any) -> Any:
    if op_name(call) != "call_pure_extern" or not call.args[0].value.startswith(_HIDDEN):
        return call
    return _comparisons()[call.args[0].value.removeprefix(_HIDDEN)](*call.args[1:])


def _comparisons() -> dict[str, Any]:
    tirx = T.tirx
    return {kind.__name__: kind for kind in (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)}


def _counted(function: Any) -> set[Any]:
    """The variables of the loops whose length is a number."""
    found: list[Any] = []
    T.tvm_ffi.structural_walk(function.body, (T.tirx.For, returning_none(found.append)))
    return {loop.loop_var for loop in found if int_value(loop.extent) is not None}


def _variables(expression: Any) -> set[Any]:
    found: list[Any] = []
    T.tvm_ffi.structural_walk(expression, (T.tirx.Var, returning_none(found.append)))
    return set(found)


def _same_width(function: Any, _mod: Any, _context: Any) -> Any:
    """Give both sides of each sum one type.

    `LoopPartition` adds an int32 zero to the int64 index of a loop of one step,
    and later passes refuse such a sum.
    """

    def widen(add: Any) -> Any:
        if add.a.ty.dtype == add.b.ty.dtype:
            return add
        return T.tirx.Add(*(side.astype("int64") for side in (add.a, add.b)))

    return T.tvm_ffi.structural_map(function, [(T.tirx.Add, widen)])
