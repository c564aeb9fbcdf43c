"""Copies that turn squares in registers: every size, what is computed on the way, several threads."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.codegen.schedules import schedule_function
from fxpasses.codegen.schedules.turned import TURNED
from fxpasses.codegen.target import CpuInfo, host_target
from fxpasses.relax import tvm_api as T
from tests.codegen.test_lanes import built, draw


def kernel(shape, order, dtype="float32"):
    te = T.te
    x = te.placeholder(shape, dtype, "x")

    def element(*at):
        place = dict(zip(order, at, strict=True))
        return x(*(place[axis] for axis in range(len(shape))))

    out = te.compute([shape[axis] for axis in order], element, "out")
    return schedule_function(te.create_prim_func([x, out]), CpuInfo.of(host_target()))


def agrees(shape, order, dtype):
    """The kernel turns squares, and permutes a tensor as PyTorch does."""
    function = kernel(shape, order, dtype)
    assert TURNED in function.script()
    x = draw(shape, getattr(torch, dtype), "sum")
    out = torch.full([shape[axis] for axis in order], 99, dtype=x.dtype)
    built(function)(T.tvm_ffi.from_dlpack(x), T.tvm_ffi.from_dlpack(out))
    assert torch.equal(out, x.permute(order))


ORDERS = [
    ((16, 16), (1, 0)), ((17, 33), (1, 0)), ((64, 48), (1, 0)), ((131, 257), (1, 0)), ((3, 40, 24), (0, 2, 1)),
    ((2, 17, 5, 19), (0, 2, 3, 1)), ((2, 5, 19, 17), (0, 3, 1, 2)), ((20, 18, 22), (2, 1, 0)), ((20, 3, 40), (2, 1, 0)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "int32", "float64", "int64", "float16", "bfloat16", "int16"])
@pytest.mark.parametrize(("shape", "order"), ORDERS, ids=str)
def test_permutations(shape, order, dtype):
    agrees(shape, order, dtype)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_several_sources(sources, dynamic):
    def function(*parts):
        turned = [part.transpose(1, 2) for part in parts]
        return sum(part * (at + 1) for at, part in enumerate(turned)), turned[0].flip(1) - turned[-1]

    sizes = (({0: Dim.AUTO, 1: Dim.AUTO, 2: Dim.AUTO},) * sources,) if dynamic else None
    compiled = fxp.compile(
        function, tuple(torch.randn(3, 40, 21) for _ in range(sources)), dynamic_shapes=sizes
    )
    for size in ((3, 40, 21), (2, 16, 16), (2, 5, 70), (2, 131, 17)) if dynamic else ((3, 40, 21),):
        parts = [torch.randn(size) for _ in range(sources)]
        for got, want in zip(compiled(*parts), function(*parts), strict=True):
            torch.testing.assert_close(got, want)


PAIRS = [
    ((16, 16, 2), (1, 0, 2)), ((17, 33, 2), (1, 0, 2)), ((8, 9, 2), (1, 0, 2)), ((3, 20, 41, 2), (0, 2, 1, 3)),
    ((2, 31, 3, 10, 2), (0, 3, 2, 1, 4)), ((9, 64, 49, 2), (2, 1, 0, 3)), ((131, 70, 2, 1), (1, 0, 2, 3)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "float16", "bfloat16"])
@pytest.mark.parametrize(("shape", "order"), PAIRS, ids=str)
def test_pairs_stay_together(shape, order, dtype):
    agrees(shape, order, dtype)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("shape", [(3, 16, 24, 2), (2, 17, 9, 2), (1, 5, 40, 2), (2, 3, 4, 2)], ids=str)
def test_what_is_computed_of_pairs_on_the_way(shape, dynamic):
    def function(x):
        turned = x.transpose(1, 2)
        one = turned * 2 + x.abs().transpose(1, 2)
        return (
            one,
            turned.flip(0),
            turned.flip(1) - 1,
            turned.flip(2) + 1,
            turned.flip(3) + 1,
            turned + torch.arange(2.0),
        )

    x = torch.randn(4, 30, 21, 2)
    sizes = {0: Dim.AUTO, 1: Dim.AUTO, 2: Dim.AUTO} if dynamic else None
    compiled = fxp.compile(
        function, (x if dynamic else torch.randn(shape),), dynamic_shapes=sizes and (sizes,)
    )
    for size in ((4, 30, 21, 2), shape) if dynamic else (shape,):
        x = torch.randn(size)
        for got, want in zip(compiled(x), function(x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("size", [(16, 16), (40, 50), (129, 67)], ids=str)
def test_turned_and_mirrored(size, dims):
    x = torch.randn(size)
    for function in (lambda x: x.t().flip(dims), lambda x: x.flip(dims).t() + 1):
        assert torch.equal(fxp.compile(function, (x,))(x), function(x))


def test_a_quarter_turn_is_made_of_squares():
    te = T.te
    x = te.placeholder((40, 50), "float32", "x")
    out = te.compute((50, 40), lambda i, j: x(j, 49 - i), "out")
    assert TURNED in schedule_function(te.create_prim_func([x, out]), CpuInfo.of(host_target())).script()


@pytest.mark.parametrize("dtype", ["int8", "bool"])
def test_other_types(dtype):
    x = torch.randint(0, 2, (40, 50)).to(getattr(torch, dtype))
    turn = fxp.compile(lambda x: x.t().contiguous(), (x,))
    assert torch.equal(turn(x), x.t())


CHAINS = {
    "sum": lambda x, y, row, column: x.t() + y,
    "both": lambda x, y, row, column: torch.relu(x.t()) * 2 - x.t(),
    "row": lambda x, y, row, column: x.t() * row,
    "column": lambda x, y, row, column: x.t() * column,
    "two": lambda x, y, row, column: x.t() + (x * 3).t(),
    "nan": lambda x, y, row, column: torch.where(x.t() > 0, x.t(), float("nan")),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CHAINS)
def test_what_is_computed_on_the_way(name, dtype):
    sizes = (37, 50), (50, 37), (37,), (50, 1)
    args = tuple(torch.randn(size).to(dtype) for size in sizes)
    got, want = fxp.compile(CHAINS[name], args)(*args), CHAINS[name](*args)
    torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("to", [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.bool])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int16])
def test_half_types_become_others_on_the_way(dtype, to):
    x, y = torch.randint(-9, 9, (37, 50)).to(dtype), torch.randint(-9, 9, (37, 50)).to(torch.float32)
    for function in (lambda x, y: x.t().to(to), lambda x, y: (x.t() + y.t()).to(to)):
        assert torch.equal(fxp.compile(function, (x, y))(x, y), function(x, y))


@pytest.mark.parametrize("mcpu", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_shorter_vectors(dtype, mcpu):
    x = torch.randn(41, 50).to(dtype)
    turn = fxp.compile(lambda x: x.t().contiguous(), (x,), target={"kind": "llvm", "mcpu": mcpu})
    assert torch.equal(turn(x), x.t())


def test_halves_keep_their_bits():
    bits = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).reshape(256, 256)
    for dtype in (torch.float16, torch.bfloat16):
        x = bits.view(dtype)
        turn = fxp.compile(lambda x: x.t().contiguous(), (x,))
        assert torch.equal(turn(x).view(torch.int16), bits.t())


def test_a_dynamic_size():
    n = torch.export.Dim("n", min=1)
    turn = fxp.compile(lambda x: x.t() + 1, (torch.randn(40, 50),), dynamic_shapes=({0: n},))
    for size in (1, 15, 16, 17, 100):
        x = torch.randn(size, 50)
        assert torch.equal(turn(x), x.t() + 1)
