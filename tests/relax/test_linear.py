"""Products with packed matrices, compiled, beside their eager references."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

import fxpasses as fxp
from fxpasses.dialect.linear import pack_matrix


class Packed(torch.nn.Module):
    def __init__(self, inner, columns, rows, width, tail=None, dtype=torch.float32):
        super().__init__()
        matrix = torch.randn(inner, columns, dtype=dtype)
        self.weight = torch.nn.Parameter(pack_matrix(matrix, width))
        self.bias = torch.nn.Parameter(torch.randn(columns, dtype=dtype))
        self.columns, self.rows, self.tail = columns, rows, tail

    def forward(self, x):
        y = torch.ops.fxpasses.linear_packed(x, self.weight, self.columns, self.rows)
        return y if self.tail is None else self.tail(y, self.bias)


def compiled(module, x, dynamic=None):
    program = fxp.Program.from_exported_program(torch.export.export(module, (x,), dynamic_shapes=dynamic))
    return fxp.compile(program, strict=True)


def check(function, module, x):
    want = module(x).detach()
    torch.testing.assert_close(function(x), want, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize(("count", "inner", "columns", "rows", "width"), [
    (1, 1, 1, 1, 16), (1, 7, 5, 1, 16), (1, 33, 200, 1, 64), (2, 5, 48, 2, 48), (6, 16, 64, 6, 64), (7, 16, 64, 6, 64),
    (13, 31, 37, 13, 32), (23, 1, 130, 6, 64), (29, 8, 100, 14, 32), (5, 9, 17, 3, 17),
])  # fmt: skip
@pytest.mark.parametrize("tail", [None, lambda y, bias: F.gelu(y + bias) + 2 * y.sum(1, keepdim=True)])
def test_sizes(count, inner, columns, rows, width, tail):
    torch.manual_seed(0)
    module, x = Packed(inner, columns, rows, width, tail), torch.randn(count, inner)
    check(compiled(module, x), module, x)


def test_float64():
    module = Packed(9, 20, 4, 8, lambda y, bias: (y + bias).tanh(), torch.float64)
    x = torch.randn(7, 9, dtype=torch.float64)
    torch.testing.assert_close(compiled(module, x)(x), module(x).detach())


@pytest.mark.parametrize("rows", [1, 6])
def test_rows_of_any_number(rows):
    torch.manual_seed(0)
    module = Packed(12, 70, rows, 64, lambda y, bias: F.silu(y + bias))
    function = compiled(module, torch.randn(3, 12), ({0: Dim("rows", min=0, max=100)},))
    for count in (0, 1, 5, 6, 7, 12, 97):
        check(function, module, torch.randn(count, 12))


def test_no_row_takes_from_another():
    """Neither the rows that the last tile repeats nor the columns that the packing adds show."""
    module = Packed(5, 33, 6, 32, lambda y, bias: y)
    x = torch.randn(8, 5)
    x[2, 1], x[7, 0] = torch.nan, torch.inf
    got = compiled(module, x)(x)
    check(lambda _: got, module, x)
    assert got[[0, 1, 3, 4, 5, 6]].isfinite().all()


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_model_of_three_dims_uses_it(dynamic):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(24, 50), torch.nn.GELU(), torch.nn.Linear(50, 24), torch.nn.LayerNorm(24)
    ).eval()
    shapes = ({0: Dim("batch", max=8), 1: Dim("length", max=40)},) if dynamic else None
    function = fxp.compile(model, (torch.randn(2, 7, 24),), dynamic_shapes=shapes, strict=True)
    for sizes in ((2, 7), (1, 1), (3, 31)) if dynamic else ((2, 7),):
        check(function, model, torch.randn(*sizes, 24))
