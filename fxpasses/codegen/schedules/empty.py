"""`init_first`: a reduction over a dim that may be empty has its first value all the same.

A reduction block sets its first value in the first turn of its loops. Where
the extent of a loop is only known when the kernel runs, there may be no turn.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import int_value, returning_none
from fxpasses.relax import tvm_api as T

__all__ = ["init_first"]


def init_first() -> Any:
    """The module pass that moves the first value of such reductions before their loops."""

    def run(mod: Any, _context: Any) -> Any:
        updates = {
            name: _init_first(function)
            for name, function in mod.functions_items()
            if isinstance(function, T.tirx.PrimFunc)
        }
        for name, function in updates.items():
            mod.update_func(name, function)
        return mod

    return T.tvm.transform.module_pass(run, opt_level=0, name="fxpasses.init_first")


def _init_first(function: Any) -> Any:
    sch = T.s_tir.Schedule(T.tvm.IRModule({"main": function}), error_render_level="none")
    try:
        blocks = sch.get_child_blocks(sch.get_sblock("root"))
    except T.ScheduleError:
        return function  # written as loops, which set first values themselves
    changed = False
    for block in blocks:
        if sch.get(block).init is None:
            continue
        loops = _reducing_loops(sch, block)
        if any(int_value(sch.get(loop).extent) is None for loop in loops):
            sch.decompose_reduction(block, loops[0])
            changed = True
    return sch.mod["main"] if changed else function


def _reducing_loops(sch: Any, block: Any) -> list[Any]:
    """The loops around *block* that its reduced positions come from, the outermost first."""
    realize = T.block_realize(sch, block)
    found: list[Any] = []
    for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
        if axis.iter_type == T.tirx.IterVar.CommReduce:
            T.tvm_ffi.structural_walk(value, (T.tirx.Var, returning_none(found.append)))
    return [
        loop for loop in sch.get_loops(block) if any(sch.get(loop).loop_var.same_as(var) for var in found)
    ]
