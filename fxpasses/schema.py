"""Operator schemas: bind a call to its full form, and the canonical operator set.

The *full form* of a call has every positional argument of the operator's
schema present, with defaults filled in, and every keyword-only argument in
kwargs. Passes, rules and lowerings read arguments by position or name without
asking whether they were given.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from copy import copy
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

from fxpasses.errors import FxpassesError

__all__ = [
    "COMPOSED_NAMESPACES",
    "OF_ELEMENTS",
    "SYMBOLIC_BUILTINS",
    "arguments_of",
    "bind",
    "checks_tensor",
    "checks_values",
    "draws_random",
    "inference_overloads",
    "is_assertion",
    "is_canonical_target",
    "is_complex",
    "is_data_dependent",
    "is_functional",
    "is_pointwise",
    "is_pure",
    "is_random",
    "is_read",
    "is_unbound",
    "opset",
    "shared_arguments",
    "unbound_symbols",
]

aten = torch.ops.aten

SYMBOLIC_BUILTINS: frozenset[Callable[..., Any]] = frozenset(
    {
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.truediv,
        operator.mod,
        operator.pow,
        operator.neg,
        operator.abs,
        operator.eq,
        operator.ne,
        operator.lt,
        operator.le,
        operator.gt,
        operator.ge,
        operator.and_,
        operator.or_,
        operator.xor,
        operator.not_,
        math.floor,
        math.ceil,
        math.trunc,
        round,
        torch.sym_max,
        torch.sym_min,
        torch.sym_int,
        torch.sym_float,
        torch.sym_ite,
        torch.sym_not,
        torch.sym_sum,
        torch.sym_sqrt,
        torch._sym_cos,
        torch._sym_cosh,
        torch._sym_sin,
        torch._sym_sinh,
        torch._sym_tan,
        torch._sym_tanh,
        torch._sym_acos,
        torch._sym_asin,
        torch._sym_atan,
    }
)
"""Python and torch functions on sizes that a graph may call."""

_TORCH_NAMESPACES = frozenset({"aten", "prims", "prim"})

COMPOSED_NAMESPACES = frozenset({"quantized_decomposed"})
"""Namespaces of operators that stand for a few of ATen's, with which their kernels are written."""

# Core-ATen overloads that say something about layout or aliasing, or have an
# equal in the set; the canonical form spells them otherwise.
_RESPELLED = frozenset(
    {
        aten.view.default,
        aten.alias.default,
        aten.as_strided.default,
        aten.clone.default,
        aten.copy.default,
        aten.empty.memory_format,
        aten.empty_strided.default,
        aten.fill.Scalar,
        aten.full_like.default,
        aten.sym_numel.default,
        aten.sym_stride.int,
        aten.sym_storage_offset.default,
        aten.sym_is_contiguous.default,
        aten.native_dropout.default,
        aten.scalar_tensor.default,
    }
)

OF_ELEMENTS = {
    aten.max.default: None,
    aten.min.default: None,
    aten.max.dim: 1,
    aten.min.dim: 1,
    aten.median.dim: 1,
    aten.nanmedian.dim: 1,
    aten.mode.default: 1,
    aten.kthvalue.default: 2,
}
"""Operators of which no elements have no value, and torch's shape rules do not say so; the argument that is a dim."""

_MISSING = object()


class Argument(NamedTuple):
    """An argument of an operator, as its schema has it."""

    name: str
    kwarg_only: bool
    default: Any

    @property
    def has_default(self) -> bool:
        return self.default is not _MISSING


@cache
def arguments_of(op: OpOverload) -> tuple[Argument, ...]:
    """The arguments of *op*; those of its schema are made anew, in C++, each time that they are looked at."""
    return tuple(
        Argument(
            argument.name,
            argument.kwarg_only,
            argument.default_value if argument.has_default_value() else _MISSING,
        )
        for argument in op._schema.arguments
    )


def bind(
    op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call ``op(*args, **kwargs)`` in full form.

    Raises:
        FxpassesError: too many arguments, an unknown or a missing one.
    """
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    arguments = arguments_of(op)
    names = {argument.name for argument in arguments}
    for name in kwargs:
        if name not in names:
            raise FxpassesError(f"{op} has no argument {name!r}; its schema is {op._schema}")
    for index, argument in enumerate(arguments):
        if argument.kwarg_only:
            value = kwargs.get(argument.name, _MISSING)
        elif index < len(args):
            if argument.name in kwargs:
                raise FxpassesError(f"{op} got argument {argument.name!r} twice; its schema is {op._schema}")
            value = args[index]
        else:
            value = kwargs.get(argument.name, _MISSING)
        if value is _MISSING:
            if not argument.has_default:
                raise FxpassesError(f"{op} lacks argument {argument.name!r}; its schema is {op._schema}")
            value = copy(argument.default)  # some are lists
        if argument.kwarg_only:
            keywords[argument.name] = value
        else:
            positional.append(value)
    if len(args) > len(positional):
        raise FxpassesError(
            f"{op} takes {len(positional)} positional arguments, got {len(args)}; its schema is {op._schema}"
        )
    return tuple(positional), keywords


def is_functional(op: Any) -> bool:
    """Whether calling *op* changes no argument, by its schema."""
    return not (isinstance(op, OpOverload) and op._schema.is_mutable)


# Views that keep quiet about it: their schemas have no alias annotation.
_SILENT_VIEWS = frozenset(
    {aten._unsafe_view.default, aten.unsafe_split.Tensor, aten.unsafe_split_with_sizes.default}
)


def shared_arguments(op: OpOverload) -> frozenset[str]:
    """Names of the arguments whose memory a result of *op*, which is no composite operator, may share."""
    if op in _SILENT_VIEWS:
        return frozenset({"self"})
    return frozenset(argument.name for argument in op._schema.arguments if argument.alias_info is not None)


def is_random(op: Any) -> bool:
    """Whether *op* can draw from the random number generator; see `draws_random` for a call of it."""
    return isinstance(op, OpOverload) and torch.Tag.nondeterministic_seeded in op.tags


def draws_random(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call ``op(*args, **kwargs)`` draws from the random number generator.

    Attention and recurrent layers are random by their dropout alone: they draw
    only where it is in effect.
    """
    if not is_random(op):
        return False
    positional, keywords = bind(op, args, kwargs)
    names = [argument.name for argument in op._schema.arguments if not argument.kwarg_only]
    given = {**dict(zip(names, positional, strict=True)), **keywords}
    flags = [given[name] for name in ("train", "training") if name in given]
    if any(flag is not None and not flag for flag in flags):
        return False
    probabilities = [given[name] for name in ("dropout_p", "dropout") if name in given]
    if flags and "p" in given:
        probabilities.append(given["p"])
    return not any(isinstance(p, int | float) and p == 0 for p in probabilities)


def is_complex(node: Any) -> bool:
    """Whether *node* has a complex value, or several results with one among them."""
    val = node.meta.get("val") if isinstance(node, fx.Node) else None
    vals = val if isinstance(val, tuple | list) else (val,)
    return any(isinstance(val, torch.Tensor) and val.is_complex() for val in vals)


def is_pointwise(target: Any) -> bool:
    """Whether each element of the result comes from one element of each operand."""
    if target is torch.ops.aten.hardswish.default:  # PyTorch forgot its tag
        return True
    return isinstance(target, OpOverload) and torch.Tag.pointwise in target.tags


def is_pure(node: fx.Node) -> bool:
    """Whether *node* may be removed when unused and merged with an equal twin."""
    if node.op != "call_function":
        return False
    target = node.target
    if isinstance(target, OpOverload):
        return (
            is_functional(target)
            and not is_assertion(target)
            and not draws_random(target, node.args, node.kwargs)  # type: ignore[arg-type]
        )
    return (
        target is operator.getitem or target in SYMBOLIC_BUILTINS or isinstance(target, HigherOrderOperator)
    )


def is_data_dependent(op: Any) -> bool:
    """Whether the result of *op* is a number, or has a size, that depends on values.

    Every call of it makes a symbol of its own, so that two calls are never the same.
    """
    return isinstance(op, OpOverload) and bool(
        {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(op.tags)
    )


def is_assertion(op: Any) -> bool:
    """Whether *op* checks something and gives no value."""
    return isinstance(op, OpOverload) and op._schema.name in (
        "aten::_assert_async",
        "aten::_assert_scalar",
        "aten::_assert_tensor_metadata",
        "aten::sym_constrain_range",
        "aten::sym_constrain_range_for_size",
    )


def is_unbound(val: Any) -> bool:
    """Whether *val* is a number that depends on the values of tensors."""
    return _has_symbol(val, "UNBACKED_INT", "UNBACKED_FLOAT")


def is_read(val: Any) -> bool:
    """Whether *val* is a number that depends on floating-point values of tensors."""
    return _has_symbol(val, "UNBACKED_FLOAT")


def unbound_symbols(val: Any) -> set[Any]:
    """The symbols in a number, or in the shape of a tensor, that stand for integers among values."""
    sizes = val.shape if isinstance(val, torch.Tensor) else (val,)
    symbols = {symbol for size in sizes if is_unbound(size) for symbol in size.node.expr.free_symbols}
    return {symbol for symbol in symbols if _is_kind(symbol, "UNBACKED_INT")}


def _has_symbol(val: Any, *kinds: str) -> bool:
    return isinstance(val, torch.SymInt | torch.SymFloat | torch.SymBool) and any(
        _is_kind(symbol, *kinds) for symbol in val.node.expr.free_symbols
    )


def _is_kind(symbol: Any, *kinds: str) -> bool:
    from torch.utils._sympy.symbol import SymT, symbol_is_type

    return bool(symbol_is_type(symbol, tuple(SymT[kind] for kind in kinds)))


def checks_tensor(node: fx.Node) -> bool:
    """Whether *node* asserts that the one element of a tensor is not zero."""
    return isinstance(node.target, OpOverload) and node.target._schema.name == "aten::_assert_async"


def checks_values(node: fx.Node) -> bool:
    """Whether *node* asserts something of values, or of sizes, that no range of one symbol says."""
    if checks_tensor(node):
        return True
    if node.target is not aten._assert_scalar.default:
        return False
    condition = node.args[0]
    val = condition.meta.get("val") if isinstance(condition, fx.Node) else condition
    if not isinstance(val, torch.SymBool | torch.SymInt | torch.SymFloat) or not val.node.expr.free_symbols:
        return False
    if is_read(val):  # ranges are those of integers
        return True
    import sympy

    expr = val.node.expr  # type: ignore[union-attr]
    symbols = expr.free_symbols
    if expr.has(sympy.Piecewise) and len(symbols) == 1:  # a truth that is taken for a number
        (symbol,) = symbols
        return not all(expr.subs(symbol, truth) == sympy.true for truth in (0, 1))
    return not (
        isinstance(expr, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt)
        and any(a.is_Symbol and b.is_number for a, b in (expr.args, reversed(expr.args)))
    )


def core_overloads() -> frozenset[OpOverload]:
    """Functional forward core-ATen overloads of the installed torch, minus the respelled."""
    return inference_overloads() - _RESPELLED


@cache
def inference_overloads() -> frozenset[OpOverload]:
    """The core-ATen overloads of the installed torch that inference can reach.

    Left out are ``.out`` and in-place variants, which functionalisation takes
    away, and the operators of backward passes.
    """
    found = set()
    for qualified in torch._C._dispatch_get_all_op_names():
        name, _, overload = qualified.partition(".")
        # To ask for all of `torch.ops.aten` would make thousands of objects that stay.
        known = torch._C._get_operation_overload(name, overload) if name.startswith("aten::") else None
        if known is None or torch.Tag.core not in known[2] or name.endswith("_backward"):
            continue
        op = getattr(getattr(aten, name.removeprefix("aten::")), overload or "default")
        if is_functional(op):
            found.add(op)
    return frozenset(found)


@cache
def opset() -> frozenset[Any]:
    """The canonical operator set.

    The functional core-ATen inference overloads, without those that speak of
    layout, `reshape` in the place of `view`, plus every operator that has a lowering of its own (composites such
    as ``scaled_dot_product_attention``).
    """
    from fxpasses.relax.table import lowerings

    return core_overloads() | {aten.reshape.default} | frozenset(lowerings())


def is_canonical_target(target: Any) -> bool:
    """Whether a call of *target* may stand in a canonical program.

    Operators outside torch's namespaces (custom ``torch.library`` ones) are
    opaque and stay as they are; those of `COMPOSED_NAMESPACES` are spelled out.
    """
    if target is operator.getitem or target in SYMBOLIC_BUILTINS:
        return True
    if isinstance(target, OpOverload):
        return target in opset() or target.namespace not in _TORCH_NAMESPACES | COMPOSED_NAMESPACES
    return isinstance(target, HigherOrderOperator)
