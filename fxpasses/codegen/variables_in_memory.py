"""`variables_in_memory`: the variables of a formula as small buffers, which LLVM keeps in registers.

TVM's code generator puts the value of each variable into the values of those
that follow, in order to simplify them: a chain of functions, each in the
argument of the next, takes time that doubles with each variable. A load ends
that search.

A choice between a formula and a function of the C library, which takes one element
after the other, is a branch: the library is called where some element asks for it.
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

_OF_THE_LIBRARY = ("cos", "fmod", "sin", "tan")
"""Intrinsics which some formula of float64 leaves some numbers to."""


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

    def set_choice_aside(choice: Any) -> Any:
        if not _is_of_the_library(choice):
            return choice
        var = T.tirx.Var(_NAME, str(choice.ty.dtype))
        values[var] = choice
        return var

    def take_out(let: Any) -> Any:
        values[let.var] = let.value
        return let.body

    def unbound(value: Any) -> Any:
        value = T.tvm_ffi.structural_map(value, [(T.ir.Call, set_aside)], order="pre")
        return T.tvm_ffi.structural_map(value, [(T.tirx.Let, take_out), (T.tirx.Select, set_choice_aside)])

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
        if _is_of_the_library(value):
            return sequence(*_by_branch(buffers[var], value))
        if not _binds(value):
            return T.tirx.BufferStore(buffers[var], value, [zero])
        arms = (_with_buffers(T.tirx.BufferStore(buffers[var], arm, [zero])) for arm in value.args[1:])
        return T.tirx.IfThenElse(value.args[0], *arms)

    last = T.tirx.BufferStore(store.buffer, loaded(result), store.indices)
    return sequence(*map(T.tirx.AllocBuffer, buffers.values()), *map(stored, _in_order(values)), last)


def _is_of_the_library(value: Any) -> bool:
    """Whether *value* is that of a formula where a condition holds, or else of a function of the C library."""
    return (
        isinstance(value, T.tirx.Select)
        and isinstance(value.false_value, T.ir.Call)
        and op_name(value.false_value) in _OF_THE_LIBRARY
    )


def _by_branch(buffer: Any, choice: Any) -> Iterator[Any]:
    """The statements that store such a choice."""
    zero = T.tirx.IntImm("int32", 0)
    yield T.tirx.BufferStore(buffer, choice.true_value, [zero])
    condition = choice.condition
    if str(condition.ty.dtype) != "bool":
        condition = T.tirx.call_llvm_pure_intrin("bool", "llvm.vector.reduce.and", condition)
    rare = _by_element(choice.false_value)
    either = T.tirx.Select(choice.condition, T.tirx.BufferLoad(buffer, [zero]), rare)
    yield T.tirx.IfThenElse(T.tirx.Not(condition), T.tirx.BufferStore(buffer, either, [zero]), None)


def _by_element(call: Any) -> Any:
    """The function of the C library for each element of a vector."""
    dtype, _, lanes = str(call.ty.dtype).partition("x")
    if not lanes:
        return T.tirx.call_pure_extern(dtype, op_name(call), *call.args)

    def element(lane: int) -> Any:
        operands = (T.tirx.Shuffle([operand], [lane]) for operand in call.args)
        return T.tirx.call_pure_extern(dtype, op_name(call), *operands)

    return T.tirx.Shuffle(list(map(element, range(int(lanes)))), list(range(int(lanes))))


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
