"""Tensors made from numbers and sizes."""

import pytest
import torch

import fxpasses as fxp
from tests.relax.helpers import DTYPES, call, check_calls, random

aten = torch.ops.aten


@pytest.mark.parametrize("dtype", DTYPES)
def test_full(dtype):
    check_calls([call(aten.full.default, [2, 3], value, dtype=dtype) for value in (1.7, 0, True, 100)])


def test_full_of_special_values():
    inf, nan = float("inf"), float("nan")
    check_calls(
        [
            call(aten.full.default, [], nan),
            call(aten.full.default, [], -inf),
            call(aten.full.default, [2], inf, dtype=torch.float16),
            call(aten.full.default, [2], 1e30, dtype=torch.bfloat16),
            call(aten.full.default, [2], -0.0),
            call(aten.full.default, [2], 0.1, dtype=torch.float16),
            call(aten.full.default, [2], 2**62 + 1, dtype=torch.int64),
            call(aten.full.default, [2], -1, dtype=torch.int8),
            call(aten.full.default, [2, 0], 1.0),
            call(aten.full.default, [2], 3),
            call(aten.full.default, [2], True),
            call(aten.full.default, [2], 2.5),
        ]
    )


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d is not torch.bool], ids=str)
def test_arange(dtype):
    bounds = [(0, 7, 2), (0.5, 7.3, 1.3), (3, 3, 1), (0, 100, 1)]
    if dtype is not torch.uint8:
        bounds += [(7, -5, -2), (7.5, 0, -2.25)]
    # torch may count on in float32 inside a vector, a last bit off
    tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float64: 1e-15}
    check_calls([call(aten.arange.start_step, *b, dtype=dtype) for b in bounds], tolerance=tolerance)


def test_arange_without_dtype():
    check_calls([call(aten.arange.start_step, 7, 0, -2), call(aten.arange.start_step, 7, 0, -2.0)])


@pytest.mark.parametrize("diagonal", [0, 1, -2, 9])
def test_triangles(diagonal):
    check_calls(
        [
            call(op, random(shape, dtype), diagonal)
            for op in (aten.tril.default, aten.triu.default)
            for dtype in (torch.float32, torch.bool, torch.bfloat16, torch.int64)
            for shape in ((2, 3, 4), (4, 2))
        ]
    )


def test_a_triangle_cuts_off_nan():
    check_calls([call(aten.tril.default, torch.full((3, 3), float("nan")))])
    check_calls([call(aten.triu.default, random((2, 3, 4)), 1)], dynamic=True)


def test_sizes_as_values():
    class Model(torch.nn.Module):
        def forward(self, x):
            return (
                torch.arange(x.shape[0]),
                torch.full((x.shape[0], 2), x.shape[0]),
                torch.ones(2, x.shape[0]),
            )

    dynamic = ({0: torch.export.Dim("batch")},)
    compiled = fxp.compile(Model(), (random((3, 4)),), dynamic_shapes=dynamic, strict=True)
    for batch in (2, 7):
        x = random((batch, 4))
        for got, want in zip(compiled(x), Model()(x), strict=True):
            assert got.dtype == want.dtype
            assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [None, torch.int64, torch.bool, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(3,), (300,), (2, 70000), (0, 3)], ids=str)
def test_eye(sizes, dtype):
    """Also of more places than a byte counts."""
    model = fxp.compile(lambda x: torch.eye(*sizes, dtype=dtype) + x, (torch.ones(1),), strict=True)
    assert torch.equal(model(torch.ones(1)), torch.eye(*sizes, dtype=dtype) + 1)


def test_eye_of_a_size_that_is_not_known():
    def mask(x):
        return x + torch.eye(x.shape[0])

    compiled = fxp.compile(
        mask, (torch.randn(7, 7),), dynamic_shapes=({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},)
    )
    for size in (2, 300):
        x = torch.randn(size, size)
        assert torch.equal(compiled(x), mask(x))
