"""`check_arguments`: refuse what eager PyTorch refuses, where torch's shape rules let it pass.

A number that is to be an element of a tensor is one of its dtype; in arithmetic it wraps around instead, so that
has no row. A greatest element, a pixel between others, or the mean of some, takes a tensor that has these:
sizes that vary start at 1 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.errors import FxpassesError, source_line
from fxpasses.guards import restricted
from fxpasses.program import Program
from fxpasses.schema import bind
from fxpasses.tracing.fake_values import same_size

__all__ = ["check_arguments", "fits"]

aten = torch.ops.aten

_ELEMENTS = {
    aten.clamp.default: ("min", "max"),
    aten.clamp_max.default: ("max",),
    aten.clamp_min.default: ("min",),
    aten.constant_pad_nd.default: ("value",),
    aten.fill.Scalar: ("value",),
    aten.full.default: ("fill_value",),
    aten.full_like.default: ("fill_value",),
    aten.index_fill.int_Scalar: ("value",),
    aten.masked_fill.Scalar: ("value",),
    aten.new_full.default: ("fill_value",),
    aten.pad.default: ("value",),
    aten.pow.Tensor_Scalar: ("exponent",),
    aten.scatter.value: ("value",),
    aten.where.Scalar: ("self", "other"),
    aten.where.ScalarOther: ("other",),
    aten.where.ScalarSelf: ("self",),
}
"""By operator, the arguments that become elements of the result."""

_WHERE = (aten.where.Scalar, aten.where.ScalarOther, aten.where.ScalarSelf)
_FILLED = (aten.fill.Scalar, aten.full.default, aten.full_like.default, aten.new_full.default)

_SUBTRACTIONS = (aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Tensor, aten.rsub.Scalar)

_EXTREMES = (aten.max.dim, aten.min.dim)
"""Operators of which no elements have no result."""


def check_arguments(program: Program) -> Program:
    """Refuse numbers beyond the range of their dtype, truths in subtractions, and extremes and pixels of no elements.

    Raises:
        FxpassesError: there are some; the message names all of them.
    """
    problems = [
        f"{problem} ({node.target}, node {node.name!r}, {source_line(node) or 'no source line'})"
        for node in program.nodes()
        if isinstance(node.target, OpOverload)
        for problem in _problems(node, node.target)
    ]
    if problems:
        raise FxpassesError("eager PyTorch raises an error for this program:\n  " + "\n  ".join(problems))
    sizes = dict.fromkeys(size.node.expr for size in _demanded(program) if isinstance(size, torch.SymInt))
    conditions = [_at_least_one(size) for size in sizes if not _has_elements(size, program)]
    return restricted(program, [(str(condition), condition) for condition in conditions])


def _problems(node: fx.Node, op: OpOverload) -> list[str]:
    sizes = _sizes_of(node, op)
    if not (op in _ELEMENTS or op in _SUBTRACTIONS or op in _EXTREMES or sizes):
        return []
    args, kwargs = bind(op, node.args, node.kwargs)
    if op in _ELEMENTS:
        names = [argument.name for argument in op._schema.arguments]
        return _numbers(node, op, dict(zip(names, args, strict=False)) | kwargs)
    if op in _SUBTRACTIONS and any(map(_is_truth, args[:2])):
        return ["truths are subtracted; logical_xor and logical_not take them"]
    no_extreme = op in _EXTREMES and _is_empty(args[0]) and not _is_empty(node)
    if no_extreme or any(same_size(size, 0) for size in sizes):
        return ["the result is taken from a tensor without elements"]
    return []


# -- sizes that are not 0 ------------------------------------------------------------------


def _demanded(program: Program) -> Iterator[Any]:
    for node in program.nodes():
        if isinstance(node.target, OpOverload):
            yield from _sizes_of(node, node.target)


def _sizes_of(node: fx.Node, op: OpOverload) -> list[Any]:
    """The sizes for which *op* takes no 0."""
    name = op.name().removeprefix("aten::").removeprefix("_")
    kind = next((kind for kind in _NOT_EMPTY if name.startswith(kind)), None)
    if kind is None or "backward" in name:
        return []
    return _NOT_EMPTY[kind](node, *bind(op, node.args, node.kwargs)[0])


def _upsampled(node: fx.Node, image: fx.Node, *more: Any) -> list[Any]:
    """Each image has channels and pixels, and pixels come out of it."""
    return [*_shape(image)[1:], *_shape(node)[2:]]


def _sampled(node: fx.Node, image: fx.Node, *more: Any) -> list[Any]:
    return _shape(image)[2:]


def _pooled(node: fx.Node, image: fx.Node, output_size: Any) -> list[Any]:
    """The image has pixels, and a volume channels, too; the mean of a whole one, which is of none, is NaN."""
    if all(isinstance(size, int) and size == 1 for size in output_size):
        return []
    return _shape(image)[1 if len(output_size) == 3 else -len(output_size) :]


_NOT_EMPTY: dict[str, Callable[..., list[Any]]] = {
    "adaptive_avg_pool": _pooled,
    "grid_sampler": _sampled,
    "upsample": _upsampled,
}
"""By the beginning of the name of an operator, the sizes that are not 0."""


def _shape(node: fx.Node) -> list[Any]:
    return list(node.meta["val"].shape)


def _at_least_one(size: Any) -> Any:
    import sympy

    return sympy.Ge(size, 1, evaluate=False)  # sympy takes it for granted


def _has_elements(size: Any, program: Program) -> bool:
    """Whether *size* is known not to be 0, or depends on values."""
    from torch.fx.experimental.symbolic_shapes import has_free_unbacked_symbols

    if not size.free_symbols <= program.ranges.keys() or has_free_unbacked_symbols(size):
        return True
    return bool(size.is_Symbol and program.ranges[size].lower >= 1)


def _is_truth(operand: Any) -> bool:
    if isinstance(operand, fx.Node):
        operand = operand.meta["val"]
    return isinstance(operand, bool) or (isinstance(operand, torch.Tensor) and operand.dtype == torch.bool)


def _is_empty(node: Any) -> bool:
    val = node.meta["val"]
    return any(same_size(size, 0) for size in (val[0] if isinstance(val, tuple | list) else val).shape)


def _numbers(node: fx.Node, op: OpOverload, given: Mapping[str, Any]) -> list[str]:
    val = node.meta["val"]
    if val.dtype in (torch.float16, torch.bfloat16) and (
        op in _WHERE or (op in _FILLED and same_size(val.numel(), 1))
    ):
        return []  # eager PyTorch has an infinity there
    if val.dtype == torch.float32 and op is aten.pow.Tensor_Scalar:
        return []  # the exponent is float64
    return [
        f"{given[name]} cannot be converted to {val.dtype} without overflow"
        for name in _ELEMENTS[op]
        if isinstance(given[name], int | float) and not fits(given[name], val.dtype)
    ]


def fits(number: Any, dtype: torch.dtype) -> bool:
    """Whether PyTorch converts *number* to *dtype*: negative ones to unsigned integers if they are no floats."""
    if dtype.is_complex or dtype == torch.bool:
        return True
    if dtype.is_floating_point:
        return not math.isfinite(number) or abs(number) <= torch.finfo(dtype).max
    span = torch.iinfo(dtype)
    least = span.min if span.min or isinstance(number, float) else -span.max
    return bool(least <= number <= span.max)
