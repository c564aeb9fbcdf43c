"""Operators of two tensors, or a tensor and a number, element by element."""

from __future__ import annotations

import torch

from fxpasses.testing.drawers import (
    ALL,
    BOOL,
    FLOAT,
    INT,
    NUMERIC,
    WIDE,
    Motif,
    Row,
    broadcast,
    choose,
    number,
    optional,
    partner,
    rows,
    same,
    tensor,
)

__all__ = ["BINARY"]

aten = torch.ops.aten

_alpha = optional(choose(2, 1, -1))


BINARY: list[Row | Motif] = [
    *(
        Row(op, {"self": tensor(NUMERIC), "other": partner("self"), "alpha": _alpha})
        for op in (aten.add.Tensor, aten.sub.Tensor, aten.add.Tensor, aten.rsub.Tensor)
    ),
    *(
        Row(op, {"self": tensor(ALL), "other": partner("self")})
        for op in (aten.mul.Tensor, aten.mul.Tensor, aten.mul.Tensor)
    ),
    *rows(
        {"self": tensor(NUMERIC), "other": partner("self", domain="positive")},
        aten.div.Tensor,
        aten.div.Tensor,
    ),
    Row(
        aten.div.Tensor_mode,
        {
            "self": tensor(NUMERIC),
            "other": partner("self", domain="positive"),
            "rounding_mode": choose("floor", "trunc", None),
        },
    ),
    *rows(
        {"self": tensor(NUMERIC), "other": partner("self", domain="positive")},
        aten.remainder.Tensor,
        aten.fmod.Tensor,
        aten.floor_divide.default,
    ),
    *rows(
        {"self": tensor(NUMERIC), "other": choose(2, 3, -2, 1.5)},
        aten.remainder.Scalar,
        aten.fmod.Scalar,
        aten.div.Scalar,
    ),
    *rows(
        {"self": tensor(NUMERIC), "other": number("self")}, aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar
    ),
    Row(aten.rsub.Scalar, {"self": tensor(NUMERIC), "other": number("self"), "alpha": _alpha}),
    *rows({"self": tensor(NUMERIC), "exponent": choose(2, 3, 1, 0)}, aten.pow.Tensor_Scalar),
    *rows(
        {"self": tensor(FLOAT, domain="positive"), "exponent": choose(0.5, -1, 1.5, -0.5, -2)},
        aten.pow.Tensor_Scalar,
    ),
    *rows(
        {"self": tensor(FLOAT, domain="positive"), "exponent": partner("self", FLOAT, numbers=False)},
        aten.pow.Tensor_Tensor,
    ),
    *rows({"self": choose(2, 0.5, 3), "exponent": tensor(FLOAT)}, aten.pow.Scalar),
    *rows(
        {"self": tensor(NUMERIC), "other": partner("self", numbers=False)},
        aten.maximum.default,
        aten.minimum.default,
        aten.maximum.default,
        aten.fmax.default,
        aten.fmin.default,
    ),
    *rows(
        {"self": tensor(FLOAT), "other": partner("self", FLOAT, numbers=False)},
        aten.atan2.default,
        aten.hypot.default,
        aten.logaddexp.default,
        aten.copysign.Tensor,
    ),
    *rows(
        {"self": tensor(FLOAT), "other": partner("self", FLOAT, numbers=False, domain="positive")},
        aten.xlogy.Tensor,
    ),
    *rows(
        {"self": tensor(ALL), "other": partner("self", numbers=False)},
        aten.eq.Tensor,
        aten.ne.Tensor,
        aten.lt.Tensor,
        aten.le.Tensor,
        aten.gt.Tensor,
        aten.ge.Tensor,
    ),
    *rows(
        {"self": tensor(NUMERIC), "other": number("self")},
        aten.eq.Scalar,
        aten.lt.Scalar,
        aten.gt.Scalar,
        aten.ge.Scalar,
        aten.ne.Scalar,
        aten.le.Scalar,
    ),
    *rows(
        {"self": tensor(ALL), "other": partner("self", ALL, numbers=False)},
        aten.logical_and.default,
        aten.logical_or.default,
        aten.logical_xor.default,
    ),
    *rows(
        {"self": tensor(INT + BOOL), "other": partner("self", INT + BOOL, numbers=False)},
        aten.bitwise_and.Tensor,
        aten.bitwise_or.Tensor,
        aten.bitwise_xor.Tensor,
    ),
    *rows(
        {"self": tensor(INT), "other": choose(1, 3, 0)},
        aten.bitwise_left_shift.Tensor_Scalar,
        aten.bitwise_right_shift.Tensor_Scalar,
    ),
    Row(aten.lerp.Scalar, {"self": tensor(FLOAT), "end": broadcast("self"), "weight": choose(0.25, 0.75)}),
    Row(aten.lerp.Tensor, {"self": tensor(FLOAT), "end": broadcast("self"), "weight": broadcast("self")}),
    Row(
        aten.addcmul.default,
        {
            "self": tensor(NUMERIC),
            "tensor1": broadcast("self"),
            "tensor2": broadcast("self"),
            "value": _alpha,
        },
    ),
    Row(
        aten.addcdiv.default,
        {
            "self": tensor(FLOAT),
            "tensor1": broadcast("self"),
            "tensor2": same("self", "positive"),
            "value": _alpha,
        },
    ),
    *rows(
        {"self": tensor(INT), "other": partner("self", INT, numbers=False)},
        aten.gcd.default,
        aten.lcm.default,
    ),
    *rows(
        {"self": tensor(INT), "other": lambda g, a: g.constant(g.tensor_data(a["self"].dtype, ()).abs())},
        aten.bitwise_left_shift.Tensor,
        aten.bitwise_right_shift.Tensor,
        aten.__lshift__.Tensor,
        aten.__rshift__.Tensor,
    ),
    *rows({"self": tensor(INT), "other": choose(1, 2, 0)}, aten.__lshift__.Scalar, aten.__rshift__.Scalar),
    *rows(
        {"self": tensor(INT + BOOL), "other": choose(1, 6, -2)},
        aten.bitwise_and.Scalar,
        aten.bitwise_or.Scalar,
        aten.bitwise_xor.Scalar,
    ),
    *rows(
        {"self": choose(5, 12), "other": tensor(INT)},
        aten.bitwise_and.Scalar_Tensor,
        aten.bitwise_or.Scalar_Tensor,
        aten.bitwise_xor.Scalar_Tensor,
    ),
    *rows(
        {"self": choose(7, -7, 2.5), "other": tensor(FLOAT, domain="positive")}, aten.remainder.Scalar_Tensor
    ),
    Row(aten.copysign.Scalar, {"self": tensor(NUMERIC), "other": choose(-1.0, 2, -0.0)}),
    Row(aten.nextafter.default, {"self": tensor(WIDE), "other": same("self")}),
    Row(aten.ldexp.Tensor, {"self": tensor(WIDE), "other": partner("self", (torch.int64,), numbers=False)}),
    Row(aten.heaviside.default, {"self": tensor(FLOAT), "values": same("self")}),
    Row(aten._prelu_kernel.default, {"self": tensor(FLOAT), "weight": same("self")}),
    Row(aten.logaddexp2.default, {"self": tensor(WIDE), "other": same("self")}),
    Row(aten.logical_and.default, {"self": tensor(BOOL), "other": partner("self", ALL)}),
    Row(
        aten.div.Scalar_mode,
        {
            "self": tensor(NUMERIC),
            "other": choose(2, -3, 0.7),
            "rounding_mode": choose("floor", "trunc", None),
        },
    ),
]
