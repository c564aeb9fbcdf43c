"""Operators that stand for a few of ATen's: the kernels that spell them out.

Exported integer graphs quantise and dequantise with the operators of
``torch.ops.quantized_decomposed``. Torch writes their kernels with ATen's
operators, so that tracing a kernel gives the decomposition, with torch's own
rounding and ranges. `KERNELS` has ours: where torch's looks at values, to check
them, which a graph cannot, and for operators of ATen whose kernel is in C++.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from fxpasses.passes.decompositions.losses import binary_cross_entropy, multi_margin_loss
from fxpasses.schema import COMPOSED_NAMESPACES

__all__ = ["KERNELS", "composed_kernel"]

Kernel = Callable[..., Any]


def composed_kernel(op: OpOverload) -> Kernel | None:
    """The function of *op*'s arguments that calls ATen's operators in its place; None where there is none."""
    own = KERNELS.get(op._schema.name, {}).get(op._overloadname)
    if own is not None or op.namespace not in COMPOSED_NAMESPACES:
        return own
    return functools.partial(op._op_dk, torch._C.DispatchKey.CompositeExplicitAutograd)


def _choose_qparams(
    input: torch.Tensor, quant_min: int, quant_max: int, eps: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point with which the range of *input*, and zero, fill the integers; shape [1]."""
    low, high = (bound.reshape(1) for bound in torch.aminmax(input))
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = _at_least(eps, (high - low) / float(quant_max - quant_min))
    zero_point = quant_min - torch.round(low / scale).to(torch.int32)
    return scale.to(torch.float64), zero_point.clamp(quant_min, quant_max).to(torch.int64)


def _choose_qparams_symmetric(
    input: torch.Tensor, quant_min: int, quant_max: int, eps: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_choose_qparams`, for a range that is as wide on both sides of zero."""
    low, high = (bound.reshape(1) for bound in torch.aminmax(input))
    high = torch.maximum(-low.clamp(max=0), high.clamp(min=0))
    scale = _at_least(eps, high / (float(quant_max - quant_min) / 2))
    middle = 128 if dtype == torch.uint8 else 0
    return scale.to(torch.float64), torch.full_like(scale, middle, dtype=torch.int64)


def _at_least(eps: float, scale: torch.Tensor) -> torch.Tensor:
    """The larger of *scale* and *eps*, which torch holds in float32."""
    return torch.maximum(scale, torch.full_like(scale, eps, dtype=torch.float32))


def _quantize_per_tensor(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    low: Any,
    high: Any,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Integers of *dtype* in steps of *scale*; scale and zero point are tensors of one element."""
    steps = torch.round(input.to(torch.float32) * _number(scale.to(torch.float64).reciprocal()))
    low, high = (_number(bound) if isinstance(bound, torch.Tensor) else bound for bound in (low, high))
    return torch.clamp(steps + _number(zero_point), low, high).to(dtype)


def _dequantize_per_tensor(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    low: Any,
    high: Any,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The numbers of *out_dtype* (float32) that integers stand for; the opposite of `_quantize_per_tensor`."""
    wanted = torch.float32 if out_dtype is None else out_dtype
    centered = (input.to(wanted).to(torch.float32) - _number(zero_point)).to(wanted)
    return (centered.to(torch.float32) * _number(scale)).to(wanted)


def _number(value: torch.Tensor) -> torch.Tensor:
    """A tensor of one element as the number that arithmetic in float32 reads."""
    return value.reshape(()).to(torch.float32)


def _fake_quantize(
    input: torch.Tensor, scale: Any, zero_point: Any, quant_min: int, quant_max: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """*input* rounded to the numbers that the integers in the range stand for, and which were in range."""
    scale = torch.as_tensor(scale, dtype=torch.float32)
    steps = (torch.round(input.to(torch.float32) * scale.reciprocal()) + zero_point).to(torch.int64)
    kept = steps.clamp(quant_min, quant_max)
    return ((kept - zero_point) * scale).to(input.dtype), kept == steps


def _fake_quantize_by_channel(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = [-1 if dim == axis % input.dim() else 1 for dim in range(input.dim())]
    return _fake_quantize(input, scale.reshape(shape), zero_point.reshape(shape), quant_min, quant_max)


def _fake_quantize_if(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    fake_quant_enabled: torch.Tensor,
    quant_min: int,
    quant_max: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    made, mask = _fake_quantize(
        input, scale.reshape(()), zero_point.reshape(()).to(torch.int64), quant_min, quant_max
    )
    is_on = fake_quant_enabled.reshape(()) != 0
    return torch.where(is_on, made, input), mask | ~is_on


def _int_mm(self: torch.Tensor, mat2: torch.Tensor) -> torch.Tensor:
    return self.to(torch.int32) @ mat2.to(torch.int32)


def _conv_tbc(self: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, pad: int) -> torch.Tensor:
    """Convolution of [time, batch, channels] with a weight [width, inputs, outputs]."""
    made = torch.conv1d(self.permute(1, 2, 0), weight.permute(2, 1, 0), bias, padding=pad)
    return made.permute(2, 0, 1)


def _ldexp(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``self * 2**other``; for floating numbers and integers *other* with nothing infinite on the way."""
    if other.is_floating_point() or not self.is_floating_point():
        return self * torch.pow(2.0, other)
    is_wide = self.dtype == torch.float64
    # Factors that float64 has; three of these reach from its least number to beyond its greatest.
    least, most = (-969, 1000) if is_wide else (-500, 500)
    result, exponent = (
        self.to(torch.float64),
        other.to(torch.int32).to(torch.float64),
    )  # torch has an int there
    for _ in range(3 if is_wide else 1):
        part = exponent.clamp(least, most)
        result, exponent = result * torch.exp2(part), exponent - part
    return result.to(self.dtype)


def _logspace(
    start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: Any = None, **options: Any
) -> torch.Tensor:
    """Torch's own, where the ends are numbers of the dtype: it raises an error for others."""
    if steps > 1 and _is_integer(dtype):
        for bound in (start, end):
            if isinstance(bound, torch.Tensor):
                _of_dtype(bound, dtype)
    return torch._refs.logspace(start, end, steps, base, dtype=dtype, **options)


def _linspace(start: Any, end: Any, steps: int, *, dtype: Any = None, **options: Any) -> torch.Tensor:
    """Torch's own, with ends that are numbers of an integer dtype: it leaves fractions, and what is out of range."""
    if _is_integer(dtype):
        start = _of_dtype(start, dtype)
        end = _of_dtype(end, dtype) if steps > 1 else end
    return torch._refs.linspace(start, end, steps, dtype=dtype, **options)


def _is_integer(dtype: torch.dtype | None) -> bool:
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool


def _of_dtype(bound: Any, dtype: torch.dtype) -> Any:
    """*bound*, a number or a tensor of one, as a number of the integer *dtype*, which it must fit."""
    range_ = torch.iinfo(dtype)
    is_float = bound.is_floating_point() if isinstance(bound, torch.Tensor) else isinstance(bound, float)
    least = range_.min if is_float else range_.min or -range_.max  # integers wrap around
    if isinstance(bound, torch.Tensor):
        fits = (bound >= least) & (bound <= range_.max)
        torch._assert_async(fits, "value cannot be converted without overflow")
        return bound.to(dtype)
    if not least <= bound <= range_.max:
        raise RuntimeError(f"value cannot be converted to {dtype} without overflow")
    number = int(bound)
    return number if number >= range_.min else number + range_.max + 1


def _linear(input: torch.Tensor, output_size: Any, align_corners: bool, *scales: Any) -> torch.Tensor:
    """Between neighbours along one dim after the other.

    Torch's decomposition has the scale in the place of the sizes also where a dim stays as long as it is.
    """
    result = input.to(torch.promote_types(input.dtype, torch.float32))
    for dim, (results, scale) in enumerate(zip(output_size, scales, strict=True), start=2):
        size = input.shape[dim]
        step = _linear_step(size, results, align_corners, scale)
        at = torch.arange(results, device=input.device).to(result.dtype)
        place = at * step if align_corners else ((at + 0.5) * step - 0.5).clamp(min=0)
        low = place.to(torch.int64).clamp(max=size - 1)
        # Where the dim stays as long as it is, both are one and the same, which a NaN tells.
        high = (low + torch.logical_not(_is_same(size, results))).clamp(max=size - 1)
        first, second = (result.index_select(dim, i) for i in (low, high))
        share = (place - low).clamp(0, 1).reshape(-1, *[1] * (input.dim() - dim - 1))
        result = first * (1 - share) + second * share
    return result.to(input.dtype)


def _linear_step(size: Any, results: Any, align_corners: bool, scale: float | None) -> Any:
    """The distance in the input of neighbours in the result, as a number or a tensor."""
    if align_corners:
        return (size - 1) / torch.sym_max(results - 1, 1)
    if scale is None or scale <= 0:
        return size / results
    return torch.where(_is_same(size, results), 1.0, torch.scalar_tensor(1 / scale, dtype=torch.float64))


def _is_same(size: Any, results: Any) -> torch.Tensor:
    return torch.eq(*(torch.scalar_tensor(n, dtype=torch.int64) for n in (size, results)))


def _linear_of(rank: int) -> dict[str, Kernel]:
    def vec(input: torch.Tensor, output_size: Any, align_corners: bool, scale_factors: Any) -> torch.Tensor:
        from torch._decomp.decompositions import upsample_compute_output_size

        sizes = upsample_compute_output_size(input.size(), output_size, scale_factors)
        return _linear(input, sizes, align_corners, *(scale_factors or [None] * rank))

    return {"vec": vec, "default": _linear}


KERNELS: dict[str, dict[str, Kernel]] = {
    "quantized_decomposed::choose_qparams": {"tensor": _choose_qparams},
    "quantized_decomposed::choose_qparams_symmetric": {"tensor": _choose_qparams_symmetric},
    "quantized_decomposed::quantize_per_tensor": dict.fromkeys(("tensor", "tensor2"), _quantize_per_tensor),
    "quantized_decomposed::dequantize_per_tensor": dict.fromkeys(
        ("tensor", "tensor2"), _dequantize_per_tensor
    ),
    "aten::fake_quantize_per_tensor_affine_cachemask": {"default": _fake_quantize},
    "aten::fake_quantize_per_channel_affine_cachemask": {"default": _fake_quantize_by_channel},
    "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams": {"default": _fake_quantize_if},
    "aten::ldexp": {"Tensor": _ldexp},
    "aten::linspace": dict.fromkeys(("Tensor_Scalar", "Scalar_Tensor", "Tensor_Tensor"), _linspace),
    "aten::logspace": dict.fromkeys(("Tensor_Scalar", "Scalar_Tensor", "Tensor_Tensor"), _logspace),
    "aten::binary_cross_entropy": {"default": binary_cross_entropy},
    "aten::multi_margin_loss": {"default": multi_margin_loss},
    "aten::_int_mm": {"default": _int_mm},
    "aten::conv_tbc": {"default": _conv_tbc},
    "aten::upsample_linear1d": _linear_of(1),
    "aten::upsample_trilinear3d": _linear_of(3),
}
