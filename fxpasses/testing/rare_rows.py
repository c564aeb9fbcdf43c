"""Rows of operators that models use more seldom; see `fxpasses.testing.rows`."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    Motif,
    Reject,
    Row,
    choose,
    dim,
    flag,
    integer,
    optional,
    partner,
    rows,
    same,
    tensor,
)

__all__ = ["RARE_FAMILIES"]

aten = torch.ops.aten

# -- pointwise ---------------------------------------------------------------------------

_POINTWISE: list[Row | Motif] = [
    *rows(
        {"self": tensor(FLOAT)},
        aten.cosh.default,
        aten.erfc.default,
        aten.signbit.default,
        aten.isposinf.default,
        aten.isneginf.default,
        aten.i0.default,
        aten.special_i1.default,
        aten.special_i0e.default,
        aten.special_i1e.default,
        aten.sinc.default,
        aten.deg2rad.default,
        aten.tanh.default,
        aten.frexp.Tensor,
        aten.angle.default,
    ),
    *rows({"self": tensor(FLOAT, domain="positive")}, aten.lgamma.default, aten.digamma.default),
    Row(aten.erfinv.default, lambda g: {"self": g.constant(g.tensor_data(g.dtype(FLOAT), (3, 2), "unit"))}),
    *rows({"self": tensor(INT)}, aten.signbit.default, aten.cosh.default, aten.erfc.default),
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
        {"self": tensor(INT + BOOL), "other": choose(1, 3, -2)},
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

# -- reductions, order, scans ------------------------------------------------------------

_REDUCTION: list[Row | Motif] = [
    *rows({"self": tensor(NUMERIC, (1, 3))}, aten.median.default, aten.nanmedian.default, aten.prod.default),
    *rows(
        {"self": tensor(NUMERIC, (1, 3)), "dim": dim(), "keepdim": optional(flag)},
        aten.median.dim,
        aten.nanmedian.dim,
        aten.mode.default,
    ),
    Row(
        aten.kthvalue.default,
        {
            "self": tensor(FLOAT, (1, 3)),
            "k": integer(1, 2),
            "dim": optional(dim()),
            "keepdim": optional(flag),
        },
    ),
    *rows({"self": tensor(NUMERIC, (1, 4)), "dim": dim()}, aten.cummax.default, aten.cummin.default),
    Row(aten.logcumsumexp.default, {"self": tensor(FLOAT, (1, 3)), "dim": dim()}),
    Row(aten.nansum.default, {"self": tensor(FLOAT, (1, 3)), "dim": lambda g, a: [dim()(g, a)]}),
    Row(aten.std_mean.correction, {"self": tensor(FLOAT, (2, 3)), "dim": lambda g, a: [dim()(g, a)]}),
    Row(aten.diff.default, {"self": tensor(NUMERIC, (1, 3)), "n": choose(1, 2), "dim": optional(dim())}),
    Row(
        aten.norm.ScalarOpt_dim,
        {"self": tensor(FLOAT, (1, 3)), "p": choose(1, 2, 3), "dim": lambda g, a: [dim()(g, a)]},
    ),
    Row(aten.dist.default, {"self": tensor(FLOAT, (1, 2)), "other": same("self"), "p": choose(2, 1)}),
    Row(aten.trace.default, {"self": tensor(NUMERIC, (2, 2))}),
    Row(aten.bucketize.Tensor, lambda g: _bucketize(g)),
    Row(aten.searchsorted.Tensor, lambda g: _searchsorted(g)),
    Row(aten.isin.Tensor_Tensor, {"elements": tensor(INT, (1, 2)), "test_elements": same("elements")}),
    Row(aten.cdist.default, lambda g: _cdist(g)),
]


def _bounds(g: Any, dtype: torch.dtype) -> Any:
    data = g.tensor_data(dtype, (g.integer(1, 5),)).sort().values
    return g.constant(data)


def _bucketize(g: Any) -> dict[str, Any]:
    value = g.tensor(NUMERIC, (0, 3), "any")
    return {
        "self": value,
        "boundaries": _bounds(g, value.dtype),
        "out_int32": g.choose((OMIT, True)),
        "right": g.choose((OMIT, True)),
    }


def _searchsorted(g: Any) -> dict[str, Any]:
    value = g.tensor(NUMERIC, (1, 3), "any")
    return {
        "sorted_sequence": _bounds(g, value.dtype),
        "self": value,
        "right": g.choose((OMIT, True)),
    }


def _cdist(g: Any) -> dict[str, Any]:
    dtype = g.dtype(WIDE)
    rows, others, size = (g.integer(1, 4) for _ in range(3))
    return {
        "x1": g.like(dtype, (rows, size)),
        "x2": g.like(dtype, (others, size)),
        "p": g.choose((2.0, 1.0, 3.0, math.inf)),
    }


# -- indexing ----------------------------------------------------------------------------


def _mask_put(g: Any) -> dict[str, Any]:
    """``x[mask] = value`` and ``x[:, mask] += row``."""
    value = g.tensor(ALL, (1, 3), "any")
    first = g.integer(0, value.dim() - 1)
    last = g.integer(first + 1, value.dim())
    mask = g.like(torch.bool, value.shape[first:last])
    rest = g.choose(((), value.shape[last:]))
    return {
        "self": value,
        "indices": [None] * first + [mask],
        "values": g.like(value.dtype, rest),
        "accumulate": value.dtype != torch.bool and g.flag(),
    }


def _put(g: Any) -> dict[str, Any]:
    """Sums at positions that may come twice, at several dims, apart or side by side."""
    value = g.tensor(NUMERIC, (2, 3), "any")
    shape = (g.integer(1, 3),)
    where = g.choose(((0,), (1,), (0, 1), (0, value.dim() - 1)))
    indices = [
        g.index(value.shape[d], shape, negative=True) if d in where else None for d in range(max(where) + 1)
    ]
    return {
        "self": value,
        "indices": indices,
        "values": g.like(value.dtype, ()),
        "accumulate": g.choose((True, False)),
    }


def _at(g: Any, kinds: Any = ALL) -> tuple[Any, int, Any]:
    value = g.tensor(kinds, (1, 3), "any")
    at = g.integer(0, value.dim() - 1)
    shape = [g.integer(1, size) for size in value.shape]
    return value, at, g.index(value.shape[at], shape)


def _scatter_reduce(g: Any) -> dict[str, Any]:
    value, at, index = _at(g, NUMERIC)
    return {
        "self": value,
        "dim": at - value.dim() if g.flag() else at,
        "index": index,
        "src": g.like(value.dtype, index.shape),
        "reduce": g.choose(("sum", "prod", "mean", "amax", "amin")),
        "include_self": g.choose((OMIT, False)),
    }


def _scatter_with(g: Any) -> dict[str, Any]:
    value, at, index = _at(g, NUMERIC)
    src = g.like(value.dtype, index.shape)
    return {"self": value, "dim": at, "index": index, "src": src, "reduce": g.choose(("add", "multiply"))}


def _scatter_value_with(g: Any) -> dict[str, Any]:
    value, at, index = _at(g, NUMERIC)
    return {
        "self": value,
        "dim": at,
        "index": index,
        "value": g.choose((2, 3)),
        "reduce": g.choose(("add", "multiply")),
    }


def _masked_scatter(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 3), "any")
    mask = g.like(torch.bool, value.shape)
    return {
        "self": value,
        "mask": mask,
        "source": g.like(value.dtype, (math.prod(value.shape) + g.integer(0, 2),)),
    }


def _index_copy(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 3), "any")
    at = g.integer(0, value.dim() - 1)
    shape = list(value.shape)
    shape[at] = 1
    return {
        "self": value,
        "dim": at,
        "index": g.index(value.shape[at], (1,)),
        "source": g.like(value.dtype, shape),
    }


def _index_fill(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 3), "any")
    at = g.integer(0, value.dim() - 1)
    return {
        "self": value,
        "dim": at,
        "index": g.index(value.shape[at], (g.integer(1, 3),)),
        "value": g.choose((1, 0, 2)),
    }


def _take(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 3), "any")
    return {"self": value, "index": g.index(math.prod(value.shape), (g.integer(1, 3), 2), negative=True)}


_INDEXING: list[Row | Motif] = [
    *[Row(aten.index_put.default, _mask_put)] * 2,
    *[Row(aten.index_put.default, _put)] * 2,
    *[Row(aten.scatter_reduce.two, _scatter_reduce)] * 2,
    Row(aten.scatter.reduce, _scatter_with),
    Row(aten.scatter.value_reduce, _scatter_value_with),
    Row(aten.masked_scatter.default, _masked_scatter),
    Row(aten.index_copy.default, _index_copy),
    Row(aten.index_fill.int_Scalar, _index_fill),
    Row(aten.take.default, _take),
]

# -- views and movement ------------------------------------------------------------------


def _as_strided(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (1, 3), "any")
    count = math.prod(value.shape)
    if count < 2:
        raise Reject
    size = [g.integer(1, 2), g.integer(1, 2)]
    stride = [g.integer(0, 2), g.integer(0, 2)]
    reach = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if reach > count:
        raise Reject
    return {
        "self": g.call(aten.clone.default, value, memory_format=torch.contiguous_format),
        "size": size,
        "stride": stride,
        "storage_offset": g.integer(0, count - reach),
    }


def _diagonal_scatter(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (2, 2), "any")
    offset = g.choose((0, 1, -1))
    count = torch.empty(value.shape, device="meta").diagonal(offset).shape
    return {"self": value, "src": g.like(value.dtype, count), "offset": offset}


_MOVEMENT: list[Row | Motif] = [
    Row(aten.as_strided.default, _as_strided),
    Row(aten.diagonal_scatter.default, _diagonal_scatter),
    Row(
        aten.rot90.default,
        {"self": tensor(ALL, (2, 3)), "k": choose(1, 2, -1), "dims": choose([0, 1], [1, 0])},
    ),
    Row(aten.tile.default, {"self": tensor(ALL, (1, 2)), "dims": choose([2], [2, 1], [1, 2, 1])}),
    Row(aten.roll.default, {"self": tensor(ALL, (1, 3)), "shifts": choose([1], [-2])}),
    Row(
        aten.roll.default,
        {"self": tensor(ALL, (2, 3)), "shifts": choose([1, -1], [2, 1]), "dims": choose([0, 1], [1, 0])},
    ),
    Row(aten.unflatten.int, {"self": tensor(ALL, (1, 2)), "dim": dim(), "sizes": choose([1, -1], [-1, 1])}),
    Row(aten.swapaxes.default, {"self": tensor(ALL, (1, 3)), "axis0": dim(), "axis1": dim()}),
    Row(
        aten.tensor_split.sections,
        {"self": tensor(ALL, (1, 3)), "sections": integer(1, 3), "dim": optional(dim())},
    ),
    Row(
        aten.pixel_unshuffle.default,
        lambda g: {"self": g.like(g.dtype(FLOAT), (1, 1, 4, 2)), "downscale_factor": 2},
    ),
    Row(aten.channel_shuffle.default, lambda g: {"self": g.like(g.dtype(ALL), (1, 4, 2, 3)), "groups": 2}),
    Row(
        aten.pad.default,
        {
            "self": tensor(WIDE, (3, 4)),
            "pad": lambda g, a: [1] * (2 * (a["self"].dim() - 2)),
            "mode": choose("circular", "reflect", "replicate"),
        },
    ),
    Row(aten.tril.default, {"self": tensor(ALL, (2, 3)), "diagonal": choose(-1, 0, 2)}),
    Row(aten.hstack.default, lambda g: {"tensors": [v := g.tensor(ALL, (1, 2), "any"), v]}),
    Row(
        aten.meshgrid.indexing,
        lambda g: {"tensors": [(v := g.tensor(ALL, (1, 1), "any")), v], "indexing": g.choose(("ij", "xy"))},
    ),
]

# -- layers ------------------------------------------------------------------------------


def _volume(g: Any, rank: int, kinds: Any = FLOAT) -> Any:
    return g.like(
        g.dtype(kinds), (g.choose((1, 2)), g.integer(1, 2), *[g.choose((4, 3, 5)) for _ in range(rank)])
    )


def _pool(rank: int, average: bool) -> Callable[[Any], dict[str, Any]]:
    def draw(g: Any) -> dict[str, Any]:
        kernel = [g.choose((2, 3)) for _ in range(rank)]
        given: dict[str, Any] = {"self": _volume(g, rank), "kernel_size": kernel}
        given["stride"] = g.choose(([1] * rank, [2] * rank))
        given["padding"] = g.choose(([0] * rank, [k // 2 for k in kernel]))
        given["ceil_mode"] = g.flag()
        return given | ({"count_include_pad": g.flag()} if average else {})

    return draw


def _upsample(rank: int, corners: bool) -> Callable[[Any], dict[str, Any]]:
    def draw(g: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"input": _volume(g, rank, WIDE), "output_size": None}
        if corners:
            given["align_corners"] = False
        # Weights without rounding: else a sum of them may cancel to less than its rounding.
        return given | {"scale_factors": [g.choose((2.0, 0.5)) for _ in range(rank)]}

    return draw


def _grid_sample(g: Any) -> dict[str, Any]:
    dtype = g.dtype(WIDE)
    batch = g.choose((1, 2))
    return {
        "input": g.like(dtype, (batch, 2, 4, 3)),
        "grid": g.like(dtype, (batch, 2, 3, 2), "unit"),
        "interpolation_mode": g.integer(0, 2),
        "padding_mode": g.integer(0, 2),
        "align_corners": g.flag(),
    }


def _embedding_bag(g: Any) -> dict[str, Any]:
    weight = g.like(g.dtype(WIDE), (g.integer(2, 5), g.integer(1, 4)))
    return {
        "weight": weight,
        "indices": g.index(weight.shape[0], (4,)),
        "offsets": g.constant(torch.tensor(g.choose(((0, 2), (0, 0, 3), (0, 4))))),
        "mode": g.integer(0, 2),
    }


def _im2col(g: Any) -> dict[str, Any]:
    return {
        "self": _volume(g, 2),
        "kernel_size": [2, 2],
        "dilation": [1, g.choose((1, 2))],
        "padding": [g.choose((0, 1)), 0],
        "stride": [1, g.choose((1, 2))],
    }


def _col2im(g: Any) -> dict[str, Any]:
    channels = g.integer(1, 2)
    return {
        "self": g.like(g.dtype(WIDE), (g.choose((1, 2)), channels * 4, 6)),
        "output_size": [3, 4],
        "kernel_size": [2, 2],
        "dilation": [1, 1],
        "padding": [0, 0],
        "stride": [1, 1],
    }


_LAYER: list[Row | Motif] = [
    Row(aten.avg_pool1d.default, _pool(1, True)),
    Row(aten.avg_pool3d.default, _pool(3, True)),
    Row(aten.max_pool1d.default, _pool(1, False)),
    Row(aten.max_pool3d_with_indices.default, _pool(3, False)),
    Row(
        aten.adaptive_max_pool2d.default,
        lambda g: {"self": _volume(g, 2), "output_size": [g.integer(1, 3), 2]},
    ),
    Row(
        aten.adaptive_avg_pool1d.default, lambda g: {"self": _volume(g, 1), "output_size": [g.integer(1, 4)]}
    ),
    Row(aten.upsample_nearest1d.vec, _upsample(1, False)),
    Row(aten.upsample_linear1d.vec, _upsample(1, True)),
    Row(aten.upsample_bicubic2d.vec, _upsample(2, True)),
    Row(aten.upsample_nearest3d.vec, _upsample(3, False)),
    Row(aten.upsample_trilinear3d.vec, _upsample(3, True)),
    Row(aten.grid_sampler.default, _grid_sample),
    Row(aten._embedding_bag.default, _embedding_bag),
    Row(aten.im2col.default, _im2col),
    Row(aten.col2im.default, _col2im),
    Row(
        aten.instance_norm.default,
        lambda g: {
            "input": _volume(g, 2),
            "weight": None,
            "bias": None,
            "running_mean": None,
            "running_var": None,
            "use_input_stats": True,
            "momentum": 0.1,
            "eps": 1e-3,
            "cudnn_enabled": False,
        },
    ),
]

RARE_FAMILIES: dict[str, list[Row | Motif]] = {
    "rare pointwise": _POINTWISE,
    "rare reduction": _REDUCTION,
    "rare indexing": _INDEXING,
    "rare movement": _MOVEMENT,
    "rare layer": _LAYER,
}
"""The table, by family."""
