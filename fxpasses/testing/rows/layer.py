"""Convolutions, pools, norms, attention, resampling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from fxpasses.testing.drawers import (
    FLOAT,
    OMIT,
    WIDE,
    Motif,
    Row,
)

__all__ = ["LAYER"]

aten = torch.ops.aten


def convolution(
    nd: int, *, transposed: bool = False, general: bool = False
) -> Callable[[Any], dict[str, Any]]:
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


def _image(g: Any, rank: int = 2, kinds: Iterable[torch.dtype] = FLOAT) -> Any:
    """A batch of images of *rank* spatial dims."""
    spatial = [g.choose((4, 3, 5)) for _ in range(rank)]
    return g.like(g.dtype(kinds), (g.choose((1, 2)), g.integer(1, 2), *spatial))


def _pool(rank: int, *, average: bool) -> Callable[[Any], dict[str, Any]]:
    def draw(g: Any) -> dict[str, Any]:
        kernel = [g.choose((2, 3)), *[g.choose((2, 1, 3)) for _ in range(rank - 1)]]
        given: dict[str, Any] = {"self": _image(g, rank), "kernel_size": kernel}
        given["stride"] = g.choose((OMIT, [1] * rank, [2, 1, 2][:rank], []))
        given["padding"] = g.choose((OMIT, [0] * rank, [min(1, k // 2) for k in kernel]))
        given["ceil_mode"] = g.choose((OMIT, False, True))
        if average:
            given["count_include_pad"] = g.choose((OMIT, False))
        if average and rank > 1:
            given["divisor_override"] = g.choose((OMIT, None, 3))
        if not average:
            given["dilation"] = g.choose((OMIT, [1] * rank, [1, 2, 1][-rank:]))
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


def batch_norm_arguments(g: Any, x: Any) -> dict[str, Any]:
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
    return batch_norm_arguments(g, x) | {
        "training": False,
        "momentum": 0.1,
        "eps": 1e-3,
        "cudnn_enabled": True,
    }


def _batch_norm_inference(g: Any) -> dict[str, Any]:
    x = g.tensor(FLOAT, (2, 4), "any")
    return batch_norm_arguments(g, x) | {"momentum": 0.1, "eps": 1e-3}


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


def _nearest(rank: int) -> Callable[[Any], dict[str, Any]]:
    def draw(g: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"input": _image(g, rank, WIDE), "output_size": None, "scale_factors": None}
        if g.flag():
            return given | {"output_size": [g.integer(2, 7) for _ in range(rank)]}
        return given | {"scale_factors": [g.choose((2.0, 1.5)) for _ in range(rank)]}

    return draw


def _interpolated(rank: int) -> Callable[[Any], dict[str, Any]]:
    def draw(g: Any) -> dict[str, Any]:
        given = {"input": _image(g, rank, WIDE), "output_size": None, "align_corners": False}
        # Weights without rounding: else a sum of them may cancel to less than its rounding.
        return given | {"scale_factors": [g.choose((2.0, 0.5)) for _ in range(rank)]}

    return draw


def _bilinear(g: Any) -> dict[str, Any]:
    return _nearest(2)(g) | {"align_corners": g.flag()}


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


def _im2col(g: Any) -> dict[str, Any]:
    return {
        "self": _image(g),
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


LAYER: list[Row | Motif] = [
    Row(aten.conv1d.default, convolution(1)),
    *[Row(aten.conv2d.default, convolution(2))] * 2,
    Row(aten.convolution.default, convolution(2, general=True)),
    Row(aten.convolution.default, convolution(1, general=True, transposed=True)),
    Row(aten.conv_transpose2d.input, convolution(2, transposed=True)),
    Row(aten.max_pool2d.default, _pool(2, average=False)),
    Row(aten.max_pool2d_with_indices.default, _pool(2, average=False)),
    Row(aten.avg_pool2d.default, _pool(2, average=True)),
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
    Row(aten.upsample_nearest2d.vec, _nearest(2)),
    Row(aten.upsample_bilinear2d.vec, _bilinear),
    Row(aten.avg_pool1d.default, _pool(1, average=True)),
    Row(aten.avg_pool3d.default, _pool(3, average=True)),
    Row(aten.max_pool1d.default, _pool(1, average=False)),
    Row(aten.max_pool3d_with_indices.default, _pool(3, average=False)),
    Row(
        aten.adaptive_max_pool2d.default,
        lambda g: {"self": _image(g), "output_size": [g.integer(1, 3), 2]},
    ),
    Row(aten.adaptive_avg_pool1d.default, lambda g: {"self": _image(g, 1), "output_size": [g.integer(1, 4)]}),
    Row(aten.upsample_nearest1d.vec, _nearest(1)),
    Row(aten.upsample_linear1d.vec, _interpolated(1)),
    Row(aten.upsample_bicubic2d.vec, _interpolated(2)),
    Row(aten.upsample_nearest3d.vec, _nearest(3)),
    Row(aten.upsample_trilinear3d.vec, _interpolated(3)),
    Row(aten.grid_sampler.default, _grid_sample),
    Row(aten.im2col.default, _im2col),
    Row(aten.col2im.default, _col2im),
    Row(
        aten.instance_norm.default,
        lambda g: {
            "input": _image(g),
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
