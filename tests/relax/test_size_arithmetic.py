"""What Python computes of sizes and of integer arguments, a program computes of them, too."""

from __future__ import annotations

import math

import pytest
import torch

import fxpasses as fxp
from tests.codegen.helpers import compiled_of

ARITHMETIC = {
    "abs": lambda n: abs(n - 6),
    "abs of a quotient": lambda n: abs(n / 2 - 3.2),
    "and": lambda n: n & 3,
    "or": lambda n: n | 8,
    "xor": lambda n: n ^ 5,
    "power": lambda n: n**0.5,
    "power of two": lambda n: 2**n,
    "sine": lambda n: math.sin(n),
    "hyperbolic tangent": lambda n: math.tanh(n / 10),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_number_of_an_argument(name):
    def function(x, n):
        return x * ARITHMETIC[name](n)

    torch._dynamo.reset()
    compiled = torch.compile(
        function, backend="fxpasses", dynamic=True, fullgraph=True, options={"strict": True}
    )
    x = torch.randn(3, dtype=torch.float64)
    for n in (6, 4, 9):
        torch.testing.assert_close(compiled(x, n), function(x, n))


@pytest.mark.parametrize("name", ["abs", "and", "or", "power", "power of two"])
def test_number_of_a_size(name):
    def function(x):
        return x * ARITHMETIC[name](x.shape[0])

    compiled = compiled_of(function, torch.randn(6), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    for n in (6, 4, 9):
        x = torch.randn(n)
        torch.testing.assert_close(compiled(x), function(x))


@pytest.mark.parametrize("half", [1, 32])
def test_parts_of_a_size_that_is_not_known_are_put_together(half):
    def function(x, c):
        return torch.cat([-x[..., half:], x[..., :half]], -1) * c + x

    sizes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    args = torch.randn(5, 2 * half), torch.randn(5, 2 * half)
    compiled = compiled_of(function, *args, dynamic_shapes=(sizes, sizes))
    for rows, width in ((5, 2 * half), (3, half + 7), (1, 3 * half + 2)):
        x, c = torch.randn(rows, width), torch.randn(rows, width)
        torch.testing.assert_close(compiled(x, c), function(x, c))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parts_whose_sizes_are_equal_by_an_assertion_alone(axis):
    """What goes up again is joined to what went down, as in a U-Net: (n - 1) // 2 + 1 is 2 * ((n - 1) // 4 + 1)."""
    pool, grow = torch.nn.functional.max_pool2d, torch.nn.functional.interpolate

    def function(x):
        half = pool(x, 1, 2)
        return torch.cat([half, grow(pool(half, 1, 2), scale_factor=2)], axis)

    sizes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    compiled = compiled_of(function, torch.randn(1, 2, 16, 12), dynamic_shapes=(sizes,))
    for size in ((8, 24), (19, 4)):
        x = torch.randn(1, 2, *size)
        torch.testing.assert_close(compiled(x), function(x), rtol=0, atol=0)
    with pytest.raises(fxp.errors.InputError):
        compiled(torch.randn(1, 2, 17, 13))
