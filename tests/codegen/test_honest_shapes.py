"""Sizes such as ``n * 8 - 8`` say nothing of n but that it is at least 1: kernels are right for the shortest inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.codegen.honest_shapes import honest_shapes
from fxpasses.relax import tvm_api as T


def all_but_first(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x[1:]])


def flat_rows(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[3:].reshape(-1), x[1:].reshape(-1)])


def both_ways(x: torch.Tensor) -> torch.Tensor:
    """As the relative positions of a Transformer-XL."""
    return torch.cat([x.flip(0), x[1:]]) @ x.mT


@pytest.mark.parametrize("columns", [3, 8])
@pytest.mark.parametrize("function", [all_but_first, flat_rows, both_ways])
def test_short_inputs(function: Callable[[torch.Tensor], torch.Tensor], columns: int) -> None:
    example = torch.randn(12, columns)
    compiled = fxp.compile(function, (example,), dynamic_shapes=({0: Dim("n", min=1)},))
    for rows in range(1, 10):
        x = torch.randn(rows, columns)
        torch.testing.assert_close(compiled(x), function(x))


@pytest.mark.parametrize(
    ("scale", "number", "written"),
    [
        (8, 8, "(n - T.int64(1)) * T.int64(8)"),
        (16, 8, "(n - T.int64(1)) * T.int64(16) + T.int64(8)"),
        (3, 7, "(n - T.int64(3)) * T.int64(3) + T.int64(2)"),
        (1, 3, "n - T.int64(3)"),
        (8, -8, "n * T.int64(8) - T.int64(-8)"),
    ],
)
def test_conditions_stay(scale: int, number: int, written: str) -> None:
    tirx = T.tirx
    n = tirx.Var("n", "int64")
    buffer = tirx.decl_buffer([n * scale - number], "float32", "rows")
    zero = tirx.IntImm("int64", 0)
    least = max(-(-number // scale), 0)
    bounds = range(least + 1, 10)
    branches = [
        tirx.IfThenElse(n < bound, tirx.BufferStore(buffer, tirx.FloatImm("float32", bound), [zero]), None)
        for bound in bounds
    ]
    function = tirx.PrimFunc([buffer, n], tirx.SeqStmt(branches)).with_attr("global_symbol", "main")
    honest = honest_shapes()(T.tvm.IRModule({"main": function}))
    assert str(honest["main"].params[0].shape[0]) == written
    assert str(tirx.transform.StmtSimplify()(honest)).count("if ") == len(bounds)
