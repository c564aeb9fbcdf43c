"""`index_add` and `index_copy`: sums and copies of whole slices, which count from the front only."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp
from fxpasses.errors import IndexRangeError

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
