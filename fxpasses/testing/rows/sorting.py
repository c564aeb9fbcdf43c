"""Sorting and searching."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.testing.drawers import (
    FLOAT,
    INT,
    NUMERIC,
    OMIT,
    Motif,
    Row,
    choose,
    dim,
    flag,
    integer,
    optional,
    same,
    tensor,
)

__all__ = ["SORTING"]

aten = torch.ops.aten


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
    Row(aten.bucketize.Tensor, _bucketize),
    Row(aten.searchsorted.Tensor, _searchsorted),
    Row(aten.isin.Tensor_Tensor, {"elements": tensor(INT, (1, 2)), "test_elements": same("elements")}),
]
