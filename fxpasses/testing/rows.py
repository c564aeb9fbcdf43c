"""The operator table of random programs: rows of an operator and how to draw its arguments.

A row gives each argument, by its name in the operator's schema, a drawer (see
`fxpasses.testing.drawers`), or it has one function that draws them together. A
motif makes several calls, for patterns that chance would hardly bring about.

Own operators are added as ``programs(ops=[*OPS, Row(mylib.foo.default, {"x": tensor(FLOAT)})])``,
or as the bare overload, whose drawers are then guessed from its schema.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from fxpasses.testing.drawers import (
    ALL,
    BOOL,
    FLOAT,
    INT,
    NUMERIC,
    OMIT,
    WIDE,
    Drawer,
    Motif,
    Reject,
    Row,
    broadcast,
    choose,
    dim,
    dims,
    flag,
    integer,
    new_dtype,
    number,
    optional,
    partner,
    rows,
    same,
    several,
    small_shape,
    tensor,
)
from fxpasses.testing.rare_rows import RARE_FAMILIES

__all__ = ["FAMILIES", "OPS"]

aten = torch.ops.aten

# -- pointwise ---------------------------------------------------------------------------

_alpha = optional(choose(2, 1, -1))

POINTWISE: list[Row | Motif] = [
    *rows(
        {"self": tensor(FLOAT)},
        aten.relu.default,
        aten.neg.default,
        aten.abs.default,
        aten.exp.default,
        aten.sin.default,
        aten.cos.default,
        aten.tanh.default,
        aten.sigmoid.default,
        aten.erf.default,
        aten.silu.default,
        aten.atan.default,
        aten.asinh.default,
        aten.sinh.default,
        aten.expm1.default,
        aten.square.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.relu6.default,
        aten.mish.default,
        aten.selu.default,
        aten.log_sigmoid.default,
        aten.tan.default,
        aten.exp2.default,
        aten.frac.default,
    ),
    *rows(
        {"self": tensor(FLOAT, domain="positive")},
        aten.sqrt.default,
        aten.rsqrt.default,
        aten.log.default,
        aten.log2.default,
        aten.log10.default,
        aten.log1p.default,
        aten.reciprocal.default,
    ),
    *rows(
        {"self": tensor(FLOAT, domain="unit")},
        aten.asin.default,
        aten.acos.default,
        aten.atanh.default,
        aten.log1p.default,
    ),
    *rows(
        {"self": tensor(FLOAT)}, aten.floor.default, aten.ceil.default, aten.round.default, aten.trunc.default
    ),
    *rows(
        {"self": tensor(NUMERIC)},
        aten.neg.default,
        aten.abs.default,
        aten.sign.default,
        aten.relu.default,
        aten.square.default,
        aten.sgn.default,
        aten.exp.default,
        aten.sigmoid.default,
        aten.sin.default,
    ),
    *rows({"self": tensor(INT + BOOL)}, aten.bitwise_not.default),
    *rows({"self": tensor(ALL)}, aten.logical_not.default),
    *rows({"self": tensor(FLOAT)}, aten.isnan.default, aten.isinf.default, aten.isfinite.default),
    Row(aten.round.decimals, {"self": tensor(WIDE), "decimals": choose(1, 2)}),
    Row(aten.gelu.default, {"self": tensor(FLOAT), "approximate": optional(choose("tanh", "none"))}),
    Row(aten.elu.default, {"self": tensor(FLOAT), "alpha": optional(choose(0.5, 2))}),
    Row(aten.celu.default, {"self": tensor(FLOAT), "alpha": optional(choose(0.5, 2.0))}),
    Row(aten.leaky_relu.default, {"self": tensor(FLOAT), "negative_slope": optional(choose(0.2, 2))}),
    Row(
        aten.softplus.default,
        {
            "self": tensor(FLOAT),
            "beta": optional(choose(2, 0.5)),
            "threshold": optional(
                choose(
                    1.7,
                )
            ),
        },
    ),
    Row(
        aten.hardtanh.default,
        {
            "self": tensor(FLOAT),
            "min_val": optional(
                choose(
                    -0.7,
                )
            ),
            "max_val": optional(choose(0.9, 2)),
        },
    ),
    Row(aten.threshold.default, {"self": tensor(NUMERIC), "threshold": choose(1, 0), "value": choose(2, -1)}),
    Row(aten.hardshrink.default, {"self": tensor(FLOAT), "lambd": optional(choose(0.3, 1))}),
    Row(aten.softshrink.default, {"self": tensor(FLOAT), "lambd": optional(choose(0.3, 1))}),
    Row(aten.logit.default, {"self": tensor(FLOAT, domain="any"), "eps": choose(0.1, 0.01)}),
    Row(
        aten.nan_to_num.default,
        {
            "self": tensor(FLOAT),
            "nan": optional(
                choose(
                    1.5,
                )
            ),
            "posinf": optional(
                choose(
                    9.0,
                )
            ),
        },
    ),
    Row(
        aten.clamp.default,
        {"self": tensor(NUMERIC), "min": optional(choose(-1, 0, 0.6)), "max": optional(choose(2, 1, 1.4))},
    ),
    Row(aten.clamp_min.default, {"self": tensor(NUMERIC), "min": choose(0, 1, 0.6)}),
    Row(
        aten.clamp.Tensor,
        {"self": tensor(NUMERIC), "min": optional(broadcast("self")), "max": optional(broadcast("self"))},
    ),
    Row(aten._to_copy.default, {"self": tensor(ALL), "dtype": new_dtype(*ALL)}),
    Row(aten.to.dtype, {"self": tensor(ALL), "dtype": new_dtype(*ALL)}),
    Row(aten.glu.default, {"self": tensor(FLOAT, (1, 4)), "dim": dim()}),
]

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
    *rows({"self": tensor(INT + BOOL), "other": choose(1, 6)}, aten.bitwise_and.Scalar),
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
]


def _condition(g: Any, given: dict[str, Any]) -> Any:
    return g.tensor(BOOL, (0, 4), "any")


SELECTION: list[Row | Motif] = [
    Row(
        aten.where.self,
        {
            "condition": _condition,
            "self": lambda g, a: g.partner(a["condition"].shape, ALL),
            "other": lambda g, a: g.partner(a["self"].shape, (a["self"].dtype,) if g.flag() else ALL),
        },
    ),
    Row(
        aten.where.ScalarOther,
        {
            "condition": _condition,
            "self": lambda g, a: g.partner(a["condition"].shape, ALL),
            "other": number("self"),
        },
    ),
    Row(
        aten.masked_fill.Scalar,
        {
            "self": tensor(ALL),
            "mask": lambda g, a: g.partner(a["self"].shape, BOOL),
            "value": number("self", options=(0, 1, -1, 2)),
        },
    ),
    Row(
        aten.masked_fill.Tensor,
        {
            "self": tensor(ALL),
            "mask": lambda g, a: g.partner(a["self"].shape, BOOL),
            "value": lambda g, a: g.like(a["self"].dtype, ()),
        },
    ),
    Row(aten.tril.default, {"self": tensor(ALL, (2, 4)), "diagonal": optional(choose(-1, 1))}),
    Row(aten.triu.default, {"self": tensor(ALL, (2, 4)), "diagonal": optional(choose(-1, 1))}),
]

# -- reductions --------------------------------------------------------------------------

_keepdim = optional(flag)

REDUCTION: list[Row | Motif] = [
    Row(aten.sum.default, {"self": tensor(ALL), "dtype": optional(new_dtype(*WIDE, *INT))}),
    *rows(
        {
            "self": tensor(ALL, (1, 4)),
            "dim": dims(),
            "keepdim": _keepdim,
            "dtype": optional(new_dtype(*NUMERIC)),
        },
        aten.sum.dim_IntList,
        aten.sum.dim_IntList,
    ),
    Row(aten.mean.default, {"self": tensor(FLOAT)}),
    Row(aten.mean.default, {"self": tensor(ALL), "dtype": new_dtype(*FLOAT)}),
    *rows(
        {
            "self": tensor(FLOAT, (1, 4)),
            "dim": dims(),
            "keepdim": _keepdim,
            "dtype": optional(new_dtype(*WIDE)),
        },
        aten.mean.dim,
        aten.mean.dim,
    ),
    Row(aten.prod.dim_int, {"self": tensor(NUMERIC, (1, 3)), "dim": dim(), "keepdim": _keepdim}),
    *rows(
        {"self": tensor(ALL, (1, 4)), "dim": dims(), "keepdim": _keepdim},
        aten.amax.default,
        aten.amin.default,
    ),
    Row(aten.amax.default, {"self": tensor(NUMERIC)}),
    *rows({"self": tensor(NUMERIC, (1, 4)), "dim": dim(), "keepdim": _keepdim}, aten.max.dim, aten.min.dim),
    *rows({"self": tensor(ALL)}, aten.max.default, aten.min.default),
    *rows(
        {"self": tensor(NUMERIC, (1, 4)), "dim": dim(), "keepdim": _keepdim},
        aten.argmax.default,
        aten.argmin.default,
    ),
    Row(aten.argmax.default, {"self": tensor(NUMERIC)}),
    Row(aten.aminmax.default, {"self": tensor(NUMERIC, (1, 4)), "dim": dim(), "keepdim": _keepdim}),
    *rows({"self": tensor(ALL, (1, 4)), "dim": dim(), "keepdim": _keepdim}, aten.any.dim, aten.all.dim),
    *rows({"self": tensor(ALL, (1, 4)), "dim": dims(), "keepdim": _keepdim}, aten.any.dims, aten.all.dims),
    *rows({"self": tensor(ALL)}, aten.any.default, aten.all.default),
    *rows(
        {
            "self": tensor(FLOAT, (1, 4)),
            "dim": optional(dims()),
            "correction": optional(choose(0, 1)),
            "keepdim": _keepdim,
        },
        aten.var.correction,
        aten.std.correction,
        aten.var_mean.correction,
    ),
    Row(aten.logsumexp.default, {"self": tensor(FLOAT, (1, 4)), "dim": dims(), "keepdim": _keepdim}),
    Row(
        aten.linalg_vector_norm.default,
        {
            "self": tensor(WIDE, (1, 4)),
            "ord": optional(choose(1, 2, math.inf, 3)),
            "dim": dims(),
            "keepdim": _keepdim,
        },
    ),
    *rows({"self": tensor(NUMERIC, (1, 4)), "dim": dim()}, aten.cumsum.default, aten.cumprod.default),
    Row(
        aten.cumsum.default,
        {"self": tensor(ALL, (1, 4)), "dim": dim(), "dtype": new_dtype(*WIDE, torch.int64)},
    ),
    *rows(
        {"self": tensor(FLOAT, (1, 4)), "dim": dim()},
        aten.softmax.int,
        aten.log_softmax.int,
        aten.softmax.int,
    ),
    *rows(
        {"self": tensor(FLOAT, (1, 4)), "dim": dim(), "half_to_float": choose(False)},
        aten._softmax.default,
        aten._log_softmax.default,
    ),
    Row(aten.count_nonzero.dim_IntList, {"self": tensor(ALL, (1, 4)), "dim": dims()}),
]

SORTING: list[Row | Motif] = [
    Row(
        aten.topk.default,
        {
            "self": tensor(FLOAT, (1, 4)),
            "k": integer(1, 3),
            "dim": optional(dim()),
            "largest": optional(flag),
        },
    ),
    Row(
        aten.sort.default,
        {"self": tensor(FLOAT, (1, 4)), "dim": optional(dim()), "descending": optional(flag)},
    ),
    Row(
        aten.sort.stable,
        {
            "self": tensor(NUMERIC, (1, 4)),
            "stable": choose(True),
            "dim": optional(dim()),
            "descending": optional(flag),
        },
    ),
    Row(
        aten.argsort.default,
        {"self": tensor(FLOAT, (1, 4)), "dim": optional(dim()), "descending": optional(flag)},
    ),
]

# -- views and data movement ---------------------------------------------------------------


def _new_view(g: Any, given: dict[str, Any]) -> list[Any]:
    """Other sizes for the same elements: merge two dims, split one, add a 1, or flatten."""
    shape = list(given["self"].shape)
    how = g.choose(("flatten", "merge", "split", "one"))
    if how == "merge" and len(shape) >= 2:
        at = g.integer(0, len(shape) - 2)
        shape[at : at + 2] = [shape[at] * shape[at + 1]]
    elif how == "split" and shape:
        at = g.integer(0, len(shape) - 1)
        factor = g.choose([f for f in range(1, shape[at] + 1) if shape[at] % f == 0] or [1])
        shape[at : at + 1] = [factor, shape[at] // factor]
    elif how == "one":
        shape.insert(g.integer(0, len(shape)), 1)
    else:
        shape = [math.prod(shape)]
    if shape and g.flag():
        shape[g.integer(0, len(shape) - 1)] = -1
    return shape


def _expanded(g: Any, given: dict[str, Any]) -> list[int]:
    shape = [g.choose((2, 3)) if size == 1 else g.choose((size, -1)) for size in given["self"].shape]
    return [g.choose((2, 1)) for _ in range(g.integer(0, max(0, 4 - len(shape))))] + shape


def _position(of: str = "self") -> Drawer:
    def draw(g: Any, given: dict[str, Any]) -> int:
        value = given[of]
        if not value.dim():
            raise Reject
        size = value.shape[given["dim"]]
        return g.choose([*range(size), *range(-1, -size - 1, -1)] or [0])

    return draw


def _bound(g: Any, given: dict[str, Any]) -> int:
    """The end of a slice: inside, from the back, or beyond the end."""
    return g.choose((1, 2, -1, 3, -2, 2**63 - 1, 100))


def _cat(g: Any) -> dict[str, Any]:
    first = g.tensor(ALL, (1, 4), "any")
    at = g.choose([*range(first.dim()), *range(-1, -first.dim() - 1, -1)])
    others = []
    for _ in range(g.integer(1, 2)):
        shape = list(first.shape)
        shape[at] = g.choose((shape[at], 1, 2))
        others.append(g.like(first.dtype if g.integer(0, 5) < 5 else g.dtype(ALL), shape))
    return {"tensors": [first, *others], "dim": at}


def _split_sizes(g: Any, given: dict[str, Any]) -> list[int]:
    value = given["self"]
    size = value.shape[given["dim"]]
    first = g.integer(0, size)
    return [first, size - first]


def _split(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 4), "any")
    given = {"self": value}
    given["dim"] = dim()(g, given)
    return {"self": value, "split_sizes": _split_sizes(g, given), "dim": given["dim"]}


def _permutation(g: Any, given: dict[str, Any]) -> list[int]:
    rank = given["self"].dim()
    return [d - rank if g.choose((False, False, True)) else d for d in g.permutation(rank)]


def _padding(least: int, most: int) -> Drawer:
    def draw(g: Any, given: dict[str, Any]) -> list[int]:
        count = g.integer(1, min(2, given["self"].dim()))
        return [g.integer(least, most) for _ in range(2 * count)]

    return draw


def _new_dim(g: Any, given: dict[str, Any]) -> int:
    rank = given["self"].dim() + 1
    return g.choose([*range(rank), *range(-1, -rank - 1, -1)])


def _slice_scatter(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 4), "any")
    at = g.integer(0, value.dim() - 1)
    size = value.shape[at]
    start = g.integer(0, size - 1)
    end = g.integer(start + 1, size)
    shape = list(value.shape)
    shape[at] = end - start
    return {"self": value, "src": g.like(value.dtype, shape), "dim": at, "start": start, "end": end}


def _select_scatter(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 4), "any")
    at = g.integer(0, value.dim() - 1)
    shape = list(value.shape)
    size = shape.pop(at)
    position = g.choose([*range(size), *range(-1, -size - 1, -1)])
    return {"self": value, "src": g.like(value.dtype, shape), "dim": at, "index": position}


VIEW: list[Row | Motif] = [
    *rows(
        {"self": tensor(ALL), "size": _new_view},
        aten.view.default,
        aten.view.default,
        aten._unsafe_view.default,
    ),
    Row(aten.reshape.default, {"self": tensor(ALL), "shape": _new_view}),
    *rows({"self": tensor(ALL, (1, 4)), "dims": _permutation}, aten.permute.default, aten.permute.default),
    Row(aten.transpose.int, {"self": tensor(ALL, (1, 4)), "dim0": dim(), "dim1": dim()}),
    Row(aten.t.default, {"self": tensor(ALL, (0, 2))}),
    *rows({"self": tensor(ALL, (0, 3)), "dim": _new_dim}, aten.unsqueeze.default, aten.unsqueeze.default),
    Row(aten.squeeze.default, {"self": tensor(ALL)}),
    Row(aten.squeeze.dim, {"self": tensor(ALL, (1, 4)), "dim": dim()}),
    Row(aten.squeeze.dims, {"self": tensor(ALL, (1, 4)), "dim": dims()}),
    *rows({"self": tensor(ALL), "size": _expanded}, aten.expand.default, aten.expand.default),
    *rows(
        {
            "self": tensor(ALL, (1, 4)),
            "dim": dim(),
            "start": optional(choose(0, 1, -1, -2, None)),
            "end": optional(_bound),
            "step": optional(choose(1, 2)),
        },
        aten.slice.Tensor,
        aten.slice.Tensor,
    ),
    *rows(
        {"self": tensor(ALL, (1, 4)), "dim": dim(), "index": _position()}, aten.select.int, aten.select.int
    ),
    Row(
        aten.narrow.default,
        {"self": tensor(ALL, (1, 4)), "dim": dim(), "start": integer(0, 1), "length": integer(1, 2)},
    ),
    Row(
        aten.flatten.using_ints,
        {"self": tensor(ALL), "start_dim": optional(choose(0, 1)), "end_dim": optional(choose(-1, 1))},
    ),
    Row(aten.movedim.int, {"self": tensor(ALL, (1, 4)), "source": dim(), "destination": dim()}),
    Row(
        aten.diagonal.default,
        {
            "self": tensor(ALL, (2, 4)),
            "offset": optional(choose(1, -1)),
            "dim1": optional(choose(-2, 0)),
            "dim2": optional(choose(-1, 1)),
        },
    ),
    Row(
        aten.unfold.default,
        {"self": tensor(ALL, (1, 3)), "dimension": dim(), "size": integer(1, 3), "step": integer(1, 2)},
    ),
    Row(aten.unbind.int, {"self": tensor(ALL, (1, 4)), "dim": optional(dim())}),
    Row(
        aten.split.Tensor, {"self": tensor(ALL, (1, 4)), "split_size": integer(1, 3), "dim": optional(dim())}
    ),
    Row(aten.split_with_sizes.default, _split),
    Row(aten.chunk.default, {"self": tensor(ALL, (1, 4)), "chunks": integer(1, 3), "dim": optional(dim())}),
    *rows(
        {"self": tensor(ALL)},
        aten.clone.default,
        aten.detach.default,
        aten.alias.default,
        aten.contiguous.default,
    ),
]

MOVEMENT: list[Row | Motif] = [
    *[Row(aten.cat.default, _cat)] * 2,
    *rows({"tensors": several, "dim": optional(choose(0, -1, 1))}, aten.stack.default, aten.cat.default),
    Row(aten.flip.default, {"self": tensor(ALL, (1, 4)), "dims": dims()}),
    Row(
        aten.roll.default,
        {
            "self": tensor(ALL, (1, 4)),
            "shifts": lambda g, a: [g.choose((1, -1, 2))],
            "dims": lambda g, a: [dim()(g, a)],
        },
    ),
    Row(
        aten.repeat.default,
        {
            "self": tensor(ALL, (0, 3)),
            "repeats": lambda g, a: [
                g.choose((1, 2)) for _ in range(max(1, a["self"].dim()) + g.integer(0, 1))
            ],
        },
    ),
    Row(
        aten.repeat_interleave.self_int,
        {"self": tensor(ALL, (1, 3)), "repeats": integer(1, 2), "dim": optional(dim())},
    ),
    *rows(
        {"self": tensor(ALL, (1, 4)), "pad": _padding(-1, 2), "value": optional(choose(1, 0))},
        aten.constant_pad_nd.default,
    ),
    Row(
        aten.pad.default,
        {
            "self": tensor(FLOAT, (1, 4)),
            "pad": _padding(0, 2),
            "mode": optional(
                choose(
                    "constant",
                )
            ),
            "value": optional(choose(0.5, -1.5)),
        },
    ),
    Row(
        aten.pad.default,
        {
            "self": tensor(WIDE, (3, 4)),
            "pad": lambda g, a: [1] * (2 * (a["self"].dim() - 2)),
            "mode": choose("reflect", "replicate"),
        },
    ),
    Row(aten.slice_scatter.default, _slice_scatter),
    Row(aten.select_scatter.default, _select_scatter),
    Row(
        aten.pixel_shuffle.default,
        lambda g: {"self": g.like(g.dtype(FLOAT), (1, 4, 2, 3)), "upscale_factor": 2},
    ),
    Row(aten.diag_embed.default, {"self": tensor(ALL, (1, 3)), "offset": optional(choose(1, -1))}),
]

CREATION: list[Row | Motif] = [
    Row(
        aten.full.default,
        {"size": small_shape, "fill_value": choose(1, 0.5, 2, -1, 0), "dtype": optional(new_dtype(*NUMERIC))},
    ),
    *rows({"size": small_shape, "dtype": optional(new_dtype(*ALL))}, aten.zeros.default, aten.ones.default),
    Row(aten.arange.default, {"end": choose(3, 4, 1, 2.5), "dtype": optional(new_dtype(*NUMERIC))}),
    Row(
        aten.arange.start_step,
        {
            "start": choose(0, 1, -2),
            "end": choose(4, 6, 5.5),
            "step": choose(1, 2, 0.5),
            "dtype": optional(new_dtype(*WIDE, torch.int64, torch.int32)),
        },
    ),
    Row(
        aten.full_like.default,
        {"self": tensor(ALL), "fill_value": choose(1, 0, 2), "dtype": optional(new_dtype(*NUMERIC))},
    ),
    *rows(
        {"self": tensor(ALL), "dtype": optional(new_dtype(*NUMERIC))},
        aten.zeros_like.default,
        aten.ones_like.default,
    ),
    *rows({"self": tensor(ALL), "size": small_shape}, aten.new_zeros.default, aten.new_ones.default),
    Row(aten.scalar_tensor.default, {"s": choose(1, 0.5, -2), "dtype": new_dtype(*NUMERIC)}),
    Row(aten.eye.default, {"n": integer(1, 3), "dtype": optional(new_dtype(*WIDE, torch.int64))}),
    Row(aten.linspace.default, {"start": choose(0, -1.5), "end": choose(1, 2.25), "steps": integer(1, 4)}),
]

# -- indexing ----------------------------------------------------------------------------


def _gather(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 3), "any")
    at = g.integer(0, value.dim() - 1)
    shape = [g.integer(1, size) for size in value.shape]
    shape[at] = g.integer(1, 3)
    return {"self": value, "dim": _signed(g, at, value), "index": g.index(value.shape[at], shape)}


def _signed(g: Any, at: int, value: Any) -> int:
    return at - value.dim() if g.flag() else at


def _index_select(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 4), "any")
    at = g.integer(0, value.dim() - 1)
    dtype = g.choose((torch.int64, torch.int32))
    return {
        "self": value,
        "dim": _signed(g, at, value),
        "index": g.index(value.shape[at], (g.integer(1, 4),), dtype),
    }


def _embedding(g: Any) -> dict[str, Any]:
    weight = g.like(g.dtype(FLOAT), (g.integer(2, 5), g.integer(1, 4)))
    shape = [g.integer(1, 3) for _ in range(g.integer(1, 2))]
    index = g.index(weight.shape[0], shape, g.choose((torch.int64, torch.int32)))
    return {"weight": weight, "indices": index, "padding_idx": g.choose((OMIT, 1, 0))}


def _index(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 4), "any")
    shape = [g.integer(1, 3) for _ in range(g.integer(1, 2))]
    indices: list[Any] = []
    for at in range(g.integer(1, min(3, value.dim()))):
        skip = at + 1 < value.dim() and g.integer(0, 3) == 3
        indices.append(None if skip else g.index(value.shape[at], shape, negative=True))
    if all(index is None for index in indices):
        indices[0] = g.index(value.shape[0], shape, negative=True)
    return {"self": value, "indices": indices}


def _index_put(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 3), "any")
    size = value.shape[0]
    count = g.integer(1, size)
    index = g.constant(torch.tensor(g.permutation(size)[:count]))
    rest = g.like(value.dtype, (count, *value.shape[1:]))
    return {"self": value, "indices": [index], "values": rest, "accumulate": g.choose((OMIT, False, True))}


def _index_add(g: Any) -> dict[str, Any]:
    value = g.tensor(NUMERIC, (1, 3), "any")
    at = g.integer(0, value.dim() - 1)
    shape = list(value.shape)
    shape[at] = g.integer(1, 3)
    return {
        "self": value,
        "dim": _signed(g, at, value),
        "index": g.index(value.shape[at], (shape[at],)),
        "source": g.like(value.dtype, shape),
        "alpha": g.choose((OMIT, 2)),
    }


def _scatter_index(g: Any, value: Any, at: int) -> Any:
    """Positions along dim *at*, no two alike in a lane: the result does not depend on the order."""
    order = g.tensor_data(torch.float64, value.shape).argsort(at)
    return g.constant(order.narrow(at, 0, g.integer(1, value.shape[at])).contiguous())


def _scatter(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 3), "any")
    at = g.integer(0, value.dim() - 1)
    index = _scatter_index(g, value, at)
    return {
        "self": value,
        "dim": _signed(g, at, value),
        "index": index,
        "src": g.like(value.dtype, index.shape),
    }


def _scatter_value(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 3), "any")
    at = g.integer(0, value.dim() - 1)
    return {
        "self": value,
        "dim": _signed(g, at, value),
        "index": _scatter_index(g, value, at),
        "value": g.choose((1, 0, 2)),
    }


def _scatter_add(g: Any) -> dict[str, Any]:
    value = g.tensor(NUMERIC, (1, 3), "any")
    at = g.integer(0, value.dim() - 1)
    shape = list(value.shape)
    shape[at] = g.integer(1, 3)
    index = g.index(value.shape[at], shape)
    return {"self": value, "dim": at, "index": index, "src": g.like(value.dtype, shape)}


INDEXING: list[Row | Motif] = [
    *[Row(aten.gather.default, _gather)] * 2,
    Row(aten.index_select.default, _index_select),
    *[Row(aten.embedding.default, _embedding)] * 2,
    *[Row(aten.index.Tensor, _index)] * 3,
    Row(aten.index_put.default, _index_put),
    Row(aten.index_add.default, _index_add),
    Row(aten.scatter.src, _scatter),
    Row(aten.scatter.value, _scatter_value),
    Row(aten.scatter_add.default, _scatter_add),
]

# -- matrix products, convolutions, layers ---------------------------------------------------


def _matrix(g: Any, kinds: Iterable[torch.dtype] = NUMERIC, rank: tuple[int, int] = (2, 2)) -> Any:
    return g.tensor(tuple(k for k in kinds if k != torch.int16), rank, "any")


def _mm(g: Any) -> dict[str, Any]:
    a = _matrix(g)
    return {"self": a, "mat2": g.like(a.dtype, (a.shape[1], g.integer(1, 4)))}


def _addmm(g: Any) -> dict[str, Any]:
    a = _matrix(g, FLOAT)
    n = g.integer(1, 4)
    bias = g.like(a.dtype, g.choose(((n,), (a.shape[0], n), (1, n), ())))
    scale = {"beta": g.choose((OMIT, 2, 0.5)), "alpha": g.choose((OMIT, 1, -1.5))}
    return {"self": bias, "mat1": a, "mat2": g.like(a.dtype, (a.shape[1], n)), **scale}


def _bmm(g: Any) -> dict[str, Any]:
    a = _matrix(g, NUMERIC, (3, 3))
    return {"self": a, "mat2": g.like(a.dtype, (a.shape[0], a.shape[2], g.integer(1, 3)))}


def _baddbmm(g: Any) -> dict[str, Any]:
    a = _matrix(g, FLOAT, (3, 3))
    b, m, k = a.shape
    n = g.integer(1, 3)
    bias = g.like(a.dtype, g.choose(((b, m, n), (n,), (m, 1))))
    return {
        "self": bias,
        "batch1": a,
        "batch2": g.like(a.dtype, (b, k, n)),
        "beta": g.choose((OMIT, 2)),
        "alpha": g.choose((OMIT, 0.5)),
    }


def _matmul(g: Any) -> dict[str, Any]:
    a = _matrix(g, FLOAT + INT, (1, 4))
    k = a.shape[-1]
    shape = g.choose([(k,), (k, 2), (2, k, 3), *([(*a.shape[:-2], k, 2), (1, k, 1)] if a.dim() > 2 else [])])
    return {"self": a, "other": g.like(a.dtype, shape)}


def _linear(g: Any) -> dict[str, Any]:
    x = _matrix(g, FLOAT, (1, 4))
    n = g.integer(1, 4)
    bias = g.like(x.dtype, (n,)) if g.flag() else OMIT
    return {"input": x, "weight": g.like(x.dtype, (n, x.shape[-1])), "bias": bias}


def _einsum(g: Any) -> dict[str, Any]:
    equation = g.choose(
        ("ij,jk->ik", "ij,j->i", "bij,bjk->bik", "bij,bkj->bik", "ij->ji", "ij,ij->", "i,j->ij")
    )
    sizes = {letter: g.integer(1, 3) for letter in dict.fromkeys(equation) if letter.isalpha()}
    dtype = g.dtype(FLOAT)
    terms = equation.split("->")[0].split(",")
    return {"equation": equation, "tensors": [g.like(dtype, [sizes[c] for c in term]) for term in terms]}


def _conv(nd: int, *, transposed: bool = False, general: bool = False) -> Callable[[Any], dict[str, Any]]:
    def draw(g: Any) -> dict[str, Any]:
        dtype = g.dtype(FLOAT)
        groups = g.choose((1, 1, 2))
        channels = groups * g.integer(1, 2)
        out = groups * g.integer(1, 2)
        spatial = [g.choose((4, 3, 5)) for _ in range(nd)]
        x = g.like(dtype, (g.choose((1, 2)), channels, *spatial))
        kernel = [g.choose((1, 2, 3)) for _ in range(nd)]
        weight = g.like(
            dtype, ((channels, out // groups) if transposed else (out, channels // groups)) + tuple(kernel)
        )
        given: dict[str, Any] = {"input": x, "weight": weight}
        given["bias"] = g.like(dtype, (out,)) if g.flag() else None
        given["stride"] = [g.choose((1, 2))] * nd
        given["padding"] = [g.choose((0, 1)) for _ in range(nd)]
        given["dilation"] = [g.choose((1, 1, 2))] * nd
        extra = [given["stride"][0] - 1 if g.flag() else 0] * nd
        if general:
            return given | {
                "transposed": transposed,
                "output_padding": extra if transposed else [0] * nd,
                "groups": groups,
            }
        return given | {"groups": groups} | ({"output_padding": extra} if transposed else {})

    return draw


def _image(g: Any, kinds: Iterable[torch.dtype] = FLOAT) -> Any:
    return g.like(g.dtype(kinds), (g.choose((1, 2)), g.integer(1, 2), g.choose((4, 3, 5)), g.choose((4, 5))))


def _pool(average: bool, *, brackets: bool = True) -> Callable[[Any], dict[str, Any]]:
    def draw(g: Any) -> dict[str, Any]:
        kernel = [g.choose((2, 3)), g.choose((2, 1, 3))]
        given: dict[str, Any] = {"self": _image(g), "kernel_size": kernel}
        given["stride"] = g.choose((OMIT, [1, 1], [2, 1], []))
        given["padding"] = g.choose((OMIT, [0, 0], [min(1, k // 2) for k in kernel]))
        given["ceil_mode"] = g.choose((OMIT, False, True))
        if average:
            given["count_include_pad"] = g.choose((OMIT, False))
            given["divisor_override"] = g.choose((OMIT, None, 3))
        else:
            given["dilation"] = g.choose((OMIT, [1, 1], [1, 2]))
        return given

    return draw


def _layer_norm(g: Any, native: bool = False) -> dict[str, Any]:
    x = g.tensor(FLOAT, (1, 4), "any")
    shape = list(x.shape[-g.integer(1, min(2, x.dim())) :])
    given: dict[str, Any] = {"input": x, "normalized_shape": shape}
    given["weight"] = g.like(x.dtype, shape) if g.flag() else None
    given["bias"] = g.like(x.dtype, shape) if g.flag() else None
    return given | {"eps": 1e-3 if native or g.flag() else OMIT}


def _group_norm(g: Any) -> dict[str, Any]:
    x = g.like(g.dtype(FLOAT), (g.choose((1, 2)), 4, *([3, 2][: g.integer(1, 2)])))
    affine = g.flag()
    given = {"input": x, "num_groups": g.choose((2, 1, 4))}
    return given | {
        "weight": g.like(x.dtype, (4,)) if affine else OMIT,
        "bias": g.like(x.dtype, (4,)) if affine else OMIT,
    }


def _batch_norm_arguments(g: Any, x: Any) -> dict[str, Any]:
    channels = (x.shape[1],)
    affine = g.choose((True, True, False))
    return {
        "input": x,
        "weight": g.like(x.dtype, channels) if affine else None,
        "bias": g.like(x.dtype, channels) if affine else None,
        "running_mean": g.constant(g.tensor_data(x.dtype, channels)),
        "running_var": g.constant(g.tensor_data(x.dtype, channels, "positive")),
    }


def _batch_norm(g: Any) -> dict[str, Any]:
    x = g.tensor(FLOAT, (2, 4), "any")
    return _batch_norm_arguments(g, x) | {
        "training": False,
        "momentum": 0.1,
        "eps": 1e-3,
        "cudnn_enabled": True,
    }


def _batch_norm_inference(g: Any) -> dict[str, Any]:
    x = g.tensor(FLOAT, (2, 4), "any")
    return _batch_norm_arguments(g, x) | {"momentum": 0.1, "eps": 1e-3}


def _rms_norm(g: Any) -> dict[str, Any]:
    x = g.tensor(FLOAT, (1, 4), "any")
    weight = g.like(x.dtype, (x.shape[-1],)) if g.flag() else OMIT
    return {"input": x, "normalized_shape": [x.shape[-1]], "weight": weight, "eps": g.choose((1e-3, OMIT))}


def _attention(g: Any) -> dict[str, Any]:
    dtype = g.dtype(FLOAT)
    batch, heads, queries, keys, size = (g.integer(1, n) for n in (2, 2, 3, 4, 4))
    given: dict[str, Any] = {
        "query": g.like(dtype, (batch, heads, queries, size)),
        "key": g.like(dtype, (batch, heads, keys, size)),
        "value": g.like(dtype, (batch, heads, keys, size)),
    }
    mask = g.choose(("none", "causal", "bool", "float"))
    if mask == "bool":
        given["attn_mask"] = g.constant(torch.arange(queries)[:, None] + 1 >= torch.arange(keys))
    elif mask == "float":
        given["attn_mask"] = g.like(dtype, (queries, keys))
    elif mask == "causal":
        given["is_causal"] = True
    return given | {"scale": g.choose((OMIT, 0.5))}


def _upsample(g: Any) -> dict[str, Any]:
    x = _image(g, WIDE)
    if g.flag():
        return {"input": x, "output_size": [g.integer(2, 7), g.integer(2, 7)], "scale_factors": None}
    return {"input": x, "output_size": None, "scale_factors": [2.0, g.choose((2.0, 1.5))]}


def _upsample_bilinear(g: Any) -> dict[str, Any]:
    return _upsample(g) | {"align_corners": g.flag()}


MATMUL: list[Row | Motif] = [
    *[Row(aten.mm.default, _mm)] * 2,
    *[Row(aten.addmm.default, _addmm)] * 2,
    Row(aten.bmm.default, _bmm),
    Row(aten.baddbmm.default, _baddbmm),
    *[Row(aten.matmul.default, _matmul)] * 2,
    *[Row(aten.linear.default, _linear)] * 2,
    Row(aten.einsum.default, _einsum),
]

LAYER: list[Row | Motif] = [
    Row(aten.conv1d.default, _conv(1)),
    *[Row(aten.conv2d.default, _conv(2))] * 2,
    Row(aten.convolution.default, _conv(2, general=True)),
    Row(aten.convolution.default, _conv(1, general=True, transposed=True)),
    Row(aten.conv_transpose2d.input, _conv(2, transposed=True)),
    Row(aten.max_pool2d.default, _pool(False)),
    Row(aten.max_pool2d_with_indices.default, _pool(False)),
    Row(aten.avg_pool2d.default, _pool(True)),
    Row(
        aten.adaptive_avg_pool2d.default,
        lambda g: {"self": _image(g), "output_size": [g.integer(1, 3), g.integer(1, 4)]},
    ),
    *[Row(aten.layer_norm.default, _layer_norm)] * 2,
    Row(aten.native_layer_norm.default, lambda g: _layer_norm(g, native=True)),
    Row(aten.group_norm.default, _group_norm),
    Row(aten.batch_norm.default, _batch_norm),
    Row(aten._native_batch_norm_legit_no_training.default, _batch_norm_inference),
    Row(aten.rms_norm.default, _rms_norm),
    *[Row(aten.scaled_dot_product_attention.default, _attention)] * 2,
    Row(aten.upsample_nearest2d.vec, _upsample),
    Row(aten.upsample_bilinear2d.vec, _upsample_bilinear),
]

# -- motifs ------------------------------------------------------------------------------


def _conv_bn(g: Any) -> Any:
    """A convolution and a batch norm, which a pass may fold into one."""
    transposed = g.choose((False, False, True))
    nd = g.choose((2, 1))
    drawn = _conv(nd, transposed=transposed, general=True)(g)
    y = g.call(aten.convolution.default, *drawn.values())
    given = _batch_norm_arguments(g, y)
    return g.call(aten._native_batch_norm_legit_no_training.default, *given.values(), 0.1, 1e-3)


def _written_attention(g: Any) -> Any:
    """Attention as people write it: a product, a scale, a softmax, a product."""
    dtype = g.dtype(FLOAT)
    batch, queries, keys, size = (g.integer(1, 3) for _ in range(4))
    q, k, v = (g.like(dtype, (batch, n, size)) for n in (queries, keys, keys))
    scores = g.call(aten.matmul.default, q, g.call(aten.transpose.int, k, -2, -1))
    scores = g.call(aten.div.Tensor, scores, 2.0)
    return g.call(aten.matmul.default, g.call(aten.softmax.int, scores, -1), v)


def _twins(g: Any) -> Any:
    """The same call twice, and their sum."""
    x = g.tensor(FLOAT, (0, 4), "any")
    op = g.choose((aten.sin.default, aten.exp.default, aten.neg.default))
    return g.call(aten.add.Tensor, g.call(op, x), g.call(op, x))


def _noops(g: Any) -> Any:
    """Steps that do nothing, between two that do."""
    x = g.call(aten.neg.default, g.tensor(FLOAT, (1, 4), "any"))
    for op, args in g.choose(
        (
            ((aten.mul.Tensor, (1,)), (aten.add.Tensor, (0,))),
            ((aten.permute.default, ([*range(x.dim())],)),),
            ((aten.view.default, ([*x.shape],)), (aten.expand.default, ([*x.shape],))),
            ((aten.slice.Tensor, (0, 0, 2**63 - 1)), (aten.clone.default, ())),
            ((aten._to_copy.default, ()), (aten.transpose.int, (0, -1)), (aten.transpose.int, (0, -1))),
        )
    ):
        x = g.call(op, x, *args)
    return g.call(aten.abs.default, x)


MOTIFS: list[Row | Motif] = [
    Motif("conv_bn", _conv_bn),
    Motif("conv_bn", _conv_bn),
    Motif("attention", _written_attention),
    Motif("twins", _twins),
    Motif("noops", _noops),
]

FAMILIES: dict[str, list[Row | Motif]] = {
    "pointwise": POINTWISE,
    "binary": BINARY,
    "view": VIEW,
    "reduction": REDUCTION,
    "movement": MOVEMENT,
    "matmul": MATMUL,
    "selection": SELECTION,
    "indexing": INDEXING,
    "layer": LAYER,
    "creation": CREATION,
    "sorting": SORTING,
    "motif": MOTIFS,
    **RARE_FAMILIES,
}
"""The table, by family; a family is chosen first, then a row in it."""

OPS: list[Row | Motif] = [row for rows in FAMILIES.values() for row in rows]
"""All rows."""
