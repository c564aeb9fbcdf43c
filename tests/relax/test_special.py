"""Special functions, divisors and order statistics against eager."""

import math

import pytest
import torch

import fxpasses as fxp
from tests.relax.helpers import ULPS, call, check_calls, edges, random

aten = torch.ops.aten

CURVES = {
    aten.erfinv.default: torch.linspace(-1, 1, 401, dtype=torch.float64),
    aten.digamma.default: torch.linspace(-5.05, 30, 400, dtype=torch.float64),
    aten.i0.default: torch.linspace(-60, 60, 401, dtype=torch.float64),
    aten.special_i0e.default: torch.linspace(-60, 60, 401, dtype=torch.float64),
    aten.special_i1.default: torch.linspace(-60, 60, 401, dtype=torch.float64),
    aten.special_i1e.default: torch.linspace(-60, 60, 401, dtype=torch.float64),
}
EXTREMES = torch.tensor(
    [0.0, -0.0, 1e-30, 700.0, -700.0, 1e30, math.inf, -math.inf, math.nan], dtype=torch.float64
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_special_functions(dtype):
    tolerance = {**ULPS, torch.float64: 2e-12}
    calls = [call(op, torch.cat([curve, EXTREMES]).to(dtype)) for op, curve in CURVES.items()]
    check_calls(calls, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scaled_bessel_functions_of_the_largest_numbers(dtype):
    x = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).max / 4], dtype=dtype)
    for op in (aten.special_i0e.default, aten.special_i1e.default):
        check_calls([call(op, x)], tolerance={**ULPS, torch.float64: 2e-12})


def test_angles_of_real_numbers():
    check_calls(
        [call(aten.angle.default, edges(dtype)) for dtype in (torch.float32, torch.float64, torch.int32)]
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8], ids=str)
def test_divisors_and_multiples(dtype):
    x, y = random((7, 1), dtype), random((9,), dtype)
    small = torch.tensor([0, 1, 5, 6], dtype=dtype)
    calls = [
        call(op, *pair)
        for op in (aten.gcd.default, aten.lcm.default)
        for pair in ((x, y), (small, small.flip(0)))
    ]
    calls.append(call(aten.gcd.default, edges(dtype), edges(dtype).flip(0)))
    check_calls(calls)


def test_multiples_of_the_least_number():
    x = torch.tensor([-128, 127, 1, -1, 0], dtype=torch.int8)
    check_calls([call(aten.lcm.default, x[:, None], x)])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_the_least_number_divided_by_a_negative_divisor(dtype):
    """PyTorch itself ends the process."""
    least = torch.iinfo(dtype).min
    pair = torch.tensor([least, 10], dtype=dtype), torch.tensor([least + 1, 4], dtype=dtype)
    assert fxp.compile(torch.lcm, pair)(*pair)[1] == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_frexp(dtype):
    check_calls([call(aten.frexp.Tensor, edges(dtype)), call(aten.frexp.Tensor, random((3, 4), dtype))])


def test_medians_of_numbers_alone():
    x = random((4, 7))
    x[0, 2:5] = math.nan
    x[1, :6] = math.nan
    calls = [call(aten.nanmedian.dim, x, dim, keepdim) for dim, keepdim in ((1, False), (0, True))]
    calls.append(call(aten.nanmedian.default, torch.tensor([math.nan, math.nan])))
    check_calls(
        [*calls, call(aten.nanmedian.default, x), call(aten.nanmedian.default, random((9,), torch.int32))]
    )


def test_modes():
    x = torch.tensor([[3, 1, 2, 2, 1, 5], [4, 4, 4, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    calls = [call(aten.mode.default, x, dim, keepdim) for dim, keepdim in ((1, False), (0, True))]
    check_calls([*calls, call(aten.mode.default, x.float()), call(aten.mode.default, torch.tensor(3.0))])
