"""Fourier transforms as products with constant matrices.

A transform of length n is one real matrix product over the pairs, up to
`DIRECT` elements. A longer one of composite length n = p * q is two rounds of
shorter ones with a multiplication between them, so that the matrices stay small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.passes.complexes.arithmetic import multiply
from fxpasses.passes.complexes.table import Pair, complex_row
from fxpasses.passes.decompositions.values import reshape
from fxpasses.rewrite import Editor

aten = torch.ops.aten

DIRECT = 100
"""Up to this length a transform is one product."""

DIRECT_REAL = 256
"""Up to this length a transform from or to real values, of half the work, is one product."""

LARGEST_PRIME = 2048
"""The longest prime factor that is done directly."""


@complex_row(aten._fft_c2c.default)
def c2c(g: Editor, self: Any, dim: Any, normalization: int, forward: bool) -> Any:
    lengths = _lengths(self.shape, dim)
    axes = [axis % self.rank for axis in dim]
    value = self
    if self.real is not None and axes:
        value = _whole_of_real(g, self.real, axes)
        value = value if forward else Pair(_conjugate(g, value.node))
    else:
        for axis in axes:
            value = _along(g, value, axis, lambda v: _transform(g, v, forward))
    return _scaled(g, value, normalization, lengths)


@complex_row(aten._fft_r2c.default)
def r2c(g: Editor, self: fx.Node, dim: Any, normalization: int, onesided: bool) -> Any:
    shape = list(self.meta["val"].shape)
    lengths = _lengths(shape, dim)
    axes = [axis % len(shape) for axis in dim]
    value = (_half_of_real if onesided else _whole_of_real)(g, self, axes)
    return _scaled(g, value, normalization, lengths)


@complex_row(aten._fft_c2r.default)
def c2r(g: Editor, self: Any, dim: Any, normalization: int, last_dim_size: Any) -> Any:
    *others, last = [axis % self.rank for axis in dim]
    if not isinstance(last_dim_size, int):
        raise UnsupportedOperatorError("a Fourier transform of symbolic length")
    lengths = [*_lengths(self.shape, others), last_dim_size]
    value = self
    for axis in others:
        value = _along(g, value, axis, lambda v: _transform(g, v, False))
    kept = last_dim_size // 2 + 1

    def final(half: Pair) -> fx.Node:
        half = Pair(g.call(aten.slice.Tensor, half.node, half.rank - 1, 0, kept, 1))
        return _to_real(g, half, last_dim_size)

    return _scaled(g, _along(g, value, last, final), normalization, lengths)


def _half_of_real(g: Editor, real: fx.Node, axes: Sequence[int]) -> Pair:
    """The first half, along the last of *axes*, of the transform of real values."""
    *others, last = axes
    kept = real.meta["val"].shape[last] // 2 + 1
    value: Pair = _along(g, real, last, lambda v: _of_real(g, v, kept))
    for axis in others:
        value = _along(g, value, axis, lambda v: _transform(g, v, True))
    return value


def _whole_of_real(g: Editor, real: fx.Node, axes: Sequence[int]) -> Pair:
    """The transform of real values: what is not in the first half is conjugate to what is at the opposite place."""
    *others, last = axes
    half, size = _half_of_real(g, real, axes).node, real.meta["val"].shape[last]
    if size < 3:
        return Pair(half)
    back = g.call(aten.slice.Tensor, half, last, 1, (size + 1) // 2, 1)
    back = g.call(aten.flip.default, back, sorted(axes))
    for axis in others:  # the first place is opposite to itself
        length = half.meta["val"].shape[axis]
        if length > 1:
            first = g.call(aten.slice.Tensor, back, axis, length - 1, length, 1)
            rest = g.call(aten.slice.Tensor, back, axis, 0, length - 1, 1)
            back = g.call(aten.cat.default, [first, rest], axis)
    return Pair(g.call(aten.cat.default, [half, _conjugate(g, back)], last))


def _mirrored(g: Editor, half: Pair, size: int) -> Pair:
    """The whole of a spectrum from its first half: the rest is conjugate, in reverse."""
    axis = half.rank - 1
    used = torch.ones(half.shape[-1], 2, dtype=torch.float64)
    used[0, 1] = 0.0
    if size % 2 == 0:
        used[-1, 1] = 0.0
    # The imaginary parts of the ends count as 0, as in every half spectrum of real values.
    whole = g.call(aten.mul.Tensor, half.node, _constant(g, used, half.val.dtype))
    back = g.call(aten.slice.Tensor, whole, axis, 1, (size + 1) // 2, 1)
    back = g.call(aten.flip.default, back, [axis])
    return Pair(g.call(aten.cat.default, [whole, _conjugate(g, back)], axis))


# -- one axis ---------------------------------------------------------------------------


def _along(g: Editor, value: Any, axis: int, function: Any) -> Any:
    """*function* along an axis, which is moved to the end for it."""
    rank = value.rank if isinstance(value, Pair) else value.meta["val"].dim()
    order = [dim for dim in range(rank) if dim != axis] + [axis]
    back = sorted(range(rank), key=order.__getitem__)
    return _permuted(g, function(_permuted(g, value, order)), back)


def _permuted(g: Editor, value: Any, order: Sequence[int]) -> Any:
    if list(order) == sorted(order):
        return value
    if isinstance(value, Pair):
        return Pair(g.call(aten.permute.default, value.node, [*order, value.rank]))
    return g.call(aten.permute.default, value, list(order))


def _transform(g: Editor, value: Pair, forward: bool) -> Pair:
    """The transform along the last axis."""
    *batch, size = value.shape
    inner = _factor(size)
    if size <= DIRECT or inner == size:
        return _with_pairs(g, _matmul(g, _flat(g, value), _matrix(size, size, forward)), size)
    outer, count = size // inner, len(batch)
    lead = list(range(count))
    # Element outer * i + j: first along i, then along j.
    grid = Pair(reshape(g, value.node, [*batch, inner, outer, 2]))
    turned = _permuted(g, grid, [*lead, count + 1, count])
    if _is_direct(inner) and _is_direct(outer):
        grid = _last_round(g, _planes(g, _flat(g, turned), _matrix(inner, inner, forward)), size, forward)
    else:
        grid = _rotated(g, _transform(g, turned, forward), size, forward)
        grid = _transform(g, _permuted(g, grid, [*lead, count + 1, count]), forward)
    grid = _permuted(g, grid, [*lead, count + 1, count])
    return Pair(reshape(g, grid.node, [*batch, size, 2]))


def _of_real(g: Editor, real: fx.Node, kept: int) -> Pair:
    """The first *kept* elements of the transform of real values along the last axis.

    Of each transform that it is made of, the second half is conjugate to the
    first, in reverse, and only the first is computed.
    """
    *batch, size = real.meta["val"].shape
    inner = _factor(size)
    if size <= DIRECT_REAL or inner == size:
        matrix = _matrix(size, kept, True)[0::2]  # the rows of the real parts
        return _with_pairs(g, _matmul(g, real, matrix), kept)
    outer, count, half = size // inner, len(batch), inner // 2 + 1
    lead = list(range(count))
    # Element outer * i + j: first along i, then along j.
    turned = _permuted(g, reshape(g, real, [*batch, inner, outer]), [*lead, count + 1, count])
    if _is_direct(inner, DIRECT_REAL) and _is_direct(outer):
        grid = _last_round(g, _planes(g, turned, _matrix(inner, half, True)[0::2]), size, True)
    else:
        grid = _rotated(g, _of_real(g, turned, half), size, True)
        grid = _transform(g, _permuted(g, grid, [*lead, count + 1, count]), True)
    grid = _permuted(g, grid, [*lead, count + 1, count])
    # Row k2 has the elements inner * k2 + k1 for the first k1; the others are those from the end, conjugate.
    used, rest = -(-kept // inner), (inner + 1) // 2
    whole = g.call(aten.slice.Tensor, grid.node, count, 0, used, 1)
    if rest > 1:
        mirrored = g.call(aten.slice.Tensor, grid.node, count, outer - used, outer, 1)
        mirrored = g.call(aten.slice.Tensor, mirrored, count + 1, 1, rest, 1)
        mirrored = _conjugate(g, g.call(aten.flip.default, mirrored, [count, count + 1]))
        whole = g.call(aten.cat.default, [whole, mirrored], count + 1)
    whole = reshape(g, whole, [*batch, used * inner, 2])
    return Pair(g.call(aten.slice.Tensor, whole, count, 0, kept, 1))


def _to_real(g: Editor, half: Pair, size: int) -> fx.Node:
    """The real values of which *half* is the first half of the spectrum; `_of_real` the other way."""
    *batch, _ = half.shape
    inner = _factor(size)
    if size <= DIRECT_REAL or inner == size:
        return _matmul(g, _flat(g, half), _real_matrix(size))
    outer, count = size // inner, len(batch)
    lead = list(range(count))
    grid = reshape(g, _mirrored(g, half, size).node, [*batch, outer, inner, 2])
    grid = g.call(aten.slice.Tensor, grid, count + 1, 0, inner // 2 + 1, 1)
    turned = _permuted(g, Pair(grid), [*lead, count + 1, count])
    if _is_direct(outer) and _is_direct(inner, DIRECT_REAL):
        rotated = _turned(g, _planes(g, _flat(g, turned), _matrix(outer, outer, False)), size, False)
        values = _matmul(g, rotated, _by_planes(_real_matrix(inner).mT).mT)
    else:
        turned = _rotated(
            g, _permuted(g, _transform(g, turned, False), [*lead, count + 1, count]), size, False
        )
        values = _to_real(g, turned, inner)
    values = _permuted(g, values, [*lead, count + 1, count])
    return reshape(g, values, [*batch, size])


# Between two direct rounds the real parts of a row come before the imaginary ones, as planes: so vectors hold numbers
# of one kind.


def _is_direct(size: int, most: int = DIRECT) -> bool:
    return size <= most or _factor(size) == size


def _by_planes(matrix: torch.Tensor) -> torch.Tensor:
    """*matrix* with its columns, which are pairs, in planes."""
    return matrix.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1)


def _planes(g: Editor, rows: fx.Node, matrix: torch.Tensor) -> fx.Node:
    """The product of *rows* with a matrix to pairs, as planes [..., 2, size]."""
    product = _matmul(g, rows, _by_planes(matrix))
    *batch, size = product.meta["val"].shape
    return reshape(g, product, [*batch, 2, size // 2])


def _turned(g: Editor, planes: fx.Node, size: int, forward: bool) -> fx.Node:
    """Planes [..., j, 2, k] times ``exp(-2 pi i j k / size)`` (or plus), as rows [..., k, 2 * j]."""
    *batch, rows, _, columns = planes.meta["val"].shape
    count = len(batch)
    turns = torch.arange(columns)[:, None] * torch.arange(rows)[None, :]
    cosine, sine = _unit(turns, size, forward).unbind(-1)
    turned = g.call(aten.permute.default, planes, [*range(count), count + 2, count + 1, count])
    made = [
        g.call(
            aten.mul.Tensor,
            g.call(aten.slice.Tensor, turned, count + 1, plane, plane + 1, 1),
            _constant(g, torch.stack(factors, 1), planes.meta["val"].dtype),
        )
        for plane, factors in enumerate(((cosine, sine), (-sine, cosine)))
    ]
    return reshape(g, g.call(aten.add.Tensor, *made), [*batch, columns, 2 * rows])


def _last_round(g: Editor, planes: fx.Node, size: int, forward: bool) -> Pair:
    """The pairs [..., k, j] of planes [..., j, 2, k], transformed along j."""
    rows = planes.meta["val"].shape[-3]
    matrix = _by_planes(_matrix(rows, rows, forward).mT).mT
    return _with_pairs(g, _matmul(g, _turned(g, planes, size, forward), matrix), rows)


def _real_matrix(size: int) -> torch.Tensor:
    """The matrix from the pairs of the first half of a spectrum to *size* real values."""
    kept = size // 2 + 1
    twice = torch.full((kept,), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    if size % 2 == 0:
        twice[-1] = 1.0
    return _matrix(kept, size, False, size)[:, 0::2] * twice.repeat_interleave(2)[:, None]


def _rotated(g: Editor, grid: Pair, size: int, forward: bool) -> Pair:
    """Element [j, k] of the last axes times ``exp(-2 pi i j k / size)`` (or plus)."""
    *_, rows, columns = grid.shape
    turns = torch.arange(rows)[:, None] * torch.arange(columns)[None, :]
    return multiply(g, grid, Pair(_constant(g, _unit(turns, size, forward), grid.val.dtype)))


def _conjugate(g: Editor, pairs: fx.Node) -> fx.Node:
    sign = g.constant(torch.tensor([1.0, -1.0], dtype=pairs.meta["val"].dtype), "sign")
    return g.call(aten.mul.Tensor, pairs, sign)


def _factor(size: int) -> int:
    """The largest divisor up to the root of *size*; *size* itself if it is prime."""
    for divisor in range(math.isqrt(size), 1, -1):
        if size % divisor == 0:
            return divisor
    if size > LARGEST_PRIME:
        raise UnsupportedOperatorError(f"a Fourier transform whose length has the prime factor {size}")
    return size


def _unit(turns: torch.Tensor, size: int, forward: bool) -> torch.Tensor:
    """``exp(-2 pi i turns / size)`` (or plus) in float64, as pairs.

    Whole quarters of a circle are turned without rounding, so that cosine and
    sine are asked for angles of an eighth at most, where they are right to the last place.
    """
    quarter = (4 * turns + size // 2).div(size, rounding_mode="floor")
    angle = (4 * turns - quarter * size).double() * (math.pi / (2 * size))
    cosine, sine = angle.cos(), angle.sin()
    quarter = quarter % 4
    swapped = quarter % 2 == 1
    real = torch.where(swapped, sine, cosine) * torch.where((quarter == 1) | (quarter == 2), -1.0, 1.0)
    imaginary = torch.where(swapped, cosine, sine) * torch.where(quarter >= 2, -1.0, 1.0)
    return torch.stack([real, -imaginary if forward else imaginary], -1) + 0.0


def _matrix(rows: int, columns: int, forward: bool, size: int | None = None) -> torch.Tensor:
    """The real matrix of a transform on pairs, ``[2 * rows, 2 * columns]``."""
    turns = torch.arange(rows)[:, None] * torch.arange(columns)[None, :]
    unit = _unit(turns, size or max(rows, columns), forward)
    cosine, sine = unit.unbind(-1)
    upper = torch.stack([cosine, sine], -1)  # of a real part
    lower = torch.stack([-sine, cosine], -1)  # of an imaginary part
    return torch.stack([upper, lower], 1).reshape(2 * rows, 2 * columns)


def _constant(g: Editor, tensor: torch.Tensor, dtype: torch.dtype) -> fx.Node:
    return g.constant(tensor.to(dtype), "fourier")


def _flat(g: Editor, value: Pair) -> fx.Node:
    return reshape(g, value.node, [*value.shape[:-1], 2 * value.shape[-1]])


def _with_pairs(g: Editor, value: fx.Node, size: int) -> Pair:
    return Pair(reshape(g, value, [*value.meta["val"].shape[:-1], size, 2]))


def _matmul(g: Editor, value: fx.Node, matrix: torch.Tensor) -> fx.Node:
    val = value.meta["val"]
    *batch, inner = val.shape
    rows = reshape(g, value, [math.prod(batch), inner])
    product = g.call(aten.mm.default, rows, _constant(g, matrix, val.dtype))
    return reshape(g, product, [*batch, matrix.shape[1]])


def _lengths(shape: Sequence[Any], dims: Sequence[int]) -> list[int]:
    lengths = [shape[dim] for dim in dims]
    if not all(isinstance(length, int) for length in lengths):
        raise UnsupportedOperatorError("a Fourier transform of symbolic length")
    return lengths


def _scaled(g: Editor, value: Any, normalization: int, lengths: Sequence[int]) -> Any:
    """By 1 (normalization 0), the root of the number of elements (1), or their number (2)."""
    if normalization == 0:
        return value
    count = float(math.prod(lengths))
    factor = 1.0 / (math.sqrt(count) if normalization == 1 else count)
    if isinstance(value, Pair):
        return Pair(g.call(aten.mul.Scalar, value.node, factor))
    return g.call(aten.mul.Scalar, value, factor)
