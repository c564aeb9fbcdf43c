"""Slices at places that tensors tell: `index_add`, `index_copy`, and what is put into ``x[:, at : at + 5]``."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp
from fxpasses.errors import IndexRangeError, RunError

X = torch.arange(12.0).reshape(3, 4)
PLACES = torch.tensor([2, 0])
ROWS = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("tensor", "dim", "index", "source"),
    [
        (X, 0, PLACES, ROWS),
        (X, -2, PLACES, ROWS),
        (X, 1, PLACES, X[:, :2]),
        (X.long(), 0, PLACES, ROWS.long()),
        (torch.tensor(1.0), 0, torch.tensor([0]), torch.tensor(2.0)),
    ],
)
def test_as_in_eager(tensor, dim, index, source):
    def f(tensor, index, source):
        return (
            tensor.index_add(dim, index, source, alpha=2),
            tensor.index_copy(dim, index, source),
        )

    args = (tensor, index, source)
    for got, expected in zip(fxp.compile(f, args, strict=True)(*args), f(*args), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["index_add", "index_copy"])
@pytest.mark.parametrize("place", [-1, 3])
def test_no_index_counts_from_the_end(name, place):
    def f(x, index, rows):
        return getattr(x, name)(0, index, rows)

    compiled = fxp.compile(f, (X, PLACES, ROWS))
    index = torch.tensor([0, place])
    with pytest.raises((IndexError, RuntimeError)):
        f(X, index, ROWS)
    with pytest.raises(IndexRangeError, match=f"the index {place}"):
        compiled(X, index, ROWS)


def _filled(x, at):
    x = x.clone()
    x[:, at : at + 5] = 1.0
    return x


def _every_second(x, at):
    x = x.clone()
    x[:, at : at + 5 : 2] = torch.tensor([[1.0], [2.0]])
    return x


def _replaced(x, at):
    x = x.clone()
    x[:, at : at + 3] = torch.arange(3.0)
    return x


@pytest.mark.parametrize("start", [0, 1, 4, 7])
@pytest.mark.parametrize("function", [_filled, _every_second, _replaced])
def test_what_is_put_into_a_slice(function, start):
    x = torch.rand(2, 10, generator=torch.Generator().manual_seed(0))
    compiled = fxp.compile(function, (x, torch.tensor(1)))
    at = torch.tensor(start)
    torch.testing.assert_close(compiled(x, at), function(x, at), rtol=0, atol=0)


def test_a_part_that_does_not_fit_into_its_slice_is_refused():
    x, at = torch.rand(2, 10), torch.tensor(9)
    compiled = fxp.compile(_replaced, (x, torch.tensor(1)))
    with pytest.raises(RuntimeError):
        _replaced(x, at)
    with pytest.raises(RunError, match="breaks"):
        compiled(x, at)


def test_a_part_made_of_what_is_there_that_does_not_fit_is_refused():
    def scaled(x, at):
        x = x.clone()
        x[:, at : at + 3] = x[:, at : at + 3] * torch.arange(3.0)
        return x

    x = torch.rand(2, 10)
    compiled = fxp.compile(scaled, (x, torch.tensor(1)))
    torch.testing.assert_close(compiled(x, torch.tensor(5)), scaled(x, torch.tensor(5)))
    with pytest.raises(RunError, match="breaks"):
        compiled(x, torch.tensor(9))
