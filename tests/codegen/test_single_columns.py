"""Tensors whose last dims have one element: what runs in vectors runs along the last dim that has more."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import fxpasses as fxp
from fxpasses.codegen.schedules import schedule_function
from fxpasses.codegen.schedules.kernel import VECTORS
from fxpasses.codegen.target import CpuInfo, host_target
from fxpasses.relax import tvm_api as T
from tests.benchmarks.further import COLUMNS

MORE = {
    "add turned": lambda x: x.transpose(0, 1) + x.reshape(x.shape[1], x.shape[0], 1),
    "reflect": lambda x: F.pad(x, (0, 0, 3, 2), mode="reflect"),
    "circular": lambda x: F.pad(x, (0, 0, 3, 2), mode="circular"),
    "broadcast": lambda x: x * x[:1],
    "max with index": lambda x: x.max(1),
    "variance": lambda x: torch.var_mean(x, (1, 2)),
    "max of one": lambda x: x.max(-1),
    "variance of one": lambda x: torch.var_mean(x, -1, correction=0),
    "norm of one": lambda x: x.norm(dim=-1),
    "softmax of one": lambda x: x.softmax(-1),
    "sum of one": lambda x: x.sum(-1, dtype=torch.float64),
    "mean of one": lambda x: x.mean((0, 2)),
}


@pytest.mark.parametrize("size", [(5, 40, 1), (3, 17, 1), (16, 32, 1)], ids=str)
@pytest.mark.parametrize("name", [*COLUMNS, *MORE])
def test_values(name, size):
    function = {**COLUMNS, **MORE}[name]
    x = torch.randn(size)
    x[0, 3] = torch.nan
    torch.testing.assert_close(fxp.compile(function, (x,))(x), function(x), equal_nan=True)


@pytest.mark.parametrize("units", [0, 1, 2])
def test_a_border_is_copied_in_vectors(units):
    te, ones = T.te, [1] * units
    x = te.placeholder((7, 40, *ones), "float32", "x")

    def element(i, j, *rest):
        return T.tirx.if_then_else(j >= 2, x(i, j - 2, *rest), T.tirx.const(0.0, "float32"))

    function = te.create_prim_func([x, te.compute((7, 42, *ones), element, "out")])
    assert VECTORS in schedule_function(function, CpuInfo.of(host_target())).script()
