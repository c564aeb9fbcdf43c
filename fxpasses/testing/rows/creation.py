"""Operators that make a tensor from numbers or from another's shape."""

from __future__ import annotations

import torch

from fxpasses.testing.drawers import (
    ALL,
    NUMERIC,
    WIDE,
    Motif,
    Row,
    choose,
    integer,
    new_dtype,
    optional,
    rows,
    small_shape,
    tensor,
)

__all__ = ["CREATION"]

aten = torch.ops.aten

CREATION: list[Row | Motif] = [
    Row(
        aten.full.default,
        {"size": small_shape, "fill_value": choose(1, 0.5, 2, -1, 0), "dtype": optional(new_dtype(*NUMERIC))},
    ),
    *rows({"size": small_shape, "dtype": optional(new_dtype(*ALL))}, aten.zeros.default, aten.ones.default),
    Row(aten.arange.default, {"end": choose(3, 4, 1, 2.5), "dtype": optional(new_dtype(*NUMERIC))}),
    Row(
        aten.arange.start_step,
        {
            "start": choose(0, 1, -2),
            "end": choose(4, 6, 5.5),
            "step": choose(1, 2, 0.5),
            "dtype": optional(new_dtype(*WIDE, torch.int64, torch.int32)),
        },
    ),
    Row(
        aten.full_like.default,
        {"self": tensor(ALL), "fill_value": choose(1, 0, 2), "dtype": optional(new_dtype(*NUMERIC))},
    ),
    *rows(
        {"self": tensor(ALL), "dtype": optional(new_dtype(*NUMERIC))},
        aten.zeros_like.default,
        aten.ones_like.default,
    ),
    *rows({"self": tensor(ALL), "size": small_shape}, aten.new_zeros.default, aten.new_ones.default),
    Row(aten.scalar_tensor.default, {"s": choose(1, 0.5, -2), "dtype": new_dtype(*NUMERIC)}),
    Row(aten.eye.default, {"n": integer(1, 3), "dtype": optional(new_dtype(*WIDE, torch.int64))}),
    Row(aten.linspace.default, {"start": choose(0, -1.5), "end": choose(1, 2.25), "steps": integer(1, 4)}),
]
