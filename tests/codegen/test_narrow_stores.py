"""Short rows of a dtype that is narrower than what it is computed in: nothing is written behind them."""

from __future__ import annotations

import pytest
import torch

from tests.codegen.helpers import compiled_of


@pytest.mark.parametrize("columns", [5, 9])
@pytest.mark.parametrize("rows", [2, 7])
def test_rows_do_not_reach_into_the_next(rows, columns):
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(rows, columns, generator=generator).bfloat16()
    compiled = compiled_of(lambda x: x.cummax(0).values, x)
    assert torch.equal(compiled(x), x.cummax(0).values)
