"""Sizes that are computed with floating point numbers, as scale factors do."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import fxpasses as fxp
from fxpasses.errors import LoweringError

FUNCTIONS = {
    "round": lambda x: x[: round(x.shape[0] / 2)] * 2,
    "int": lambda x: x[: int(x.shape[0] * 0.7)] * 2,
    "floor": lambda x: x[: math.floor(x.shape[0] * 0.7)] * 2,
    "ceil": lambda x: x[: math.ceil(x.shape[0] * 0.3)] * 2,
    "int below zero": lambda x: x[: 4 + int((x.shape[0] - 20) * 0.2)] * 2,
    "floor below zero": lambda x: x[: 4 + math.floor((x.shape[0] - 20) * 0.2)] * 2,
    "ceil below zero": lambda x: x[: 4 + math.ceil((x.shape[0] - 20) * 0.2)] * 2,
    "round below zero": lambda x: x[: 12 + round((x.shape[0] - 20) / 2)] * 2,
    "interpolate": lambda x: F.interpolate(x[None, None], scale_factor=(1.5, 1.0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_size_is_what_python_computes(name, tmp_path):
    function = FUNCTIONS[name]
    shapes = ({0: Dim("n", min=3, max=40)},)
    program = fxp.canonicalize(fxp.capture(function, (torch.randn(9, 3),), dynamic_shapes=shapes))
    assert not fxp.verify(program, "canonical")
    compiled = fxp.compile(program, strict=True)
    compiled.save(tmp_path / "model.fxp")
    loaded = fxp.load(tmp_path / "model.fxp")
    for size in (3, 4, 5, 9, 10, 17, 18, 19, 20, 21, 30, 33):
        x = torch.randn(size, 3)
        torch.testing.assert_close(compiled(x), function(x), rtol=0.0, atol=0.0)
        assert loaded(x).shape == function(x).shape


def test_a_size_that_is_chosen():
    def function(x):
        return torch.sym_ite(x.shape[0] == 5, x.shape[0], 2 * x.shape[1]), x * 2

    shapes = ({0: Dim("n", min=3, max=40), 1: Dim("m", min=3, max=40)},)
    compiled = fxp.compile(function, (torch.randn(9, 3),), dynamic_shapes=shapes)
    assert [compiled(torch.randn(rows, 4))[0] for rows in (5, 6)] == [5, 8]


def test_integers_of_a_number_that_is_read_from_a_tensor():
    def function(x, share):
        n = math.ceil(4 * share.item())
        return n, x * n, x + math.floor(share.item()) - round(share.item() / 3), torch.arange(4) < n

    x = torch.randn(4, 3)
    compiled = fxp.compile(function, (x, torch.tensor(0.3)))
    for share in (0.3, -1.7, 5.0, 1e9):
        given = x, torch.tensor(share, dtype=torch.float32)
        torch.testing.assert_close(compiled(*given), function(*given))


def test_a_size_of_a_number_that_is_read_from_a_tensor_is_refused():
    def function(x, share):
        n = math.ceil(4 * share.item())
        torch._check(n >= 0)
        torch._check(n <= 4)
        return x[:n]

    with pytest.raises(
        LoweringError, match=r"a size depends on zuf\d+, a floating-point number that is read"
    ):
        fxp.compile(function, (torch.randn(4, 3), torch.tensor(0.3)))


def mask_of_heads(mask: torch.Tensor, heads: int, batch: int) -> torch.Tensor:
    """As networks for diffusion spread a mask: torch knows the -1 for 1 by a guard, whatever its expression."""
    return mask[:, None].repeat_interleave(heads, 0).view(batch, heads, -1, mask.shape[-1])


SPREAD = {
    "attention": lambda q, k, m: torch.nn.functional.scaled_dot_product_attention(q, k, k, m),
    "sum": lambda q, k, m: m + q[..., :1],
    "softmax": lambda q, k, m: (q @ k.mT + m).softmax(-1) @ k,
}


@pytest.mark.parametrize("name", SPREAD)
def test_a_size_that_is_one_by_a_guard_is_spread(name):
    def attended(q, k, mask):
        return SPREAD[name](q, k, mask_of_heads(mask, 2, q.shape[0]))

    any_size = torch.export.Dim.AUTO
    sizes = {0: any_size}, {0: any_size, 2: any_size}, {0: any_size, 1: any_size}
    example = torch.randn(2, 2, 32, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 5)
    compiled = fxp.compile(attended, example, dynamic_shapes=sizes)
    for batch, length in ((2, 5), (3, 7), (2, 2)):
        args = torch.randn(batch, 2, 32, 8), torch.randn(batch, 2, length, 8), torch.randn(batch, length)
        torch.testing.assert_close(compiled(*args), attended(*args), rtol=1e-5, atol=1e-5)
