"""Enlarging and shrinking images."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import accumulator, const, convert
from fxpasses.relax.table import lowering

aten = torch.ops.aten


@lowering(aten.upsample_nearest2d.vec)
def upsample_nearest2d_vec(b: Any, input: Any, output_size: Any, scale_factors: Any) -> Any:
    return _nearest(b, input, scale_factors or (None, None))


@lowering(aten.upsample_nearest2d.default)
def upsample_nearest2d(b: Any, self: Any, output_size: Any, scales_h: Any, scales_w: Any) -> Any:
    return _nearest(b, self, (scales_h, scales_w))


@lowering(aten.upsample_bilinear2d.vec)
def upsample_bilinear2d_vec(
    b: Any, input: Any, output_size: Any, align_corners: Any, scale_factors: Any
) -> Any:
    return _bilinear(b, input, align_corners, scale_factors or (None, None))


@lowering(aten.upsample_bilinear2d.default)
def upsample_bilinear2d(
    b: Any, self: Any, output_size: Any, align_corners: Any, scales_h: Any, scales_w: Any
) -> Any:
    return _bilinear(b, self, align_corners, (scales_h, scales_w))


_SMALL = 128
"""The sum of height and width of a result up to which torch, for the nearest pixel, looks at sizes and not at scales.

There it does so where an image stays as large as it is, or is doubled; for pixels in between it does so in every
result that stays as large. Beyond, it does so for some layouts in memory, which a graph does not know.
"""


def _nearest(b: Any, value: Any, scales: Any) -> Any:
    work = _position_dtype(b, value)

    def source(at: Any, size: Any, results: Any, scale: float | None, is_small: Any) -> Any:
        step = _step(size, results, scale, work)
        place = T.te.floor(convert(at, work) * step).astype("int64")
        place = T.tirx.min(place, size - 1)
        if scale is None:
            return place
        place = _chosen(T.tirx.all(is_small, results.equal(2 * size)), T.tirx.floordiv(at, 2), place)
        return _chosen(T.tirx.all(is_small, results.equal(size)), at, place)

    def kernel(x: Any, shape: Any) -> Any:
        is_small = shape[2] + shape[3] <= _SMALL

        def element(n: Any, channel: Any, *at: Any) -> Any:
            places = [source(i, x.shape[2 + d], shape[2 + d], scales[d], is_small) for d, i in enumerate(at)]
            return x(n, channel, *places)

        return T.te.compute(tuple(shape), element, name="nearest")

    return b.te(kernel, value, b.shape(b.val))


def _bilinear(b: Any, value: Any, align_corners: bool, scales: Any) -> Any:
    dtype = b.dtype_of(value)
    work = _position_dtype(b, value)

    def source(at: Any, size: Any, results: Any, scale: float | None) -> tuple[Any, Any, Any]:
        """The two neighbours on one axis and the weight of the second."""
        tirx = T.tirx
        if align_corners:
            span = convert(tirx.max(results - 1, tirx.IntImm("int64", 1)), work)
            step = convert(size - 1, work) / span
            place = convert(at, work) * tirx.Select(results > 1, step, const(0, work))
        else:
            half = const(0.5, work)
            step = _step(size, results, scale, work)
            place = tirx.max((convert(at, work) + half) * step - half, const(0, work))
            if scale is not None:
                place = _chosen(results.equal(size), convert(at, work), place)
        low = tirx.min(T.te.floor(place).astype("int64"), size - 1)
        share = place - convert(low, work)
        share = tirx.min(tirx.max(share, const(0, work)), const(1, work))
        # Where the axis stays as long as it is, both are one and the same, which a NaN tells.
        return low, _chosen(results.equal(size), low, tirx.min(low + 1, size - 1)), share

    def kernel(x: Any, shape: Any) -> Any:
        def element(n: Any, channel: Any, row: Any, column: Any) -> Any:
            top, bottom, down = source(row, x.shape[2], shape[2], scales[0])
            left, right, across = source(column, x.shape[3], shape[3], scales[1])
            one = const(1, work)

            def on_row(i: Any) -> Any:
                first, second = (convert(x(n, channel, i, j), work) for j in (left, right))
                return first * (one - across) + second * across

            return convert(on_row(top) * (one - down) + on_row(bottom) * down, dtype)

        return T.te.compute(tuple(shape), element, name="bilinear")

    if not b.val.dtype.is_floating_point:
        raise UnsupportedOperatorError(
            f"bilinear resampling of {dtype} is not lowered; convert to a float type first"
        )
    return b.te(kernel, value, b.shape(b.val))


def _position_dtype(b: Any, value: Any) -> str:
    """The type that torch computes positions in."""
    return accumulator(b.dtype_of(value)) if b.val.dtype.is_floating_point else "float32"


def _chosen(condition: Any, place: Any, other: Any) -> Any:
    """*place* where *condition* holds, which sizes that are known decide."""
    return T.Analyzer().simplify(T.tirx.Select(condition, place, other))


def _step(size: Any, results: Any, scale: float | None, work: str) -> Any:
    """The distance in the input of neighbours in the result."""
    if scale is not None and scale > 0:
        return const(1.0 / scale, work)
    return convert(size, work) / convert(results, work)
