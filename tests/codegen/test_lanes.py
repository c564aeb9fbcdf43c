"""Reductions in the lanes of vectors: right at every length, and with NaN at every place."""

from __future__ import annotations

import math

import pytest
import torch

from fxpasses.codegen.pipeline import lower_kernel, tir_pipeline
from fxpasses.codegen.schedules import schedule_function
from fxpasses.codegen.schedules.reductions import LANES
from fxpasses.codegen.target import CpuInfo, host_target
from fxpasses.relax import tvm_api as T
from fxpasses.relax.ops.reduction import reducer

TORCH = {"sum": torch.sum, "prod": torch.prod, "max": torch.amax, "min": torch.amin}

# Products of integers are made in a wider type, and are none that is known.
WIDER = {("prod", "int32"), ("prod", "int64"), ("prod", "uint8")}


def kernel(shape, axes, kind, dtype="float32"):
    """The scheduled reduction of a tensor along *axes*."""
    te = T.te
    x = te.placeholder(shape, dtype, "x")
    loops = {axis: te.reduce_axis((0, shape[axis]), f"k{axis}") for axis in axes}
    kept = [axis for axis in range(len(shape)) if axis not in axes]

    def value(*index):
        at = [loops[axis] if axis in loops else index[kept.index(axis)] for axis in range(len(shape))]
        return reducer(kind)(x(*at), axis=list(loops.values()))

    out = te.compute(tuple(shape[axis] for axis in kept), value, "out")
    return schedule_function(te.create_prim_func([x, out]), CpuInfo.of(host_target()))


def built(function):
    mod = T.tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return T.tvm.tirx.build(mod, host_target(), pipeline=tir_pipeline())["main"]


def run(call, x, axes):
    kept = [size for axis, size in enumerate(x.shape) if axis not in axes]
    out = torch.full(kept, 99, dtype=x.dtype)
    call(*(T.tvm_ffi.from_dlpack(tensor) for tensor in (x, out)))
    return out


def draw(shape, dtype, kind):
    if dtype.is_floating_point:
        return torch.rand(shape, dtype=dtype) + 0.5 if kind == "prod" else torch.randn(shape, dtype=dtype)
    return torch.randint(1, 4, shape).to(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8"])
@pytest.mark.parametrize("kind", TORCH)
@pytest.mark.parametrize("length", [8, 17, 100, 641])
def test_a_row_of_each_type(length, kind, dtype):
    torch.manual_seed(0)
    function = kernel((3, length), [1], kind, dtype)
    if length >= 100 and (kind, dtype) not in WIDER:
        assert LANES in function.script()
    x = draw((3, length), getattr(torch, dtype), kind)
    want = TORCH[kind](x, 1)
    torch.testing.assert_close(run(built(function), x, [1]), want.to(x.dtype), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["max", "min"])
def test_a_nan_at_any_place_is_the_extreme(kind):
    length = 150  # several vectors side by side, one alone, and a rest
    x = torch.randn(length + 4, length)
    x[range(length), range(length)] = math.nan
    x[length:] = torch.tensor([[math.inf], [-math.inf], [3e38], [-3e38]])
    got = run(built(kernel(tuple(x.shape), [1], kind)), x, [1])
    assert torch.equal(got.isnan(), torch.arange(length + 4) < length)
    assert torch.equal(got[length:], TORCH[kind](x[length:], 1))


@pytest.mark.parametrize("kind", TORCH)
def test_rows_whose_length_is_not_known(kind):
    m, n = (T.tirx.Var(name, "int64") for name in "mn")
    function = kernel((m, n), [1], kind)
    assert LANES in function.script()
    call = built(function)
    for length in (*range(1, 40), 63, 64, 65, 127, 129, 1000):
        x = draw((2, length), torch.float32, kind)
        torch.testing.assert_close(run(call, x, [1]), TORCH[kind](x, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "axes", "loops"),
    [
        ((2, 7, 9), [1, 2], 1),  # side by side: one axis
        ((7, 3, 33), [0, 2], 2),
        ((2, 3, 5, 7), [0, 2, 3], 2),
        ((5, 1, 90), [0, 1, 2], 1),
        ((2, 40, 3, 17), [1, 3], 2),
    ],
)
def test_several_axes(shape, axes, loops):
    function = kernel(shape, axes, "sum")
    assert function.script().count(LANES) == loops
    x = torch.randn(shape)
    torch.testing.assert_close(run(built(function), x, axes), x.sum(axes), rtol=1e-4, atol=1e-4)


def test_terms_of_one_sum_are_added_in_a_tree():
    """So many equal terms, one after the other, come to an error of 1e-4."""
    x = torch.full((1, 4096), 0.1)
    got = run(built(kernel((1, 4096), [1], "sum")), x, [1])
    torch.testing.assert_close(got.double(), x.double().sum(1), rtol=2e-6, atol=0)


def test_sums_are_kept_on_the_stack():
    """TVM would ask its runtime for memory in each row."""
    text = lower_kernel(kernel((64, 1024), [1], "sum"), host_target()).script()
    assert "lanes" in text
    assert "AllocWorkspace" not in text
