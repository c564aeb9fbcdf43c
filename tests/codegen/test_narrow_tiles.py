"""Products whose rows or columns are no whole tiles, or counted at run time: right for every number of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.benchmark.threads import torch_threads
from fxpasses.codegen.pipeline import kernel_passes, lower_kernel
from fxpasses.codegen.schedules.products import NARROW
from fxpasses.codegen.target import host_target
from fxpasses.relax import tvm_api as T
from fxpasses.relax.emit import lower
from tests.codegen.helpers import compiled_of

COLUMNS = (0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 80, 130)


def plain(x, y):
    return x @ y


def of_turned(x, y):
    return x @ y.transpose(-1, -2).contiguous().transpose(-1, -2)


def with_tail(x, y):
    return torch.relu(x @ y * 2 + y[..., :1, :]) + 1


def to_truth(x, y):
    return torch.where((y[:1] > 0) & (x[:, :1] > 0), x @ y, 7.0) > y[:1]


def to_half(x, y):
    return (torch.exp(-((x @ y) ** 2)) + x[:, :1]).half()


def with_every_second(x, y):
    return x @ y + torch.cat([y, y], -1)[:1, 1::2]


def with_border(x, y):
    return torch.nn.functional.pad(x @ y, (1, 2))


def scheduled(function, *args, dynamic_shapes=None):
    program = fxp.canonicalize(fxp.capture(function, args, dynamic_shapes=dynamic_shapes))
    with host_target():
        return T.tvm.transform.Sequential(kernel_passes(host_target()))(lower(program))


@pytest.mark.parametrize(
    "function", [plain, of_turned, with_tail, to_truth, to_half, with_every_second, with_border]
)
def test_columns_of_a_product(function):
    m, k, n = Dim("m", min=0), Dim("k", min=1), Dim("n", min=0)
    args = torch.randn(4, 5), torch.randn(5, 6)
    compiled = compiled_of(function, *args, dynamic_shapes=({0: m, 1: k}, {0: k, 1: n}))
    for count, rows, inner, columns in itertools.product((1, 2), (0, 1, 5, 6, 13), (1, 7), COLUMNS):
        x, y = torch.randn(rows, inner), torch.randn(inner, columns)
        with torch_threads(count):
            torch.testing.assert_close(compiled(x, y), function(x, y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.bfloat16])
def test_columns_of_a_batch(dtype):
    def draw(*size):
        return torch.randint(-9, 9, size).to(dtype)

    b, m, k, n = (Dim(name) for name in "bmkn")
    dynamic_shapes = {0: b, 1: m, 2: k}, {0: b, 1: k, 2: n}
    compiled = compiled_of(plain, draw(3, 4, 5), draw(3, 5, 6), dynamic_shapes=dynamic_shapes)
    for batch, rows, columns in itertools.product((1, 3), (1, 7), COLUMNS[1:]):
        x, y = draw(batch, rows, 9), draw(batch, 9, columns)
        assert torch.equal(compiled(x, y), x @ y)


@pytest.mark.parametrize("function", [plain, with_tail])
def test_operands_are_read_where_they_lie(function):
    sizes = {0: Dim.AUTO, 1: Dim.AUTO}
    args = torch.randn(40, 8), torch.randn(8, 70)
    module = scheduled(function, *args, dynamic_shapes=(sizes, sizes))
    kernels = [f for _, f in module.functions_items() if isinstance(f, T.tirx.PrimFunc)]
    lowered = [lower_kernel(kernel, host_target()).script() for kernel in kernels]
    assert sum("masked_load" in script for script in lowered) == 1
    assert not any("TVMBackendAllocWorkspace" in script for script in lowered)


@pytest.mark.parametrize("varying", [(), (0,), (1,)])
def test_only_ends_of_unknown_or_odd_length_are_narrow(varying):
    args = torch.randn(840, 8), torch.randn(8, 64)
    rows, columns = ({axis: Dim.AUTO} if axis in varying else {} for axis in (0, 1))
    script = scheduled(plain, *args, dynamic_shapes=(rows, columns) if varying else None).script()
    assert (NARROW in script) == bool(varying)


@pytest.mark.parametrize("varying", ["", "m", "mk"])
@pytest.mark.parametrize("columns", [2, 13, 16, 17, 31, 48, 65, 100])
def test_known_columns(columns, varying):
    """Rows that vary or not, and columns that are whole vectors or not."""
    sizes = {name: Dim.AUTO if name in varying else None for name in "mkn"}
    args = torch.randn(19, 7), torch.randn(7, columns)
    dynamic_shapes = ({0: sizes["m"], 1: sizes["k"]}, {0: sizes["k"]}) if varying else None
    compiled = compiled_of(with_tail, *args, dynamic_shapes=dynamic_shapes)
    for rows in (2, 5, 6, 19, 40) if varying else (19,):
        x = torch.randn(rows, 7)
        torch.testing.assert_close(compiled(x, args[1]), with_tail(x, args[1]), rtol=1e-5, atol=1e-5)


def every_second(x):
    return torch.nn.functional.max_pool1d(x, 1, 2)


def at_most(x):
    return x[..., :16]


def at_least(x):
    size = torch.sym_max(x.shape[2], 16)
    return x[..., :1] + torch.arange(size)


@pytest.mark.parametrize("left", [every_second, at_most, at_least])
@pytest.mark.parametrize("right", [every_second, at_most, at_least])
def test_ends_that_are_computed(left, right):
    """TVM writes ``place < n // 2 + 1`` as ``place <= n // 2``, and takes the smaller of two sizes apart."""

    def product(x, y):
        return left(x).transpose(1, 2) @ right(y)

    def draw(size):
        return torch.randint(-9, 9, (2, 3, size)).float()

    sizes = {2: Dim.AUTO}
    compiled = compiled_of(product, draw(20), draw(30), dynamic_shapes=(sizes, sizes))
    for rows, columns in itertools.product((3, 11, 12, 13, 40), (17, 18, 33, 127, 140)):
        x, y = draw(rows), draw(columns)
        assert torch.equal(compiled(x, y), product(x, y))


def test_operands_that_are_joined_of_parts():
    """The lanes of such an operand stand behind a condition."""

    def product(x):
        joined = torch.cat([x[1:], x, x[2:]])
        return joined @ joined.mT

    compiled = compiled_of(product, torch.randn(11, 8), dynamic_shapes=({0: Dim("n", min=2)},))
    for rows in (2, 3, 5, 11, 30):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(compiled(x), product(x), rtol=1e-5, atol=1e-5)
