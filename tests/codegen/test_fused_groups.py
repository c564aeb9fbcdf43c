"""Kernels that compute with sizes, next to results whose sizes no operand has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import fxpasses as fxp


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: torch.arange(y.shape[0]) * x.shape[1],
        lambda x, y: torch.arange(y.shape[0]).float() * (x.shape[1] / y.shape[0]) + 1,
        lambda x, y: torch.full((y.shape[1], x.shape[0]), 2.0) / x.shape[1] - y.shape[0],
        lambda x, y: x[:1, :1].expand(y.shape[0], y.shape[1]) * x.shape[0] * 0.5,
        lambda x, y: F.interpolate(x[None], size=y.shape[0], mode="nearest"),
        lambda x, y: F.interpolate(x[None], size=y.shape[0], mode="linear"),
    ],
    ids=["integers", "floats", "full", "expand", "nearest", "linear"],
)
def test_numbers_and_shapes_of_other_operands(function):
    sizes = {0: Dim.AUTO, 1: Dim.AUTO}
    args = torch.randn(3, 4), torch.randn(5, 2)
    compiled = fxp.compile(function, args, dynamic_shapes=(sizes, sizes), strict=True)
    for shapes in (((3, 4), (5, 2)), ((2, 9), (7, 3)), ((6, 3), (2, 8))):
        args = tuple(map(torch.randn, shapes))
        torch.testing.assert_close(compiled(*args), function(*args))
