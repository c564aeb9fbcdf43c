"""Divisors of sizes: no division by zero, quotients rounded down, and no more time to compile than for numbers."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

import fxpasses as fxp
from fxpasses.codegen.pipeline import lower_kernel
from fxpasses.codegen.safe_divisors import safe_divisors
from fxpasses.codegen.schedules import schedule_function
from fxpasses.codegen.target import CpuInfo, host_target
from fxpasses.relax import tvm_api as T
from tests.codegen.helpers import compiled_of


def _divisor(made):
    """The divisor of a quotient behind the pass: *made* of a size, a dim of one more, and a number that is given."""
    n, m, i = (T.tirx.Var(name, "int64") for name in ("n", "m", "i"))
    a = T.tirx.decl_buffer((n, m - 2), "float32", "a", layout=None)
    zero = T.tirx.IntImm("int64", 0)
    index = T.tirx.floordiv(i, made(n, m))
    store = T.tirx.BufferStore(a, T.tirx.const(1.0, "float32"), [index, zero])
    loop = T.tirx.For(i, zero, n, T.tirx.ForKind.SERIAL, store)
    function = T.tirx.PrimFunc([a, m], loop)
    return safe_divisors()(T.tvm.IRModule({"main": function}))["main"].body.body.indices[0].b


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (lambda n, m: n, "Max"),
        (lambda n, m: n * (n + 3), "Max"),
        (lambda n, m: m - 2, "Max"),
        (lambda n, m: (m - 2) * n, "Max"),
        (lambda n, m: m, "Select"),
        (lambda n, m: n - 1, "Select"),
        (lambda n, m: n * -2, "Select"),
        (lambda n, m: n * m, "Select"),
    ],
)
def test_only_what_cannot_be_negative_has_a_maximum(made, kind):
    assert type(_divisor(made)).__name__ == kind


def test_nested_quotients_of_sizes_are_divisions():
    te = T.te
    sizes = [T.tirx.Var(name, "int64") for name in "abcd"]
    x = te.placeholder(sizes, "float32", "x")
    a, b, c, d = sizes
    out = te.compute(
        (a, b + 1, c + 2, d), lambda i, j, k, n: x(i, T.tirx.max(j - 1, 0), T.tirx.min(k, c - 1), n)
    )
    function = schedule_function(te.create_prim_func([x, out]), CpuInfo.of(host_target()))
    assert "rmod" not in lower_kernel(function, host_target()).script()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_borders_of_five_sizes(mode):
    sizes = {at: Dim(letter, min=0 if at < 2 else 3) for at, letter in enumerate("abcde")}
    pad = (1, 2, 0, 1, 2, 0)
    compiled = compiled_of(
        lambda x: F.pad(x, pad, mode=mode), torch.randn(2, 3, 4, 5, 6), dynamic_shapes=(sizes,)
    )
    for shape in ((1, 1, 3, 3, 3), (2, 3, 5, 4, 17), (3, 2, 3, 7, 31)):
        x = torch.randn(shape)
        assert torch.equal(compiled(x), F.pad(x, pad, mode=mode))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("mode", ["floor", "trunc", "rest"])
def test_divisors_of_each_sign(mode, dtype):
    def divide(x):
        divisor = x.shape[0] - 7
        return x % divisor if mode == "rest" else torch.div(x, divisor, rounding_mode=mode)

    n = torch.export.Dim("n", min=8, max=40)
    m = torch.export.Dim("m", min=2, max=6)
    for dim, sizes in ((n, (8, 9, 13, 31)), (m, (2, 3, 4, 6))):
        example = torch.arange(sizes[1], dtype=dtype)
        compiled = fxp.compile(divide, (example,), dynamic_shapes=({0: dim},), strict=True)
        for size in sizes:
            x = torch.arange(size, dtype=dtype) * 5 - 2 * size
            torch.testing.assert_close(compiled(x), divide(x), rtol=0, atol=0)


def test_places_of_maxima_where_two_sizes_vary():
    height, width = torch.export.Dim("height", min=4, max=90), torch.export.Dim("width", min=4, max=90)
    pool = torch.nn.MaxPool2d(2, 3, return_indices=True)
    dims = ({2: height, 3: width},)
    compiled = fxp.compile(pool, (torch.rand(2, 3, 8, 9),), dynamic_shapes=dims, strict=True)
    for shape in ((2, 3, 8, 9), (2, 3, 4, 17), (2, 3, 30, 5)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(compiled(x), pool(x), rtol=0, atol=0)
