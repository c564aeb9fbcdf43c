"""Operators that stand for a few of ATen's: the kernels that spell them out.

Exported integer graphs quantise and dequantise with the operators of
``torch.ops.quantized_decomposed``. Torch writes their kernels with ATen's
operators, so that tracing a kernel gives the decomposition, with torch's own
rounding and ranges. `KERNELS` has ours where torch's looks at values, to check
them, which a graph cannot.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

__all__ = ["KERNELS", "composed_kernel"]

Kernel = Callable[..., Any]


def composed_kernel(op: OpOverload) -> Kernel:
    """The function of *op*'s arguments that calls ATen's operators in its place."""
    own = KERNELS.get(op._schema.name, {}).get(op._overloadname)
    return own or functools.partial(op._op_dk, torch._C.DispatchKey.CompositeExplicitAutograd)


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


KERNELS: dict[str, dict[str, Kernel]] = {
    "quantized_decomposed::choose_qparams": {"tensor": _choose_qparams},
    "quantized_decomposed::choose_qparams_symmetric": {"tensor": _choose_qparams_symmetric},
    "quantized_decomposed::quantize_per_tensor": dict.fromkeys(("tensor", "tensor2"), _quantize_per_tensor),
    "quantized_decomposed::dequantize_per_tensor": dict.fromkeys(
        ("tensor", "tensor2"), _dequantize_per_tensor
    ),
}
