"""Comparisons, logic, bits, and the choice between two tensors."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.elementwise import Element, binary, elementwise, unary
from fxpasses.relax.table import lowering
from fxpasses.signature import dtype_name

aten = torch.ops.aten


# -- comparisons -------------------------------------------------------------------


def less(x: Any, y: Any) -> Any:
    """``x < y``."""
    return x < y


def less_equal(x: Any, y: Any) -> Any:
    """``x <= y``."""
    return x <= y


def greater(x: Any, y: Any) -> Any:
    """``x > y``."""
    return x > y


def greater_equal(x: Any, y: Any) -> Any:
    """``x >= y``."""
    return x >= y


_COMPARISONS: dict[Any, Element] = {
    aten.eq: S.equal,
    aten.ne: S.not_equal,
    aten.lt: less,
    aten.le: less_equal,
    aten.gt: greater,
    aten.ge: greater_equal,
}
for _packet, _function in _COMPARISONS.items():
    lowering(_packet.Tensor, _packet.Scalar)(binary(_function, numbers="rounded"))


def isneginf(x: Any) -> Any:
    """Whether *x* is minus infinity."""
    return S.isinf(x) & (x < S.const(0, S.dtype_of(x)))


def isposinf(x: Any) -> Any:
    """Whether *x* is plus infinity."""
    return S.isinf(x) & (x > S.const(0, S.dtype_of(x)))


def signbit(x: Any) -> Any:
    """Whether the sign is minus, that of zero and NaN included."""
    dtype = S.dtype_of(x)
    if not S.is_float(dtype):
        return x < S.const(0, dtype)
    bits = f"int{dtype.removeprefix('float')}"
    return T.tirx.reinterpret(bits, x) < T.tirx.const(0, bits)


lowering(aten.isnan.default)(unary(S.isnan))
lowering(aten.isinf.default)(unary(S.isinf))
lowering(aten.isneginf.default)(unary(isneginf))
lowering(aten.isposinf.default)(unary(isposinf))
lowering(aten.signbit.default)(unary(signbit))


# -- logic -------------------------------------------------------------------------


def _truth(x: Any) -> Any:
    return S.cast(x, "bool")


def logical_and(x: Any, y: Any) -> Any:
    """Whether both are true."""
    return _truth(x) & _truth(y)


def logical_or(x: Any, y: Any) -> Any:
    """Whether one is true."""
    return _truth(x) | _truth(y)


def logical_xor(x: Any, y: Any) -> Any:
    """Whether exactly one is true."""
    return T.tirx.bitwise_xor(_truth(x), _truth(y))


def logical_not(x: Any) -> Any:
    """Whether it is not true."""
    return S.logical_not(_truth(x))


for _op, _function in {
    aten.logical_and.default: logical_and,
    aten.logical_or.default: logical_or,
    aten.logical_xor.default: logical_xor,
}.items():
    lowering(_op)(binary(_function))
lowering(aten.logical_not.default)(unary(logical_not))


# -- bits --------------------------------------------------------------------------


def bitwise_and(x: Any, y: Any) -> Any:
    """``x & y``."""
    return T.tirx.bitwise_and(x, y)


def bitwise_or(x: Any, y: Any) -> Any:
    """``x | y``."""
    return T.tirx.bitwise_or(x, y)


def bitwise_xor(x: Any, y: Any) -> Any:
    """``x ^ y``."""
    return T.tirx.bitwise_xor(x, y)


def bitwise_not(x: Any) -> Any:
    """``~x``."""
    return T.tirx.bitwise_not(x)


def shift_left(x: Any, y: Any) -> Any:
    """``x << y``; 0 where the shift is negative or not less than the width."""
    dtype = S.dtype_of(x)
    outside, safe = _shift(y, dtype)
    return S.select(outside, S.const(0, dtype), T.tirx.shift_left(x, safe))


def shift_right(x: Any, y: Any) -> Any:
    """``x >> y``, which keeps the sign; such a shift outside the width leaves only the sign."""
    dtype = S.dtype_of(x)
    outside, safe = _shift(y, dtype)
    all_out = (
        S.const(0, dtype) if dtype == "uint8" else T.tirx.shift_right(x, S.const(S.BITS[dtype] - 1, dtype))
    )
    return S.select(outside, all_out, T.tirx.shift_right(x, safe))


def _shift(y: Any, dtype: str) -> tuple[Any, Any]:
    """Whether a shift lies outside of the width, and a shift that does not."""
    outside = y >= S.const(S.BITS[dtype], dtype)
    if dtype != "uint8":
        outside = outside | (y < S.const(0, dtype))
    return outside, S.select(outside, S.const(0, dtype), y)


for _packet, _function in {
    aten.bitwise_and: bitwise_and,
    aten.bitwise_or: bitwise_or,
    aten.bitwise_xor: bitwise_xor,
}.items():
    lowering(_packet.Tensor, _packet.Scalar, _packet.Scalar_Tensor)(binary(_function))

for _packet, _old, _function in [
    (aten.bitwise_left_shift, aten.__lshift__, shift_left),
    (aten.bitwise_right_shift, aten.__rshift__, shift_right),
]:
    lowering(_packet.Tensor, _packet.Tensor_Scalar, _packet.Scalar_Tensor, _old.Tensor, _old.Scalar)(
        binary(_function)
    )


@lowering(aten.bitwise_not.default)
def bitwise_not_row(b: Any, self: Any) -> Any:
    function = logical_not if b.dtype_of(self) == "bool" else bitwise_not
    return elementwise(b, function, self)


# -- choice ------------------------------------------------------------------------


def _choose(condition: Any, x: Any, y: Any) -> Any:
    return S.select(_truth(condition), x, y)


@lowering(aten.where.self)
def where(b: Any, condition: Any, self: Any, other: Any) -> Any:
    return elementwise(b, _choose, condition, self, other, compute=dtype_name(b.val.dtype), as_is=1)
