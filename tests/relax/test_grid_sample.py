"""Sampling at given positions against eager."""

import itertools

import pytest
import torch

from tests.relax.helpers import call, check_calls, random

aten = torch.ops.aten

BICUBIC = 2
PADDINGS = range(3)


@pytest.mark.parametrize("mode", range(3))
def test_every_padding(mode):
    image, volume = random((2, 3, 5, 4)), random((1, 2, 3, 4, 5))
    line = random((1, 2, 1, 4))  # one row: nowhere to be reflected to
    calls = []
    for padding, align in itertools.product(PADDINGS, (False, True)):
        for x, spread in ((image, 3.0), (line, 2.0)):
            grid = random((x.shape[0], 3, 4, 2)) * spread
            calls.append(call(aten.grid_sampler_2d.default, x, grid, mode, padding, align))
        if mode != BICUBIC and align:
            grid = random((1, 2, 3, 2, 3)) * 1.5
            calls.append(call(aten.grid_sampler_3d.default, volume, grid, mode, padding, align))
    check_calls(calls, tolerance=2e-5)


def test_nan_and_infinity_are_outside():
    grid = torch.tensor([[[[float("nan"), 0.1], [0.2, float("inf")], [0.3, 0.4]]]])
    check_calls([call(aten.grid_sampler_2d.default, random((1, 2, 4, 5)), grid, 1, 0, False)])


def test_dynamic_sizes():
    x, grid = random((2, 3, 6, 5)), random((2, 7, 4, 2))
    calls = [call(aten.grid_sampler_2d.default, x, grid, 0, padding, False) for padding in PADDINGS[:2]]
    check_calls(calls, tolerance=2e-5, dynamic=True)
