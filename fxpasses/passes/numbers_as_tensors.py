"""`numbers_as_tensors`: arithmetic with numbers that are read from tensors stays in tensors.

``x * (scale.item() + 1)`` computes with a Python number, which a graph has as a
symbol and TVM has not at all. A tensor of float64 without dims is the same
number. What Python raises an error for, such as a division by zero, becomes an
assertion.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.values import cast, expand, full, reshape
from fxpasses.program import Program
from fxpasses.rewrite import Editor
from fxpasses.schema import is_read

__all__ = ["numbers_as_tensors"]

aten = torch.ops.aten


def numbers_as_tensors(program: Program) -> Program:
    """Replace numbers that are read from floating-point tensors where all they are used for can take tensors."""
    if not any(_is_number(node) for node in program.nodes()):
        return program
    g = program.edit()
    able = _able(g)
    made: dict[fx.Node, fx.Node] = {}
    for node in g.nodes():
        if node in able:
            with g.at(node):
                made[node] = _tensor(g, node, made)
        elif any(operand in able for operand in node.all_input_nodes):
            with g.at(node):
                _replace_user(g, node, made)
    return g.finish()


def _is_number(node: fx.Node) -> bool:
    """Whether *node* is a number, or a truth about one, that was read from a tensor."""
    val = node.meta.get("val")
    return isinstance(val, torch.SymFloat | torch.SymBool) and is_read(val)


def _able(g: Editor) -> set[fx.Node]:
    """The numbers of which each operand and each user can be, or take, a tensor."""
    numbers = [node for node in g.nodes() if _is_number(node)]
    able = {node for node in numbers if _is_known(node) and all(_can_use(user, node) for user in node.users)}
    lost = [node for node in numbers if node not in able]
    while lost:  # what is no tensor takes its operands and its users with it
        node = lost.pop()
        along = {*node.all_input_nodes, *node.users} & able
        able -= along
        lost += along
    return able


def _can_use(user: fx.Node, number: fx.Node) -> bool:
    """Whether *user*, as a tensor if it is a number, can take one in the place of *number*."""
    return _is_number(user) or _takes(user, number)


def _is_known(node: fx.Node) -> bool:
    if node.target is aten._local_scalar_dense.default:
        return True
    plain = all(isinstance(arg, int | float) or _is_number(arg) for arg in node.args)  # type: ignore[arg-type]
    if node.target is operator.pow:
        return plain and isinstance(node.args[1], int | float)
    return plain and node.target in _ARITHMETIC


def _takes(user: fx.Node, number: fx.Node) -> bool:
    """Whether *user* can take a tensor in the place of *number*."""
    if user.target is aten._assert_scalar.default:
        return True
    if user.target not in _WITH_TENSOR or [arg for arg in user.args if arg is number] != [user.args[1]]:
        return False
    if any(factor != 1 for factor in user.args[2:]):  # alpha
        return False
    computed = user if user.target is aten.full.default else user.args[0]
    return computed.meta["val"].dtype in (torch.float32, torch.float64)  # type: ignore[union-attr]


# -- numbers -------------------------------------------------------------------------


def _tensor(g: Editor, node: fx.Node, made: dict[fx.Node, fx.Node]) -> fx.Node:
    """The number *node* as a float64 tensor without dims; a truth as one of bool."""
    if node.target is aten._local_scalar_dense.default:
        return cast(g, reshape(g, node.args[0], []), torch.float64)  # type: ignore[arg-type]
    if node.target is operator.pow:
        return _power(g, made[node.args[0]], node.args[1])  # type: ignore[index]
    operands = [
        made[arg] if isinstance(arg, fx.Node) else full(g, [], float(arg), torch.float64)  # type: ignore[arg-type]
        for arg in node.args
    ]
    return _ARITHMETIC[node.target](g, *operands)


def _power(g: Editor, base: fx.Node, exponent: Any) -> fx.Node:
    """Python gives no complex number where a graph is traced, and no infinity for a finite base."""
    if not float(exponent).is_integer():
        _demand(
            g, _not(g, g.call(aten.lt.Scalar, base, 0)), "a negative number to a power that is no integer"
        )
    if exponent < 0:
        _demand(g, g.call(aten.ne.Scalar, base, 0), "zero cannot be raised to a negative power")
    result = g.call(aten.pow.Tensor_Scalar, base, exponent)
    infinite = [g.call(aten.eq.Scalar, g.call(aten.abs.default, x), float("inf")) for x in (result, base)]
    _demand(g, _not(g, g.call(aten.gt.Tensor, *infinite)), "the power of a number is too large")
    return result


def _quotient(g: Editor, a: fx.Node, b: fx.Node) -> fx.Node:
    _demand(g, g.call(aten.ne.Scalar, b, 0), "division by zero")
    return g.call(aten.div.Tensor, a, b)


def _larger(g: Editor, a: fx.Node, b: fx.Node) -> fx.Node:
    return g.call(aten.where.self, g.call(aten.gt.Tensor, b, a), b, a)


def _smaller(g: Editor, a: fx.Node, b: fx.Node) -> fx.Node:
    return g.call(aten.where.self, g.call(aten.lt.Tensor, b, a), b, a)


def _calls(op: Any) -> Callable[..., fx.Node]:
    return lambda g, *operands: g.call(op, *operands)


def _not(g: Editor, truth: fx.Node) -> fx.Node:
    return g.call(aten.logical_not.default, truth)


def _demand(g: Editor, truth: fx.Node, message: str) -> None:
    g.call(aten._assert_async.msg, truth, message)


_ARITHMETIC: dict[Any, Callable[..., fx.Node]] = {
    operator.add: _calls(aten.add.Tensor),
    operator.sub: _calls(aten.sub.Tensor),
    operator.mul: _calls(aten.mul.Tensor),
    operator.neg: _calls(aten.neg.default),
    operator.abs: _calls(aten.abs.default),
    operator.truediv: _quotient,
    torch.sym_max: _larger,
    torch.sym_min: _smaller,
    operator.eq: _calls(aten.eq.Tensor),
    operator.ne: _calls(aten.ne.Tensor),
    operator.lt: _calls(aten.lt.Tensor),
    operator.le: _calls(aten.le.Tensor),
    operator.gt: _calls(aten.gt.Tensor),
    operator.ge: _calls(aten.ge.Tensor),
}


# -- users ---------------------------------------------------------------------------

_WITH_TENSOR: dict[Any, Any] = {
    **{op.Scalar: op.Tensor for op in (aten.add, aten.sub, aten.mul, aten.div)},
    **{op.Scalar: op.Tensor for op in (aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge)},
    aten.pow.Tensor_Scalar: aten.pow.Tensor_Tensor,
    aten.full.default: None,
}
"""Operators whose second argument is a number, and those that take a tensor in its place."""


def _replace_user(g: Editor, user: fx.Node, made: dict[fx.Node, fx.Node]) -> None:
    if user.target is aten._assert_scalar.default:
        _demand(g, made[user.args[0]], str(user.args[1]))  # type: ignore[index]
        g.erase(user)
        return
    number = made[user.args[1]]  # type: ignore[index]
    if user.target is aten.full.default:
        filled = _rounded(g, number, user.meta["val"].dtype)
        g.replace(user, expand(g, filled, user.args[0]))  # type: ignore[arg-type]
        return
    number = _rounded(g, number, user.args[0].meta["val"].dtype)  # type: ignore[union-attr]
    g.replace(user, g.call(_WITH_TENSOR[user.target], user.args[0], number))


def _rounded(g: Editor, number: fx.Node, dtype: torch.dtype) -> fx.Node:
    """*number* in the dtype that is computed in; what it was read from, where that has it."""
    read = number.args[0] if number.target is aten._to_copy.default else number
    return cast(g, read if read.meta["val"].dtype == dtype else number, dtype)  # type: ignore[union-attr, arg-type]
