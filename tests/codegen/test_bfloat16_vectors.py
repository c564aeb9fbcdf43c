"""bfloat16 in vectors: constants, and one number in all lanes."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp

PROGRAMS = {
    "a computed number": lambda x: ((x * 2).abs(), (x * 2).expand(3, 2, 2) + 0),
    "an input": lambda x: (x.expand(3, 2, 2).clone(), x.expand(3, 5, 7).mT.reshape(3, 35)),
    "a choice": lambda x: (torch.where(x > 0, x * 2, 1.5).expand(3, 9, 4).clone(), x + 1),
    "a constant": lambda x: (torch.full((3, 6), 1.5, dtype=x.dtype), torch.zeros(5, dtype=x.dtype)),
    "bits": lambda x: (torch.nextafter(x * 2, x * 0).expand(3, 4, 8).clone(), x),
}


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("name", PROGRAMS)
def test_one_number_in_all_lanes(name, shape):
    program, x = PROGRAMS[name], torch.randn(shape).bfloat16()
    for got, want in zip(fxp.compile(program, (x,))(x), program(x), strict=True):
        assert torch.equal(got, want)
