"""Batch, layer and group normalisation against eager."""

import pytest
import torch

import fxpasses as fxp
from tests.relax.helpers import FLOATS, call, check, check_calls, random

aten = torch.ops.aten

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def tensors(dtype, *shapes):
    return [random(shape, dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_batch_norm(dtype):
    op = aten._native_batch_norm_legit_no_training.default
    x, weight, bias, mean = tensors(dtype, (2, 4, 5, 3), (4,), (4,), (4,))
    var = mean.abs() + 0.5
    check_calls(
        [
            call(op, x, weight, bias, mean, var, 0.1, 1e-5),
            call(op, x, None, None, mean, var, 0.1, 1e-3),
            call(op, x, None, bias, mean, var, 0.1, 1e-5),
            call(op, x[:, :, 0, 0], weight, None, mean, var, 0.1, 1e-5),
            call(op, x[:, :, None], weight, bias, mean, var, 0.1, 1e-5),
        ],
        tolerance=TOLERANCE,
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_norms_of_the_input_itself(dtype):
    x, weight, bias, last, plane = tensors(dtype, (2, 4, 5, 3), (4,), (4,), (3,), (5, 3))
    layer, group = aten.native_layer_norm.default, aten.native_group_norm.default
    check_calls(
        [
            call(layer, x, [3], last, last, 1e-5),
            call(layer, x, [5, 3], None, None, 1e-5),
            call(layer, x, [5, 3], plane, None, 1e-2),
            call(layer, plane, [5, 3], None, plane, 1e-5),
            call(group, x, weight, bias, 2, 4, 15, 2, 1e-5),
            call(group, x, None, None, 2, 4, 15, 4, 1e-5),
            call(group, x, weight, None, 2, 4, 15, 1, 1e-5),
            call(group, x[:, :, 0, 0].contiguous(), weight, bias, 2, 4, 1, 2, 1e-5),
            call(aten._native_batch_norm_legit.no_stats, x, weight, bias, True, 0.1, 1e-5),
            call(aten._native_batch_norm_legit.no_stats, x, None, None, True, 0.1, 1e-5),
        ],
        tolerance=TOLERANCE,
    )


def test_only_what_is_used_is_computed():
    x, weight = random((2, 4, 8)), random((8,))
    check(aten.native_layer_norm.default, x, [8], weight, weight, 1e-5, results=[0], tolerance=1e-5)
    check(aten.native_group_norm.default, x, None, None, 2, 4, 8, 2, 1e-5, results=[0], tolerance=1e-5)
    check(aten.native_layer_norm.default, x, [8], None, None, 1e-5, results=[1, 2], tolerance=1e-5)


def test_a_large_mean_does_not_swallow_the_variance():
    x = random((4, 64)) + 4096
    check(aten.native_layer_norm.default, x, [64], None, None, 1e-5, results=[0], tolerance=2e-3)


def test_no_elements():
    empty = torch.zeros(0, 4, 8)
    check(aten.native_layer_norm.default, empty, [8], None, None, 1e-5)


def test_dynamic_batch():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.LayerNorm(6)
            self.group = torch.nn.GroupNorm(2, 4)
            self.instance = torch.nn.InstanceNorm2d(4, affine=True)
            self.batch = torch.nn.BatchNorm2d(4)

        def forward(self, x):
            return self.layer(x), self.group(x), self.instance(x), self.batch(x)

    model = Model().eval()
    dynamic = ({0: torch.export.Dim("batch")},)
    compiled = fxp.compile(model, (random((3, 4, 5, 6)),), dynamic_shapes=dynamic, strict=True)
    for batch in (2, 7):
        x = random((batch, 4, 5, 6))
        for got, want in zip(compiled(x), model(x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_batch_norm_without_running_statistics() -> None:
    """It learns nothing, so it may be in training mode, and is in evaluation what it is there."""
    model, x = torch.nn.BatchNorm2d(4, track_running_stats=False), random((3, 4, 5, 6))
    for training in (False, True):
        compiled = fxp.compile(model.train(training), (x,), strict=True)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5, check_stride=False)
    with pytest.raises(fxp.errors.FxpassesError, match="training mode"):
        fxp.compile(torch.nn.BatchNorm2d(4), (x,))


def test_statistics_of_many_values() -> None:
    """Of a constant the deviation is 0, and what is left of it by rounding is not blown up."""
    x = torch.full((1, 2, 200, 200), 0.7)
    x[:, 1] += 1e-3 * torch.randn(200, 200, generator=torch.Generator().manual_seed(0))
    arguments = (x, None, None, 1, 2, 40_000, 2, 1e-5)
    check_calls([call(aten.native_group_norm.default, *arguments)], 2e-4, results=[0, 1])
