"""Reductions, softmax and running sums against eager PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import fxpasses as fxp
from tests.relax.helpers import DTYPES, FLOATS, INTEGERS, call, check, check_calls

aten = torch.ops.aten

# Sums come in another order than torch's.
SUMS = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 1e-3, torch.bfloat16: 8e-3}
BRIEF = (torch.int8, torch.int64, torch.uint8)
SOME = (*FLOATS, *BRIEF, torch.bool)
INF, NAN = float("inf"), float("nan")


def values(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random values with ties."""
    generator = torch.Generator().manual_seed(1)
    if dtype.is_floating_point:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * 4).round().div(4).to(dtype)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    return torch.randint(-9 if dtype.is_signed else 0, 10, shape, generator=generator).to(dtype)


def broken(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random values, some of them NaN and infinite where the type has these."""
    x = values(dtype, *shape)
    if dtype.is_floating_point:
        x.view(-1)[::7], x.view(-1)[3] = NAN, INF
    return x


def inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    return [values(dtype, 3, 4, 5), broken(dtype, 3, 4, 5)]


DIMS: list[tuple[list[int], bool]] = [([1], False), ([0, 2], True), ([0, 1, 2], False)]


# -- sums, products, extremes, truth -----------------------------------------------


def test_sum() -> None:
    calls = [call(aten.sum.dim_IntList, x, *dims) for d in SOME for x in inputs(d) for dims in DIMS]
    targets = (torch.float32, torch.float16, torch.int32, torch.uint8)
    check_calls(
        calls
        + [call(aten.sum.dim_IntList, values(d, 3, 4), [0], dtype=t) for d in SOME for t in targets]
        + [call(aten.sum.dim_IntList, values(d), []) for d in SOME],
        SUMS,
    )


def test_sums_of_halves_are_rounded_once() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        check(aten.sum.dim_IntList, torch.ones(4097, dtype=dtype), [0])
        check(aten.mean.dim, torch.full((4097,), 3.0, dtype=dtype), [0])


def test_long_sums_lose_no_digits() -> None:
    """Added one after the other in float32, 70,000 terms of 0.1 are 6e-4 of their sum off."""
    tenth = torch.full((70_000,), 0.1)
    check_calls(
        [
            call(aten.sum.dim_IntList, tenth, [0]),
            call(aten.sum.dim_IntList, tenth.reshape(7, 10_000), [1]),
            call(aten.sum.dim_IntList, tenth.reshape(10_000, 7), [0]),
            call(aten.mean.dim, tenth.reshape(7, 100, 100), [1, 2]),
            call(aten._log_softmax.default, tenth, 0, False),
        ],
        tolerance=4e-7,
    )


def test_the_variance_of_many_values_far_from_zero() -> None:
    x = torch.randn(300_000, generator=torch.Generator().manual_seed(0)) + 1000
    check(aten.var.correction, x, [0], correction=1, tolerance=1e-6)


def test_long_sums_of_unknown_length() -> None:
    check_calls([call(aten.sum.dim_IntList, torch.full((5000, 2), 0.1), [0])], 4e-7, dynamic=True)


def test_integer_sums_wrap() -> None:
    large = torch.full((4,), 2**62)
    check_calls(
        [
            call(aten.sum.dim_IntList, large, [0]),
            call(aten.prod.default, large + 3),
            call(aten.sum.dim_IntList, torch.full((3,), 100, dtype=torch.int8), [0], dtype=torch.int8),
        ]
    )


def test_mean() -> None:
    calls = [call(aten.mean.dim, x, *dims) for d in FLOATS for x in inputs(d) for dims in DIMS]
    converted = [call(aten.mean.dim, values(d, 3, 4), [0], dtype=t) for d in SOME for t in FLOATS[:3]]
    check_calls(calls + converted, SUMS)


@pytest.mark.parametrize("packet", [aten.amax, aten.amin, aten.max, aten.min], ids=str)
def test_extremes(packet: Any) -> None:
    if packet in (aten.max, aten.min):
        check_calls([call(packet.default, x) for d in SOME for x in inputs(d)])
    else:
        check_calls([call(packet.default, x, *dims) for d in SOME for x in inputs(d) for dims in DIMS])


def test_prod() -> None:
    check_calls(
        [call(aten.prod.dim_int, x, dim) for d in SOME for x in inputs(d) for dim in (0, 1)]
        + [call(aten.prod.default, values(d, 2, 3)) for d in SOME],
        SUMS,
    )


def test_any() -> None:
    calls = [call(aten.any.dims, x, *dims) for d in SOME for x in inputs(d) for dims in DIMS]
    check_calls([*calls, call(aten.any.dims, values(torch.bool, 3)), call(aten.any.dims, torch.ones(3), [])])


# -- variances and norms -----------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_variance() -> None:
    calls = [
        call(aten.var.correction, x, dims, keepdim=keepdim, correction=correction)
        for d in FLOATS
        for x in inputs(d)
        for (dims, keepdim), correction in zip(
            [*DIMS, DIMS[0], ([2], False)], (0, 1, None, 1.5, 5), strict=True
        )
    ]
    check_calls(calls, SUMS)


def test_variance_and_mean() -> None:
    """Of finite values: torch's mean of a row with inf is NaN here, and inf elsewhere."""
    check_calls(
        [
            call(aten.var_mean.correction, values(d, 3, 4, 5), dims, keepdim=keepdim, correction=1)
            for d in FLOATS
            for dims, keepdim in DIMS
        ],
        SUMS,
    )


def test_variance_of_values_far_from_zero() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) + 1e4
    check(aten.var.correction, x, [0], correction=1, tolerance=1e-3)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_deviation() -> None:
    calls = [
        call(op, values(d, 3, 4, 5), dims, keepdim=keepdim, correction=correction)
        for op in (aten.std.correction, aten.std_mean.correction)
        for d in FLOATS
        for (dims, keepdim), correction in zip([*DIMS, ([2], False)], (0, 1, None, 1.5), strict=False)
    ]
    check_calls(calls, SUMS)


SPREADS = {
    "var": lambda x: (
        x.var(),
        x.var(-1),
        x.var(0, correction=0),
        x.var((0, 1), unbiased=False, keepdim=True),
    ),
    "std": lambda x: (
        x.std(),
        x.std(-1),
        x.std(0, correction=0),
        x.std((0, 1), unbiased=False, keepdim=True),
    ),
    "var_mean": lambda x: (*torch.var_mean(x), *torch.var_mean(x, 0), *torch.var_mean(x, -1, correction=2)),
    "std_mean": lambda x: (*torch.std_mean(x), *torch.std_mean(x, 0), *torch.std_mean(x, -1, correction=2)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SPREADS)
def test_spread_of_numbers_whose_squares_no_float32_holds(name, dtype) -> None:
    """As float64 gives it, rounded once; eager PyTorch, too, but for a sum of all in float32."""
    numbers = torch.randn(40, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    function = SPREADS[name]
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-9, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    compiled = fxp.compile(function, (numbers.to(dtype),), strict=True)
    scales, offset = (
        ([1e4, 1e-3], 500) if dtype == torch.float16 else ([1e20, 3e37, 1e-18, 1e-24, 1e-37], 1e6)
    )
    for x in [*((numbers * scale).to(dtype) for scale in scales), (numbers + offset).to(dtype)]:
        truth = function(x.double())
        for got, exact in zip(compiled(x), truth, strict=True):
            torch.testing.assert_close(got, exact.to(dtype), rtol=tolerance, atol=0)


def test_spread_of_complex_numbers() -> None:
    x = torch.randn(4, 5, dtype=torch.complex64)
    compiled = fxp.compile(lambda x: (x.std(0), *torch.std_mean(x, 1)), (x,))
    for got, expected in zip(compiled(x), (x.std(0), *torch.std_mean(x, 1)), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 0.5, -1, INF, -INF])
def test_norm(order: float) -> None:
    check_calls(
        [
            call(aten.linalg_vector_norm.default, x, order, dims, keepdim)
            for d in FLOATS
            for x in inputs(d)
            for dims, keepdim in DIMS[1:]
        ],
        SUMS,
    )


# -- positions of extremes ---------------------------------------------------------


@pytest.mark.parametrize("packet", [aten.argmax, aten.argmin], ids=str)
def test_positions(packet: Any) -> None:
    """Of equal extremes the first, and the first NaN before all numbers."""
    check_calls(
        [call(packet.default, x, dim, True) for d in SOME[:-1] for x in inputs(d) for dim in (1, None)]
        + [call(packet.default, torch.full((4,), value)) for value in (INF, -INF, NAN)]
        + [call(packet.default, torch.tensor(2.0))]
    )


@pytest.mark.parametrize("packet", [aten.max, aten.min], ids=str)
def test_extremes_with_positions(packet: Any) -> None:
    check_calls(
        [call(packet.dim, x, dim, dim == 0) for d in SOME for x in inputs(d) for dim in (0, 2)]
        + [call(packet.dim, torch.tensor(1.0), 0)],
        tolerance=0.0,  # of zeros of both signs, the value may be the other one
    )
    check(packet.dim, broken(torch.float32, 3, 4), 1, results=(0,))


# -- softmax -----------------------------------------------------------------------


@pytest.mark.parametrize("op", [aten._softmax.default, aten._log_softmax.default], ids=str)
def test_softmax(op: Any) -> None:
    special = [
        torch.tensor(2.0),
        torch.full((3,), -INF),
        torch.tensor([1e4, -1e4, 1e4]),
        values(FLOATS[0], 2, 1),
    ]
    check_calls(
        [call(op, x, dim, False) for d in FLOATS for x in inputs(d) for dim in (0, 2)]
        + [call(op, x, 0, False) for x in special],
        SUMS,
    )


# -- running sums ------------------------------------------------------------------


@pytest.mark.parametrize("op", [aten.cumsum.default, aten.cumprod.default], ids=str)
def test_running_sums(op: Any) -> None:
    check_calls(
        [call(op, x, dim) for d in SOME for x in inputs(d) for dim in (0, 1)]
        + [call(op, torch.tensor(2.0), 0)]
        + [call(op, values(torch.float32, 3, 4), 0, dtype=d) for d in (torch.float16, torch.int8)],
        {**SUMS, torch.float32: 2e-7},
    )


@pytest.mark.parametrize("op", [aten.cummax.default, aten.cummin.default], ids=str)
def test_running_extremes(op: Any) -> None:
    """Of equal ones the last."""
    check_calls([call(op, x, dim) for d in SOME for x in inputs(d) for dim in (0, 1, 2)])


def test_a_running_logarithm_near_zero_keeps_its_digits():
    x = torch.tensor([-10.0, 0.0, -8.6, -40.0, -700.0, 0.0, -745.0], dtype=torch.float64)
    for line in (x, x.flip(0)):
        got = fxp.compile(lambda x: x.logcumsumexp(0), (line,))(line)
        torch.testing.assert_close(got, line.logcumsumexp(0), rtol=1e-15, atol=0)


SCANS = [aten.cumsum.default, aten.cummax.default, aten.logcumsumexp.default]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("op", SCANS, ids=str)
def test_lines_side_by_side(op: Any, dynamic: bool) -> None:
    """In whole vectors, in some of the lanes, in none."""
    sizes = ((3, 50), (2, 7, 16), (2, 5, 15), (40, 1))
    check_calls([call(op, broken(torch.float32, *size), -2) for size in sizes], SUMS, dynamic=dynamic)


# Rising and falling further than powers of e reach, and infinities on the way.
APART = [
    torch.linspace(-3e4, 3e4, 41),
    torch.linspace(3e4, -3e4, 41),
    torch.tensor([-INF, -INF, 3.0, -INF, 3.0, 900.0, -INF, INF, 1.0, INF]),
    torch.tensor([[0.0, -INF], [-800.0, -INF], [-750.0, 5.0], [700.0, INF], [709.5, NAN], [709.5, -INF]]),
]


def test_running_logarithm_of_sums() -> None:
    check_calls(
        [call(aten.logcumsumexp.default, x, 1) for d in FLOATS for x in inputs(d)]
        + [call(aten.logcumsumexp.default, torch.full((3,), value), 0) for value in (INF, -INF)]
        + [call(aten.logcumsumexp.default, line.to(d), 0) for d in FLOATS for line in APART],
        {**SUMS, torch.float64: 1e-13},
    )


# -- shapes ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_no_elements() -> None:
    empty = torch.ones(3, 0, 2)
    check_calls(
        [call(aten.sum.dim_IntList, empty.to(d), dims) for d in SOME for dims in ([1], [0, 1, 2])]
        + [call(aten.prod.default, empty.to(d)) for d in SOME]
        + [
            call(aten.sum.dim_IntList, empty, [0]),
            call(aten.mean.dim, empty, [1]),
            call(aten.any.dims, empty, [1]),
            call(aten.var.correction, empty, [1]),
            call(aten.amax.default, empty, [0]),
            *(call(op, empty, dim) for op in (aten.cumsum.default, aten.cummax.default) for dim in (0, 1, 2)),
            call(aten._softmax.default, empty, 1, False),
            call(aten.linalg_vector_norm.default, empty, 2, [1]),
        ]
    )


def test_symbolic_sizes() -> None:
    x = values(torch.float32, 3, 4, 5)
    check_calls(
        [
            call(aten.sum.dim_IntList, x, [0, 2]),
            call(aten.mean.dim, x, [1], True),
            call(aten.var.correction, x, [1]),
            call(aten.amax.default, x, [0]),
            call(aten.argmax.default, x, 1),
            call(aten.argmax.default, x),
            call(aten.max.dim, x, 1),
            call(aten._softmax.default, x, 2, False),
            call(aten._log_softmax.default, x, 1, False),
            call(aten.cumsum.default, x, 1),
        ],
        SUMS,
        dynamic=True,
    )


# -- more shapes -------------------------------------------------------------------

ROWS = [
    aten.sum.dim_IntList,
    aten.mean.dim,
    aten.amax.default,
    aten.amin.default,
    aten.any.dims,
    aten.var.correction,
]


@pytest.mark.sweep
@pytest.mark.parametrize("op", ROWS, ids=str)
@pytest.mark.parametrize(
    "shape", [(1,), (33,), (70, 3), (3, 70), (1, 1, 1), (2, 17, 1), (2, 3, 4, 33)], ids=str
)
def test_every_set_of_dims(op: Any, shape: tuple[int, ...]) -> None:
    rank = len(shape)
    sets = [list(c) for n in range(1, rank + 1) for c in itertools.combinations(range(rank), n)]
    dtypes = FLOATS if op in (aten.mean.dim, aten.var.correction) else (*DTYPES[:4], *INTEGERS, torch.bool)
    keep = [{"keepdim": keepdim} for keepdim in (False, True)]
    check_calls([call(op, broken(d, *shape), dims, **k) for d in dtypes for dims in sets for k in keep], SUMS)


def test_extremes_of_nothing_but_infinities_and_of_nan() -> None:
    """TVM's own maximum starts from the least number, and loses a NaN."""
    x = torch.zeros(7, 33)
    x[0], x[1], x[2, ::2], x[3, 5], x[4, 32] = -INF, INF, -INF, NAN, INF
    x[5], x[6] = torch.finfo(x.dtype).min, torch.finfo(x.dtype).max
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        y = x.to(dtype)
        check_calls(
            [call(op, y, dims) for op in (aten.amax.default, aten.amin.default) for dims in ([1], [0], [])]
        )


# -- long sums ---------------------------------------------------------------------

LONG = 1 << 18

LONG_SUMS = {
    "sum": lambda x: x.sum(-1),
    "sum of all": lambda x: x.sum(),
    "sum across": lambda x: x.t().sum(0),
    "mean": lambda x: x.mean(),
    "var": lambda x: x.var(-1),
    "norm": lambda x: x.norm(dim=-1),
    "layer_norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[1:])[:, :8],
    "dot": lambda x: torch.dot(x[0], x[1]),
}


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [(name, False) for name in LONG_SUMS]
    + [
        (name, True) for name in LONG_SUMS if name != "dot"
    ],  # products of an unknown length add up in float32
)
def test_long_sums_keep_their_digits(name: str, dynamic: bool) -> None:
    """One after the other in float32, numbers near 100 lose the third digit of their variance here."""
    function = LONG_SUMS[name]
    x = 100 + torch.rand(2, LONG, generator=torch.Generator().manual_seed(0))
    shapes = ({1: torch.export.Dim.DYNAMIC},) if dynamic else None
    got = fxp.compile(function, (x,), dynamic_shapes=shapes)(x)
    torch.testing.assert_close(got.double(), function(x.double()), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64, torch.uint8], ids=str)
def test_all_of_a_large_tensor(dtype):
    """What is reduced in threads: parts first, and then these."""
    calls = []
    for shape in ((512, 300), (1, 5, 7, 4500), (3, 5, 9999), (150_001,)):
        x, bad = values(dtype, *shape), broken(dtype, *shape)
        calls += [call(op, value) for op in (aten.amax.default, aten.amin.default) for value in (x, bad)]
        calls.append(call(aten.sum.dim_IntList, x, None))
        calls.append(call(aten.sum.dim_IntList, x, None, True))
        if dtype.is_floating_point:
            calls += [call(aten.mean.dim, value + 1, None) for value in (x, bad)]
            calls.append(call(aten.sum.dim_IntList, bad, None))
    check_calls(calls, tolerance=SUMS)


@pytest.mark.parametrize("correction", [-2, 0, 1])
def test_spread_of_no_numbers_where_their_count_is_known_at_run_time(correction):
    def function(x):
        return (x.var(0, correction=correction), *torch.std_mean(x, (0, 1), correction=correction))

    x = torch.randn(3, 4)
    compiled = fxp.compile(function, (x,), dynamic_shapes=({0: torch.export.Dim("n")},), strict=True)
    for some in (x[:0], x[:1], torch.randn(9, 4)):
        for got, want in zip(compiled(some), function(some), strict=True):
            torch.testing.assert_close(got, want, equal_nan=True)
