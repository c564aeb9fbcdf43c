"""Fourier transforms as calls of `fxpasses::fourier`, or as products with constant matrices.

A short transform is one real matrix product over the pairs. A longer one is a
call of the dialect where that has a plan for it: a product of primes that are
not large. Any other is a convolution, and so made of such transforms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

import fxpasses.dialect  # noqa: F401  (registers the operators)
from fxpasses.dialect.fourier_plan import is_smooth, plan, unit
from fxpasses.errors import UnsupportedOperatorError
from fxpasses.passes.complexes.table import Pair, complex_row
from fxpasses.passes.decompositions.values import reshape
from fxpasses.rewrite import Editor

aten = torch.ops.aten
dialect = torch.ops.fxpasses

DIRECT, DIRECT_REAL = (24, 48), (48, 192)
"""Up to this length a transform of complex numbers, or of (or to) real ones, is one product: where the kernel
has a plan for it, and where it would be a convolution."""

_LANES = 16
"""Elements in the longest vector that a kernel may use; whether there is a plan does not depend on it."""

_LEAST_WIDTH = 4
"""With fewer elements side by side than these, a transform across them is made along memory."""


@complex_row(aten._fft_c2c.default)
def c2c(g: Editor, self: Any, dim: Any, normalization: int, forward: bool) -> Any:
    scale = _scale(normalization, _lengths(self.shape, dim))
    axes = [axis % self.rank for axis in dim]
    if self.real is not None and axes:
        value = _whole_of_real(g, self.real, axes, scale)
        return value if forward else Pair(_conjugate(g, value.node))
    return _each(g, self, axes, forward, scale)


@complex_row(aten._fft_r2c.default)
def r2c(g: Editor, self: fx.Node, dim: Any, normalization: int, onesided: bool) -> Any:
    shape = list(self.meta["val"].shape)
    scale = _scale(normalization, _lengths(shape, dim))
    axes = [axis % len(shape) for axis in dim]
    return (_half_of_real if onesided else _whole_of_real)(g, self, axes, scale)


@complex_row(aten._fft_c2r.default)
def c2r(g: Editor, self: Any, dim: Any, normalization: int, last_dim_size: Any) -> Any:
    *others, last = [axis % self.rank for axis in dim]
    if not isinstance(last_dim_size, int):
        raise UnsupportedOperatorError("a Fourier transform of symbolic length")
    scale = _scale(normalization, [*_lengths(self.shape, others), last_dim_size])
    value = _each(g, self, others, False)
    kept = last_dim_size // 2 + 1

    def final(half: Pair) -> fx.Node:
        half = Pair(g.call(aten.slice.Tensor, half.node, half.rank - 1, 0, kept, 1))
        return _to_real(g, half, last_dim_size, scale)

    return _along(g, value, last, final)


def _each(g: Editor, value: Pair, axes: Sequence[int], forward: bool, scale: float = 1.0) -> Pair:
    """The transform along each of *axes*, times *scale*."""
    for axis in axes:
        value = _across(g, value, axis, forward, scale)
        scale = 1.0
    return value


def _half_of_real(g: Editor, real: fx.Node, axes: Sequence[int], scale: float) -> Pair:
    """The first half, along the last of *axes*, of the transform of real values."""
    *others, last = axes
    value: Pair = _along(g, real, last, lambda v: _of_real(g, v, scale))
    return _each(g, value, others, True)


def _whole_of_real(g: Editor, real: fx.Node, axes: Sequence[int], scale: float) -> Pair:
    """The transform of real values: what is not in the first half is conjugate to what is at the opposite place."""
    *others, last = axes
    half, size = _half_of_real(g, real, axes, scale).node, real.meta["val"].shape[last]
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


def _across(g: Editor, value: Pair, axis: int, forward: bool, scale: float = 1.0) -> Pair:
    """The transform along an axis, which stays where it is if what lies side by side fills vectors."""
    size, side = value.shape[axis], value.shape[axis + 1 :]
    static = all(isinstance(length, int) for length in side)
    if static and math.prod(side) >= _LEAST_WIDTH and size > 1 and is_smooth(size):
        return Pair(g.call(dialect.fourier.default, value.node, axis, forward, scale))
    return _along(g, value, axis, lambda v: _transform(g, v, forward, scale))


def _transform(g: Editor, value: Pair, forward: bool, scale: float) -> Pair:
    """The transform along the last axis."""
    size = value.shape[-1]
    if _is_product(size, size, DIRECT):
        return _with_pairs(g, _matmul(g, _flat(g, value), _matrix(size, size, forward) * scale), size)
    return Pair(g.call(dialect.fourier.default, value.node, value.rank - 1, forward, scale))


def _of_real(g: Editor, real: fx.Node, scale: float) -> Pair:
    """The first half of the transform of real values along the last axis."""
    size = real.meta["val"].shape[-1]
    if _is_product(size, size / 2, DIRECT_REAL):
        matrix = _matrix(size, size // 2 + 1, True)[0::2]  # the rows of the real parts
        return _with_pairs(g, _matmul(g, real, matrix * scale), size // 2 + 1)
    return Pair(g.call(dialect.fourier_of_real.default, real, scale))


def _to_real(g: Editor, half: Pair, size: int, scale: float) -> fx.Node:
    """The real values of which *half* is the first half of the spectrum; `_of_real` the other way."""
    if _is_product(size, size / 2, DIRECT_REAL):
        return _matmul(g, _flat(g, half), _real_matrix(size) * scale)
    return g.call(dialect.fourier_to_real.default, half.node, size, scale)


def _is_product(size: int, elements: float, most: tuple[int, int]) -> bool:
    """Whether a transform of *size* numbers is a product; otherwise it comes down to one of so many *elements*."""
    has_plan = elements == int(elements) and plan(int(elements), _LANES) is not None
    return size <= most[not has_plan]


def _real_matrix(size: int) -> torch.Tensor:
    """The matrix from the pairs of the first half of a spectrum to *size* real values."""
    twice = torch.full((size // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    if size % 2 == 0:
        twice[-1] = 1.0
    return _matrix(size // 2 + 1, size, False)[:, 0::2] * twice.repeat_interleave(2)[:, None]


def _conjugate(g: Editor, pairs: fx.Node) -> fx.Node:
    sign = g.constant(torch.tensor([1.0, -1.0], dtype=pairs.meta["val"].dtype), "sign")
    return g.call(aten.mul.Tensor, pairs, sign)


def _matrix(rows: int, columns: int, forward: bool) -> torch.Tensor:
    """The real matrix of a transform on pairs, ``[2 * rows, 2 * columns]``."""
    turns = torch.arange(rows)[:, None] * torch.arange(columns)[None, :]
    cosine, sine = unit(turns, max(rows, columns), forward).unbind(-1)
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


def _scale(normalization: int, lengths: Sequence[int]) -> float:
    """By 1 (normalization 0), the root of the number of elements (1), or their number (2)."""
    count = float(math.prod(lengths))
    return (1.0, 1.0 / math.sqrt(count), 1.0 / count)[normalization]
