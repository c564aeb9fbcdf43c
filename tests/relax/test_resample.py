"""Enlarging and shrinking images against eager."""

import math

import pytest
import torch
from torch.export import Dim

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


class Enlarged(torch.nn.Module):
    """By a factor that leaves some images as large as they are, and doubles others."""

    def __init__(self, mode, factor):
        super().__init__()
        self.mode, self.factor = mode, factor

    def forward(self, x):
        return torch.nn.functional.interpolate(x, scale_factor=self.factor, mode=self.mode)


FACTORS = [1.2, 2.3, 1.05]
MODES = [
    ("nearest", 1),
    ("nearest", 2),
    ("nearest", 3),
    ("nearest-exact", 2),
    ("linear", 1),
    ("bilinear", 2),
    ("trilinear", 3),
    ("bicubic", 2),
]


@pytest.mark.parametrize(("mode", "rank"), MODES)
def test_a_factor_that_does_not_change_the_size_or_doubles_it(mode, rank):
    images = tuple(random((1, 2, *[size] * rank)) for size in (3, 4, 7))

    def enlarged(*images):
        return [Enlarged(mode, factor)(x) for x in images for factor in FACTORS]

    torch.testing.assert_close(
        fxp.compile(enlarged, images)(*images), enlarged(*images), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("sizes", [(60, 61), (61, 61), (60, 68), (43, 128), (42, 40)], ids=str)
def test_the_nearest_pixel_of_larger_images(sizes):
    for factor in (1.008, (2.01, 1.0)):
        model, x = Enlarged("nearest", factor), random((1, 2, *sizes))
        assert torch.equal(fxp.compile(model, (x,))(x), model(x))


@pytest.mark.parametrize(
    ("mode", "rank", "factor"),
    [*((*mode, 1.2) for mode in MODES), ("nearest", 2, 2), ("bilinear", 2, 2), ("trilinear", 3, 2)],
)
def test_a_factor_and_a_size_that_varies(mode, rank, factor):
    model, others = Enlarged(mode, factor), (4, 5)[: rank - 1]
    dims = {2: torch.export.Dim("height", min=2, max=200)}
    compiled = fxp.compile(model, (random((1, 2, 6, *others)),), dynamic_shapes=(dims,))
    for height in (2, 3, 4, 5, 9, 110, 120):
        x = random((1, 2, height, *others))
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


LINE, SPACE = aten.upsample_linear1d, aten.upsample_trilinear3d


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_between_neighbours_on_a_line_and_in_space(dtype, corners):
    line, space = random((2, 3, 7), dtype), random((1, 2, 4, 3, 5), dtype)

    def model(line, space):
        return (
            *(LINE.vec(line, size, corners, None) for size in ([14], [1], [7])),
            *(LINE.vec(line, None, corners, [factor]) for factor in (1.7, 0.6)),
            LINE.default(line, [13], corners, 1.9),
            SPACE.vec(space, [8, 2, 5], corners, None),
            SPACE.vec(space, None, corners, [1.3, 1.4, 0.5]),
        )

    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    found = fxp.compile(model, (line, space), strict=True)(line, space)
    torch.testing.assert_close(found, model(line, space), rtol=tolerance, atol=tolerance)


LINEAR = {
    "linear": ((2, 2, 6), [(6,), (12,), (9,), (3,)]),
    "bilinear": ((1, 2, 4, 6), [(4, 6), (8, 12), (5, 9), (4, 12), (2, 6)]),
    "trilinear": ((1, 1, 3, 4, 5), [(3, 4, 5), (6, 8, 10), (4, 5, 7), (3, 8, 5)]),
}


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", LINEAR)
def test_infinities_and_nan_reach_as_far_as_in_eager_pytorch(mode, align_corners):
    shape, sizes = LINEAR[mode]
    x = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)

    def function(x):
        return [
            torch.nn.functional.interpolate(x, size=size, mode=mode, align_corners=align_corners)
            for size in sizes
        ]

    compiled = fxp.compile(function, (x,))
    for number in (math.inf, math.nan, 1e38):
        x.view(-1)[[2, -2]] = torch.tensor([number, -number])
        torch.testing.assert_close(compiled(x), function(x), equal_nan=True)


@pytest.mark.parametrize("mode", ["linear", "trilinear"])
def test_a_dim_of_varying_size_that_stays_as_long_as_it_is(mode):
    shape = LINEAR[mode][0]

    def function(x):
        return torch.nn.functional.interpolate(x, size=shape[2:], mode=mode)

    compiled = fxp.compile(function, (torch.zeros(shape),), dynamic_shapes=({2: Dim("n", min=2)},))
    for n in (2, shape[2], 7):
        x = torch.ones(*shape[:2], n, *shape[3:])
        x.view(-1)[1] = math.nan
        torch.testing.assert_close(compiled(x), function(x), equal_nan=True)
