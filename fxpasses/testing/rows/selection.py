"""Operators that choose between elements by a condition."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.testing.drawers import (
    ALL,
    BOOL,
    Motif,
    Row,
    choose,
    number,
    optional,
    tensor,
)

__all__ = ["SELECTION"]

aten = torch.ops.aten


def _condition(g: Any, given: dict[str, Any]) -> Any:
    return g.tensor(BOOL, (0, 4), "any")


SELECTION: list[Row | Motif] = [
    Row(
        aten.where.self,
        {
            "condition": _condition,
            "self": lambda g, a: g.partner(a["condition"].shape, ALL),
            "other": lambda g, a: g.partner(a["self"].shape, (a["self"].dtype,) if g.flag() else ALL),
        },
    ),
    Row(
        aten.where.ScalarOther,
        {
            "condition": _condition,
            "self": lambda g, a: g.partner(a["condition"].shape, ALL),
            "other": number("self"),
        },
    ),
    Row(
        aten.masked_fill.Scalar,
        {
            "self": tensor(ALL),
            "mask": lambda g, a: g.partner(a["self"].shape, BOOL),
            "value": number("self", options=(0, 1, -1, 2)),
        },
    ),
    Row(
        aten.masked_fill.Tensor,
        {
            "self": tensor(ALL),
            "mask": lambda g, a: g.partner(a["self"].shape, BOOL),
            "value": lambda g, a: g.like(a["self"].dtype, ()),
        },
    ),
    Row(aten.tril.default, {"self": tensor(ALL, (2, 4)), "diagonal": optional(choose(-1, 1, 2))}),
    Row(aten.triu.default, {"self": tensor(ALL, (2, 4)), "diagonal": optional(choose(-1, 1, 2))}),
]
