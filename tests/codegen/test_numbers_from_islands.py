"""Operators of a library that return numbers."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.errors import IslandWarning

library = torch.library.Library("fxptest_numbers", "FRAGMENT")
library.define("positives(Tensor x) -> SymInt")
library.define("doubled(Tensor x) -> (Tensor, SymInt, SymInt)")


@torch.library.impl(library, "positives", "CPU")
def _positives(x):
    return int((x > 0).sum())


@torch.library.impl(library, "doubled", "CPU")
def _doubled(x):
    return x * 2, x.shape[0] * 2, x.shape[0] + 1


torch.library.register_fake(
    "fxptest_numbers::positives", lambda x: torch.library.get_ctx().new_dynamic_size()
)
torch.library.register_fake(
    "fxptest_numbers::doubled", lambda x: (torch.empty_like(x), x.shape[0] * 2, x.shape[0] + 1)
)
ops = torch.ops.fxptest_numbers

FUNCTIONS = {
    "a number": lambda x: (x * ops.positives(x), ops.positives(x)),
    "a size": lambda x: torch.ones(ops.positives(x), x.shape[1]),
    "numbers beside a tensor": lambda x: (sum(ops.doubled(x)), *ops.doubled(x)[1:]),
}


@pytest.mark.parametrize("rows", [None, Dim("rows")], ids=["fixed", "varying"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_are_sizes_of_the_program(name, rows, tmp_path):
    function, x = FUNCTIONS[name], torch.randn(4, 3)
    compiled = fxp.compile(function, (x,), dynamic_shapes=rows and ({0: rows},))
    compiled.save(tmp_path / "numbers.fxp")
    with pytest.warns(IslandWarning):
        loaded = fxp.load(tmp_path / "numbers.fxp")
    for value in (x, -x) if rows is None else (x, torch.randn(7, 3)):
        torch.testing.assert_close(compiled(value), function(value))
        torch.testing.assert_close(loaded(value), function(value))
