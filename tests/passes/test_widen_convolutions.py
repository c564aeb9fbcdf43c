"""`widen_convolutions`: convolutions of half types in float32, rounded once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.passes import canonicalize, channels_last, widen_convolutions
from tests.passes.helpers import aten, program_of

DTYPES = (torch.bfloat16, torch.float16)


def convolutions(program):
    return [node for node in program.graph.nodes if node.target is aten.convolution.default]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.Conv1d(3, 8, 3, padding=1), (2, 3, 20)),
        (nn.Conv2d(4, 6, 3, stride=2, bias=False), (1, 4, 9, 9)),
        (nn.Conv2d(8, 8, 3, groups=8), (1, 8, 7, 7)),
        (nn.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1), (1, 4, 5, 5)),
        (nn.Conv3d(2, 4, 2), (1, 2, 4, 4, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_result_is_that_of_float32_rounded(layer, sizes, dtype):
    layer, x = layer.to(dtype).eval(), torch.randn(sizes).to(dtype)
    program = widen_convolutions(canonicalize(program_of(layer, x)))
    (node,) = convolutions(program)
    assert node.meta["val"].dtype == torch.float32
    exact = layer.float()(x.float())
    torch.testing.assert_close(program(x), exact.to(dtype), rtol=0, atol=0)
    compiled = fxp.compile(layer.to(dtype), (x,), strict=True)(x)
    unit = torch.finfo(dtype).eps * exact.abs().clamp(min=1e-2)
    assert ((compiled.float() - exact).abs() <= unit).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_other_types_stay(dtype):
    program = canonicalize(
        program_of(nn.Conv2d(3, 4, 3).to(dtype).eval(), torch.randn(1, 3, 5, 5, dtype=dtype))
    )
    assert fxp.fingerprint(widen_convolutions(program)) == fxp.fingerprint(program)


def test_a_computed_weight_stays():
    def model(x, w):
        return torch.conv2d(x, w * 2)

    args = torch.randn(1, 3, 5, 5).half(), torch.randn(4, 3, 3, 3).half()
    program = canonicalize(program_of(model, *args))
    assert fxp.fingerprint(widen_convolutions(program)) == fxp.fingerprint(program)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_permutation_is_left_between_layers(dtype):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 1)
    )
    model, x = model.to(dtype).eval(), torch.randn(1, 3, 20, 20).to(dtype)
    compiled = fxp.compile(model, (x,), strict=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=4 * torch.finfo(dtype).eps, atol=1e-2)
    program = channels_last(widen_convolutions(canonicalize(program_of(model, x))))
    permutations = [node for node in program.graph.nodes if node.target is aten.permute.default]
    assert len(permutations) == 2
