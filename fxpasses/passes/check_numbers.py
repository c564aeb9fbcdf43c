"""`check_numbers`: refuse a number that is to be an element of a tensor whose dtype has no such number.

Eager PyTorch raises an error for it as well. In arithmetic a number wraps around instead, so that has no row.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxpasses.errors import FxpassesError, source_line
from fxpasses.program import Program
from fxpasses.schema import bind

__all__ = ["check_numbers", "fits"]

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
    aten.scatter.value: ("value",),
    aten.where.Scalar: ("self", "other"),
    aten.where.ScalarOther: ("other",),
    aten.where.ScalarSelf: ("self",),
}
"""By operator, the arguments that become elements of the result."""

_WHERE = (aten.where.Scalar, aten.where.ScalarOther, aten.where.ScalarSelf)
_FILLED = (aten.fill.Scalar, aten.full.default, aten.full_like.default, aten.new_full.default)


def check_numbers(program: Program) -> Program:
    """Refuse numbers beyond the range of the dtype that they are converted to.

    Raises:
        FxpassesError: there are some; the message names all of them.
    """
    problems = [
        problem for node in program.nodes() if node.target in _ELEMENTS for problem in _problems(node)
    ]
    if problems:
        raise FxpassesError("numbers cannot be converted without overflow:\n  " + "\n  ".join(problems))
    return program


def _problems(node: fx.Node) -> list[str]:
    op, val = node.target, node.meta["val"]
    if val.dtype in (torch.float16, torch.bfloat16) and (
        op in _WHERE or (op in _FILLED and val.numel() == 1)
    ):
        return []  # eager PyTorch has an infinity there
    names = [argument.name for argument in op._schema.arguments]  # type: ignore[union-attr]
    args, kwargs = bind(op, node.args, node.kwargs)  # type: ignore[arg-type]
    given = dict(zip(names, args, strict=False)) | kwargs
    return [
        f"{given[name]} is no number of {val.dtype} "
        f"({op}, node {node.name!r}, {source_line(node) or 'no source line'})"
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
