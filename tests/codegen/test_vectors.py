"""Loops in whole vectors: every length, what lies side by side through several axes, what must not be made twice."""

from __future__ import annotations

import itertools

import pytest
import torch

import fxpasses as fxp
from fxpasses.codegen.pipeline import lower_kernel, tir_pipeline
from fxpasses.codegen.schedules import schedule_function
from fxpasses.codegen.schedules.kernel import VECTORS
from fxpasses.codegen.target import CpuInfo, host_target
from fxpasses.codegen.vectors import run_in_vectors
from fxpasses.relax import tvm_api as T


def kernel(shape, *others):
    """The scheduled sum of a tensor and of others with fewer dims."""
    te = T.te
    x = te.placeholder(shape, "float32", "x")
    rest = [te.placeholder(other, "float32", f"y{i}") for i, other in enumerate(others)]
    out = te.compute(shape, lambda *i: sum((y(*i[len(i) - len(y.shape) :]) for y in rest), x(*i)), "out")
    return schedule_function(te.create_prim_func([x, *rest, out]), CpuInfo.of(host_target()))


def run(function, *tensors):
    mod = T.tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    call = T.tvm.tirx.build(mod, host_target(), pipeline=tir_pipeline())["main"]
    out = torch.full(tensors[0].shape, 99.0)
    call(*(T.tvm_ffi.from_dlpack(tensor) for tensor in (*tensors, out)))
    return out


@pytest.mark.parametrize("length", [*range(1, 40), 63, 64, 65, 16383, 16384, 16399, 40000])
def test_every_length(length):
    x = torch.randn(length)
    assert torch.equal(run(kernel((length,), (length,)), x, x), x + x)


def test_a_length_that_is_not_known():
    n = T.tirx.Var("n", "int64")
    function = kernel((n,))
    assert VECTORS in function.script()
    for length in (1, 2, 15, 16, 17, 33, 1023, 1024, 1025, 50000):
        x = torch.randn(length)
        assert torch.equal(run(function, x), x)


@pytest.mark.parametrize("lead", [1, 3])
def test_memory_that_several_axes_run_through_is_read_in_vectors(lead):
    """Neither TVM nor LLVM sees that ``k // 45 * 45 + k % 45 // 9 * 9 + k % 9`` is ``k``."""
    function = kernel((lead, 7, 5, 9), (7, 5, 9))
    text = lower_kernel(function, host_target()).script()
    assert "Ramp" in text
    assert "// T.Broadcast" not in text
    x, y = torch.randn(lead, 7, 5, 9), torch.randn(7, 5, 9)
    assert torch.equal(run(function, x, y), x + y)


def test_what_reads_its_own_result_is_not_made_twice():
    """The last vector of any other loop overlaps the one before."""
    tirx = T.tirx
    size = tirx.IntImm("int64", 37)
    buffer = tirx.decl_buffer((size,), "float32", "x", layout=None)
    k = tirx.Var("k", "int64")
    body = tirx.BufferStore(buffer, tirx.BufferLoad(buffer, [k]) + tirx.const(1.0, "float32"), [k])
    notes = {VECTORS: tirx.IntImm("int32", 16)}
    loop = tirx.For(k, tirx.IntImm("int64", 0), size, tirx.ForKind.SERIAL, body, annotations=notes)
    mod = run_in_vectors()(T.tvm.IRModule({"main": tirx.PrimFunc([buffer], loop)}))
    x = torch.zeros(37)
    call = T.tvm.tirx.build(mod["main"].with_attr("global_symbol", "main"), host_target())["main"]
    call(T.tvm_ffi.from_dlpack(x))
    assert torch.equal(x, torch.ones(37))


@pytest.mark.parametrize("length", [17, 37, 63])
def test_one_intermediate_result_of_another(length):
    """TVM puts them into the same memory, so that no step may be made twice."""
    x, y = torch.randn(length, 1) * 9, torch.randn(1, length)

    def divide(x, y):
        return torch.div(x, y, rounding_mode="floor")

    assert torch.equal(fxp.compile(divide, (x, y))(x, y), divide(x, y))


CAT = {"cat": lambda x: torch.cat([x, x * 2], -1), "three": lambda x: torch.cat([x[:, :7], x, x[:, 3:]], -1)}


@pytest.mark.parametrize("name", CAT)
@pytest.mark.parametrize("width", [1, 16, 24, 32, 33, 100])
def test_concatenations(name, width):
    x = torch.randn(5, width)
    assert torch.equal(fxp.compile(CAT[name], (x,))(x), CAT[name](x))


def test_concatenations_of_sizes_that_are_not_known():
    x = torch.randn(5, 40)
    width = torch.export.Dim("width", min=8)
    compiled = fxp.compile(CAT["three"], (x,), dynamic_shapes=({1: width},))
    for size in itertools.chain(range(8, 20), (31, 32, 33, 100)):
        x = torch.randn(5, size)
        assert torch.equal(compiled(x), CAT["three"](x)), size


PARTS = {
    "one column": lambda x: x.select_scatter(x[:, 0] * 2, -1, 5),
    "some columns": lambda x: x.slice_scatter(x[:, :4], -1, 3, 7),
    "each second": lambda x: x.slice_scatter(x[:, : (x.shape[1] + 1) // 2] * 2, -1, 0, x.shape[1], 2),
    "a diagonal": lambda x: torch.diag_embed(x, offset=1),
    "a border": lambda x: torch.nn.functional.pad(x, (2, 3, 1, 0), value=7.0),
    "a mirror": lambda x: torch.nn.functional.pad(x[None], (2, 3), mode="reflect"),
    "a roll": lambda x: x.roll((1, -5), (0, 1)),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_row(name, dynamic):
    sizes = ({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},) if dynamic else None
    x = torch.randn(5, 37)
    compiled = fxp.compile(PARTS[name], (x,), dynamic_shapes=sizes)
    for width in (9, 16, 17, 32, 37, 100) if dynamic else (37,):
        x = torch.randn(5, width)
        assert torch.equal(compiled(x), PARTS[name](x)), width


def integers(*sizes):
    return torch.randint(-9, 9, sizes, dtype=torch.int32)


def truths(*sizes):
    return torch.randn(sizes) > 0


SHORT = {
    "a mirror": (lambda x: x.flip(1), torch.randn),
    "a roll": (lambda x: x.roll(1, 1), torch.randn),
    "one below the other": (lambda x: torch.cat([x, x * 2], 1), torch.randn),
    "a triangle": (lambda x: x.tril(), torch.randn),
    "a number for each row": (lambda x: x.flip(1) / x[..., :1], torch.randn),
    "each second": (lambda x: x.flip(1)[..., ::2] * 2, torch.randn),
    "backwards": (lambda x: x.flip(0).flip(-1), torch.randn),
    "quotients": (lambda x: torch.div(x, x.flip(1).abs() + 1, rounding_mode="floor"), integers),
    "of truths": (lambda x: torch.where(x.flip(1), 2.0, x.float()), truths),
    "to truths": (lambda x: x.flip(1) > 0, torch.randn),
    "in half precision": (lambda x: x.flip(1).half(), torch.randn),
}


@pytest.mark.parametrize("name", SHORT)
def test_short_rows_of_sizes_that_are_not_known(name):
    function, draw = SHORT[name]
    sizes = dict.fromkeys(range(3), torch.export.Dim.AUTO)
    compiled = fxp.compile(function, (draw(4, 5, 6),), strict=True, dynamic_shapes=(sizes,))
    for rows, width in itertools.product((2, 3, 40), (1, 2, 3, 7, 8, 9, 15, 16, 17)):
        x = draw(3, rows, width)
        assert torch.equal(compiled(x), function(x)), (rows, width)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "function",
    [lambda x: x.long(), lambda x: x + 1.5, lambda x: torch.where(x > 0, 1, 0)],
    ids=["to integers", "plus", "where"],
)
def test_rows_that_turn_out_to_be_empty(function, dtype):
    sizes = dict.fromkeys(range(2), torch.export.Dim.AUTO)
    compiled = fxp.compile(function, (torch.ones(4, 5).to(dtype),), strict=True, dynamic_shapes=(sizes,))
    for shape in ((0, 0), (0, 3), (3, 0), (2, 3)):
        x = (torch.randn(shape) > 0).to(dtype)
        assert torch.equal(compiled(x), function(x)), shape


def test_short_rows_are_masked():
    n, m = T.tirx.Var("n", "int64"), T.tirx.Var("m", "int64")
    x = T.te.placeholder((n, m), "float32", "x")
    out = T.te.compute((n, m), lambda i, j: x[n - 1 - i, j], "out")
    function = schedule_function(T.te.create_prim_func([x, out]), CpuInfo.of(host_target()))
    assert "masked_store" in lower_kernel(function, host_target()).script()
