"""Enlarging and shrinking images against eager."""

import pytest
import torch

import fxpasses as fxp
from tests.relax.helpers import FLOATS, call, check_calls, random

aten = torch.ops.aten

SIZES = [([14, 18], None), ([5, 30], None), (None, [2.0, 2.0]), (None, [1.7, 0.6]), ([287, 11], None)]


@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8], ids=str)
def test_nearest(dtype):
    x = random((2, 3, 7, 9), dtype)
    calls = [call(aten.upsample_nearest2d.vec, x, *size) for size in SIZES]
    calls += [
        call(aten.upsample_nearest2d.default, x, [13, 20]),
        call(aten.upsample_nearest2d.default, x, [13, 20], 1.9, 2.3),
    ]
    check_calls(calls)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bilinear(dtype, align_corners):
    x = random((2, 3, 7, 9), dtype)
    calls = [
        call(aten.upsample_bilinear2d.vec, x, size, align_corners, scales)
        for size, scales in [*SIZES, ([1, 1], None), ([7, 9], None)]
    ]
    calls.append(call(aten.upsample_bilinear2d.default, x, [13, 20], align_corners, 1.9, 2.3))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
    check_calls(calls, tolerance=tolerance)


def test_dynamic_sizes():
    class Model(torch.nn.Module):
        def forward(self, x):
            f = torch.nn.functional
            return f.interpolate(x, scale_factor=2), f.interpolate(x, scale_factor=2, mode="bilinear")

    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=4, max=64)}
    compiled = fxp.compile(Model(), (random((2, 3, 8, 10)),), dynamic_shapes=(dims,), strict=True)
    for batch, height in ((1, 8), (5, 13)):
        x = random((batch, 3, height, 10))
        for got, want in zip(compiled(x), Model()(x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
