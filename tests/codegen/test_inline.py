"""Elementwise calls that use a value several times do not multiply the size of a kernel."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp
from fxpasses.codegen.pipeline import kernel_passes
from fxpasses.codegen.target import host_target
from fxpasses.relax import tvm_api as T

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


def test_what_many_elements_share_is_computed_once() -> None:
    """A long value of each row is kept, a short one repeated for every element."""

    def choices(row: torch.Tensor) -> torch.Tensor:
        for bound in range(6):
            row = torch.where(row > bound, row - bound, row + bound)
        return row

    x, row = torch.randn(40, 50), torch.randn(40, 1)
    for function, kept in ((lambda x, row: x + choices(row), True), (lambda x, row: x + row * 2, False)):
        program = fxp.canonicalize(fxp.capture(function, (x, row)))
        with host_target() as target:
            text = T.tvm.transform.Sequential(kernel_passes(target))(fxp.lower(program)).script()
        assert ("sblock_alloc_buffer" in text) is kept
        torch.testing.assert_close(fxp.compile(function, (x, row))(x, row), function(x, row))
