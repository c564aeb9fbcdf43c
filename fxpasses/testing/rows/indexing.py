"""Reading and writing at computed positions."""

from __future__ import annotations

import math
from typing import Any

import torch

from fxpasses.testing.drawers import (
    ALL,
    FLOAT,
    NUMERIC,
    OMIT,
    WIDE,
    Motif,
    Row,
)

__all__ = ["INDEXING"]

aten = torch.ops.aten


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


def _embedding_bag(g: Any) -> dict[str, Any]:
    weight = g.like(g.dtype(WIDE), (g.integer(2, 5), g.integer(1, 4)))
    return {
        "weight": weight,
        "indices": g.index(weight.shape[0], (4,)),
        "offsets": g.constant(torch.tensor(g.choose(((0, 2), (0, 0, 3), (0, 4))))),
        "mode": g.integer(0, 2),
    }


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
    *[Row(aten.index_put.default, _mask_put)] * 2,
    *[Row(aten.index_put.default, _put)] * 2,
    *[Row(aten.scatter_reduce.two, _scatter_reduce)] * 2,
    Row(aten.scatter.reduce, _scatter_with),
    Row(aten.scatter.value_reduce, _scatter_value_with),
    Row(aten.masked_scatter.default, _masked_scatter),
    Row(aten.index_copy.default, _index_copy),
    Row(aten.index_fill.int_Scalar, _index_fill),
    Row(aten.take.default, _take),
    Row(aten._embedding_bag.default, _embedding_bag),
]
