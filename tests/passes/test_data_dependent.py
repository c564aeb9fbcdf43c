"""Operators whose result has a size that depends on values, through the passes."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp

X = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
COUNTS = torch.tensor([2, 0])

PROGRAMS = {
    "argwhere": (lambda x: torch.argwhere(x > 0), (X,)),
    "nonzero used twice": (lambda x: (x.nonzero(), x.nonzero() + 1), (X,)),
    "boolean index": (lambda x: x[x > 0] * 2, (X,)),
    "repeat_interleave": (lambda x, n: (x.repeat_interleave(n, 0), x.tile(2)), (X, COUNTS)),
    "sum over what was found": (lambda x: x[x != 0].sum(), (X,)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_canonicalize(name):
    function, args = PROGRAMS[name]
    program = fxp.capture(function, args)
    result = fxp.canonicalize(program)
    fxp.verify(result, "canonical").raise_if_any()
    assert str(fxp.canonicalize(result)) == str(result)
    fxp.testing.assert_equivalent(function, result, args)
    fxp.testing.assert_equivalent(function, fxp.compile(result), args)
