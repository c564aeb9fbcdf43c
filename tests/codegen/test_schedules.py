"""Scheduled kernels compute what the unscheduled ones do, at every size, and run in vectors."""

from __future__ import annotations

import functools
import re

import pytest
import torch

from fxpasses.codegen.pipeline import tir_pipeline
from fxpasses.codegen.schedules import schedule_function
from fxpasses.codegen.schedules.kernel import VECTORS, Kernel
from fxpasses.codegen.schedules.reductions import COLUMNS, LANES
from fxpasses.codegen.schedules.turned import TURNED
from fxpasses.codegen.target import CpuInfo, host_target
from fxpasses.relax import tvm_api as T


def kernel_of(*stages):
    """The PrimFunc of tensor expressions; the last is the output."""
    return T.te.create_prim_func(list(stages))


@functools.lru_cache(maxsize=4)
def library_of(function):
    mod = T.tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return T.tvm.tirx.build(mod, host_target(), pipeline=tir_pipeline())


def run(function, *tensors):
    library_of(function)["main"](*(T.tvm_ffi.from_dlpack(tensor) for tensor in tensors))


def scheduled(function):
    return schedule_function(function, CpuInfo.of(host_target()))


def loops(function) -> str:
    """The text of a kernel, with loops that passes run in vectors later on as if they did."""
    text = function.script()
    return re.sub(
        rf'T.(serial|parallel)\((.*), annotations={{"({LANES}|{COLUMNS}|{VECTORS}|{TURNED})": \d+}}\)',
        r"T.vectorized(T.\1(\2))",
        text,
    )


def symbol(name):
    return T.tirx.Var(name, "int64")


def draw(shape, dtype="float32"):
    kind = getattr(torch, dtype)
    return torch.randn(shape).to(kind) if kind.is_floating_point else torch.randint(-9, 9, shape).to(kind)


def garbage(*shape):
    """What an output holds before the kernel runs: no kernel may leave an element of it."""
    return torch.full(shape[0] if shape and not isinstance(shape[0], int) else shape, 99.0)


# -- products ------------------------------------------------------------------------


def matmul(m, n, k, dtype="float32", batch=None, tail=None):
    te = T.te
    lead = () if batch is None else (batch,)
    a = te.placeholder((*lead, m, k), dtype, "a")
    b = te.placeholder((*lead, k, n), dtype, "b")
    r = te.reduce_axis((0, k), "r")
    c = te.compute((*lead, m, n), lambda *i: te.sum(a[(*i[:-1], r)] * b[(*i[:-2], r, i[-1])], axis=r), "c")
    if tail is None:
        return kernel_of(a, b, c)
    bias = te.placeholder((n,), dtype, "bias")
    d = te.compute((*lead, m, n), lambda *i: c(*i) + bias[i[-1]], "d")
    e = te.compute((*lead, m, n), lambda *i: te.max(d(*i), T.tirx.const(0, dtype)), "e")
    return kernel_of(a, b, bias, e)


def check_matmul(function, m, n, k, dtype="float32", batch=None, tail=None):
    lead = () if batch is None else (batch,)
    a, b, bias = draw((*lead, m, k), dtype), draw((*lead, k, n), dtype), draw((n,), dtype)
    out = torch.full((*lead, m, n), 99).to(a.dtype)
    run(function, a, b, *(() if tail is None else (bias,)), out)
    want = a.double() @ b.double()
    if tail is not None:
        want = torch.relu(want + bias)
    torch.testing.assert_close(out.double(), want, rtol=1e-4, atol=1e-4)


SIZES = [(1, 1, 1), (1, 64, 17), (5, 7, 3), (12, 31, 1), (6, 64, 40), (128, 96, 64), (197, 768, 33), (13, 1000, 8),
         (64, 67, 129), (31, 16, 5), (3, 50, 200), (17, 257, 9)]  # fmt: skip


@pytest.mark.parametrize("tail", [None, "relu"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matmul(size, tail):
    function = scheduled(matmul(*size, tail=tail))
    check_matmul(function, *size, tail=tail)
    if size[1] > 1:
        assert "T.vectorized" in loops(function)


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
def test_matmul_of_other_types(dtype):
    size = (9, 40, 7)
    check_matmul(scheduled(matmul(*size, dtype=dtype)), *size, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_multiplied_in_float32(dtype):
    te = T.te
    a, b = te.placeholder((9, 40), dtype, "a"), te.placeholder((40, 48), dtype, "b")
    r = te.reduce_axis((0, 40), "r")
    c = te.compute(
        (9, 48), lambda i, j: te.sum(a[i, r].astype("float32") * b[r, j].astype("float32"), axis=r), "c"
    )
    function = scheduled(kernel_of(a, b, te.compute((9, 48), lambda i, j: c[i, j].astype(dtype), "d")))
    x, y = draw((9, 40), dtype), draw((40, 48), dtype)
    out = garbage(9, 48).to(x.dtype)
    run(function, x, y, out)
    torch.testing.assert_close(out, (x.float() @ y.float()).to(x.dtype))
    assert "T.vectorized" in loops(function)


@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("size", [(12, 12, 32), (7, 33, 5), (128, 64, 16)], ids=str)
def test_matmul_in_a_batch(size, batch):
    function = scheduled(matmul(*size, batch=batch, tail="relu"))
    check_matmul(function, *size, batch=batch, tail="relu")
    assert "T.vectorized" in loops(function)


@pytest.mark.parametrize("dynamic", ["m", "n", "k", "mnk", "b", "bm"])
@pytest.mark.parametrize("tail", [None, "relu"])
def test_matmul_of_symbolic_size(dynamic, tail):
    size = {"m": 12, "n": 48, "k": 20, "b": 3}
    shape = {name: symbol(name) if name in dynamic else value for name, value in size.items()}
    b = shape.pop("b")
    batch = b if "b" in dynamic else None
    function = scheduled(matmul(*shape.values(), batch=batch, tail=tail))
    assert "T.vectorized" in loops(function)
    for value in (1, 2, 7, 33, 64):
        sizes = {name: value if name in dynamic else old for name, old in size.items()}
        b = sizes.pop("b")
        check_matmul(function, *sizes.values(), batch=b if "b" in dynamic else None, tail=tail)


@pytest.mark.parametrize("tail", [None, "relu"])
@pytest.mark.parametrize("rows", [2, 4, 6, 12, 14])
def test_matmul_of_a_symbolic_size_that_is_a_multiple_of_the_tile(rows, tail):
    """Such a size needs no padding, which TVM knows."""
    assert "T.vectorized" in loops(scheduled(matmul(rows * symbol("n"), 120, 32, tail=tail)))


def test_a_padding_of_a_product_keeps_its_border():
    te = T.te
    a, b = te.placeholder((12, 40), "float32", "a"), te.placeholder((40, 32), "float32", "b")
    r = te.reduce_axis((0, 40), "r")
    c = te.compute((12, 32), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), "c")
    zero = T.tirx.const(0.0, "float32")
    padded = te.compute(
        (13, 33), lambda i, j: T.tirx.if_then_else(T.tirx.all(i < 12, j < 32), c[i, j], zero), "p"
    )
    x, y, out = draw((12, 40)), draw((40, 32)), garbage(13, 33)
    run(scheduled(kernel_of(a, b, padded)), x, y, out)
    torch.testing.assert_close(out, torch.nn.functional.pad(x @ y, (0, 1, 0, 1)), rtol=1e-4, atol=1e-4)


def convolution(x, w, stride, groups=1):
    te = T.te
    n, c, h, wide = x
    o, i, kh, kw = w
    a, b = te.placeholder(x, "float32", "a"), te.placeholder(w, "float32", "b")
    r, s, t = (te.reduce_axis((0, size), name) for size, name in ((i, "r"), (kh, "s"), (kw, "t")))
    shape = (n, o, (h - kh) // stride + 1, (wide - kw) // stride + 1)

    def at(n, o, i, j):
        channel = o // (w[0] // groups) * w[1] + r
        return te.sum(a[n, channel, i * stride + s, j * stride + t] * b[o, r, s, t], axis=[r, s, t])

    return kernel_of(a, b, te.compute(shape, at, "c")), shape


@pytest.mark.parametrize(
    ("x", "w", "stride", "groups"),
    [
        ((2, 3, 12, 16), (8, 3, 3, 3), 1, 1), ((1, 16, 9, 9), (24, 16, 3, 3), 1, 1),
        ((1, 5, 7, 30), (7, 5, 1, 1), 1, 1), ((1, 4, 20, 37), (6, 4, 3, 3), 2, 1),
        ((2, 6, 10, 19), (6, 1, 3, 3), 1, 6), ((1, 8, 8, 56), (12, 4, 3, 1), 1, 2),
        ((1, 3, 4, 103), (5, 3, 3, 3), 1, 1), ((1, 3, 20, 20), (5, 3, 1, 20), 1, 1),
    ],
    ids=str,
)  # fmt: skip
def test_convolution(x, w, stride, groups):
    function, shape = convolution(x, w, stride, groups)
    function = scheduled(function)
    a, b, out = draw(x), draw(w), garbage(*shape)
    run(function, a, b, out)
    want = torch.nn.functional.conv2d(a, b, stride=stride, groups=groups)
    torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-4)
    assert "T.vectorized" in loops(function) or shape[-1] == 1


# -- reductions ------------------------------------------------------------------------


def reduction(shape, axes, dtype="float32", kind="sum", before=None):
    te = T.te
    a = te.placeholder(shape, dtype, "a")
    source = a if before is None else te.compute(shape, lambda *i: before(a(*i)), "before")
    r = {axis: te.reduce_axis((0, shape[axis]), f"r{axis}") for axis in axes}
    kept = [i for i in range(len(shape)) if i not in axes]

    def value(*index):
        full = [r[i] if i in r else index[kept.index(i)] for i in range(len(shape))]
        return getattr(te, kind)(source(*full), axis=list(r.values()))

    return kernel_of(a, te.compute(tuple(shape[i] for i in kept), value, "c"))


@pytest.mark.parametrize("kind", ["sum", "max", "min"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((8, 1024), [1]), ((8, 1001), [1]), ((7, 5), [1]), ((1, 40), [1]), ((300, 70), [0]), ((33, 1000), [0]),
        ((4, 6, 49), [2]), ((4, 6, 7, 7), [2, 3]), ((4, 50, 33), [1]), ((3, 5, 7), [0, 2]), ((3, 64, 9), [0, 1]),
        ((100,), [0]), ((2, 1), [1]),
    ],
    ids=str,
)  # fmt: skip
def test_reduction(shape, axes, kind):
    function = scheduled(reduction(shape, axes, kind=kind))
    x = draw(shape)
    kept = [size for i, size in enumerate(shape) if i not in axes]
    out = torch.full(kept, 99.0)
    run(function, x, out)
    want = x.sum(axes) if kind == "sum" else getattr(x, f"a{kind}")(axes)
    torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [[0], [1], [0, 1]])
def test_reduction_of_symbolic_size(axes):
    function = scheduled(reduction((symbol("m"), symbol("n")), axes))
    for shape in ((1, 1), (3, 70), (33, 5), (64, 128), (2, 1000)):
        x = draw(shape)
        out = garbage([size for i, size in enumerate(shape) if i not in axes])
        run(function, x, out)
        torch.testing.assert_close(out, x.sum(axes), rtol=1e-4, atol=1e-4)


def softmax(shape):
    te = T.te
    x = te.placeholder(shape, "float32", "x")
    *lead, last = shape
    r, q = te.reduce_axis((0, last), "r"), te.reduce_axis((0, last), "q")
    top = te.compute(lead, lambda *i: te.max(x(*i, r), axis=r), "top")
    power = te.compute(shape, lambda *i: te.exp(x(*i) - top(*i[:-1])), "power")
    total = te.compute(lead, lambda *i: te.sum(power(*i, q), axis=q), "total")
    return kernel_of(x, te.compute(shape, lambda *i: power(*i) / total(*i[:-1]), "out"))


@pytest.mark.parametrize("shape", [(4, 12, 12), (2, 3, 128), (5, 1001), (3, 1), (40, 7)], ids=str)
def test_rows(shape):
    function = scheduled(softmax(shape))
    x, out = draw(shape), garbage(shape)
    run(function, x, out)
    torch.testing.assert_close(out, torch.softmax(x, -1))


def test_rows_share_one_parallel_loop():
    text = loops(scheduled(softmax((64, 12, 256))))
    assert text.count("T.parallel") == 1
    assert text.count("T.vectorized") == 4


def test_rows_of_symbolic_size():
    function = scheduled(softmax((symbol("b"), symbol("n"))))
    assert "T.vectorized" in loops(function)
    for shape in ((1, 1), (3, 70), (33, 5), (64, 128), (2, 1000)):
        x, out = draw(shape), garbage(shape)
        run(function, x, out)
        torch.testing.assert_close(out, torch.softmax(x, -1))


# -- elementwise -------------------------------------------------------------------------


def elementwise(shape, dtype, function, *others):
    te = T.te
    a = te.placeholder(shape, dtype, "a")
    rest = [te.placeholder(other, dtype, f"b{i}") for i, other in enumerate(others)]

    def at(tensor, index):
        index = index[len(index) - len(tensor.shape) :]
        one = [
            T.tirx.const(0, "int64") if _is_one(size) else i
            for i, size in zip(index, tensor.shape, strict=True)
        ]
        return tensor(*one) if one else tensor()

    out = te.compute(shape, lambda *i: function(a(*i), *(at(b, i) for b in rest)), "out")
    return kernel_of(a, *rest, out)


def _is_one(size):
    return isinstance(size, T.tirx.IntImm) and int(size) == 1


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int8", "int64", "uint8", "bool"]
)
@pytest.mark.parametrize("shape", [(1,), (5,), (1001,), (3, 70), (2, 3, 5), (40, 1024), (17, 4097)], ids=str)
def test_elementwise(shape, dtype):
    tirx = T.tirx

    def formula(a):
        return (
            tirx.Not(a) if dtype == "bool" else tirx.Select(a > tirx.const(1, dtype), a, tirx.const(0, dtype))
        )

    function = scheduled(elementwise(shape, dtype, formula))
    x = draw(shape, "int64").bool() if dtype == "bool" else draw(shape, dtype)
    out = torch.ones(shape, dtype=x.dtype)
    run(function, x, out)
    want = ~x if dtype == "bool" else torch.where(x > 1, x, torch.zeros_like(x))
    assert torch.equal(out, want)


@pytest.mark.parametrize("other", [(70,), (3, 1), (1, 70), (), (1, 1)], ids=str)
def test_broadcast(other):
    function = scheduled(elementwise((3, 70), "float32", lambda a, b: a * b, other))
    a, b, out = draw((3, 70)), draw(other), garbage(3, 70)
    run(function, a, b, out)
    assert torch.equal(out, a * b)


def test_elementwise_of_symbolic_size():
    m, n = symbol("m"), symbol("n")
    function = scheduled(elementwise((m, n), "float32", lambda a, b: a * b, (n,)))
    assert "T.vectorized" in loops(function)
    for shape in ((1, 1), (3, 70), (33, 5), (300, 128)):
        a, b, out = draw(shape), draw(shape[-1:]), garbage(shape)
        run(function, a, b, out)
        assert torch.equal(out, a * b)


@pytest.mark.parametrize(("rows", "columns"), [(700, 3), (40, 50), (1, 7), (5000, 16)])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_axes_behind_a_condition_run_through_memory_together(rows, columns, dynamic):
    """As those of a stack: short rows fill whole vectors, and threads share them where the parts are few."""
    size = (symbol("m"), symbol("n")) if dynamic else (rows, columns)
    a, b = (T.te.placeholder(size, "float32", name) for name in "ab")

    def element(part, i, j):
        return T.tirx.if_then_else(part < 1, a[i, j], b[i, j] * 2.0)

    function = scheduled(kernel_of(a, b, T.te.compute((2, *size), element, "out")))
    if dynamic:
        assert re.search(r"for \w+ in range\(2\).*\n\s*for \w+ in T.vectorized\(T.parallel", loops(function))
    x, y = draw((rows, columns)), draw((rows, columns))
    out = garbage(2, rows, columns)
    run(function, x, y, out)
    assert torch.equal(out, torch.stack([x, y * 2]))


def test_comparison_of_types_of_different_width():
    te = T.te
    a = te.placeholder((5, 70), "float64", "a")
    out = te.compute((5, 70), lambda i, j: a[i, j] > T.tirx.const(0, "float64"), "out")
    x, got = draw((5, 70), "float64"), torch.zeros(5, 70, dtype=torch.bool)
    run(scheduled(kernel_of(a, out)), x, got)
    assert torch.equal(got, x > 0)


def test_transpose_and_pad():
    te = T.te
    a = te.placeholder((37, 50), "float32", "a")
    turned = te.compute((50, 37), lambda i, j: a[j, i], "turned")
    padded = te.compute(
        (52, 40),
        lambda i, j: T.tirx.if_then_else(
            T.tirx.all(i > 0, i < 51, j < 37), turned[i - 1, j], T.tirx.const(0.0, "float32")
        ),
        "padded",
    )
    x, out = draw((37, 50)), torch.ones(52, 40)
    run(scheduled(kernel_of(a, padded)), x, out)
    assert torch.equal(out, torch.nn.functional.pad(x.t(), (0, 3, 1, 1)))


def test_a_costly_value_is_computed_once():
    shape = (64, 256)
    te = T.te
    x = te.placeholder(shape, "float32", "x")
    power = te.compute(shape, lambda i, j: te.exp(x[i, j]), "power")
    r = te.reduce_axis((0, 256), "r")
    total = te.compute((64,), lambda i: te.sum(power[i, r], axis=r), "total")
    function = scheduled(kernel_of(x, te.compute(shape, lambda i, j: power[i, j] - total[i], "out")))
    assert loops(function).count("T.exp") == 1


def test_a_kernel_without_loops_is_left_as_it_is():
    te = T.te
    a = te.placeholder((), "float32", "a")
    function = scheduled(kernel_of(a, te.compute((), lambda: a() + T.tirx.const(1.0, "float32"), "out")))
    assert "T.parallel" not in loops(function)
    assert "T.vectorized" not in loops(function)
    x, out = draw(()), torch.tensor(99.0)
    run(function, x, out)
    assert torch.equal(out, x + 1)


def test_a_rule_that_fails_half_way_leaves_no_trace():
    kernel = Kernel(elementwise((40, 64), "float32", lambda a: a + a), CpuInfo.of(host_target()))
    before = kernel.sch.mod.script()

    def fails(kernel):
        (block,) = kernel.blocks()
        kernel.sch.parallel(block.loops[0])
        kernel.sch.compute_inline(block.rv)  # an output cannot be inlined

    assert not kernel.attempt(fails)
    assert kernel.sch.mod.script() == before


def pointwise_convolution(pixels, inputs, outputs):
    te = T.te
    a, b = (
        te.placeholder(shape, "float32", name)
        for shape, name in (((pixels, pixels, inputs), "a"), ((outputs // 16, 1, 1, inputs, 16), "b"))
    )
    down, across, r = (te.reduce_axis((0, size), "r") for size in (1, 1, inputs))

    def at(i, j, o):
        place = (T.tirx.floordiv(o, 16), down, across, r, T.tirx.floormod(o, 16))
        return te.sum(a[i + down, j + across, r] * b[place], axis=[down, across, r])

    return kernel_of(a, b, te.compute((pixels, pixels, outputs), at, "c"))


@pytest.mark.parametrize("pixels", [7, 10, 12, 13, 14, 17])
@pytest.mark.parametrize("outputs", [16, 32, 48, 64, 80])
def test_the_sums_of_a_tile_stay_in_registers(pixels, outputs):
    function = scheduled(pointwise_convolution(pixels, 160, outputs))
    mod = T.tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    code = T.tvm.tirx.build(mod, host_target(), pipeline=tir_pipeline()).inspect_source("asm")
    assert "vfmadd" in code or "fmla" in code
    stores = re.findall(r"vmov[au]ps\s+%[xyz]mm\d+, -?\d*\(%rsp", code)
    assert len(stores) <= 4, "LLVM keeps sums in memory"


@pytest.mark.parametrize("shift", [1, 3, 55])
@pytest.mark.parametrize("summed", [False, True])
def test_indices_that_wrap_round(shift, summed):
    te = T.te
    size = T.tirx.IntImm("int64", 56)
    a = te.placeholder((size, size, T.tirx.IntImm("int64", 32)), "float32", "a")

    def rolled(i, j, c):
        return a(T.tirx.floormod(i + shift, size), T.tirx.floormod(j + shift, size), c)

    x = draw((56, 56, 32))
    want = x.roll((-shift, -shift), (0, 1))
    if summed:
        r = te.reduce_axis((0, 32), "r")
        out = te.compute((size, size), lambda i, j: te.sum(rolled(i, j, r), axis=r), "out")
        want = want.sum(-1)
    else:
        out = te.compute(a.shape, rolled, "out")
    y = garbage(want.shape)
    run(scheduled(kernel_of(a, out)), x, y)
    torch.testing.assert_close(y, want)
