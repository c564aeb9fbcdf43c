"""Elementwise rows against eager PyTorch: dtypes, edge values, broadcasting, symbolic sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fxpasses as fxp
from fxpasses.errors import LoweringError, UnsupportedOperatorError
from tests.relax.helpers import (
    DTYPES,
    FLOATS,
    SIGNED,
    ULPS,
    call,
    check,
    check_calls,
    compiled,
    edges,
    samples,
)

aten = torch.ops.aten

# int16 goes the way of int8; the sweep has it.
BRIEF = (torch.int8, torch.int32, torch.int64, torch.uint8)
NUMBERS = (*FLOATS, *BRIEF)
BITS = (*BRIEF, torch.bool)
ALL = (*NUMBERS, torch.bool)


def _name(value: Any) -> str:
    return str(value) if isinstance(value, torch._ops.OpOverload) else ""


def table(edges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pair of values, by broadcasting."""
    return edges[:, None], edges[None]


def plain(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pair of values that eager divides: no integer zero, no quotient beyond the type.

    For floats of very different size torch's vectorised fmod gives NaN, where C's
    (and ours) is exact.
    """
    x, y = table(edges(dtype))
    if dtype.is_floating_point:
        return x.masked_fill(x.abs() > 1e4, 7), y.masked_fill(y.abs() < 0.01, 0.3)
    least = torch.iinfo(dtype).min if dtype.is_signed else 255
    return x.masked_fill(x == least, 5), y.masked_fill(y == 0, 5)


# -- one operand -------------------------------------------------------------------

EXACT_UNARY = [
    (aten.abs.default, NUMBERS),
    (aten.neg.default, NUMBERS),
    (aten.sign.default, ALL),
    (aten.ceil.default, NUMBERS),
    (aten.floor.default, NUMBERS),
    (aten.trunc.default, NUMBERS),
    (aten.round.default, NUMBERS),
    (aten.reciprocal.default, ALL),
    (aten.relu.default, NUMBERS),
    (aten.isnan.default, ALL),
    (aten.isinf.default, ALL),
    (aten.isposinf.default, ALL),
    (aten.isneginf.default, ALL),
    (aten.signbit.default, ALL),
    (aten.logical_not.default, ALL),
    (aten.bitwise_not.default, BITS),
]


@pytest.mark.parametrize(("op", "dtypes"), EXACT_UNARY, ids=_name)
def test_exact_functions_of_one_operand(op: Any, dtypes: Any) -> None:
    check_calls([call(op, edges(dtype)) for dtype in dtypes])


FUNCTIONS = [
    *(aten.sqrt.default, aten.rsqrt.default, aten.exp.default, aten.exp2.default, aten.expm1.default),
    *(aten.log.default, aten.log2.default, aten.log10.default, aten.log1p.default, aten.logit.default),
    *(aten.sin.default, aten.cos.default, aten.tan.default, aten.sinh.default, aten.cosh.default),
    *(aten.asin.default, aten.acos.default, aten.atan.default, aten.tanh.default, aten.sigmoid.default),
    *(aten.asinh.default, aten.acosh.default, aten.atanh.default),
    *(aten.erf.default, aten.erfc.default, aten.lgamma.default),
]


@pytest.mark.parametrize("op", FUNCTIONS, ids=str)
def test_elementary_functions(op: Any) -> None:
    check_calls([call(op, edges(dtype)) for dtype in (*FLOATS, torch.int64, torch.bool)], ULPS)


def test_tanh_keeps_its_digits_near_zero_and_far_from_it() -> None:
    size = torch.logspace(-30, 4, 4001, dtype=torch.float64)
    for dtype, tolerance in ((torch.float32, 3e-7), (torch.float64, 1e-15)):
        x = torch.cat([size, -size]).to(dtype)
        program_result = _compiled(aten.tanh.default, x)
        exact = x.double().tanh()
        assert ((program_result.double() - exact) / exact).abs().max() < tolerance


def _compiled(op: Any, *args: Any) -> torch.Tensor:
    return compiled([call(op, *args)])[0][0]


ACTIVATIONS = [
    call(aten.silu.default, None),
    call(aten.mish.default, None),
    call(aten.hardsigmoid.default, None),
    call(aten.hardswish.default, None),
    call(aten.gelu.default, None),
    call(aten.gelu.default, None, approximate="tanh"),
    call(aten.leaky_relu.default, None),
    call(aten.leaky_relu.default, None, 0.1001),
    call(aten.elu.default, None),
    call(aten.elu.default, None, 1.7, 1.05, 0.5),
    call(aten.softplus.default, None),
    call(aten.softplus.default, None, 0.3, 5.0),
    call(aten.hardtanh.default, None),
    call(aten.hardtanh.default, None, -0.1001, 6),
    call(aten.logit.default, None, 0.1),
]


@pytest.mark.parametrize("one", ACTIVATIONS, ids=str)
def test_activations(one: Any) -> None:
    op, (_, *args), kwargs = one
    inputs = [edges(dtype) for dtype in FLOATS]
    if op is aten.gelu.default:  # torch's own is NaN or inf for these, by the vector and not alone
        inputs = [x.masked_fill(x.abs() > 1e30, 30.0) for x in inputs]
    check_calls([call(op, x, *args, **kwargs) for x in inputs], ULPS)


def test_prelu() -> None:
    x = samples(torch.float32)[1]
    check(aten._prelu_kernel.default, x, torch.tensor([0.1, -2.0, 0.0])[None, :, None])


# -- two operands ------------------------------------------------------------------

EXACT_BINARY = [
    (aten.add.Tensor, ALL),
    (aten.sub.Tensor, NUMBERS),
    (aten.mul.Tensor, ALL),
    (aten.div.Tensor, ALL),
    (aten.maximum.default, ALL),
    (aten.minimum.default, ALL),
    (aten.copysign.Tensor, ALL),
    (aten.nextafter.default, FLOATS),
    *((packet.Tensor, ALL) for packet in (aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge)),
    *((packet.default, ALL) for packet in (aten.logical_and, aten.logical_or, aten.logical_xor)),
    *((packet.Tensor, BITS) for packet in (aten.bitwise_and, aten.bitwise_or, aten.bitwise_xor)),
    *((packet.Tensor, BRIEF) for packet in (aten.bitwise_left_shift, aten.bitwise_right_shift)),
    *((packet.Tensor, BRIEF) for packet in (aten.__lshift__, aten.__rshift__)),
]


@pytest.mark.parametrize(("op", "dtypes"), EXACT_BINARY, ids=_name)
def test_exact_functions_of_two_operands(op: Any, dtypes: Any) -> None:
    check_calls([call(op, *table(edges(dtype))) for dtype in dtypes])


@pytest.mark.parametrize(
    ("op", "dtypes", "tolerance"),
    [
        (aten.fmax.default, ALL, 0.0),  # which of two zeros is taken differs by dtype
        (aten.fmin.default, ALL, 0.0),
        (aten.pow.Tensor_Tensor, NUMBERS, ULPS),
        (aten.atan2.default, ALL, ULPS),
        (aten.hypot.default, FLOATS, ULPS),
    ],
    ids=_name,
)
def test_functions_of_two_operands(op: Any, dtypes: Any, tolerance: Any) -> None:
    check_calls([call(op, *table(edges(dtype))) for dtype in dtypes], tolerance)


@pytest.mark.parametrize("op", [aten.fmod.Tensor, aten.remainder.Tensor], ids=str)
def test_remainders(op: Any) -> None:
    check_calls([call(op, *plain(dtype)) for dtype in NUMBERS])


@pytest.mark.parametrize("mode", ["floor", "trunc", None])
def test_quotients(mode: str | None) -> None:
    tensors = [call(aten.div.Tensor_mode, *plain(dtype), rounding_mode=mode) for dtype in NUMBERS]
    scalars = [
        call(aten.div.Scalar_mode, plain(dtype)[0], number, rounding_mode=mode)
        for dtype in (*FLOATS, *SIGNED)
        for number in (-7, *((0.1001, 0.0, -0.0) if dtype.is_floating_point else ()))
    ]
    zero_dim = [
        call(aten.div.Tensor_mode, samples(dtype)[1], torch.tensor(0.3, dtype=dtype), rounding_mode=mode)
        for dtype in FLOATS
    ]
    check_calls(tensors + scalars + zero_dim)


def test_integer_division_by_zero_does_not_stop_the_process() -> None:
    calls = [
        call(op, edges(dtype), torch.zeros_like(edges(dtype)))
        for dtype in BRIEF
        for op in (aten.remainder.Tensor, aten.fmod.Tensor)
    ]
    assert [x.shape for (x,) in compiled(calls)] == [x.shape for _, (x, _), _ in calls]
    least = torch.tensor([-(2**63)])
    check_calls([call(aten.remainder.Tensor, least + 1, torch.tensor([-1]))])
    assert _compiled(aten.remainder.Tensor, least, torch.tensor([-1])).item() == 0


def test_where() -> None:
    calls = [call(aten.where.self, x.bool(), x, y) for dtype in ALL for x, y in [table(edges(dtype))]]
    mixed = call(aten.where.self, torch.tensor([True, False]), torch.tensor([1, 2]), torch.tensor(1.5))
    check_calls([*calls, mixed])


def test_clamp() -> None:
    nan = float("nan")
    bounds: list[Any] = [(0, 5), (None, 3), (1, None), (5, 2)]
    floats = [*bounds, (-0.5, 0.1001), (nan, 1), (None, nan)]
    check_calls(
        [call(aten.clamp.default, edges(d), *b) for d in FLOATS for b in floats[3:]]
        + [call(aten.clamp.default, edges(d), *b) for d in BRIEF for b in (bounds[0], (0.5, 2.5))]
        + [call(aten.clamp.Tensor, *table(edges(d)), edges(d)[3]) for d in NUMBERS]
        + [call(aten.clamp.Tensor, edges(d), None, edges(d)[3]) for d in NUMBERS],
        tolerance=0.0,  # a zero of either sign
    )


# -- numbers -----------------------------------------------------------------------


def numbers(dtype: torch.dtype) -> tuple[float, ...]:
    if not dtype.is_floating_point:
        return (0, -3, 127)
    broken = (0.0, -0.0, 0.1001)
    return (*broken, 3, float("inf"), float("nan")) if dtype is torch.float32 else broken


@pytest.mark.parametrize("op", [aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar, aten.div.Scalar], ids=str)
def test_arithmetic_with_numbers(op: Any) -> None:
    calls = [call(op, edges(dtype), number) for dtype in NUMBERS for number in numbers(dtype)]
    promoted = [call(op, edges(dtype), number) for dtype in BRIEF for number in (2.5,)]
    check_calls(calls + promoted)


@pytest.mark.parametrize("packet", [aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge], ids=str)
def test_comparisons_with_numbers(packet: Any) -> None:
    dtypes = (*FLOATS, torch.int8, torch.uint8, torch.bool)
    check_calls([call(packet.Scalar, edges(dtype), n) for dtype in dtypes for n in (-1, 300, 0.1001)])


@pytest.mark.parametrize("op", [aten.fmod.Scalar, aten.remainder.Scalar], ids=str)
def test_remainders_with_numbers(op: Any) -> None:
    check_calls([call(op, plain(dtype)[0], n) for dtype in NUMBERS for n in numbers(dtype) if n])


@pytest.mark.parametrize("op", [aten.pow.Tensor_Scalar, aten.pow.Scalar], ids=str)
def test_powers_with_numbers(op: Any) -> None:
    calls = []
    for dtype in NUMBERS:
        for number in (0, 2, 10, *((-2, 0.5, -0.5, 1.5) if dtype.is_floating_point else ())):
            operands = (edges(dtype), number) if op is aten.pow.Tensor_Scalar else (number, edges(dtype))
            calls.append(call(op, *operands))
    check_calls(calls, ULPS)


def test_negative_integer_power_is_refused_as_in_eager() -> None:
    with pytest.raises(LoweringError, match="negative integer powers"):
        _compiled(aten.pow.Tensor_Scalar, torch.tensor([1, 2]), -1)


def test_bits_with_numbers() -> None:
    shifts = [aten.bitwise_left_shift.Tensor_Scalar, aten.bitwise_right_shift.Tensor_Scalar]
    bits = [aten.bitwise_and.Scalar, aten.bitwise_or.Scalar, aten.bitwise_xor.Scalar]
    check_calls(
        [call(op, edges(dtype), n) for op in shifts for dtype in BRIEF for n in (1, 63, -1)]
        + [call(op, edges(dtype), n) for op in bits for dtype in BRIEF for n in (100,)]
    )


def test_alpha() -> None:
    x, y = samples(torch.float32)[1], samples(torch.float32)[1].flip(0)
    check_calls(
        [
            call(aten.add.Tensor, x, y, alpha=0.3),
            call(aten.sub.Tensor, x, y, alpha=2),
            call(aten.add.Scalar, x, 3, 2),
        ],
        1e-6,  # torch multiplies and adds with one rounding
    )
    check_calls([call(aten.sub.Tensor, edges(torch.int32), edges(torch.int32), alpha=3)])


def test_numbers_keep_their_digits() -> None:
    x = torch.tensor([1.0, 3.0], dtype=torch.float64)
    large = torch.tensor([1, 2**53])
    check_calls(
        [
            call(aten.mul.Scalar, x, 0.1234567890123456789),
            call(aten.add.Scalar, x, 1e-15),
            call(aten.add.Scalar, large, 2**62 + 1),
            call(aten.eq.Scalar, large, 2**53 + 1),
        ]
    )


def test_numbers_that_the_dtype_does_not_reach_are_infinite_in_it() -> None:
    ops = (aten.add.Scalar, aten.mul.Scalar, aten.div.Scalar, aten.gt.Scalar, aten.fmod.Scalar)
    numbers = (1e39, -3.5e38, 3.4028234663852887e38, 1e300)
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    check_calls([call(op, edges(dtype), n) for op in ops for n in numbers for dtype in dtypes])


@pytest.mark.parametrize("decimals", [0, 2, -1])
def test_round_to_decimals(decimals: int) -> None:
    calls = [call(aten.round.decimals, x, decimals=decimals) for d in FLOATS for x in samples(d)[:2]]
    check_calls(calls, ULPS)


# -- conversion --------------------------------------------------------------------


@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_conversion(source: torch.dtype) -> None:
    """Also of values that do not fit, for which eager has a rule by dtype."""
    check_calls([call(aten._to_copy.default, edges(source), dtype=target) for target in DTYPES])


def test_nan_stays_nan_as_bfloat16() -> None:
    bits = torch.tensor([0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF], dtype=torch.int32)
    check(aten._to_copy.default, bits.view(torch.float32), dtype=torch.bfloat16)


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_the_same_bits_in_another_dtype(width: int) -> None:
    """NaNs keep theirs, which the way back to integers shows."""
    integer = getattr(torch, f"int{width}")
    info = torch.iinfo(integer)
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(info.min, info.max, (500,), generator=generator, dtype=torch.int64).to(integer)
    dtypes = [dtype for dtype in DTYPES if dtype.itemsize * 8 == width and dtype is not torch.bool]
    check_calls([call(aten.view.dtype, bits, dtype) for dtype in dtypes])
    there = [bits.view(dtype) for dtype in dtypes]
    check_calls([call(aten.view.dtype, x, integer) for x in there], dynamic=True)


def test_the_bits_of_bools() -> None:
    check_calls([call(aten.view.dtype, edges(torch.bool), dtype) for dtype in (torch.int8, torch.uint8)])
    for x, dtype in ((edges(torch.uint8), torch.bool), (edges(torch.float32), torch.uint8)):
        with pytest.raises(UnsupportedOperatorError):
            check(aten.view.dtype, x, dtype)


# -- shapes ------------------------------------------------------------------------


def test_shapes() -> None:
    """Ranks, 0-d, no elements, broadcasting of either side."""
    x = samples(torch.float32)[1]
    check_calls(
        [call(aten.mul.Tensor, s, s) for s in samples(torch.float32)]
        + [
            call(aten.add.Tensor, x, x[:, :1]),
            call(aten.add.Tensor, x[0, 0], x),
            call(aten.sub.Tensor, x[0, 0, 0], x),
            call(aten.sub.Tensor, x[:1], x[:, :, :1]),
            call(aten.lt.Tensor, x[0, :, :1], x[:, :, :0]),
            call(aten.where.self, x[:1] > 0, x[:, :1], x[0, 0, 0]),
            call(aten.exp.default, x[:, :0]),
        ],
        ULPS,
    )


def test_symbolic_sizes() -> None:
    x = samples(torch.float32)[1]
    check_calls(
        [
            call(aten.add.Tensor, x, x[:, :1]),
            call(aten.mul.Tensor, x[0], x),
            call(aten.gelu.default, x),
            call(aten.where.self, x[:1] > 0, x, x[0]),
            call(aten._to_copy.default, x, dtype=torch.bfloat16),
            call(aten.pow.Tensor_Tensor, x.int(), x[0].int()),
        ],
        ULPS,
        dynamic=True,
    )


# -- more values and ranks ---------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize(("op", "dtypes"), EXACT_UNARY, ids=_name)
def test_exact_functions_of_one_operand_on_more_samples(op: Any, dtypes: Any) -> None:
    more = (*dtypes, torch.int16) if torch.int8 in dtypes else dtypes
    check_calls([call(op, x) for dtype in more for x in samples(dtype)])


@pytest.mark.sweep
@pytest.mark.parametrize("op", FUNCTIONS, ids=str)
def test_elementary_functions_on_many_values(op: Any) -> None:
    size = torch.logspace(-37, 37, 2001, dtype=torch.float64)
    x = torch.cat([size, -size, torch.linspace(-100, 100, 4001, dtype=torch.float64)])
    if op in (aten.sinh.default, aten.cosh.default):  # torch's own float32 is inf from 88.7 on, not 89.4
        x = x[x.abs() < 88]
    tolerance = {**ULPS, torch.float32: 1e-6, torch.float64: 1e-14}
    check_calls([call(op, x.to(dtype)) for dtype in FLOATS], tolerance)


@pytest.mark.sweep
@pytest.mark.parametrize(("op", "dtypes"), EXACT_BINARY, ids=_name)
def test_exact_functions_of_two_operands_on_more_samples(op: Any, dtypes: Any) -> None:
    more = (*dtypes, torch.int16) if torch.int8 in dtypes else dtypes
    check_calls([call(op, x, x.flip(0) if x.dim() else x) for dtype in more for x in samples(dtype)])


def test_a_sum_of_nothing_divided_by_zero() -> None:
    """TVM takes zero by zero for zero, where it sees the first."""
    x = torch.zeros(0, 1)
    compiled = fxp.compile(lambda x: x.t().mm(x) / 0, (x,))
    assert compiled(x).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_next_number_of_a_computed_one(dtype):
    def function(x):
        return torch.nextafter(x * 2, x.flip(0)), torch.nextafter(x, x.flip(1))

    x = torch.tensor([[1.0, -2.0, 0.0], [torch.inf, -0.0, torch.nan], [-3.5, 1e-3, 1.0]]).to(dtype)
    compiled = fxp.compile(function, (x,), strict=True)
    torch.testing.assert_close(compiled(x), function(x), rtol=0, atol=0, equal_nan=True)
