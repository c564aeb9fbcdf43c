"""Sorting, topk, kth values and search against eager PyTorch."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch

import fxpasses as fxp
from fxpasses.benchmark.threads import torch_threads
from fxpasses.errors import FxpassesError, RunError
from tests.relax.helpers import DTYPES, FLOATS, call, check, check_calls, compiled
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


def extremes(dtype: torch.dtype, size: int) -> torch.Tensor:
    """A row with equal values, the ends of *dtype*, zeros of both signs, infinities and NaN of both signs."""
    generator = torch.Generator().manual_seed(size)
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    some = [info.max, info.min, 0, 1]
    if dtype.is_floating_point:
        some += [0.0, -0.0, float("nan"), float("inf"), -float("inf"), info.tiny, -info.tiny / 4]
    x = torch.randint(0, 100, (size,), generator=generator).to(dtype)
    x[torch.randperm(size, generator=generator)[: size // 3]] = torch.tensor(
        (some * size)[: size // 3], dtype=dtype
    )
    return torch.where(x.isnan() & (torch.arange(size) % 2 == 0), -x, x) if dtype.is_floating_point else x


LENGTHS = (1, 2, 64, 65, 96, 97, 1009)


@pytest.mark.parametrize(
    "dtype",
    [
        *(*BRIEF, torch.float16, torch.int8),
        *(pytest.param(dtype, marks=pytest.mark.sweep) for dtype in (torch.float64, torch.int32)),
    ],
    ids=str,
)
def test_short_and_long_rows(dtype: torch.dtype) -> None:
    """Sorted by comparison or by digits, selected or not: stable, zeros equal, NaN last."""
    rows = [extremes(dtype, size) for size in LENGTHS]
    check_calls(
        [
            call(aten.sort.stable, x, stable=True, dim=0, descending=descending)
            for x in rows
            for descending in (False, True)
        ]
    )
    ranks = [call(aten.kthvalue.default, x, k) for x in rows for k in {1, len(x) // 2 + 1, len(x)}]
    largest = [call(aten.topk.default, x, 66, 0, up) for x in rows if len(x) >= 66 for up in (True, False)]
    check_calls(ranks + largest, tolerance=0.0, results=(0,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_places_hold_the_values(dtype: torch.dtype) -> None:
    """Where values are equal torch leaves open which is found."""
    rows = [extremes(dtype, size) for size in LENGTHS]
    calls = [call(aten.kthvalue.default, x, len(x) // 2 + 1) for x in rows]
    calls += [call(aten.topk.default, x, 66) for x in rows if len(x) >= 66]
    calls += [call(op, x, 0) for x in rows for op in (aten.median.dim, aten.nanmedian.dim, aten.mode.default)]
    for (_, (x, *_), _), (found, places) in zip(calls, compiled(calls), strict=True):
        there = x[places]
        assert torch.equal(there.isnan(), found.isnan())
        assert torch.equal(torch.where(there.isnan(), 0, there), torch.where(found.isnan(), 0, found))
        assert places.unique().numel() == places.numel()


@pytest.mark.parametrize("size", [1, 2, 5, 16, 17, 64, 95, 96, 500])
def test_the_length_of_a_row_known_at_run_time(size: int) -> None:
    x = torch.stack([extremes(torch.float32, size), extremes(torch.float32, size).flip(0)])
    for function, ours in _dynamic().items():
        for got, want in zip(ours(x), function(x), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@functools.cache
def _dynamic() -> dict[Any, Any]:
    functions = (
        lambda x: x.sort(dim=-1, stable=True),
        lambda x: x.median(-1)[:1],
        lambda x: x.nanmedian(-1)[:1],
        lambda x: x.t().median(0)[:1],
        lambda x: x.t().double().sort(dim=0, descending=True, stable=True),
        lambda x: x.t().kthvalue(1, 0)[:1],
        lambda x: x.t().mode(0)[:1],
    )
    sizes = ({1: torch.export.Dim("n", min=1)},)
    return {f: fxp.compile(f, (torch.randn(2, 7),), dynamic_shapes=sizes) for f in functions}


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bfloat16])
@pytest.mark.parametrize("dim", [0, 1])
def test_rows_of_a_length_that_is_not_known(dim, dtype):
    def function(x):
        return x.sort(dim=dim, stable=True), x.sort(dim=dim, descending=True, stable=True)

    sizes = {at: torch.export.Dim(name, min=0) for at, name in enumerate("mn")}
    compiled = fxp.compile(function, (torch.ones(3, 4, dtype=dtype),), dynamic_shapes=(sizes,), strict=True)
    for count in (1, 2) if dtype is torch.float32 else (1,):
        for length, others in itertools.product((0, 1, 2, 16, 17, 95, 96, 300), (0, 1, 5, 1200)):
            x = torch.randint(-9, 9, (length, others)).to(dtype)
            if dtype.is_floating_point:
                x = x.masked_fill(torch.rand(x.shape) < 0.1, torch.nan)
            x = x if dim == 0 else x.mT.contiguous()
            with torch_threads(count):
                results = zip(compiled(x), function(x), strict=True)
            for got, want in results:
                assert torch.equal(got[0].nan_to_num(99), want[0].nan_to_num(99))
                assert torch.equal(got[1], want[1])


EMPTY = {
    "median": lambda x: x.median(),
    "nanmedian": lambda x: x.nanmedian() + 1,
    "of rows": lambda x: (x.median(1)[0], x.nanmedian(1)[1], x.mode(1)[0], x.amax(1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.uint8], ids=str)
@pytest.mark.parametrize("name", EMPTY)
def test_medians_of_no_elements(name: str, dtype: torch.dtype) -> None:
    function, none = EMPTY[name], torch.zeros(0, 5, dtype=dtype)
    some = torch.arange(20).reshape(4, 5).to(dtype)
    static = fxp.compile(function, (none,), strict=True)
    dynamic = fxp.compile(function, (some,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=True)
    for program, x in ((static, none), (dynamic, none), (dynamic, some), (dynamic, some[:1])):
        torch.testing.assert_close(program(x), function(x), equal_nan=True)


NO_VALUE = {
    "median": lambda x: x.median(0),
    "mode": lambda x: x.mode(0),
    "max": lambda x: x.max(),
    "amin": lambda x: x.view(5, 0).t().min(),
}


@pytest.mark.parametrize("name", NO_VALUE)
def test_rows_without_elements_have_no_such_value(name: str) -> None:
    none = torch.zeros(0, 5)
    with pytest.raises((RuntimeError, IndexError)):
        NO_VALUE[name](none)
    with pytest.raises(FxpassesError):
        fxp.compile(NO_VALUE[name], (none,))


OF_SELECTED = {
    "max": lambda x: x.max(),
    "min": lambda x: x.min(),
    "max of a dim": lambda x: x.max(0)[0],
    "median of a dim": lambda x: x.median(0)[0],
    "mode": lambda x: x.mode(-1)[0],
    "kthvalue": lambda x: x.kthvalue(1, -1)[0],
}


@pytest.mark.parametrize("name", OF_SELECTED)
def test_elements_that_are_selected_have_such_a_value_where_there_are_any(name: str) -> None:
    def function(x):
        return OF_SELECTED[name](x[x > 9])

    x = torch.tensor([1.0, 10, 2, 12, 11])
    program = fxp.compile(function, (x,))
    for some in (x, x.flip(0), x + 9):
        torch.testing.assert_close(program(some), function(some))
    with pytest.raises((RuntimeError, IndexError)):
        function(-x)
    with pytest.raises(RunError, match=r"test_sorting\.py"):
        program(-x)


def test_the_median_of_what_is_selected_may_be_of_none() -> None:
    x = torch.tensor([1.0, 10, 2, 12, 11])
    program = fxp.compile(lambda x: x[x > 9].median(), (x,))
    assert program(x) == 11
    assert program(-x).isnan()
