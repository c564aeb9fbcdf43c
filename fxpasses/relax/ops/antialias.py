"""Shrinking images without aliasing: each pixel is a weighted mean of those that it covers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import accumulator, const, convert
from fxpasses.relax.table import lowering
from fxpasses.signature import dtype_name

aten = torch.ops.aten

Kernel = Callable[[torch.Tensor], torch.Tensor]

CUBIC = -0.5
"""The slope of the cubic kernel at distance 1."""

LANCZOS = 3.0
"""The distance at which the Lanczos kernel ends."""


@lowering(aten._upsample_bilinear2d_aa.default)
def bilinear(b: Any, self: Any, output_size: Any, align_corners: Any, scales_h: Any, scales_w: Any) -> Any:
    return _resampled(b, self, align_corners, (scales_h, scales_w), _triangle, 1.0)


@lowering(aten._upsample_bicubic2d_aa.default)
def bicubic(b: Any, self: Any, output_size: Any, align_corners: Any, scales_h: Any, scales_w: Any) -> Any:
    return _resampled(b, self, align_corners, (scales_h, scales_w), _cubic, 2.0)


@lowering(aten._upsample_lanczos2d_aa.default)
def lanczos(b: Any, self: Any, output_size: Any, align_corners: Any, scales_h: Any, scales_w: Any) -> Any:
    return _resampled(b, self, align_corners, (scales_h, scales_w), _lanczos, LANCZOS)


def _resampled(b: Any, value: Any, align_corners: bool, scales: Any, kernel: Kernel, reach: float) -> Any:
    """Along rows, then along columns; what stays as large is left alone, whatever its scale is."""
    if not b.val.dtype.is_floating_point:
        raise UnsupportedOperatorError("PyTorch computes it with integers of its own precision")
    sizes, results = b.node.args[0].meta["val"].shape[2:], b.val.shape[2:]
    if not all(isinstance(size, int) for size in (*sizes, *results)):
        raise UnsupportedOperatorError("its weights depend on sizes that are not known")
    dtype, work = b.dtype_of(value), accumulator(b.dtype_of(value))
    dims = [dim for dim in (3, 2) if sizes[dim - 2] != results[dim - 2]]
    for dim in dims:
        axis = dim - 2
        step = _step(sizes[axis], results[axis], align_corners, scales[axis])
        taps = _taps(sizes[axis], results[axis], step, kernel, reach, getattr(torch, work))
        tables = [b.emit(T.relax.const(table.numpy(), dtype_name(table.dtype))) for table in taps]
        made = dtype if dim == dims[-1] else work
        value = b.emit(b.te(_weighted, value, *tables, dim, work, made, name="antialias"))
    return value


def _weighted(x: Any, first: Any, count: Any, weights: Any, dim: int, work: str, dtype: str) -> Any:
    """Sums of elements along *dim*, each from a place of its own on."""
    shape = [*x.shape[:dim], first.shape[0], *x.shape[dim + 1 :]]
    tap = T.te.reduce_axis((0, weights.shape[1]), name="tap")

    def term(*at: Any) -> Any:
        place, zero = at[dim], const(0, work)
        source = T.tirx.min(first(place) + tap, x.shape[dim] - 1)
        element = convert(x(*at[:dim], source, *at[dim + 1 :]), work)
        # What is not covered has no part in it, also where it is no number.
        return T.tirx.Select(tap < count(place), element * weights(place, tap), zero)

    total = T.te.compute(shape, lambda *at: T.te.sum(term(*at), axis=[tap]), name="weighted")
    return T.te.compute(shape, lambda *at: convert(total(*at), dtype), name="rounded")


def _step(size: int, results: int, align_corners: bool, scale: float | None) -> float:
    """The distance in the input of neighbours in the result."""
    if align_corners:
        return (size - 1) / (results - 1) if results > 1 else 0.0
    return 1.0 / scale if scale is not None and scale > 0 else size / results


def _taps(
    size: int, results: int, step: float, kernel: Kernel, reach: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each result the first place it covers, how many, and their weights ``[results, taps]``."""
    width = torch.tensor(max(step, 1.0), dtype=dtype)
    center = torch.tensor(step, dtype=dtype) * (torch.arange(results, dtype=dtype) + 0.5)
    first = (center - reach * width + 0.5).long().clamp(min=0)
    count = (center + reach * width + 0.5).long().clamp(max=size) - first
    tap = torch.arange(max(1, int(count.max())) if results else 1)
    distance = ((first[:, None] + tap).to(dtype) - center[:, None] + 0.5) * width.reciprocal()
    weights = torch.where(tap < count[:, None], kernel(distance), 0.0)
    total = weights.sum(-1, keepdim=True)
    return first, count, weights / torch.where(total == 0, 1.0, total)


def _triangle(distance: torch.Tensor) -> torch.Tensor:
    return (1 - distance.abs()).clamp(min=0)


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    x = distance.abs()
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _lanczos(distance: torch.Tensor) -> torch.Tensor:
    inside = distance.abs() < LANCZOS
    return torch.where(inside, torch.sinc(distance) * torch.sinc(distance / LANCZOS), 0.0)
