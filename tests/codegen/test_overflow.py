"""Integers wrap around also where a fused kernel goes on with the sum: no identity of real numbers holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import fxpasses as fxp

Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

CALLS: dict[str, Function] = {
    "sum beside its term": lambda x, y: x + 1 > x,
    "difference": lambda x, y: x - y > 0,
    "terms that cancel": lambda x, y: x + y - y == x,
    "product and quotient": lambda x, y: x * 3 // 3,
    "product and divisor": lambda x, y: torch.floor_divide(x * y, y.clamp(min=1)),
    "product and shift": lambda x, y: (x * 4) >> 2,
    "remainder": lambda x, y: (x * 31 + y) % 97,
    "square": lambda x, y: x * x >= 0,
    "power": lambda x, y: x**3 > x,
    "negation": lambda x, y: -x > 0,
    "absolute value": lambda x, y: x.abs() >= 0,
    "distance": lambda x, y: (x - y).abs() < 0,
    "greater one": lambda x, y: torch.maximum(x + 1, x),
    "choice": lambda x, y: torch.where(x + y < x, x, y),
    "scaled term": lambda x, y: torch.add(x, y, alpha=3) > x,
    "lower bound": lambda x, y: (x + y).clamp(min=0),
    "sums of a product": lambda x, y: (x[None] @ y[:, None]) > x,
    "running sum": lambda x, y: x.cumsum(0, dtype=x.dtype) > 0,
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_integers_wrap_around(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    x = torch.tensor([info.max, info.min, 5, info.max - 1, 3, 0, 1, info.max // 2], dtype=dtype)
    y = torch.tensor([1, info.max, 7, 3, info.max, info.min, info.max // 2, 2], dtype=dtype)

    def function(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: call(x, y) for name, call in CALLS.items()}

    results = fxp.compile(function, (x, y), strict=True)(x, y)
    for name, expected in function(x, y).items():
        torch.testing.assert_close(results[name], expected, rtol=0, atol=0, msg=name)
