"""`variables_in_memory`: the variables of a formula as small buffers, which LLVM keeps in registers.

TVM's code generator puts the value of each variable into the values of those
that follow, in order to simplify them: a chain of functions, each in the
argument of the next, takes time that doubles with each variable. A load ends
that search.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import TopologicalSorter
from typing import Any

from fxpasses.codegen.loop_writer import sequence
from fxpasses.codegen.schedules.expressions import op_name, returning_none
from fxpasses.relax import tvm_api as T

__all__ = ["variables", "variables_in_memory"]

_NAME = "variable"


def variables_in_memory() -> Any:
    """The pass, for loops whose vectors are written out and whose unsafe choices are branches.

    TVM takes a choice between loads for unsafe.
    """

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.BufferStore, _with_buffers)])

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.variables_in_memory")


def variables(function: Any) -> dict[Any, Any]:
    """The value of each variable of *function*, by its buffer."""
    found: dict[Any, Any] = {}

    def keep(store: Any) -> None:
        if store.buffer.name == _NAME:
            found[store.buffer] = store.value

    T.tvm_ffi.structural_walk(function, (T.tirx.BufferStore, returning_none(keep)))
    return found


def _with_buffers(store: Any) -> Any:
    """*store*, and before it one of each variable."""
    guarded = _guarded(store.value)
    values: dict[Any, Any] = {}  # of each variable, without the variables that it binds itself

    def take_out(let: Any) -> Any:
        if let.var in guarded:
            return let
        values[let.var] = let.value
        return let.body

    result = T.tvm_ffi.structural_map(store.value, [(T.tirx.Let, take_out)])
    if not values:
        return store
    buffers = {var: T.tirx.decl_buffer((1,), str(var.ty.dtype), name=_NAME, scope="local") for var in values}
    zero = T.tirx.IntImm("int32", 0)
    loads = {var: T.tirx.BufferLoad(buffer, [zero]) for var, buffer in buffers.items()}

    def loaded(value: Any) -> Any:
        return T.tvm_ffi.structural_map(value, [(T.tirx.Var, lambda var: loads.get(var, var))])

    stores = [T.tirx.BufferStore(buffers[var], loaded(values[var]), [zero]) for var in _in_order(values)]
    last = T.tirx.BufferStore(store.buffer, loaded(result), store.indices)
    return sequence(*map(T.tirx.AllocBuffer, buffers.values()), *stores, last)


def _guarded(value: Any) -> set[Any]:
    """The variables that are bound in an arm that may not run."""
    found: set[Any] = set()

    def keep(call: Any) -> None:
        if op_name(call) == "if_then_else":
            for arm in call.args[1:]:
                T.tvm_ffi.structural_walk(arm, (T.tirx.Let, returning_none(lambda let: found.add(let.var))))

    T.tvm_ffi.structural_walk(value, (T.ir.Call, keep))
    return found


def _in_order(values: dict[Any, Any]) -> Iterator[Any]:
    """The variables, each after those in its value."""
    needed: dict[Any, list[Any]] = {var: [] for var in values}
    for var, value in values.items():
        T.tvm_ffi.structural_walk(value, (T.tirx.Var, returning_none(needed[var].append)))
    return (var for var in TopologicalSorter(needed).static_order() if var in values)
