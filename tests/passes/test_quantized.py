"""Operators of ``quantized_decomposed``: spelled with ATen's, to the bit what torch's kernels give."""

from __future__ import annotations

import pytest
import torch
import torch.ao.quantization.fx._decomposed

from fxpasses.passes import canonicalize
from fxpasses.schema import is_canonical_target
from tests.passes.helpers import program_of

ops = torch.ops.quantized_decomposed
INT8 = (-128, 127, torch.int8)
UINT8 = (0, 255, torch.uint8)
CHANNEL_SCALES = torch.linspace(0.01, 0.05, 8)
GROUP_SCALES = torch.linspace(0.1, 0.5, 12)


def per_tensor(x):
    integers = ops.quantize_per_tensor(x, 0.037, 3, *INT8)
    return integers, ops.dequantize_per_tensor(integers, 0.037, 3, *INT8)


def per_channel(x):
    scales, zeros = CHANNEL_SCALES, torch.arange(-4, 4)
    integers = ops.quantize_per_channel(x, scales, zeros, 1, *INT8)
    return integers, ops.dequantize_per_channel(integers, scales, zeros, 1, *INT8)


def dynamic(x):
    scale, zero = ops.choose_qparams.tensor(x, 0, 255, 1e-6, torch.uint8)
    integers = ops.quantize_per_tensor.tensor(x, scale, zero, *UINT8)
    return (
        scale,
        zero,
        integers,
        ops.dequantize_per_tensor.tensor(integers, scale, zero, *UINT8, out_dtype=x.dtype),
    )


def symmetric(x):
    scale, zero = ops.choose_qparams_symmetric.tensor(x, -128, 127, 1e-6, torch.int8)
    integers = ops.quantize_per_tensor.tensor(x, scale, zero, *INT8)
    return (
        scale,
        zero,
        integers,
        ops.dequantize_per_tensor.tensor(integers, scale, zero, *INT8, out_dtype=x.dtype),
    )


def bounds_in_tensors(x):
    scale, zero, low, high = torch.tensor(0.03), torch.tensor(7), torch.tensor(0), torch.tensor(200)
    integers = ops.quantize_per_tensor.tensor2(x, scale, zero, low, high, torch.uint8)
    return integers, ops.dequantize_per_tensor.tensor2(integers, scale, zero, low, high, torch.uint8)


def per_token(x):
    scales, zeros = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
    integers = ops.quantize_per_token(x, scales, zeros, *INT8)
    return scales, zeros, integers, ops.dequantize_per_token(integers, scales, zeros, *INT8, torch.float32)


def groups(x):
    scales = GROUP_SCALES.reshape(6, 2)
    return ops.dequantize_per_channel_group(
        x.to(torch.int8), scales, None, -8, 7, torch.int8, 4, torch.float32
    )


def kept_cast(x):
    return ops.convert_element_type.no_fuse(x, torch.float16)


ANY_FLOAT = [per_tensor, dynamic, symmetric, kept_cast]
FLOAT32 = [per_channel, bounds_in_tensors, per_token, groups]
CASES = [(f, d) for f in ANY_FLOAT for d in (torch.float32, torch.float16, torch.bfloat16)]


@pytest.mark.parametrize(("function", "dtype"), [*CASES, *((f, torch.float32) for f in FLOAT32)])
def test_equal_to_torchs_kernels(function, dtype):
    x = (torch.randn(6, 8) * 4).to(dtype)
    program = canonicalize(program_of(function, x))
    assert all(is_canonical_target(node.target) for node in program.nodes() if node.op == "call_function")
    assert not any("quantized" in str(node.target) for node in program.nodes())
    got, want = program.run(x)[0], function(x)
    torch.testing.assert_close(got, want, rtol=0.0, atol=0.0)


def test_a_kernel_that_looks_at_values_stays():
    def function(x, scales, zeros):
        return ops.quantize_per_channel_group(x, scales, zeros, -8, 7, torch.int8, 4)

    program = canonicalize(program_of(function, torch.randn(6, 8), torch.rand(6, 2), torch.zeros(6, 2)))
    assert any("quantize_per_channel_group" in str(node.target) for node in program.nodes())


FAKE = {
    "tensor": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 3, -10, 20),
    "tensor, with a mask": lambda x: torch.ops.aten.fake_quantize_per_tensor_affine_cachemask(
        x, 0.1, 3, -10, 20
    ),
    "tensors of one element": lambda x: torch.fake_quantize_per_tensor_affine(
        x, torch.tensor(0.07), torch.tensor(2, dtype=torch.int32), -10, 20
    ),
    "switched off": lambda x: torch._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
        x, torch.tensor([0.07]), torch.tensor([2], dtype=torch.int32), torch.tensor([0]), -10, 20
    ),
    "channel": lambda x: torch.fake_quantize_per_channel_affine(
        x, CHANNEL_SCALES, torch.arange(8, dtype=torch.int32), 1, -10, 20
    ),
}


@pytest.mark.parametrize("case", FAKE)
def test_fake_quantization(case):
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) * 3
    program = canonicalize(program_of(FAKE[case], x))
    assert not any("fake_quantize" in str(node.target) for node in program.nodes())
    got, want = program(x), FAKE[case](x)
    for a, e in zip(*(v if isinstance(v, tuple) else (v,) for v in (got, want)), strict=True):
        assert torch.equal(a, e)
