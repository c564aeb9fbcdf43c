"""Vector loops of a length that is known when they run, split where they end and nowhere else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import fxpasses as fxp

LENGTHS = (2, 3, 5, 13, 14, 15, 16, 17, 30, 31, 32, 33, 48, 63)

CASES = {
    "constants behind": lambda x: torch.cat((x, torch.ones(x.shape[0], 2)), 1),
    "constants around": lambda x: torch.cat(
        (torch.ones(x.shape[0], 3), x, x.neg(), torch.ones(x.shape[0], 1)), 1
    ),
    "padding": lambda x: F.pad(x, (1, 2, 3, 0), value=4.0),
    "a cut": lambda x: F.pad(x, (-1, 2)),
    "a triangle": lambda x: torch.tril(x) + 2 * torch.triu(x, 1),
    "a comparison": lambda x: torch.where(torch.arange(x.shape[1]) > 3, x, -x)[:, 1:],
    "a diagonal": lambda x: torch.diag_embed(x, offset=-2),
    "a roll": lambda x: torch.roll(x, 3, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_each_length(case: str) -> None:
    function = CASES[case]
    compiled = fxp.compile(function, (torch.rand(3, 20),), dynamic_shapes=({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},))
    for length in LENGTHS:
        x = torch.rand(4, length)
        assert torch.equal(compiled(x), function(x)), length


@pytest.mark.parametrize("rest", [1, 5])
@pytest.mark.parametrize("case", ["behind", "before", "around", "behind, of rows"])
def test_a_few_elements_and_many(case: str, rest: int) -> None:
    """Loops whose length is known, over chunks of a tensor whose size is not."""
    functions = {
        "behind": lambda x, y: torch.cat((x, y)),
        "before": lambda x, y: torch.cat((y, x)),
        "around": lambda x, y: torch.cat((y, x, y)),
        "behind, of rows": lambda x, y: torch.cat((x.unflatten(0, (-1, 1)), y[:, None])).relu(),
    }
    function = functions[case]
    y = torch.rand(rest)
    compiled = fxp.compile(function, (torch.rand(20), y), dynamic_shapes=({0: Dim.DYNAMIC}, None))
    for length in (*LENGTHS, 1000, 1023, 1024, 1025, 2047, 5000):
        x = torch.rand(length)
        assert torch.equal(compiled(x, y), function(x, y)), length
