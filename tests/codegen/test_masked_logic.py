"""Choices between a value and its own bits, of which LLVM makes the wrong instruction for AVX-512."""

from __future__ import annotations

import itertools

import pytest
import torch

import fxpasses as fxp

MASK = 0x0F0F00FF

MIXED = {
    "either": lambda x, y: (x & MASK) | (y & ~MASK),
    "sum": lambda x, y: (x & MASK) + (y & ~MASK),
    "merge": lambda x, y: ((x ^ y) & MASK) ^ y,
}


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("mixed", MIXED)
def test_a_value_or_a_mixture_with_it(mixed, dtype):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(-(2**31), 2**31 - 1, (64,), generator=generator).to(dtype) for _ in range(2))
    condition = torch.arange(64) % 3 == 0
    for which, inverted in itertools.product((0, 1), (False, True)):

        def choose(condition, x, y, which=which, inverted=inverted):
            arms = (x, y)[which], MIXED[mixed](x, y)
            return torch.where(condition, *(reversed(arms) if inverted else arms))

        got = fxp.compile(choose, (condition, x, y))(condition, x, y)
        assert torch.equal(got, choose(condition, x, y)), (which, inverted)


def test_a_sign_of_another_number():
    x, y = torch.linspace(-3, 3, 64), torch.linspace(5, -7, 64)

    def choose(x, y):
        return torch.where(x > 1, y, torch.copysign(x, y)).view(torch.int32) + 1

    assert torch.equal(fxp.compile(choose, (x, y))(x, y), choose(x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_a_sign_of_another_number_or_one_of_them(which, inverted, dtype):
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1.5, -2.0, 3.0])
    x, y = (a.flatten().repeat(5).to(dtype) for a in torch.meshgrid(special, special, indexing="ij"))

    def choose(x, y):
        arms = torch.copysign(x, y), (x, y)[which]
        return torch.where(x + y > 1, *(reversed(arms) if inverted else arms))

    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(fxp.compile(choose, (x, y))(x, y).view(bits), choose(x, y).view(bits))
