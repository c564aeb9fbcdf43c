"""Shrinking images without aliasing, against eager."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fxpasses as fxp
from tests.relax.helpers import call, check_calls, random

aten = torch.ops.aten

OPERATORS = [aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten._upsample_lanczos2d_aa]
SIZES = [(7, 5), (1, 1), (13, 30), (4, 4), (26, 2)]


@pytest.mark.parametrize(
    ("dtype", "align_corners"), [(torch.float32, False), (torch.float32, True), (torch.float64, False)]
)
@pytest.mark.parametrize("op", OPERATORS, ids=str)
def test_sizes(op, dtype, align_corners):
    images = random((2, 3, 13, 17), dtype), random((1, 1, 5, 4), dtype)
    calls = [call(op.default, x, size, align_corners) for x in images for size in SIZES]
    calls.append(call(op.default, images[0], (4, 27), align_corners, 0.37, 1.6))
    check_calls(calls, tolerance={torch.float64: 1e-12, torch.float32: 1e-5})


def test_a_pixel_that_is_no_number_spoils_those_that_cover_it():
    x = random((1, 1, 16, 16), torch.float32)
    x[0, 0, 5, 9] = torch.nan
    check_calls([call(op.default, x, (5, 6), False) for op in OPERATORS], tolerance=1e-5)


def test_unknown_sizes_and_integers_run_in_pytorch():
    def model(x, pixels):
        return tuple(F.interpolate(t, (3, 3), mode="bilinear", antialias=True) for t in (x, pixels))

    args = torch.randn(1, 3, 9, 9), torch.randint(0, 255, (1, 3, 9, 9), dtype=torch.uint8)
    compiled = fxp.compile(model, args, dynamic_shapes=({2: torch.export.Dim("h", min=4)}, None))
    for height in (9, 20):
        x = torch.randn(1, 3, height, 9)
        torch.testing.assert_close(compiled(x, args[1]), model(x, args[1]))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "lanczos"])
def test_a_factor_that_leaves_a_dim_as_long_as_it_is(mode):
    x = random((1, 2, 4, 9), torch.float32)
    x[0, 0, 1, 3] = torch.inf
    for factor in ((1.2, 0.5), (0.5, 1.1), (1.2, 1.1)):

        def model(x, factor=factor):
            return F.interpolate(x, scale_factor=factor, mode=mode, antialias=True)

        torch.testing.assert_close(fxp.compile(model, (x,))(x), model(x), equal_nan=True)
