"""Images and volumes read at positions that another tensor holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, reduce
from typing import Any

import torch

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.ops.reduction import accumulated
from fxpasses.relax.table import lowering

aten = torch.ops.aten

_BILINEAR, _NEAREST, _BICUBIC = range(3)
_ZEROS, _BORDER, _REFLECTION = range(3)
_CUBIC = -0.75


@lowering(aten.grid_sampler_2d.default)
def grid_sampler_2d(
    b: Any, input: Any, grid: Any, interpolation_mode: Any, padding_mode: Any, align_corners: Any
) -> Any:
    return b.te(_kernel(interpolation_mode, padding_mode, align_corners), input, grid, b.shape(b.val))


@lowering(aten.grid_sampler_3d.default)
def grid_sampler_3d(
    b: Any, input: Any, grid: Any, interpolation_mode: Any, padding_mode: Any, align_corners: Any
) -> Any:
    if interpolation_mode == _BICUBIC:
        raise UnsupportedOperatorError("bicubic sampling is for images only, in PyTorch too")
    return b.te(_kernel(interpolation_mode, padding_mode, align_corners), input, grid, b.shape(b.val))


@cache
def _kernel(mode: int, padding: int, align_corners: bool) -> Callable[[Any, Any, Any], Any]:
    def kernel(x: Any, grid: Any, shape: Any) -> Any:
        tirx, dtype, dims = T.tirx, str(x.dtype), len(shape) - 2
        work, sizes = accumulated(dtype), x.shape[2:]
        # Nearest and linear samples lie where PyTorch's own rounding puts them; cubic ones are smooth.
        fine = "float64" if mode == _BICUBIC else work

        def on_axis(function: Callable[[int], Any], axis: Any) -> Any:
            chosen = function(0)
            for d in range(1, dims):
                chosen = S.select(axis.equal(d), function(d), chosen)
            return chosen

        def raw_place(*at: Any) -> Any:
            """Where the sample lies on an axis, in elements; the grid counts axes from the last one."""
            *outer, axis = at

            def along(d: int) -> Any:
                read = S.cast(grid(*outer, dims - 1 - d), fine)
                return _unnormalize(read, S.cast(sizes[d], fine), dims, align_corners)

            return on_axis(along, axis)

        def beyond(*at: Any) -> Any:
            """How far behind the last mirror it lies."""
            mirrors = [_mirrors(sizes[d], fine, align_corners) for d in range(dims)]
            low, span = on_axis(lambda d: mirrors[d][0], at[-1]), on_axis(lambda d: mirrors[d][1], at[-1])
            return S.call_libm("fmod", T.tirx.abs(S.subtract(raw_places(*at), low)), span)

        def place(*at: Any) -> Any:
            """The same inside the image."""
            raw, extra = raw_places(*at), extras(*at) if padding == _REFLECTION else None
            return on_axis(lambda d: _padded(raw, sizes[d], padding, align_corners, extra), at[-1])

        def tap(*at: Any) -> Any:
            """The element that a tap reads on an axis, or -1 outside the image."""
            *outer, axis, number = at
            raw = _tap(mode, places(*outer, axis), S.cast(number, fine))

            def element(d: int) -> Any:
                moved = _padded(raw, sizes[d], padding, align_corners) if mode == _BICUBIC else raw
                inside = (moved >= S.const(0.0, fine)) & (moved <= S.cast(sizes[d] - 1, fine))
                return S.select(inside, moved, S.const(-1.0, fine))

            return on_axis(element, axis).astype("int64")

        def weight(*at: Any) -> Any:
            *outer, axis, number = at
            return S.cast(_WEIGHTS[mode](places(*outer, axis), number), work)

        def sample(n: Any, channel: Any, *at: Any) -> Any:
            total: Any = S.const(0.0, work)
            for numbers in itertools.product(range(count), repeat=dims):
                read = [taps(n, *at, d, number) for d, number in enumerate(numbers)]
                inside = tirx.all(*(tap >= 0 for tap in read))
                value, nothing = S.cast(x(n, channel, *read), work), S.const(0.0, work)
                if mode == _NEAREST:
                    term = tirx.if_then_else(inside, value, nothing)
                else:
                    factor = reduce(
                        S.multiply, [weights(n, *at, d, number) for d, number in enumerate(numbers)]
                    )
                    # At a place that is NaN an image is NaN, and a volume 0, as in PyTorch.
                    if dims == 2:
                        term = S.multiply(tirx.if_then_else(inside, value, nothing), factor)
                    else:
                        term = tirx.if_then_else(inside, S.multiply(value, factor), nothing)
                total = term if not any(numbers) else S.add(total, term)
            return S.cast(total, dtype)

        count = _COUNT[mode]
        outer = (shape[0], *shape[2:], tirx.IntImm("int64", dims))
        places = raw_places = T.te.compute(outer, raw_place, name="raw_places")
        if mode != _BICUBIC and padding != _ZEROS:
            if padding == _REFLECTION:
                extras = T.te.compute(outer, beyond, name="extras")
            places = T.te.compute(outer, place, name="places")
        taps = T.te.compute((*outer, tirx.IntImm("int64", count)), tap, name="taps")
        weights = T.te.compute((*outer, tirx.IntImm("int64", count)), weight, name="weights")
        return T.te.compute(tuple(shape), sample, name="grid_sample")

    return kernel


def _unnormalize(place: Any, size: Any, dims: int, align_corners: bool) -> Any:
    """From [-1, 1] to elements, rounded as PyTorch rounds for images and for volumes."""
    one, two, half = (S.const(number, S.dtype_of(place)) for number in (1.0, 2.0, 0.5))
    moved, last = S.add(place, one), S.subtract(size, one)
    if dims == 2:
        if align_corners:
            return S.multiply(moved, S.divide(last, two))
        return S.subtract(S.multiply(moved, S.divide(size, two)), half)
    if align_corners:
        return S.multiply(S.divide(moved, two), last)
    return S.divide(S.subtract(S.multiply(moved, size), one), two)


def _mirrors(size: Any, dtype: str, align_corners: bool) -> tuple[Any, Any]:
    """Where the first of the two mirrors at the ends of an axis lies, and how far from the other."""
    count = S.cast(size, dtype)
    one, half = S.const(1.0, dtype), S.const(0.5, dtype)
    if align_corners:
        return S.const(0.0, dtype), T.tirx.max(
            S.subtract(count, one), one
        )  # in one element all are clipped to it
    return S.negative(half), count


def _padded(place: Any, size: Any, padding: int, align_corners: bool, extra: Any = None) -> Any:
    """The place that stands for one outside the image; *extra* is how far behind the last mirror it lies."""
    if padding == _ZEROS:
        return place
    dtype = S.dtype_of(place)
    zero, one, half = (S.const(number, dtype) for number in (0.0, 1.0, 0.5))
    last = S.subtract(S.cast(size, dtype), one)
    if padding == _REFLECTION:
        low, span = _mirrors(size, dtype, align_corners)
        away = T.tirx.abs(S.subtract(place, low))
        extra = S.call_libm("fmod", away, span) if extra is None else extra
        turns = S.multiply(T.tirx.floor(S.divide(away, span)), half)
        mirrored = S.select(S.equal(T.tirx.trunc(turns), turns), extra, S.subtract(span, extra))
        place = S.add(mirrored, low)
    return S.select(place > zero, S.select(place < last, place, last), zero)


def _tap(mode: int, place: Any, number: Any) -> Any:
    """The whole place that tap *number* of a place reads."""
    if mode == _NEAREST:
        return T.tirx.nearbyint(place)
    before = S.const(1.0 if mode == _BICUBIC else 0.0, S.dtype_of(place))
    return S.add(T.tirx.floor(place), S.subtract(number, before))


def _even_weight(place: Any, number: Any) -> Any:
    return S.const(1.0, S.dtype_of(place))


def _linear_weight(place: Any, number: Any) -> Any:
    share = S.subtract(place, T.tirx.floor(place))
    return S.select(number.equal(0), S.subtract(S.const(1.0, S.dtype_of(place)), share), share)


def _cubic_weight(place: Any, number: Any) -> Any:
    """Keys' cubic convolution of the distance of tap *number*, -1 to 2 from the place below."""
    dtype = S.dtype_of(place)
    share = S.subtract(place, T.tirx.floor(place))
    x = T.tirx.abs(S.subtract(S.subtract(S.cast(number, dtype), S.const(1.0, dtype)), share))

    def polynomial(*coefficients: float) -> Any:
        value: Any = S.const(coefficients[0], dtype)
        for coefficient in coefficients[1:]:
            value = S.add(S.multiply(value, x), S.const(coefficient, dtype))
        return value

    near = polynomial(_CUBIC + 2, -(_CUBIC + 3), 0.0, 1.0)
    far = polynomial(_CUBIC, -5 * _CUBIC, 8 * _CUBIC, -4 * _CUBIC)
    return S.select(number.equal(1) | number.equal(2), near, far)


_COUNT = {_BILINEAR: 2, _NEAREST: 1, _BICUBIC: 4}
_WEIGHTS = {_BILINEAR: _linear_weight, _NEAREST: _even_weight, _BICUBIC: _cubic_weight}
