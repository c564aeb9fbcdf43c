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
    """*store*, and before it one of each variable.

    A branch with variables is one itself, since they may read what is not there in the other case.
    """
    values: dict[Any, Any] = {}  # of each variable, without the variables that it binds itself

    def set_aside(call: Any) -> Any:
        if op_name(call) != "if_then_else" or not any(map(_binds, call.args[1:])):
            return call
        var = T.tirx.Var(_NAME, str(call.ty.dtype))
        condition, *arms = call.args
        values[var] = T.tirx.if_then_else(unbound(condition), *arms)
        return var

    def take_out(let: Any) -> Any:
        values[let.var] = let.value
        return let.body

    def unbound(value: Any) -> Any:
        value = T.tvm_ffi.structural_map(value, [(T.ir.Call, set_aside)], order="pre")
        return T.tvm_ffi.structural_map(value, [(T.tirx.Let, take_out)])

    result = unbound(store.value)
    if not values:
        return store
    buffers = {var: T.tirx.decl_buffer((1,), str(var.ty.dtype), name=_NAME, scope="local") for var in values}
    zero = T.tirx.IntImm("int32", 0)
    loads = {var: T.tirx.BufferLoad(buffer, [zero]) for var, buffer in buffers.items()}

    def loaded(value: Any) -> Any:
        return T.tvm_ffi.structural_map(value, [(T.tirx.Var, lambda var: loads.get(var, var))])

    def stored(var: Any) -> Any:
        value = loaded(values[var])
        if not _binds(value):
            return T.tirx.BufferStore(buffers[var], value, [zero])
        arms = (_with_buffers(T.tirx.BufferStore(buffers[var], arm, [zero])) for arm in value.args[1:])
        return T.tirx.IfThenElse(value.args[0], *arms)

    last = T.tirx.BufferStore(store.buffer, loaded(result), store.indices)
    return sequence(*map(T.tirx.AllocBuffer, buffers.values()), *map(stored, _in_order(values)), last)


def _binds(value: Any) -> bool:
    """Whether a variable is bound in *value*."""
    found: list[Any] = []
    T.tvm_ffi.structural_walk(value, (T.tirx.Let, returning_none(found.append)))
    return bool(found)


def _in_order(values: dict[Any, Any]) -> Iterator[Any]:
    """The variables, each after those in its value."""
    needed: dict[Any, list[Any]] = {var: [] for var in values}
    for var, value in values.items():
        T.tvm_ffi.structural_walk(value, (T.tirx.Var, returning_none(needed[var].append)))
    return (var for var in TopologicalSorter(needed).static_order() if var in values)
