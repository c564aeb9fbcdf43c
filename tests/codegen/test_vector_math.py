"""The vector forms of elementary functions: accuracy on all of float32, edges, code without calls."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

import fxpasses as fxp
from fxpasses.codegen.pipeline import tir_pipeline
from fxpasses.codegen.schedules import schedule_function
from fxpasses.codegen.target import CpuInfo, host_target, missing_features, target_features
from fxpasses.codegen.vector_math import FORMULAS
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T

FUNCTIONS = {name: getattr(torch, name) for name in FORMULAS}
LIBRARY = {"expm1", "log1p"}  # these have no intrinsic, or one that TVM makes of others
EDGES = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-38, -1e-38, 1e-45, -1e-45, 88.72, 88.73, 1e30, -1e30,
         3.4028235e38, -3.4028235e38, -87.4, -103.9, -104.1, -707.0, 707.0, -1.0, 1.0, -2.0, 16777216.0]  # fmt: skip


def expression(name, x):
    return S.call_libm(name, x) if name in LIBRARY else getattr(T.tirx, name)(x)


SIMPLER = T.tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"})
"""A target without AVX-512, whose instructions any machine with it has."""


@functools.cache
def library(name, dtype="float32", target=None):
    """A compiled kernel for any number of elements."""
    target = target or host_target()
    size = T.tirx.Var("n", "int64")
    a = T.te.placeholder((size,), dtype, "a")
    function = T.te.create_prim_func([a, T.te.compute((size,), lambda i: expression(name, a(i)), "out")])
    scheduled = schedule_function(function, CpuInfo.of(target)).with_attr("global_symbol", "main")
    return T.tvm.tirx.build(T.tvm.IRModule({"main": scheduled}), target, pipeline=tir_pipeline())


def run(name, x, target=None):
    out = torch.full_like(x, 99.0)
    library(name, str(x.dtype).removeprefix("torch."), target)["main"](
        T.tvm_ffi.from_dlpack(x), T.tvm_ffi.from_dlpack(out)
    )
    return out


def errors(name, x, target=None):
    """In units of the last place of the exact result; zero where both are NaN or both the same infinity."""
    got, exact = run(name, x, target), FUNCTIONS[name](x.double())
    want = exact.float()
    unit = (torch.nextafter(want.abs(), torch.tensor(math.inf)) - want.abs()).double()
    same = (got == want) | (got.isnan() & want.isnan())
    return torch.where(same, 0.0, (got.double() - exact).abs() / unit)


def floats(start, step):
    """Every *step*-th float32, by its bits; in memory of PyTorch's, which is aligned as kernels want it."""
    bits = np.arange(start, 1 << 32, step, dtype=np.uint64).astype(np.uint32)
    return torch.from_numpy(bits.view(np.float32)).clone()


def check(name, x, target=None):
    error = errors(name, x, target)
    worst = error.nan_to_num(math.inf).argmax()
    assert error[worst] <= 2, f"{name}({x[worst]!r}): off by {error[worst]:.2f} units"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy_over_the_whole_range(name):
    check(name, floats(0, 4099))


@pytest.mark.skipif(bool(missing_features(target_features(SIMPLER))), reason="the machine lacks AVX2")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy_for_a_simpler_target(name):
    check(name, torch.cat([floats(0, 8209), torch.tensor(EDGES)]), SIMPLER)


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


@pytest.mark.parametrize("name", ["erf", "tanh", "sin", "expm1", "log1p"])
def test_signed_zeros_stay(name):
    zeros = torch.tensor([0.0, -0.0])
    assert torch.equal(run(name, zeros).signbit(), zeros.signbit())


@pytest.mark.parametrize("name", ["erf", "tanh"])
def test_saturation_is_exact(name):
    x = torch.cat([torch.linspace(9.1, 1000.0, 1001), torch.tensor([1e30, math.inf])])
    assert torch.equal(run(name, x), torch.ones_like(x))
    assert torch.equal(run(name, -x), -torch.ones_like(x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_call_of_the_c_library_is_left(name):
    code = library(name).inspect_source("ll")
    assert f"@{name}f(" not in code
    assert f"llvm.{name}." not in code
    assert "@ldexp" not in code


def test_float64_is_left_to_the_c_library():
    x = torch.randn(100, dtype=torch.float64)
    torch.testing.assert_close(run("exp", x), x.exp(), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_operand_that_occurs_twice(dtype, caplog):
    """TVM folds the difference of an operand and itself behind our back, if it can see it."""
    x = torch.randn(7, 19).to(dtype)
    compiled = fxp.compile(lambda x: torch.logaddexp(x, x), (x,))
    torch.testing.assert_close(compiled(x), torch.logaddexp(x, x))
    if dtype == torch.float32:
        assert not caplog.records, "a schedule was left out"


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
