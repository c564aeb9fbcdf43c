"""`guard_masked_logic`: kept from what LLVM 22 does wrong with AVX-512.

A choice between a value and a bitwise function of that value, such as
``where(m, y, (x & 1) | (y & ~1))``, is one masked instruction (``vpternlog``), which
has the table of the function. Where an operand is a constant in memory, LLVM
puts the operands into another order and leaves the table as it is: silently
another function. So the value is hidden from LLVM by a fence, which is no
instruction; the choice is then made by one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fxpasses.codegen.schedules.expressions import op_name, same
from fxpasses.codegen.variables_in_memory import variables
from fxpasses.relax import tvm_api as T

__all__ = ["guard_masked_logic"]

_FEWEST = 2
"""Instructions that LLVM makes one of three operands of."""

_FLOAT = {"int32": "float32", "uint32": "float32", "int64": "float64", "uint64": "float64"}


def guard_masked_logic() -> Any:
    """The pass, for kernels without vectors to come."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        bound = variables(function)

        def guard(condition: Any, chosen: Any, other: Any) -> Any:
            for value, mixed, put in ((chosen, other, (0, 1)), (other, chosen, (1, 0))):
                if _is_operand(value, mixed, bound):
                    arms = (_fenced(value), mixed)
                    return condition, arms[put[0]], arms[put[1]]
            return None

        def select(node: Any) -> Any:
            arms = guard(node.condition, node.true_value, node.false_value)
            return node if arms is None else T.tirx.Select(*arms)

        def call(node: Any) -> Any:
            arms = guard(*node.args) if op_name(node) == "if_then_else" else None
            return node if arms is None else T.tirx.if_then_else(*arms)

        return T.tvm_ffi.structural_map(function, [(T.tirx.Select, select), (T.ir.Call, call)])

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.guard_masked_logic")


def _is_operand(value: Any, mixed: Any, bound: dict[Any, Any]) -> bool:
    """Whether *mixed* is a function of the bits of *value*, and takes several instructions."""
    value = _bare(value)
    if str(getattr(value.ty, "dtype", "")).split("x")[0] not in {*_FLOAT, *_FLOAT.values()}:
        return False
    weights, leaves = 0, []
    for node, weight in _logic(mixed, bound):
        weights += weight
        if not weight:
            leaves.append(node)
    return weights >= _FEWEST and any(same(value, leaf) for leaf in leaves)


def _logic(node: Any, bound: dict[Any, Any]) -> Iterator[tuple[Any, int]]:
    """The parts of *node*: each bitwise operation and the instructions that it takes, each operand and 0."""
    node = _bare(node)
    weight, operands = _instructions(node)
    yield node, weight
    for operand in operands:
        yield from _logic(operand, bound)
    if isinstance(node, T.ir.TensorLoad) and node.source in bound:
        yield from _logic(bound[node.source], bound)


def _instructions(node: Any) -> tuple[int, tuple[Any, ...]]:
    tirx = T.tirx
    if isinstance(node, tirx.BitwiseAnd | tirx.BitwiseOr | tirx.BitwiseXor):
        return 1, (node.a, node.b)
    if isinstance(node, tirx.BitwiseNot):
        return 1, (node.a,)
    if isinstance(node, tirx.Add | tirx.Sub):  # of numbers that may have no bits in common
        return 0, (node.a, node.b)
    if isinstance(node, tirx.Cast):
        return 0, (node.value,)
    return 0, ()


def _bare(node: Any) -> Any:
    """What *node* reads in another type, or itself."""
    while isinstance(node, T.ir.Call) and op_name(node) == "reinterpret":
        node = node.args[0]
    return node


def _fenced(value: Any) -> Any:
    """*value*, which LLVM cannot look behind."""
    dtype = str(value.ty.dtype)
    element, _, lanes = dtype.partition("x")
    kind = _FLOAT.get(element, element) + (f"x{lanes}" if lanes else "")
    fence = T.tirx.call_llvm_pure_intrin(kind, "llvm.arithmetic.fence", T.tirx.reinterpret(kind, value))
    return T.tirx.reinterpret(dtype, fence)
