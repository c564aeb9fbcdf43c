"""Positions of ordered values: which of equal values comes first is open, and nothing else is."""

from __future__ import annotations

import torch

from fxpasses.schema import bind
from fxpasses.testing.single import Call

__all__ = ["is_ordering", "positions_problem"]

aten = torch.ops.aten

_SEVERAL = {aten.sort.default, aten.argsort.default, aten.topk.default}
"""Operators that give several positions along the dim: no two of them may be equal."""

_ONE = {aten.kthvalue.default, aten.median.dim, aten.nanmedian.dim, aten.mode.default}
"""Operators that give one, with `keepdim`."""


def is_ordering(call: Call) -> bool:
    """Whether the call gives positions and leaves the order of equal values open."""
    return call[0] in _SEVERAL | _ONE


def positions_problem(call: Call, want: list[torch.Tensor], got: list[torch.Tensor]) -> str | None:
    """What is wrong with the values and positions in *got*; None if nothing is.

    Values have to be those of *want*. A position has to be one at which the
    operand has the value, and none may be there twice.
    """
    op, args, kwargs = call
    bound = dict(
        zip((argument.name for argument in op._schema.arguments), bind(op, args, kwargs)[0], strict=False)
    )
    operand, dim = bound["self"], bound["dim"]
    if len(want) == 2 and not _same(got[0], want[0]):
        return f"values are {_short(got[0])}, expected {_short(want[0])}"
    expected, positions = want[-1], got[-1]
    if not operand.dim():
        return None if torch.equal(positions, expected) else "a position that is not 0"
    if op in _ONE and not bound["keepdim"]:
        expected, positions = expected.unsqueeze(dim), positions.unsqueeze(dim)
    size = operand.shape[dim]
    if bool(((positions < 0) | (positions >= size)).any()):
        return f"positions {_short(positions)} of {size} elements"
    if not _same(operand.gather(dim, positions), operand.gather(dim, expected)):
        return f"at positions {_short(positions)} there are other values than at {_short(expected)}"
    if op in _SEVERAL and bool((positions.sort(dim).values.diff(dim=dim) == 0).any()):
        return f"positions {_short(positions)} are not all different"
    return None


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _short(tensor: torch.Tensor) -> str:
    return str(tensor.flatten()[:8].tolist())
