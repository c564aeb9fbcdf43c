"""Reductions over a dim that is empty when the program runs have their first value."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.errors import InputError
from tests.codegen.helpers import compiled_of


def test_reductions_over_nothing():
    def model(x):
        positive = x > 0
        whole = x.to(torch.int64)
        return (
            positive.all(),
            positive.any(),
            positive.all(0),
            x.sum(),
            x.prod(),
            x.mean(),
            x.var(),
            torch.logsumexp(x, (0, 1)),
            whole.sum(),
            whole.flatten().sum(),
            whole.prod(0),
            x.T @ x,
            torch.softmax(x, 0).sum(1),
        )

    compiled = compiled_of(model, torch.randn(5, 4), dynamic_shapes=({0: Dim.DYNAMIC},))
    for rows in (0, 3, 0):
        x = torch.randn(rows, 4)
        for got, want in zip(compiled(x), model(x), strict=True):
            torch.testing.assert_close(got, want, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x.roll(1, 1),
        lambda x: x.roll((1, 2), (0, 1)),
        lambda x: x.t().repeat(2, 1),
        lambda x: x.reshape(2, -1).t().reshape(-1, 4),
    ],
    ids=["roll", "roll along both", "repeat", "reshape"],
)
def test_no_division_by_a_size_of_zero(model):
    """It would end the process, where TVM computes it before the loop that has no step then."""
    compiled = compiled_of(model, torch.randn(4, 5), dynamic_shapes=({1: Dim("columns", min=0, max=64)},))
    for columns in (0, 1, 17):
        x = torch.randn(4, columns)
        assert torch.equal(compiled(x), model(x))


def test_reductions_over_what_a_mask_leaves():
    def model(x):
        left = x[x > 1]
        rows = x[(x > 1).any(1)].to(torch.int64)
        return (left < 0).all(), left.prod(), rows.sum(), rows.flatten().sum(), rows.sum(0)

    compiled = compiled_of(model, torch.randn(5, 4))
    for scale in (0.0, 2.0, 0.0):
        x = torch.randn(5, 4) * scale
        for got, want in zip(compiled(x), model(x), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    "model",
    [lambda x: x[1:] * 2, lambda x: torch.cat([x, x[:1]]), lambda x: x.flip(0)[:-1]],
    ids=["all but one", "the first", "without the last"],
)
def test_sizes_at_which_a_value_has_not_the_size_of_capture_are_refused(model):
    compiled = fxp.compile(model, (torch.ones(6, 3),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    for rows in (1, 2, 5):
        x = torch.randn(rows, 3)
        assert torch.equal(compiled(x), model(x))
    with pytest.raises(InputError, match="dim 0 is 0, outside the range"):
        compiled(torch.ones(0, 3))


@pytest.mark.parametrize(
    "f",
    [
        lambda x, y: x[torch.arange(y.shape[0])],
        lambda x, y: x[:, torch.arange(y.shape[0]) % 2],
        lambda x, y: torch.nn.functional.embedding(torch.arange(y.shape[0]), x),
        lambda x, y: x.gather(0, torch.zeros_like(y, dtype=torch.long)),
        lambda x, y: x.index_select(0, torch.arange(y.shape[0])),
        lambda x, y: x.take(torch.arange(y.shape[0])),
        lambda x, y: x.index_fill(0, torch.arange(y.shape[0]), 2.0),
        lambda x, y: x.index_put((torch.arange(y.shape[0]),), y),
    ],
)
def test_computed_indices_into_no_elements(f):
    args = torch.randn(6, 3), torch.randn(4, 3)
    compiled = fxp.compile(f, args, dynamic_shapes=({0: Dim.AUTO}, {0: Dim.AUTO}))
    for rows, count in [(0, 0), (0, 2), (0, 500), (5, 5), (3, 0), (2, 7)]:
        args = torch.randn(rows, 3), torch.randn(count, 3)
        try:
            expected = f(*args)
        except (IndexError, RuntimeError):
            with pytest.raises(IndexError):
                compiled(*args)
        else:
            torch.testing.assert_close(compiled(*args), expected)
