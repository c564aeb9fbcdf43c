"""The vector forms of elementary functions: accuracy on all of float32, edges, code without calls."""

from __future__ import annotations

import functools
import itertools
import math

import mpmath
import numpy as np
import pytest
import torch

import fxpasses as fxp
from fxpasses.codegen.double_math import DOUBLE_FORMULAS
from fxpasses.codegen.pipeline import lower_kernel, tir_pipeline
from fxpasses.codegen.schedules import schedule_function
from fxpasses.codegen.target import CpuInfo, host_target, missing_features, target_features
from fxpasses.codegen.variables_in_memory import variables
from fxpasses.codegen.vector_math import FORMULAS
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T

PAIRS = {"atan2": torch.atan2, "hypot": torch.hypot, "pow": torch.pow}
FUNCTIONS = {name: getattr(torch, name) for name in FORMULAS if name not in {*PAIRS, "fmod"}}
# These have no intrinsic, or one that TVM makes of others.
LIBRARY = {
    *("acosh", "asinh", "atan2", "atanh", "cosh", "erfc", "expm1", "fmod", "hypot", "lgamma", "log1p", "sinh")
}
ODD = ["asin", "asinh", "atan", "atanh", "erf", "expm1", "log1p", "sin", "sinh", "tan", "tanh"]
EDGES = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-38, -1e-38, 1e-45, -1e-45, 88.72, 88.73, 1e30, -1e30,
         3.4028235e38, -3.4028235e38, -87.4, -103.9, -104.1, -707.0, 707.0, -1.0, 1.0, -2.0, 16777216.0]  # fmt: skip


def expression(name, *operands):
    if name == "pow":
        return S.power(*operands)
    return S.call_libm(name, *operands) if name in LIBRARY else getattr(T.tirx, name)(*operands)


SIMPLER = T.tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"})
"""A target without AVX-512, whose instructions any machine with it has."""


@functools.cache
def library(name, dtype="float32", target=None):
    """A compiled kernel for any number of elements."""
    target = target or host_target()
    size = T.tirx.Var("n", "int64")
    operands = [T.te.placeholder((size,), dtype, "a") for _ in range(1 if name in FUNCTIONS else 2)]
    out = T.te.compute((size,), lambda i: expression(name, *(a(i) for a in operands)), "out")
    function = T.te.create_prim_func([*operands, out])
    scheduled = schedule_function(function, CpuInfo.of(target)).with_attr("global_symbol", "main")
    return T.tvm.tirx.build(T.tvm.IRModule({"main": scheduled}), target, pipeline=tir_pipeline())


def run(name, *operands, target=None):
    out = torch.full_like(operands[0], 99.0)
    kernel = library(name, str(out.dtype).removeprefix("torch."), target)["main"]
    kernel(*map(T.tvm_ffi.from_dlpack, (*operands, out)))
    return out


def errors(name, *operands, target=None):
    """In units of the last place of the exact result; zero where both are NaN or both the same infinity."""
    got = run(name, *operands, target=target)
    exact = {**FUNCTIONS, **PAIRS}[name](*(x.double() for x in operands))
    want = exact.float()
    unit = (torch.nextafter(want.abs(), torch.tensor(math.inf)) - want.abs()).double()
    same = (got == want) | (got.isnan() & want.isnan())
    return torch.where(same, 0.0, (got.double() - exact).abs() / unit)


def floats(start, step):
    """Every *step*-th float32, by its bits; in memory of PyTorch's, which is aligned as kernels want it."""
    bits = np.arange(start, 1 << 32, step, dtype=np.uint64).astype(np.uint32)
    return torch.from_numpy(bits.view(np.float32)).clone()


def check(name, *operands, target=None):
    error = errors(name, *operands, target=target)
    worst = error.nan_to_num(math.inf).argmax()
    arguments = ", ".join(repr(x[worst].item()) for x in operands)
    assert error[worst] <= 2, f"{name}({arguments}): off by {error[worst]:.2f} units"


def pairs():
    """Pairs of edges, of any floats, of numbers that a computation has, and multiples of each other."""
    numbers = [*EDGES, 3.0, -3.0, 0.5, -0.5, 2.5, 7.0, -149.0, 0.99999994, 1.0000001, 8388609.0, -16777215.0]
    edges = torch.tensor(list(itertools.product(numbers, numbers)))
    yield edges[:, 0].contiguous(), edges[:, 1].contiguous()
    bits = floats(0, 104729)
    yield bits, bits[torch.randperm(len(bits))]
    near = torch.randn(20_011)
    yield near * 9, near.flip(0).contiguous()
    yield near * torch.randint(1, 100_000, near.shape), near
    yield near * 1e38, near.flip(0) * 1e-44


@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy_over_the_whole_range(name):
    check(name, floats(0, 4099))


@pytest.mark.skipif(bool(missing_features(target_features(SIMPLER))), reason="the machine lacks AVX2")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy_for_a_simpler_target(name):
    check(name, torch.cat([floats(0, 8209), torch.tensor(EDGES)]), target=SIMPLER)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy_where_the_function_moves(name):
    check(name, torch.cat([torch.linspace(-120.0, 120.0, 400_001), torch.linspace(-1.5, 1.5, 300_001)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy_for_every_float(name):
    for start in range(64):
        check(name, floats(start, 64))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_edges(name):
    check(name, torch.tensor(EDGES))


@pytest.mark.parametrize("name", PAIRS)
def test_accuracy_of_two_arguments(name):
    for x, y in pairs():
        check(name, x, y)


@pytest.mark.parametrize("name", ["atan2", "pow"])
def test_signs_of_zeros_and_infinities(name):
    x, y = next(iter(pairs()))
    got, want = run(name, x, y), PAIRS[name](x.double(), y.double()).float()
    assert torch.equal(got.signbit() | got.isnan(), want.signbit() | want.isnan())


@pytest.mark.parametrize("target", [None, SIMPLER], ids=["host", "simpler"])
def test_a_remainder_is_exact(target):
    for x, y in pairs():
        defined = (y != 0) & x.isfinite() & ~y.isnan()
        some = torch.cat([defined.nonzero()[::7], (~defined).nonzero()[::7]]).flatten()
        exact = [
            math.fmod(a, b) if ok else math.nan
            for a, b, ok in zip(x[some].tolist(), y[some].tolist(), defined[some].tolist(), strict=True)
        ]
        got, want = run("fmod", x, y, target=target)[some], torch.tensor(exact)
        assert torch.equal(got.isnan(), want.isnan())
        numbers = ~want.isnan()
        assert torch.equal(got[numbers].view(torch.int32), want[numbers].view(torch.int32))


@pytest.mark.parametrize("target", [None, SIMPLER], ids=["host", "simpler"])
def test_a_remainder_of_float64_is_exact(target):
    numbers = [*EDGES, 3.0, -7.0, 5e-324, 2e-323, 1e-310, 2.2e-308, 1e300, -1.7e308, 2.0**53 + 2, 1 / 3]
    edges = torch.tensor(list(itertools.product(numbers, numbers)), dtype=torch.float64)
    torch.manual_seed(0)
    near, whole = torch.randn(3001).double(), torch.randint(1, 1 << 40, (3001,)).double()
    for x, y in (
        edges.T.contiguous(),
        (near * whole, near),
        (near * 9, near.flip(0)),
        (whole, near),
        (near, whole),
    ):
        exact = [
            math.nan if b == 0 or math.isinf(a) or math.isnan(a + b) else math.fmod(a, b)
            for a, b in zip(x.tolist(), y.tolist(), strict=True)
        ]
        got, want = run("fmod", x.clone(), y.clone(), target=target), torch.tensor(exact, dtype=torch.float64)
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(got[~want.isnan()].view(torch.int64), want[~want.isnan()].view(torch.int64))


@pytest.mark.parametrize("base", [2, 10])
def test_logarithms_of_whole_powers_are_whole(base):
    exponents = torch.arange(-149, 128) if base == 2 else torch.arange(-3, 11)
    powers = torch.tensor([float(base) ** e for e in exponents.tolist()])
    assert torch.equal(run(f"log{base}", powers), exponents.float())


@pytest.mark.parametrize("name", ODD)
def test_signed_zeros_stay(name):
    zeros = torch.tensor([0.0, -0.0])
    assert torch.equal(run(name, zeros).signbit(), zeros.signbit())


@pytest.mark.parametrize("name", ["erf", "tanh"])
def test_saturation_is_exact(name):
    x = torch.cat([torch.linspace(9.1, 1000.0, 1001), torch.tensor([1e30, math.inf])])
    assert torch.equal(run(name, x), torch.ones_like(x))
    assert torch.equal(run(name, -x), -torch.ones_like(x))


@pytest.mark.parametrize("name", FORMULAS)
def test_no_call_of_the_c_library_is_left(name):
    code = library(name).inspect_source("ll")
    assert f"@{name}f(" not in code
    assert f"llvm.{name}." not in code
    assert "@ldexp" not in code


@pytest.mark.parametrize("name", FORMULAS)
def test_loops_over_lanes_are_vectors(name):
    """LLVM would find them again, but not where a result may take the place of an operand."""
    size = T.tirx.IntImm("int64", 1024)
    operands = [T.te.placeholder((size,), "float32", "a") for _ in range(1 if name in FUNCTIONS else 2)]
    out = T.te.compute((size,), lambda i: expression(name, *(a(i) for a in operands)), "out")
    scheduled = schedule_function(T.te.create_prim_func([*operands, out]), CpuInfo.of(host_target()))
    assert "lane_s" not in lower_kernel(scheduled, host_target()).script()


def test_one_plus_erf():
    """The sum is as exact as one of an exact erf and 1 would be about: no term of it is exact to the last place."""
    x = torch.cat([floats(0, 4099), torch.linspace(-6.0, 6.0, 600_001), torch.tensor(EDGES)])
    size = T.tirx.Var("n", "int64")
    a = T.te.placeholder((size,), "float32", "a")
    one = T.tirx.const(1.0, "float32")
    function = T.te.create_prim_func([a, T.te.compute((size,), lambda i: T.tirx.erf(a(i)) + one, "out")])
    scheduled = schedule_function(function, CpuInfo.of(host_target())).with_attr("global_symbol", "main")
    built = T.tvm.tirx.build(T.tvm.IRModule({"main": scheduled}), host_target(), pipeline=tir_pipeline())
    got = torch.full_like(x, 99.0)
    built["main"](T.tvm_ffi.from_dlpack(x), T.tvm_ffi.from_dlpack(got))
    exact = 1 + x.double().erf()
    assert torch.equal(got.isnan(), x.isnan())
    error = (got.double() - exact).abs().nan_to_num(0.0)
    assert error.max() <= 4 * 2.0**-23
    assert (error / exact.clamp(min=1.0)).nan_to_num(0.0).max() <= 2 * 2.0**-23
    assert torch.equal(got[x <= -7], torch.zeros_like(got[x <= -7]))
    assert torch.equal(got[x >= 4], torch.full_like(got[x >= 4], 2.0))


EXACT = {
    "cosh": lambda x: mpmath.cosh(bounded(x)),
    "exp": lambda x: mpmath.exp(bounded(x)),
    "exp2": lambda x: mpmath.power(2, bounded(x)),
    "expm1": lambda x: mpmath.expm1(bounded(x)),
    "log2": lambda x: mpmath.log(x, 2),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-bounded(x))),
    "sinh": lambda x: mpmath.sinh(bounded(x)),
}


def bounded(x):
    """The exact power of more is too large for mpmath, and of less no other number."""
    return max(min(x, mpmath.mpf(10_000)), mpmath.mpf(-10_000))


def exactly(name, *arguments):
    """The function of Python numbers with more digits than float64 has; at the edges what C has."""
    try:
        at_edges = getattr(math, name, None)
        edge = at_edges and not all(map(math.isfinite, arguments))
        if edge or (name in PAIRS and 0 in arguments):
            return mpmath.mpf(at_edges(*arguments))
    except ValueError:
        return mpmath.nan
    if any(map(math.isnan, arguments)):
        return mpmath.nan
    if name.startswith("log") and arguments[0] == -(name == "log1p"):
        return -mpmath.inf
    if name == "atanh" and abs(arguments[0]) == 1:
        return mpmath.inf * arguments[0]
    value = EXACT.get(name, getattr(mpmath, name, None))(*map(mpmath.mpf, arguments))
    return value if isinstance(value, mpmath.mpf) else mpmath.nan  # no complex logarithm


def arguments_in_float64():
    bits = np.arange(0, 1 << 64, (1 << 64) // 1009, dtype=np.uint64)
    quarters = np.arange(-20, 20) * (math.pi / 4)
    near = np.concatenate(
        [np.linspace(-7, 7, 801), np.linspace(-700, 720, 301), 1 + np.linspace(-1e-5, 1e-5, 101), quarters]
    )
    edges = [
        *EDGES,
        5e-324,
        -5e-324,
        1.79e308,
        -745.1,
        -745.2,
        709.78,
        709.79,
        710.4,
        710.5,
        2.0**-1023,
        1023.9,
    ]
    return torch.from_numpy(np.concatenate([bits.view(np.float64), near, edges])).clone()


def check_in_float64(name, *operands, target=None):
    got = run(name, *operands, target=target)
    with mpmath.workdps(40):
        for *arguments, result in zip(*(x.tolist() for x in (*operands, got)), strict=True):
            want = exactly(name, *arguments)
            rounded = float(want)
            if result == rounded or (math.isnan(result) and mpmath.isnan(want)):
                continue
            assert abs(mpmath.mpf(result) - want) <= 2 * math.ulp(rounded), (arguments, result, rounded)


@pytest.mark.parametrize("target", [None, SIMPLER], ids=["host", "simpler"])
@pytest.mark.parametrize("name", [name for name in DOUBLE_FORMULAS if name in FUNCTIONS])
def test_accuracy_in_float64(name, target):
    check_in_float64(name, arguments_in_float64(), target=target)


@pytest.mark.parametrize("name", [name for name in DOUBLE_FORMULAS if name in PAIRS])
def test_accuracy_of_two_arguments_in_float64(name):
    numbers = [
        *EDGES,
        0.5,
        3.0,
        5e-324,
        -5e-324,
        1e-310,
        1e-200,
        1e200,
        1e308,
        -1.7e308,
        2.0**-1000,
        2.0**1001,
    ]
    edges = torch.tensor(list(itertools.product(numbers, numbers)), dtype=torch.float64)
    check_in_float64(name, edges[:, 0].contiguous(), edges[:, 1].contiguous())
    x = arguments_in_float64()
    torch.manual_seed(0)
    check_in_float64(name, x, x * torch.rand_like(x) * 3)
    check_in_float64(name, x, x[torch.randperm(len(x))])


def test_signs_of_angles_in_float64():
    numbers = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, 1e-310, -1e308]
    y, x = (side.contiguous() for side in torch.tensor(list(itertools.product(numbers, numbers))).double().T)
    want = torch.atan2(y, x)
    assert torch.equal(run("atan2", y, x).signbit(), want.signbit())


@pytest.mark.parametrize("base", [2, 10])
def test_logarithms_of_whole_powers_are_whole_in_float64(base):
    exponents = torch.arange(-1074, 1024) if base == 2 else torch.arange(23)
    powers = torch.tensor([float(base) ** e for e in exponents.tolist()], dtype=torch.float64)
    assert torch.equal(run(f"log{base}", powers), exponents.double())


@pytest.mark.parametrize("name", DOUBLE_FORMULAS)
def test_float64_runs_in_vectors(name):
    """The C library is called in branches alone."""
    size = T.tirx.IntImm("int64", 1024)
    operands = [T.te.placeholder((size,), "float64", "a") for _ in range(1 if name in FUNCTIONS else 2)]
    out = T.te.compute((size,), lambda i: expression(name, *(a(i) for a in operands)), "out")
    kernel = schedule_function(T.te.create_prim_func([*operands, out]), CpuInfo.of(host_target()))
    lowered = lower_kernel(kernel, host_target())["main"].body
    straight = T.tvm_ffi.structural_map(
        lowered, [(T.tirx.IfThenElse, lambda branch: T.tirx.Evaluate(T.tirx.IntImm("int32", 0)))]
    )
    code = straight.script()
    assert "lane_s" not in code
    assert f'"{name}"' not in code
    assert f"llvm.{name}" not in code.replace("llvm.fmuladd", "")
    assert (f'"{name}"' in lowered.script()) == (name in ("cos", "fmod", "sin", "tan"))
    if name in ODD:
        zeros = torch.tensor([0.0, -0.0], dtype=torch.float64)
        assert torch.equal(run(name, zeros).signbit(), zeros.signbit())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_operand_that_occurs_twice(dtype, caplog):
    """TVM folds the difference of an operand and itself behind our back, if it can see it."""
    x = torch.randn(7, 19).to(dtype)
    compiled = fxp.compile(lambda x: torch.logaddexp(x, x), (x,))
    torch.testing.assert_close(compiled(x), torch.logaddexp(x, x))
    if dtype == torch.float32:
        assert not caplog.records, "a schedule was left out"


@pytest.mark.second_build
def test_what_tvm_cannot_build_in_vectors_is_built_with_the_c_library(monkeypatch, caplog):
    from fxpasses.codegen import build as module

    build = module._build

    def refused(mod, target, *, vectors=True, **options):
        if vectors:
            raise RuntimeError("a case of its own")
        return build(mod, target, vectors=vectors, **options)

    monkeypatch.setattr(module, "_build", refused)
    x = torch.randn(5)
    torch.testing.assert_close(fxp.compile(torch.tanh, (x,))(x), torch.tanh(x))
    assert [record.message for record in caplog.records][-1].endswith(
        "elementary functions from the C library"
    )


@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        ("sin cos tan sin", torch.float32),
        ("asinh tanh atan erf log2 exp", torch.float32),
        ("sigmoid log exp log1p erf tanh", torch.float64),
        ("sin cos asin exp2 log10 sinh", torch.float64),
    ],
)
def test_chains_of_functions_run_in_vectors(names, dtype):
    """TVM's code generator takes time that doubles with each variable of a formula, if it sees their values."""

    def chain(x):
        for name in names.split():
            x = getattr(x, name)()
        return x

    x = torch.linspace(0.1, 0.9, 40, dtype=dtype)
    torch.testing.assert_close(fxp.compile(chain, (x,), strict=True)(x), chain(x))

    size = T.tirx.IntImm("int64", 1024)
    a = T.te.placeholder((size,), str(dtype).removeprefix("torch."), "a")
    out = T.te.compute(
        (size,), lambda i: functools.reduce(lambda x, name: expression(name, x), names.split(), a(i))
    )
    kernel = schedule_function(T.te.create_prim_func([a, out]), CpuInfo.of(host_target()))
    lowered = lower_kernel(kernel, host_target())
    assert variables(lowered["main"])
    assert "T.Let" not in lowered.script()
    assert "lane_s" not in lowered.script()


def test_formulas_of_several_loops_build(caplog):
    """TVM gives what they have in common a variable, and would use it before it is defined."""
    y = torch.linspace(-0.99, 0.99, 1003, dtype=torch.float64)
    torch.testing.assert_close(fxp.compile(torch.erfinv, (y,), strict=True)(y), torch.erfinv(y))
    assert not caplog.records
