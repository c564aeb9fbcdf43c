"""`explicit_promotion`: no Python number in a Tensor slot, no implicit cast."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND, elementwise_dtypes

from fxpasses.passes.normalize_kwargs import on_full_form
from fxpasses.program import Program
from fxpasses.rewrite import Editor

__all__ = ["explicit_promotion"]

aten = torch.ops.aten

# Pointwise operators whose operands have dtypes of their own, or follow the first.
_UNPROMOTED = frozenset(
    {
        aten._to_copy.default,
        aten.masked_fill.Scalar,
        aten.masked_fill.Tensor,
        aten.threshold.default,
    }
)
# Reductions that compute in the dtype of their result.
_REDUCTIONS = frozenset(
    {
        aten.sum.dim_IntList,
        aten.mean.dim,
        aten.prod.default,
        aten.prod.dim_int,
        aten.cumsum.default,
        aten.cumprod.default,
    }
)
_HALF = (torch.float16, torch.bfloat16)
_WITH_CORRECTION = frozenset(op.correction for op in (aten.var, aten.std, aten.var_mean, aten.std_mean))


@on_full_form
def explicit_promotion(program: Program) -> Program:
    """Spell out what PyTorch's type promotion does.

    Numbers in Tensor slots become the ``.Scalar`` overload or a 0-d `full`,
    operands of a pointwise call are cast to the dtype that it computes in,
    ``alpha`` is multiplied out, and reductions are cast on their way in.
    """
    g = program.edit()
    for node in g.nodes():
        if node.op == "call_function" and isinstance(node.target, OpOverload) and not node._erased:
            with g.at(node):
                _explicit(g, node, node.target)
    return g.finish()


def _explicit(g: Editor, node: fx.Node, op: OpOverload) -> None:
    val = node.meta.get("val")  # an assertion has none where `torch.export` traced through a `vmap`
    if op is aten.mean.dim and val.dtype in _HALF and _operand(node.args[0]).dtype != val.dtype:
        # In float32, and rounded last, unlike a sum.
        wide = _cast(g, node.args[0], torch.float32)  # type: ignore[arg-type]
        g.replace(node, _cast(g, g.call(op, wide, *node.args[1:], dtype=None), val.dtype))
    elif op in _REDUCTIONS:
        args = list(node.args)
        args[0] = _cast(g, args[0], val.dtype)
        kwargs = {**node.kwargs, "dtype": None} if "dtype" in node.kwargs else node.kwargs
        if val.dtype.is_floating_point or val.dtype.is_complex or val.dtype == torch.int64:
            g.update(node, *args, **kwargs)
        else:  # of narrower integers PyTorch makes int64
            args[0] = _cast(g, args[0], torch.int64)
            g.replace(node, _cast(g, g.call(op, *args, **kwargs), val.dtype))
    elif op is aten.cat.default:
        g.update(node, [_cast(g, item, val.dtype) for item in node.args[0]], node.args[1])  # type: ignore[union-attr]
    elif op is aten.full.default:
        value = _number(node.args[1], val.dtype)
        if isinstance(value, float) and not val.dtype.is_floating_point and not val.dtype.is_complex:
            value = int(value)  # as eager does: towards zero
        g.update(node, node.args[0], value, **node.kwargs)
    elif op in _WITH_CORRECTION:
        correction = 1 if node.kwargs["correction"] is None else node.kwargs["correction"]
        g.update(node, *node.args, **{**node.kwargs, "correction": float(correction)})
    elif torch.Tag.pointwise in op.tags and op not in _UNPROMOTED and isinstance(val, torch.Tensor):
        _pointwise(g, node, op)


def _pointwise(g: Editor, node: fx.Node, op: OpOverload) -> None:
    arguments = op._schema.arguments
    slots = [
        i
        for i, argument in enumerate(arguments[: len(node.args)])
        if str(argument.type) in ("Tensor", "Optional[Tensor]") and argument.name not in ("condition", "mask")
    ]
    scalars = [
        i
        for i, argument in enumerate(arguments[: len(node.args)])
        if "number" in str(argument.type).lower() or "Scalar" in str(argument.type)
    ]
    args, kwargs = list(node.args), dict(node.kwargs)
    operands = [_operand(args[i]) for i in (*slots, *scalars) if args[i] is not None]
    if not operands or any(isinstance(o, torch.Tensor) and o.dtype.is_complex for o in operands):
        return
    dtype = _compute_dtype(op, node.meta["val"].dtype, operands)
    if "alpha" in (a.name for a in arguments) and arguments[1].name == "other":  # elu has another alpha
        args, kwargs = _without_alpha(g, op, args, kwargs, dtype)
    target = op
    for i in slots:
        if isinstance(args[i], fx.Node) and isinstance(args[i].meta["val"], torch.Tensor):
            args[i] = _cast(g, args[i], dtype)
    numbers = [i for i in slots if args[i] is not None and not _is_tensor(args[i])]
    if numbers:
        scalar = _scalar_overload(op) if numbers == [1] and len(slots) == 2 else None
        if scalar is not None:
            target = scalar
            args[1] = _number(args[1], dtype)
            if any(a.name == "alpha" for a in scalar._schema.arguments) and "alpha" in kwargs:
                kwargs = {}
                args = [*args[:2], 1]
        else:
            for i in numbers:
                args[i] = g.call(aten.full.default, [], _element(args[i], dtype), dtype=dtype)
    for i in scalars:
        if arguments[i].name in ("other", "exponent", "min", "max", "self", "value"):
            args[i] = _number(args[i], dtype)
    if target is op:
        g.update(node, *args, **kwargs)
    else:
        g.replace(node, g.call(target, *args, **kwargs))


def _without_alpha(
    g: Editor, op: OpOverload, args: list[Any], kwargs: dict[str, Any], dtype: torch.dtype
) -> tuple[list[Any], dict[str, Any]]:
    """``other * alpha`` in the place of ``other``; alpha is 1. It is ``self`` that `aten.rsub` scales."""
    arguments = op._schema.arguments
    position = next(i for i, a in enumerate(arguments) if a.name == "alpha")
    alpha = kwargs["alpha"] if arguments[position].kwarg_only else args[position]
    scaled = 0 if op.overloadpacket is aten.rsub else 1
    if isinstance(alpha, fx.Node) or alpha != 1:
        if _is_tensor(args[scaled]):
            args[scaled] = g.call(aten.mul.Scalar, _cast(g, args[scaled], dtype), _number(alpha, dtype))
        elif isinstance(args[scaled], fx.Node) or isinstance(alpha, fx.Node):
            args[scaled] = g.call(operator.mul, args[scaled], alpha)
        else:
            args[scaled] = args[scaled] * alpha
    if arguments[position].kwarg_only:
        kwargs["alpha"] = 1
    else:
        args[position] = 1
    return args, kwargs


def _compute_dtype(op: OpOverload, result: torch.dtype, operands: list[Any]) -> torch.dtype:
    """The dtype that a pointwise call computes in.

    It is that of a floating result (of integers by ``div``, ``sqrt``, ...), else
    that of type promotion over all operands.
    """
    if result.is_floating_point:
        return result
    _, dtype = elementwise_dtypes(*operands, type_promotion_kind=ELEMENTWISE_TYPE_PROMOTION_KIND.DEFAULT)
    return dtype


def _operand(arg: Any) -> Any:
    return arg.meta["val"] if isinstance(arg, fx.Node) else arg


def _is_tensor(arg: Any) -> bool:
    return isinstance(arg, fx.Node) and isinstance(arg.meta["val"], torch.Tensor)


def _cast(g: Editor, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    if node.meta["val"].dtype == dtype:
        return node
    return g.call(aten._to_copy.default, node, dtype=dtype)


def _number(value: Any, dtype: torch.dtype) -> Any:
    """A Python number of the kind of *dtype*; symbolic numbers stay."""
    if isinstance(value, fx.Node) or value is None or isinstance(value, complex):
        return value
    if dtype.is_floating_point:
        return float(value)
    if dtype == torch.bool:
        return bool(value)
    return int(value) if not isinstance(value, float) or value.is_integer() else value


def _element(value: Any, dtype: torch.dtype) -> Any:
    """`_number`, wrapped around to *dtype* where it is one of integers."""
    number = _number(value, dtype)
    if dtype.is_floating_point or not isinstance(number, int):
        return number
    return torch.tensor(number).to(dtype).item()


def _scalar_overload(op: OpOverload) -> OpOverload | None:
    packet = getattr(torch.ops.aten, op._schema.name.split("::")[1])
    name = {"Tensor": "Scalar", "Tensor_mode": "Scalar_mode", "Tensor_Tensor": "Tensor_Scalar"}.get(
        op._overloadname
    )
    return getattr(packet, name) if name is not None and name in packet.overloads() else None
