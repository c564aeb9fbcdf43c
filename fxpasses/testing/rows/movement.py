"""Operators that copy elements to other places: concatenations, paddings, flips."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.testing.drawers import (
    ALL,
    FLOAT,
    WIDE,
    Drawer,
    Motif,
    Row,
    choose,
    dim,
    dims,
    integer,
    optional,
    rows,
    several,
    tensor,
)

__all__ = ["MOVEMENT"]

aten = torch.ops.aten


def _cat(g: Any) -> dict[str, Any]:
    first = g.tensor(ALL, (1, 4), "any")
    at = g.choose([*range(first.dim()), *range(-1, -first.dim() - 1, -1)])
    others = []
    for _ in range(g.integer(1, 2)):
        shape = list(first.shape)
        shape[at] = g.choose((shape[at], 1, 2))
        others.append(g.like(first.dtype if g.integer(0, 5) < 5 else g.dtype(ALL), shape))
    return {"tensors": [first, *others], "dim": at}


def _padding(least: int, most: int) -> Drawer:
    def draw(g: Any, given: dict[str, Any]) -> list[int]:
        count = g.integer(1, min(2, given["self"].dim()))
        return [g.integer(least, most) for _ in range(2 * count)]

    return draw


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


def _diagonal_scatter(g: Any) -> dict[str, Any]:
    value = g.tensor(ALL, (2, 2), "any")
    offset = g.choose((0, 1, -1))
    count = torch.empty(value.shape, device="meta").diagonal(offset).shape
    return {"self": value, "src": g.like(value.dtype, count), "offset": offset}


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
            "mode": optional(choose("constant")),
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
    Row(aten.hstack.default, lambda g: {"tensors": [v := g.tensor(ALL, (1, 2), "any"), v]}),
    Row(
        aten.meshgrid.indexing,
        lambda g: {"tensors": [(v := g.tensor(ALL, (1, 1), "any")), v], "indexing": g.choose(("ij", "xy"))},
    ),
]
