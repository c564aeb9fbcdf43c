"""Views."""

from __future__ import annotations

import math
from typing import Any

import torch

from fxpasses.testing.drawers import (
    ALL,
    Drawer,
    Motif,
    Reject,
    Row,
    choose,
    dim,
    dims,
    integer,
    optional,
    rows,
    tensor,
)

__all__ = ["VIEW"]

aten = torch.ops.aten


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


def _new_dim(g: Any, given: dict[str, Any]) -> int:
    rank = given["self"].dim() + 1
    return g.choose([*range(rank), *range(-1, -rank - 1, -1)])


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
    Row(aten.as_strided.default, _as_strided),
    Row(aten.unflatten.int, {"self": tensor(ALL, (1, 2)), "dim": dim(), "sizes": choose([1, -1], [-1, 1])}),
    Row(aten.swapaxes.default, {"self": tensor(ALL, (1, 3)), "axis0": dim(), "axis1": dim()}),
    Row(
        aten.tensor_split.sections,
        {"self": tensor(ALL, (1, 3)), "sections": integer(1, 3), "dim": optional(dim())},
    ),
]
