"""`plan_memory`: the intermediate tensors of a program in one piece of memory, each at a place of its own.

TVM's own plan gives a tensor the whole memory of one that is no longer needed,
if there is one of about its size. Here a tensor may lie in a part of it, or
across the memory of several: the largest come first, each at the lowest place
that is free as long as it is needed.

Planned are tensors of known sizes that only kernels of known sizes use. The
rest is left to TVM's plan: what the program returns, what is passed to
functions and to PyTorch, which may keep it, and kernels with dynamic sizes,
which take tensors at the start of their memory only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from fxpasses.codegen.packed_api import has_known_sizes
from fxpasses.codegen.schedules.expressions import int_value
from fxpasses.relax import tvm_api as T

__all__ = ["Lifetime", "places", "plan_memory"]

_ALIGNMENT = 64
"""Bytes; kernels read whole vectors."""


@dataclass
class Lifetime:
    """A tensor of so many *bytes* is needed from step *first* to step *last*."""

    bytes: int
    first: int
    last: int


def places(lifetimes: list[Lifetime]) -> tuple[list[int], int]:
    """Where each tensor begins, so that no two that are needed at once overlap; and the bytes of all together."""
    at: list[int] = [0] * len(lifetimes)
    needed: defaultdict[int, list[int]] = defaultdict(list)  # by step, those that have a place
    end = 0
    for one in sorted(range(len(lifetimes)), key=lambda index: -lifetimes[index].bytes):
        steps = range(lifetimes[one].first, lifetimes[one].last + 1)
        beside = {other for step in steps for other in needed[step]}
        place = 0
        for other in sorted(beside, key=at.__getitem__):
            if place + lifetimes[one].bytes <= at[other]:
                break
            place = max(place, at[other] + lifetimes[other].bytes)
        at[one] = place
        end = max(end, place + lifetimes[one].bytes)
        for step in steps:
            needed[step].append(one)
    return at, end


def plan_memory() -> Any:
    """The pass, after kernels have become calls that write into tensors, and before TVM's own plan."""

    def run(mod: Any, _context: Any) -> Any:
        known = {
            var
            for var, function in mod.functions_items()
            if isinstance(function, T.tirx.PrimFunc) and has_known_sizes(function)
        }
        for var, function in mod.functions_items():
            if isinstance(function, T.relax.Function):
                mod.update_func(var, _planned(function, known))
        return mod

    return T.tvm.transform.module_pass(run, opt_level=0, name="fxpasses.plan_memory")


def _planned(function: Any, kernels: set[Any]) -> Any:
    relax = T.relax
    lifetimes = _lifetimes(function, kernels)
    if len(lifetimes) < 2:
        return function
    at, size = places(list(lifetimes.values()))
    place = dict(zip(lifetimes, at, strict=True))
    storage = relax.Var("memory", relax.AnyType())
    memory = relax.op.memory
    first = relax.VarBinding(storage, memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8"))
    blocks: list[Any] = []
    for block in function.body.blocks:
        bindings = [
            binding
            if binding.var not in place
            else relax.VarBinding(
                binding.var,
                memory.alloc_tensor(
                    storage, place[binding.var], binding.value.args[0], str(binding.var.ty.dtype)
                ),
            )
            for binding in block.bindings
        ]
        blocks.append(relax.BindingBlock([first, *bindings] if not blocks else bindings))
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def _lifetimes(function: Any, kernels: set[Any]) -> dict[Any, Lifetime]:
    """The tensors to plan, by their variables."""
    found: dict[Any, Lifetime] = {}
    same: dict[Any, Any] = {}  # from another name or view of a tensor to its variable
    lost: set[Any] = set()  # used in other ways than by kernels
    for step, (var, value) in enumerate(_bindings(function)):
        name = value.op.name if isinstance(value, T.ir.Call) and isinstance(value.op, T.ir.Op) else ""
        if name == "relax.builtin.alloc_tensor":
            sizes = [int_value(size) for size in value.args[0].values]
            if None not in sizes:
                each = -(-T.tvm.DataType(str(var.ty.dtype)).bits // 8)
                length = -(-prod(sizes) * each // _ALIGNMENT) * _ALIGNMENT  # type: ignore[arg-type]
                found[var], same[var] = Lifetime(length, step, step), var
            continue
        tensors = [same[used] for used in _variables(value) if used in same]
        for tensor in tensors:
            found[tensor].last = step
        if isinstance(value, T.relax.Var) or name == "relax.reshape":
            same.update((var, tensor) for tensor in tensors)
        elif not (
            isinstance(value, T.ir.Call) and isinstance(value.op, T.ir.GlobalVar) and value.op in kernels
        ):
            lost.update(tensors)
    lost.update(same[used] for used in _variables(function.body.body) if used in same)
    return {var: lifetime for var, lifetime in found.items() if var not in lost}


def _bindings(function: Any) -> Iterator[tuple[Any, Any]]:
    for block in function.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


def _variables(value: Any) -> list[Any]:
    """All variables in an expression, those in the branches of a condition included."""
    return list(T.relax.analysis.all_vars(value))
