"""Sizes of sympy as sizes of TIR."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim
from torch.utils._sympy.functions import CeilToInt, FloorToInt, IntTrueDiv
from torch.utils._sympy.symbol import SymT, make_symbol

import fxpasses as fxp
from fxpasses.relax.symbols import SymbolTable

N = make_symbol(SymT.SIZE, 0, integer=True, positive=True)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (CeilToInt(IntTrueDiv(N - 1, 1) + 1.0), "s0"),
        (CeilToInt(IntTrueDiv(N - 3, 2) + 1.0), "s0 // T.int64(2)"),
        (FloorToInt(IntTrueDiv(N - 3, 2)), "(s0 - T.int64(3)) // T.int64(2)"),
    ],
)
def test_rounded_quotients_are_those_of_integers(size, text):
    assert str(SymbolTable().prim(size)) == text


def test_fractions_of_numbers_that_are_none_stay_floats():
    assert "float64" in str(SymbolTable().prim(CeilToInt(IntTrueDiv(N, 2) + 0.5)))


def stages(x: torch.Tensor) -> torch.Tensor:
    """As the paddings of an audio codec: each stage rounds what the one before has rounded."""
    for stride in (1, 3, 1, 2, 1, 2, 1, 3):
        size = x.shape[-1]
        frames = math.ceil((size - 1) / stride + 1)
        x = F.pad(x, (0, (frames - 1) * stride + 1 - size))[..., ::stride] * 2
    return x


def test_sizes_that_are_rounded_many_times():
    compiled = fxp.compile(stages, (torch.randn(2, 200),), dynamic_shapes=({1: Dim("n", min=8)},))
    for size in (8, 9, 57, 199):
        x = torch.randn(2, size)
        assert torch.equal(compiled(x), stages(x))


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_even_sizes_times_a_fraction(mode):
    """TVM takes 1.5 times an even number for even, and left out the last element of odd rows."""

    def larger(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(torch.cat([x, x * 2], 2), scale_factor=1.5, mode=mode) + 1

    compiled = fxp.compile(larger, (torch.randn(1, 4, 12),), dynamic_shapes=({2: Dim("n", min=1)},))
    for size in (1, 2, 3, 5, 7, 9, 11, 3, 33):
        x = torch.randn(1, 4, size)
        torch.testing.assert_close(compiled(x), larger(x))
