"""Functions of one number in half types: every number that there is, in kernels with vectors and without."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import fxpasses as fxp
from fxpasses.codegen.vector_math import FORMULAS

DTYPES = (torch.bfloat16, torch.float16)
ROW = 16
"""So few elements are done in a loop that LLVM makes vectors of."""

MATH = """
    abs acos acosh asin asinh atan atanh ceil cos cosh digamma erf erfc erfinv exp exp2 expm1 floor frac i0
    isfinite isinf isnan isneginf isposinf lgamma log log10 log1p log2 logical_not logit nan_to_num neg rad2deg
    reciprocal relu round rsqrt sgn sigmoid sign signbit sin sinh sqrt square tan tanh trunc
""".split()
ACTIVATIONS = """
    celu elu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu6 selu silu softplus
    softshrink softsign tanhshrink
""".split()
FUNCTIONS = {
    **{name: getattr(torch, name) for name in MATH},
    **{name: getattr(F, name) for name in ACTIVATIONS},
    **{name: getattr(torch.special, name) for name in ("entr", "i0e", "i1", "i1e", "ndtr")},
    **{f"power {n}": (lambda x, n=n: x**n) for n in (-2, 0.5, 2, 2.5, 3)},
    "fmod": lambda x: torch.fmod(x, 1.5),
    "pow": lambda x: torch.pow(1.5, x),
    "atan2": lambda x: torch.atan2(x, torch.full_like(x, 1.5)),
    "hypot": lambda x: torch.hypot(x, torch.full_like(x, 1.5)),
    "divided": lambda x: x / 3,
    "remainder": lambda x: x % 1.7,
    "floor of quotient": lambda x: x // 1.7,
}

SMALLER = {"elu", "i0e"}
"""Functions that default tests look at, beside those of `FORMULAS`."""


def check(name: str, dtype: torch.dtype, length: int) -> None:
    """Each result is the nearest to the exact one, the one next to it, or no worse than eager's."""
    function = FUNCTIONS[name]
    x = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    compiled = fxp.compile(function, (x[:length],))
    got, eager = torch.cat([compiled(part) for part in x.split(length)]), function(x)
    assert got.dtype == eager.dtype
    wrong = (got != eager) & ~(got.isnan() & eager.isnan())
    if got.is_floating_point():
        exact = function(x.double())
        size = exact.to(dtype).abs()
        unit = torch.nextafter(size, torch.tensor(math.inf, dtype=dtype)).double() - size.double()
        error, worth = (got.double() - exact).abs(), (eager.double() - exact).abs()
        wrong &= ~(error <= torch.maximum(1.1 * unit, worth))
    problems = [(x[i].item(), got[i].item(), eager[i].item()) for i in wrong.nonzero()[:3, 0]]
    assert not problems, f"{name}, {dtype}: (x, got, eager) {problems}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", sorted({*FORMULAS, *SMALLER}))
def test_every_number(name, dtype):
    check(name, dtype, ROW)


@pytest.mark.slow
@pytest.mark.parametrize("length", [8, ROW, 1 << 16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_number_of_more_functions(name, dtype, length):
    check(name, dtype, length)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vectors_of_constants(dtype, caplog):
    """TVM leaves constants of bfloat16 as they are where it makes integers of the rest."""

    def constants(x):
        return torch.full((7, 33), 1.5, dtype=dtype), torch.where(x > 0, torch.ones_like(x), -2.0)

    x = torch.randn(7, 33).to(dtype)
    compiled = fxp.compile(constants, (x,))
    torch.testing.assert_close(compiled(x), constants(x), rtol=0, atol=0)
    assert not caplog.records, "a schedule was left out"
