"""A dim of one element: operators that treat it in another way, of which no guard of torch's tells."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import nn
from torch.export import Dim

import fxpasses as fxp
from fxpasses.errors import CaptureError, InputError

Function = Callable[[torch.Tensor], torch.Tensor]

SPECIAL: dict[str, Function] = {
    "squeeze": lambda x: x.squeeze(),
    "squeeze_dim": lambda x: x.squeeze(0) + 1,
    "squeeze_dims": lambda x: x.squeeze((0, 1)).sum(-1),
    "cov": lambda x: torch.cov(x),
    "corrcoef": lambda x: torch.corrcoef(x),
}
PLAIN: dict[str, Function] = {
    "softmax": lambda x: x.softmax(-1),
    "gather": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "outer": lambda x: x[:, None] * x.sum(0),
}


class Wrapped(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def compiled(function: Function, exported: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    args, shapes = (torch.rand(3, 2),), ({0: Dim("n"), 1: Dim("m")},)
    if exported:
        return fxp.compile(torch.export.export(Wrapped(function), args, dynamic_shapes=shapes))
    return fxp.compile(function, args, dynamic_shapes=shapes)


@pytest.mark.parametrize(
    ("name", "exported"),
    [(name, False) for name in SPECIAL]
    + [
        (name, True) for name in SPECIAL if name not in ("cov", "corrcoef")
    ],  # torch.export does not take these
)
def test_refused_where_the_result_has_another_shape(name: str, exported: bool) -> None:
    program, function = compiled(SPECIAL[name], exported), SPECIAL[name]
    rank = function(torch.rand(3, 2)).dim()
    for size in product((1, 2, 5), repeat=2):
        x = torch.rand(size)
        if function(x).dim() != rank:
            with pytest.raises(InputError, match="is 1, outside the range"):
                program(x)
        elif 1 not in size:
            torch.testing.assert_close(program(x), function(x))


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_served_where_nothing_is_special(name: str, exported: bool) -> None:
    program = compiled(PLAIN[name], exported)
    for size in product((1, 2, 5), repeat=2):
        x = torch.rand(size)
        torch.testing.assert_close(program(x), PLAIN[name](x))


def test_random_numbers_do_not_keep_one_out() -> None:
    program = fxp.compile(
        lambda x: x + torch.rand_like(x),
        (torch.rand(3, 2),),
        dynamic_shapes=({0: Dim("n")},),
        allow_random=True,
    )
    torch.manual_seed(3)
    found = program(torch.zeros(1, 2))
    torch.manual_seed(3)
    torch.testing.assert_close(found, torch.rand(1, 2))


def test_an_empty_example_serves_one() -> None:
    program = fxp.compile(lambda x: x * 2, (torch.rand(0, 4),), dynamic_shapes=({0: Dim.AUTO},))
    torch.testing.assert_close(program(torch.ones(1, 4)), torch.full((1, 4), 2.0))


def test_a_dim_that_is_to_start_at_one() -> None:
    with pytest.raises(CaptureError, match="treats a size of 1 differently"):
        fxp.capture(lambda x: x.squeeze(0), (torch.rand(3, 2),), dynamic_shapes=({0: Dim("n", min=1)},))


@pytest.mark.parametrize(
    ("f", "shapes"),
    [
        (lambda x: x.squeeze(), [(1, 3, 1)]),
        (lambda x, y: x.squeeze(0) * y, [(1, 3), (1, 3)]),
        (lambda x, y: x + y, [(1, 3), (5, 3)]),
        (lambda x: x.expand(4, -1), [(1, 3)]),
    ],
)
def test_an_example_of_size_one_is_served_where_it_may_become_static(f, shapes):
    args = tuple(map(torch.randn, shapes))
    dims = tuple(dict.fromkeys(range(len(shape)), Dim.AUTO) for shape in shapes)
    compiled = fxp.compile(f, args, dynamic_shapes=dims)
    torch.testing.assert_close(compiled(*args), f(*args))


@pytest.mark.parametrize(
    ("f", "shapes"),
    [
        (lambda x: nn.functional.linear(x, WEIGHT, WEIGHT[0, :2]), [(1, 1, 2)]),
        (lambda x: nn.functional.interpolate(x, scale_factor=2.0, mode="bicubic"), [(1, 1, 3, 5)]),
        (lambda x, y: torch.einsum("ij,jk->ik", x, y), [(1, 1), (1, 2)]),
        (lambda x, y: x.softmax(0) @ y.mT, [(1, 1), (1, 1)]),
        (lambda x: x.sum(1, keepdim=True) / (x + 1), [(1, 1)]),
    ],
)
def test_an_example_of_size_one_serves_others_where_it_may_become_static(f, shapes):
    """No shape rule after the capture takes the size for 1, which is broadcast."""
    args = tuple(map(torch.rand, shapes))
    dims = tuple({dim: Dim.AUTO for dim, size in enumerate(shape) if size == 1} for shape in shapes)
    program = fxp.capture(f, args, dynamic_shapes=dims)
    compiled = fxp.compile(program)
    for rows in (1, 2, 5):
        sizes = [[rows if size == 1 else size for size in shape] for shape in shapes]
        x = tuple(map(torch.rand, sizes))
        torch.testing.assert_close(compiled(*x), f(*x), rtol=1e-5, atol=1e-5)


WEIGHT = torch.rand(2, 2)


def test_bounds_of_a_dim_that_may_become_static_stay():
    dims = ({0: Dim.AUTO(max=4)},)
    compiled = fxp.compile(lambda x: x * 2, (torch.rand(1, 3),), dynamic_shapes=dims)
    torch.testing.assert_close(compiled(torch.ones(4, 3)), torch.full((4, 3), 2.0))
    with pytest.raises(InputError, match="outside the range"):
        compiled(torch.ones(5, 3))
