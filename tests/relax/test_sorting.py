"""Sorting, topk, kth values and search against eager PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.relax.helpers import DTYPES, FLOATS, call, check, check_calls
from tests.relax.test_reduction import broken, values

aten = torch.ops.aten

BRIEF = (torch.float32, torch.bfloat16, torch.int64, torch.uint8)


def distinct(dtype: torch.dtype, rows: int, columns: int) -> torch.Tensor:
    """Rows without equal values, whose order leaves nothing open."""
    generator = torch.Generator().manual_seed(0)
    x = torch.stack([torch.randperm(columns, generator=generator) for _ in range(rows)])
    return x.to(dtype) - (5 if dtype is not torch.uint8 else 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sort(dtype: torch.dtype) -> None:
    """Stable, NaN last (first when descending)."""
    check_calls(
        [
            call(aten.sort.default, values(dtype, 3, 9), 1),
            call(aten.sort.stable, broken(dtype, 7, 3), stable=True, dim=0, descending=True),
        ]
    )


def test_sort_of_other_sizes() -> None:
    check_calls(
        [call(aten.sort.default, torch.tensor(2.0))]
        + [call(aten.sort.stable, values(torch.float32, n), stable=True) for n in (1, 2, 1000)]
    )


@pytest.mark.parametrize("k", [1, 3, 70, 100])
def test_topk(k: int) -> None:
    check_calls(
        [
            call(aten.topk.default, distinct(d, 3, 100), k, 1, largest)
            for d in BRIEF
            for largest in (True, False)
        ]
    )


def test_topk_with_equal_values_and_nan() -> None:
    """The values; which of equal ones it takes torch leaves open."""
    x = [broken(d, 30, 4) for d in BRIEF]
    calls = [
        call(aten.topk.default, v, k, 0, largest) for v in x for k in (3, 30) for largest in (True, False)
    ]
    check_calls(calls, tolerance=0.0, results=(0,))
    check(aten.topk.default, torch.tensor(2.0), 1)


def test_kth_value() -> None:
    check_calls([call(aten.kthvalue.default, distinct(d, 3, 9), k, 1, k == 3) for d in BRIEF for k in (3, 9)])


def test_median() -> None:
    """The lower one of two; NaN where there is one."""
    check_calls(
        [call(aten.median.dim, distinct(d, 3, n), 1, n == 9) for d in BRIEF for n in (9, 10)]
        + [call(aten.median.default, distinct(d, 3, 5)) for d in (torch.float32, torch.int64)]
        + [call(aten.median.dim, broken(torch.float32, 3, 4), 1)]
        + [call(aten.median.default, broken(torch.float32, 3, 4))]
    )


@pytest.mark.parametrize("right", [False, True])
def test_search(right: bool) -> None:
    def ordered(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return values(dtype, *shape).sort()[0]

    check_calls(
        [
            call(aten.bucketize.Tensor, broken(d, 3, 7), ordered(e, 6), right=right, out_int32=right)
            for d in (*FLOATS, torch.int64)
            for e in (torch.float32, torch.int64)
        ]
        + [call(aten.searchsorted.Tensor, ordered(d, 3, 7), values(d, 3, 4), right=right) for d in BRIEF]
        + [call(aten.searchsorted.Tensor, ordered(torch.int32, 7), values(torch.int32, 2, 4), side="right")]
    )


def test_symbolic_sizes() -> None:
    check_calls(
        [
            call(aten.sort.default, values(torch.float32, 3, 7), 1),
            call(aten.topk.default, distinct(torch.float32, 3, 7), 2),
            call(aten.topk.default, distinct(torch.float32, 3, 101), 70),
            call(aten.median.dim, distinct(torch.float32, 3, 7), 1),
        ],
        dynamic=True,
    )


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sort_along_every_dim(dtype: torch.dtype) -> None:
    tensors: list[Any] = [values(dtype, 3, 4, 5), broken(dtype, 3, 9, 5)]
    check_calls(
        [
            call(aten.sort.default, x, dim, descending)
            for x in tensors
            for dim in (0, 1, 2)
            for descending in (False, True)
        ]
    )
