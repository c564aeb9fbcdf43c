"""Examples in which a size is 1, or one that is computed: what torch decides by it is not for other sizes."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

import fxpasses as fxp
from fxpasses.errors import InputError
from fxpasses.tracing.typical_sizes import example_sizes, with_typical_sizes

A = Dim.AUTO

# function, shapes of the example, other shapes
CALLS = {
    "batch of einsum": (
        lambda x, y: torch.einsum("aij,jk->aik", x, y),
        [(1, 3, 4), (4, 4)],
        [[(2, 1, 4), (4, 3)], [(5, 7, 2), (2, 1)], [(0, 3, 4), (4, 4)]],
    ),
    "column of einsum": (
        lambda x, y: torch.einsum("aij,jk->aik", x, y),
        [(2, 3, 4), (4, 1)],
        [[(1, 1, 4), (4, 3)], [(5, 7, 2), (2, 2)]],
    ),
    "batches of einsum": (
        lambda x, y: torch.einsum("bij,bjk->bik", x, y),
        [(1, 3, 4), (1, 4, 5)],
        [[(3, 2, 4), (3, 4, 1)], [(2, 1, 1), (2, 1, 7)]],
    ),
    "softmax": (lambda x: torch._safe_softmax(x, 1), [(1, 5, 5)], [[(3, 5, 1)], [(4, 1, 5)]]),
    "softmax of one": (lambda x: torch._safe_softmax(x, 0), [(1, 5)], [[(3, 5)], [(2, 1)]]),
    "between pixels": (
        lambda x: F.interpolate(x, scale_factor=2, mode="linear"),
        [(1, 2, 1)],
        [[(3, 1, 4)], [(2, 5, 7)]],
    ),
    "half of two": (lambda x: F.glu(x, 0), [(2, 3)], [[(4, 3)], [(8, 1)], [(6, 2)]]),
    "half of two, last": (lambda x: F.glu(x) * 2, [(2, 3, 2)], [[(1, 1, 4)], [(4, 2, 10)]]),
    "a third of three": (
        lambda x: x[: x.shape[0] // 3] * x.sum(0) + x[-(x.shape[0] // 3) :],
        [(3, 2)],
        [[(6, 2)], [(13, 4)], [(9, 1)]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_other_sizes_than_those_of_the_example(name):
    function, example, others = CALLS[name]
    sizes = tuple(dict.fromkeys(range(len(shape)), A) for shape in example)
    compiled = fxp.compile(function, tuple(map(torch.randn, example)), dynamic_shapes=sizes, strict=True)
    for shapes in [example, *others]:
        args = [torch.randn(shape) for shape in shapes]
        torch.testing.assert_close(compiled(*args), function(*args))


@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (1, 1)])
def test_the_example_itself_is_served(shape):
    """Where one row, or one column, is a case of its own, it is this one that is wanted."""
    for function in (
        lambda x: torch.cov(x),
        lambda x: x.squeeze() + x.squeeze(0),
        lambda x: x.squeeze().sum(-1),
        lambda x: torch.corrcoef(x),
    ):
        x = torch.randn(shape)
        compiled = fxp.compile(function, (x,), dynamic_shapes=({0: A, 1: A},))
        torch.testing.assert_close(compiled(x), function(x), equal_nan=True)


def _captured(function, *shapes):
    sizes = tuple(dict.fromkeys(range(len(shape)), A) for shape in shapes)
    return fxp.capture(function, tuple(map(torch.randn, shapes)), dynamic_shapes=sizes)


def test_sizes_that_torch_decides_by():
    def halves(x, y):
        return F.glu(x, 0) @ y

    program = _captured(halves, (2, 4), (4, 1))
    typical = with_typical_sizes(program)
    assert typical.fingerprint == program.fingerprint
    assert typical.ranges == program.ranges
    assert 2 in example_sizes(program).values()  # of which half is 1
    sizes = list(example_sizes(typical).values())
    assert min(sizes) > 1
    assert len(set(sizes)) == 3
    (value,) = [node.meta["val"] for _, node in typical.outputs]
    assert all(size.node.hint > 1 for size in value.shape)
    assert with_typical_sizes(typical) is typical


def test_sizes_that_are_typical_stay():
    program = _captured(lambda x, y: x[:, None] * y, (3, 4), (2, 4))
    assert with_typical_sizes(program) is program


def test_conditions_on_sizes_are_kept():
    def function(x, y):
        torch._check(x.shape[0] * 4 == y.shape[0])
        return x[: x.shape[0] // 2].sum(0) * y

    typical = with_typical_sizes(_captured(function, (2, 3), (8, 3)))
    sizes = example_sizes(typical)
    rows = [typical.inputs[place].meta["val"].shape[0] for place in (0, 1)]
    few, many = (int(row.node.expr.xreplace(sizes)) for row in rows)
    assert few > 3
    assert many == 4 * few
    compiled = fxp.compile(typical)
    args = torch.randn(3, 3), torch.randn(12, 3)
    torch.testing.assert_close(compiled(*args), function(*args))
    with pytest.raises(InputError):
        compiled(torch.randn(3, 3), torch.randn(11, 3))


@pytest.mark.parametrize("shape", [(5, 5), (1, 2), (3, 2), (0, 2), (7, 2)])
def test_parts_that_have_one_row_in_the_example(shape):
    def function(x):
        return x.tensor_split([2, 4])

    compiled = fxp.compile(function, (torch.randn(5, 5),), dynamic_shapes=({0: A, 1: A},), strict=True)
    x = torch.randn(shape)
    for got, want in zip(compiled(x), function(x), strict=True):
        assert torch.equal(got, want)
