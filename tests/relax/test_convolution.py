"""Convolutions against eager."""

import pytest
import torch

import fxpasses as fxp
from tests.relax.helpers import FLOATS, call, check_calls, random

aten = torch.ops.aten

# Sums over a window; eager may keep those of half types in the half type.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 3e-2, torch.bfloat16: 1e-1}
SIZES = [7, 6, 5]
WINDOW = [3, 2, 1]


def convolutions(dims, groups, dtype=torch.float32):
    x = random((2, 4, *SIZES[:dims]), dtype)
    weight, bias = random((8, 4 // groups, *WINDOW[:dims]), dtype), random((8,), dtype)
    return [
        call(aten.convolution.default, x, weight, bias, [1], [0], [1], False, [0], groups),
        call(aten.convolution.default, x, weight, None, [2], [1], [1], False, [0], groups),
        call(
            aten.convolution.default,
            *(
                x,
                weight,
                bias,
                [2, 1, 2][:dims],
                [0, 2, 1][:dims],
                [1, 2, 1][:dims],
                False,
                [0] * dims,
                groups,
            ),
        ),
    ]


def transposed(dims, groups, dtype=torch.float32):
    x = random((2, 4, *SIZES[:dims]), dtype)
    weight, bias = random((4, 8 // groups, *WINDOW[:dims]), dtype), random((8,), dtype)
    return [
        call(aten.convolution.default, x, weight, bias, [1], [0], [1], True, [0], groups),
        call(aten.convolution.default, x, weight, None, [2], [1], [1], True, [1], groups),
        call(
            aten.convolution.default,
            *(x, weight, bias, [3, 1, 2][:dims], [0, 1, 0][:dims], [1, 2, 1][:dims], True),
            *([2, 0, 1][:dims], groups),
        ),
    ]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_float32(dims):
    calls = [c for groups in (1, 2, 4) for make in (convolutions, transposed) for c in make(dims, groups)]
    check_calls(calls, tolerance=TOLERANCE)


@pytest.mark.parametrize("dtype", FLOATS[1:], ids=str)
def test_other_types(dtype):
    check_calls(convolutions(2, 2, dtype) + transposed(2, 1, dtype), tolerance=TOLERANCE)


def test_a_kernel_larger_than_its_input_with_padding():
    x, weight = random((1, 1, 2, 2)), random((1, 1, 5, 5))
    check_calls(
        [call(aten.convolution.default, x, weight, None, [1], [2], [1], False, [0], 1)], tolerance=TOLERANCE
    )


def test_an_infinity_outside_the_window_does_not_spread():
    x = random((1, 1, 6))
    x[0, 0, 5] = float("inf")
    weight = random((1, 1, 2))
    check_calls(
        [
            call(aten.convolution.default, x, weight, None, [1], [1], [1], False, [0], 1),
            call(aten.convolution.default, x, weight, None, [1], [0], [1], True, [0], 1),
        ],
        tolerance=TOLERANCE,
    )


def test_no_channels():
    x, weight = torch.zeros(2, 0, 5), torch.zeros(3, 0, 2)
    check_calls([call(aten.convolution.default, x, weight, random((3,)), [1], [0], [1], False, [0], 1)])


def test_dynamic_sizes():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.depthwise = torch.nn.Conv2d(8, 8, 3, padding="same", groups=8)
            self.transposed = torch.nn.ConvTranspose2d(8, 2, 2, stride=2)

        def forward(self, x):
            return self.transposed(self.depthwise(self.plain(x)))

    model = Model()
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=4, max=64)}
    compiled = fxp.compile(model, (random((2, 3, 8, 10)),), dynamic_shapes=(dims,), strict=True)
    for batch, height in ((1, 8), (5, 13)):
        x = random((batch, 3, height, 10))
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 2, pytest.param(3, marks=pytest.mark.sweep)])
def test_padding_that_follows_from_a_dynamic_window(dims):
    convolve = getattr(torch.nn.functional, f"conv{dims}d")

    def function(x, weight):
        return convolve(x, weight, padding="same")

    def arguments(batch, channels, size, window):
        return random((batch, channels, *size[:dims])), random((3, channels, *window[:dims]))

    args = arguments(2, 2, (6, 7, 5), (3, 5, 3))
    sizes = tuple(dict.fromkeys(range(arg.dim()), torch.export.Dim.AUTO) for arg in args)
    compiled = fxp.compile(function, args, dynamic_shapes=sizes, strict=True)
    for call_args in (
        args,
        arguments(1, 3, (4, 5, 6), (5, 3, 1)),
        arguments(2, 1, (9, 9, 9), (7, 1, 3)),
        arguments(1, 2, (6, 6, 6), (4, 3, 2)),  # more zeros behind than before
    ):
        torch.testing.assert_close(compiled(*call_args), function(*call_args), rtol=1e-5, atol=1e-5)
