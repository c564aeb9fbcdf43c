"""Reductions across memory, some rows at a time: right for every number of rows and columns."""

from __future__ import annotations

import math

import pytest
import torch

from fxpasses.codegen.pipeline import lower_kernel
from fxpasses.codegen.schedules.reductions import COLUMNS
from fxpasses.codegen.target import host_target
from fxpasses.relax import tvm_api as T
from tests.codegen.test_lanes import TORCH, built, draw, kernel, run

SHAPES = [
    ((5, 9), [0]), ((8, 16), [0]), ((16, 33), [0]), ((17, 100), [0]), ((40, 1), [0]), ((9, 3), [0]), ((1, 70), [0]),
    ((300, 1100), [0]), ((4, 50, 33), [1]), ((3, 64, 9), [0, 1]), ((2, 7, 3, 5), [1]), ((2, 7, 3, 5), [0, 1]),
    ((3, 5, 7, 20), [0, 2]), ((20, 6, 7, 40), [1, 2]),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["sum", "max"])
@pytest.mark.parametrize(("shape", "axes"), SHAPES, ids=str)
def test_columns(shape, axes, kind):
    function = kernel(shape, axes, kind)
    assert COLUMNS in function.script() or shape[-1] == 1
    x = torch.randn(shape)
    torch.testing.assert_close(run(built(function), x, axes), TORCH[kind](x, axes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint8"])
@pytest.mark.parametrize("kind", TORCH)
def test_columns_of_each_type(kind, dtype):
    function = kernel((21, 75), [0], kind, dtype)
    x = draw((21, 75), getattr(torch, dtype), kind)
    want = TORCH[kind](x, 0)
    torch.testing.assert_close(run(built(function), x, [0]), want.to(x.dtype), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", TORCH)
def test_sizes_that_are_not_known(kind):
    m, n = (T.tirx.Var(name, "int64") for name in "mn")
    function = kernel((m, n), [0], kind)
    assert COLUMNS in function.script()
    call = built(function)
    for rows in (1, 7, 8, 9, 25):
        for columns in (1, 3, 15, 16, 17, 31, 32, 33, 100, 1500):
            x = draw((rows, columns), torch.float32, kind)
            torch.testing.assert_close(run(call, x, [0]), TORCH[kind](x, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["max", "min"])
def test_a_nan_at_any_place_is_the_extreme(kind):
    columns = 75
    x = torch.randn(19, columns + 3)
    x[torch.arange(columns) % 19, torch.arange(columns)] = math.nan
    x[:, columns:] = torch.tensor([math.inf, -math.inf, 3e38])
    got = run(built(kernel(tuple(x.shape), [0], kind)), x, [0])
    assert torch.equal(got.isnan(), torch.arange(columns + 3) < columns)
    assert torch.equal(got[columns:], x[0, columns:])


def test_columns_are_shared_by_the_threads():
    function = kernel((300, 1100), [0], "sum")
    text = lower_kernel(function, host_target()).script()
    assert "parallel" in text.lower()
    assert "AllocWorkspace" not in text
