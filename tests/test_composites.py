"""Composite operators that torch itself cannot trace, since their kernels look at values."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp
from fxpasses.composites import BY_SHAPE

X = torch.linspace(-2, 3, 21).reshape(3, 7).sin()


@pytest.mark.parametrize(
    "f",
    [
        torch.cov,
        torch.corrcoef,
        lambda x: torch.cov(x[0]),
        lambda x: torch.cov(x, correction=9),
        lambda x: torch.corrcoef(x[0]),
        lambda x: torch.combinations(x[0], 3),
        lambda x: torch.combinations(x[0, :2], 2, with_replacement=True),
        lambda x: torch.combinations(x[0, :1], 2),
    ],
)
def test_native_and_as_in_eager(f):
    def model(x):
        return f(x)

    got, expected = fxp.compile(model, (X,), strict=True)(X), model(X)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, equal_nan=True)


def test_any_number_of_observations():
    def model(x):
        return torch.cov(x)

    compiled = fxp.compile(model, (X,), strict=True, dynamic_shapes=({1: torch.export.Dim("n", min=2)},))
    for count in (2, 5, 7):
        torch.testing.assert_close(compiled(X[:, :count]), torch.cov(X[:, :count]))


def test_torch_is_left_as_it_was():
    before = {op: dict(op.py_kernels) for op in BY_SHAPE}
    fxp.capture(torch.cov, (X,))
    assert before == {op: dict(op.py_kernels) for op in BY_SHAPE}
