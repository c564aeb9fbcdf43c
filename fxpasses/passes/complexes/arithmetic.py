"""Arithmetic of complex numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.passes.complexes.table import Pair, complex_row, on_parts, pair, part, parts
from fxpasses.passes.decompositions.values import full
from fxpasses.rewrite import Editor

aten = torch.ops.aten


def _apply(g: Editor, name: str, x: Any, y: Any) -> Any:
    """A binary operator on nodes and numbers; a number alone stays one."""
    if not isinstance(x, fx.Node) and not isinstance(y, fx.Node):
        return {"add": x + y, "sub": x - y, "mul": x * y}[name]
    if not isinstance(x, fx.Node):
        x = full(g, [], x, y.meta["val"].dtype)
    packet = getattr(aten, name)
    return g.call(packet.Tensor if isinstance(y, fx.Node) else packet.Scalar, x, y)


# -- parts --------------------------------------------------------------------------------


@complex_row(aten.view_as_real.default)
def view_as_real(g: Editor, self: Any) -> Any:
    return self.node


@complex_row(aten.view_as_complex.default)
def view_as_complex(g: Editor, self: fx.Node) -> Any:
    return Pair(self)


@complex_row(aten.complex.default)
def make(g: Editor, real: fx.Node, imag: fx.Node) -> Any:
    return pair(g, real, imag)


@complex_row(aten.polar.default)
def polar(g: Editor, abs: fx.Node, angle: fx.Node) -> Any:
    real, imaginary = (g.call(op, angle) for op in (aten.cos.default, aten.sin.default))
    return pair(g, g.call(aten.mul.Tensor, abs, real), g.call(aten.mul.Tensor, abs, imaginary))


@complex_row(aten.real.default)
def real(g: Editor, self: Any) -> Any:
    return part(g, self, 0)


@complex_row(aten.imag.default)
def imag(g: Editor, self: Any) -> Any:
    return part(g, self, 1)


@complex_row(aten._conj.default, aten.conj_physical.default, aten._conj_physical.default)
def conj(g: Editor, self: Any) -> Any:
    x, y = parts(g, self)
    return pair(g, x, g.call(aten.neg.default, y))


@complex_row(aten.resolve_conj.default, aten.resolve_neg.default)
def resolve(g: Editor, self: Any) -> Any:
    return self


@complex_row(aten.abs.default)
def absolute(g: Editor, self: Any) -> Any:
    return g.call(aten.hypot.default, *parts(g, self))


@complex_row(aten.angle.default)
def angle(g: Editor, self: Any) -> Any:
    x, y = parts(g, self)
    return g.call(aten.atan2.default, y, x)


# -- arithmetic ------------------------------------------------------------------------


@complex_row(aten.neg.default)
def negative(g: Editor, self: Any) -> Any:
    return on_parts(g, aten.neg.default, self)


def _sum(g: Editor, name: str, x: Any, y: Any, alpha: Any) -> Any:
    if isinstance(alpha, complex) and alpha.imag:
        return None
    if alpha != 1:
        is_pair = isinstance(y, Pair)
        y = _apply(g, "mul", y.node if is_pair else y, alpha)
        y = Pair(y) if is_pair else y
    (a, b), (c, d) = parts(g, x), parts(g, y)
    if isinstance(y, fx.Node) and y.meta["val"].dtype.is_floating_point:
        d = g.call(aten.mul.Scalar, y, 0)  # PyTorch multiplies by alpha, a complex 1: NaN where y is infinite
    return pair(g, _apply(g, name, a, c), _apply(g, name, b, d))


@complex_row(aten.add.Tensor)
def add(g: Editor, self: Any, other: Any, *, alpha: Any) -> Any:
    return _sum(g, "add", self, other, alpha)


@complex_row(aten.sub.Tensor)
def subtract(g: Editor, self: Any, other: Any, *, alpha: Any) -> Any:
    return _sum(g, "sub", self, other, alpha)


@complex_row(aten.add.Scalar)
def add_scalar(g: Editor, self: Any, other: Any, alpha: Any) -> Any:
    return _sum(g, "add", self, other, alpha)


@complex_row(aten.sub.Scalar)
def subtract_scalar(g: Editor, self: Any, other: Any, alpha: Any) -> Any:
    return _sum(g, "sub", self, other, alpha)


@complex_row(aten.mul.Tensor, aten.mul.Scalar)
def multiply(g: Editor, self: Any, other: Any) -> Any:
    for x, y in ((self, other), (other, self)):
        if not isinstance(y, Pair | complex):  # a real factor scales both parts
            if isinstance(y, fx.Node):
                y = g.call(aten.unsqueeze.default, y, y.meta["val"].dim())
            return Pair(_apply(g, "mul", x.node, y)) if isinstance(x, Pair) else _scaled(g, x, y)
    (a, b), (c, d) = parts(g, self), parts(g, other)
    real = _apply(g, "sub", _apply(g, "mul", a, c), _apply(g, "mul", b, d))
    return pair(g, real, _apply(g, "add", _apply(g, "mul", a, d), _apply(g, "mul", b, c)))


def _scaled(g: Editor, number: complex, value: Any) -> Any:
    """A real tensor times a complex number."""
    if not isinstance(value, fx.Node):
        return None
    value = g.call(aten.squeeze.dims, value, [value.meta["val"].dim() - 1])
    return pair(g, *(_apply(g, "mul", value, factor) for factor in (number.real, number.imag)))


@complex_row(aten.div.Tensor, aten.div.Scalar)
def divide(g: Editor, self: Any, other: Any) -> Any:
    if isinstance(self, Pair) and not isinstance(other, Pair | complex):
        if isinstance(other, fx.Node):
            other = g.call(aten.unsqueeze.default, other, other.meta["val"].dim())
            return Pair(g.call(aten.div.Tensor, self.node, other))
        return Pair(g.call(aten.div.Scalar, self.node, other))
    return _quotient(g, parts(g, self), parts(g, other))


@complex_row(aten.reciprocal.default)
def reciprocal(g: Editor, self: Any) -> Any:
    return _quotient(g, (1.0, 0.0), parts(g, self))


def _quotient(g: Editor, numerator: tuple[Any, Any], divisor: tuple[Any, Any]) -> Pair:
    """``(a + bi) / (c + di)`` by the ratio of the smaller to the larger of c and d, which does not overflow."""
    known = next(part for part in (*numerator, *divisor) if isinstance(part, fx.Node))

    def node(value: Any) -> fx.Node:
        return value if isinstance(value, fx.Node) else full(g, [], value, known.meta["val"].dtype)

    def choice(condition: fx.Node, x: fx.Node, y: fx.Node) -> fx.Node:
        return g.call(aten.where.self, condition, x, y)

    (a, b), (c, d) = map(node, numerator), map(node, divisor)
    add, mul, div = aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor
    sizes = [g.call(aten.abs.default, value) for value in (c, d)]
    first = g.call(aten.ge.Tensor, *sizes)
    ratio = g.call(div, choice(first, d, c), choice(first, c, d))
    below = g.call(add, choice(first, c, d), g.call(mul, choice(first, d, c), ratio))
    scale = g.call(aten.reciprocal.default, below)
    u, v = choice(first, a, b), choice(first, b, a)
    across = g.call(aten.sub.Tensor, v, g.call(mul, u, ratio))
    over = [
        g.call(add, u, g.call(mul, v, ratio)),
        choice(first, across, g.call(aten.neg.default, across)),
    ]
    by_zero = g.call(aten.eq.Scalar, g.call(aten.maximum.default, *sizes), 0)
    return pair(
        g,
        *(
            choice(by_zero, g.call(div, top, size), g.call(mul, value, scale))
            for top, size, value in zip((a, b), sizes, over, strict=True)
        ),
    )


@complex_row(aten.pow.Tensor_Scalar)
def power(g: Editor, self: Any, exponent: Any) -> Any:
    if exponent == 2:
        return multiply(g, self, self)
    return self if exponent == 1 else None


@complex_row(aten.eq.Tensor, aten.eq.Scalar)
def equal(g: Editor, self: Any, other: Any) -> Any:
    return _agree(g, aten.eq, aten.logical_and.default, self, other)


@complex_row(aten.ne.Tensor, aten.ne.Scalar)
def differ(g: Editor, self: Any, other: Any) -> Any:
    return _agree(g, aten.ne, aten.logical_or.default, self, other)


def _agree(g: Editor, packet: Any, join: OpOverload, x: Any, y: Any) -> fx.Node:
    """A comparison of both parts, and the one truth of these."""
    pairs = zip(parts(g, x), parts(g, y), strict=True)
    return g.call(
        join, *(g.call(packet.Tensor if isinstance(d, fx.Node) else packet.Scalar, c, d) for c, d in pairs)
    )


@complex_row(aten.isnan.default)
def is_nan(g: Editor, self: Any) -> Any:
    return g.call(aten.logical_or.default, *(g.call(aten.isnan.default, part) for part in parts(g, self)))


@complex_row(aten.exp.default)
def exponential(g: Editor, self: Any) -> Any:
    """``exp(x) * (cos(y) + i sin(y))``, also where ``exp(x)`` alone is infinite, or x is.

    The factor e^64 is taken out of a large ``exp(x)`` and put back at the end. Infinite x go
    by the rules of C: a zero has no need of an angle, and a number on the real line stays on it.
    """
    x, y = parts(g, self)
    dtype = x.meta["val"].dtype
    if dtype == torch.float16:  # which does not hold the factor
        return polar(g, g.call(aten.exp.default, x), y)
    zero, one, shift, factor = (full(g, [], number, dtype) for number in (0.0, 1.0, 64.0, math.exp(64)))
    is_large = g.call(aten.gt.Scalar, x, 64.0)
    rest = g.call(aten.sub.Tensor, x, g.call(aten.where.self, is_large, shift, zero))
    size = g.call(aten.exp.default, rest)
    scale = g.call(aten.where.self, is_large, factor, one)
    cosine, sine = (g.call(op, y) for op in (aten.cos.default, aten.sin.default))
    is_undirected = g.call(aten.isnan.default, cosine)

    def where(infinite: float, value: float, otherwise: fx.Node) -> fx.Node:
        """*value* where x is *infinite*, and y is no angle."""
        here = g.call(aten.logical_and.default, g.call(aten.eq.Scalar, x, infinite), is_undirected)
        return g.call(aten.where.self, here, full(g, [], value, dtype), otherwise)

    real, imaginary = (
        where(-math.inf, 0.0, g.call(aten.mul.Tensor, g.call(aten.mul.Tensor, size, direction), scale))
        for direction in (cosine, sine)
    )
    on_line = g.call(aten.eq.Scalar, y, 0.0)
    return pair(g, where(math.inf, math.inf, real), g.call(aten.where.self, on_line, y, imaginary))


@complex_row(aten.mm.default)
def mm(g: Editor, self: Any, mat2: Any) -> Any:
    return _product(g, aten.mm.default, self, mat2)


@complex_row(aten.bmm.default)
def bmm(g: Editor, self: Any, mat2: Any) -> Any:
    return _product(g, aten.bmm.default, self, mat2)


@complex_row(aten.addmm.default)
def addmm(g: Editor, self: Any, mat1: Any, mat2: Any, *, beta: Any, alpha: Any) -> Any:
    return _plus(g, self, _product(g, aten.mm.default, mat1, mat2), beta, alpha)


@complex_row(aten.baddbmm.default)
def baddbmm(g: Editor, self: Any, batch1: Any, batch2: Any, *, beta: Any, alpha: Any) -> Any:
    return _plus(g, self, _product(g, aten.bmm.default, batch1, batch2), beta, alpha)


@complex_row(aten.convolution.default)
def convolution(
    g: Editor,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: Any,
    output_padding: Any,
    groups: Any,
) -> Any:
    geometry = stride, padding, dilation, transposed, output_padding, groups
    (a, b), (c, d) = parts(g, input), parts(g, weight)
    offset = (None, None) if bias is None else parts(g, bias)

    def windows(x: Any, taps: Any, plus: Any = None) -> fx.Node:
        return g.call(aten.convolution.default, x, taps, plus, *geometry)

    real = g.call(aten.sub.Tensor, windows(a, c, offset[0]), windows(b, d))
    return pair(g, real, g.call(aten.add.Tensor, windows(a, d, offset[1]), windows(b, c)))


def _plus(g: Editor, offset: Any, value: Pair, beta: Any, alpha: Any) -> Any:
    """``beta * offset + alpha * value``; a beta of 0 leaves even a NaN out."""
    value = value if alpha == 1 else multiply(g, value, alpha)
    if beta == 0:
        return value
    return _sum(g, "add", value, offset if beta == 1 else multiply(g, offset, beta), 1)


def _product(g: Editor, op: OpOverload, x: Any, y: Any) -> Any:
    (a, b), (c, d) = parts(g, x), parts(g, y)
    real = g.call(aten.sub.Tensor, g.call(op, a, c), g.call(op, b, d))
    return pair(g, real, g.call(aten.add.Tensor, g.call(op, a, d), g.call(op, b, c)))


@complex_row(aten._to_copy.default)
def to_copy(
    g: Editor,
    self: Any,
    *,
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: Any,
    non_blocking: bool,
    memory_format: Any,
) -> Any:
    if dtype is None:
        return self
    target = dtype.to_real() if dtype.is_complex else dtype
    if not dtype.is_complex:
        value = part(g, self, 0)
    elif isinstance(self, Pair):
        value = self.node
    else:
        zero = full(g, [], 0, target)
        real = self if self.meta["val"].dtype == target else g.call(aten._to_copy.default, self, dtype=target)
        return Pair(pair(g, real, zero).node, real)
    if value.meta["val"].dtype != target:
        value = g.call(aten._to_copy.default, value, dtype=target)
    return Pair(value) if dtype.is_complex else value
