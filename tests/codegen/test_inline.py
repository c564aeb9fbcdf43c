"""Elementwise calls that use a value several times do not multiply the size of a kernel."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp

STEPS = {
    "a square": lambda x: x * x * 0.5 + x,
    "a clamp": lambda x: torch.clamp(x * 3 + x, -1, 2),
    "a choice": lambda x: torch.where(x > 0, x - 0.5, x + x),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_long_chain_compiles(step: str) -> None:
    """Written out as one expression, these 30 steps would have 10^14 operands and more."""

    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(30):
            x = STEPS[step](x)
        return x

    x = torch.linspace(-1, 1, 65)
    torch.testing.assert_close(fxp.compile(chain, (x,))(x), chain(x))
