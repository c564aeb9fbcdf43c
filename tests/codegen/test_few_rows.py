"""Products with turned matrices whose sizes are counted at run time: right for few rows and many, of any length."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.benchmark.threads import torch_threads
from fxpasses.codegen.pipeline import kernel_passes
from fxpasses.codegen.schedules.few import DOTS
from fxpasses.codegen.target import host_target
from fxpasses.relax import tvm_api as T
from fxpasses.relax.emit import lower
from tests.codegen.helpers import compiled_of

ROWS = (0, 1, 2, 5, 8, 64, 65)
TERMS = (1, 16, 17, 40, 77, 520)
COLUMNS = (0, 1, 3, 4, 9, 33)
AUTO = {0: Dim.AUTO, 1: Dim.AUTO}


def plain(x, w):
    return x @ w.mT


def of_plain(x, w):
    return x @ w


def with_tail(x, w):
    return torch.relu(x @ w.mT * 2 + w[..., :1].mT) + x[..., :1]


def of_made(x, w):
    return (x - 1) @ (w * 2).mT


def of_turned_rows(x, w):
    return x.mT.contiguous().mT @ w.mT


def with_border(x, w):
    return torch.nn.functional.pad(x @ w.mT, (1, 2))


def with_sum(x, w):
    return torch.softmax(x @ w.mT, -1)


def turned_twice(x, w):
    return x @ w.mT, w.mT + 1


def scheduled(function, *args, dynamic_shapes=None):
    program = fxp.canonicalize(fxp.capture(function, args, dynamic_shapes=dynamic_shapes))
    with host_target():
        return T.tvm.transform.Sequential(kernel_passes(host_target()))(lower(program))


def draw(*size, dtype=torch.float32):
    """Numbers of which products and their sums are exact."""
    return torch.randint(-4, 5, size).to(dtype)


@pytest.mark.parametrize(
    "function", [plain, with_tail, of_made, of_turned_rows, with_border, with_sum, turned_twice]
)
def test_any_sizes(function):
    m, k, n = Dim("m", min=0), Dim("k", min=1), Dim("n", min=0)
    compiled = compiled_of(function, draw(5, 7), draw(6, 7), dynamic_shapes=({0: m, 1: k}, {0: n, 1: k}))
    for count, rows, inner, columns in itertools.product((1, 2), ROWS, TERMS, COLUMNS):
        x, w = draw(rows, inner) / 8, draw(columns, inner) / 8
        with torch_threads(count):
            torch.testing.assert_close(compiled(x, w), function(x, w))


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        *(
            (plain, dtype)
            for dtype in (torch.float32, torch.float64, torch.int32, torch.int64, torch.bfloat16)
        ),
        *((with_tail, dtype) for dtype in (torch.float32, torch.bfloat16)),
    ],
)
def test_batches_and_dtypes(function, dtype):
    sizes = {0: Dim("b"), 1: Dim("m"), 2: Dim("k")}, {0: Dim("b"), 1: Dim("n"), 2: Dim("k")}
    x, w = draw(3, 5, 7, dtype=dtype), draw(3, 6, 7, dtype=dtype)
    compiled = compiled_of(function, x, w, dynamic_shapes=sizes)
    for batch, rows, inner, columns in itertools.product((1, 3), ROWS[1:5], TERMS, COLUMNS[1:]):
        x, w = draw(batch, rows, inner, dtype=dtype), draw(batch, columns, inner, dtype=dtype)
        torch.testing.assert_close(compiled(x, w), function(x, w))


@pytest.mark.parametrize("mcpu", ["x86-64", "x86-64-v3"])
def test_shorter_vectors(mcpu):
    compiled = fxp.compile(
        plain, (draw(5, 7), draw(6, 7)), dynamic_shapes=(AUTO, AUTO), target={"kind": "llvm", "mcpu": mcpu}
    )
    for rows, inner, columns in itertools.product(ROWS[1:5], TERMS, COLUMNS[1:]):
        x, w = draw(rows, inner), draw(columns, inner)
        assert torch.equal(compiled(x, w), x @ w.mT)


@pytest.mark.parametrize("varying", ["m", "k", "n", "mk", "mn", "kn"])
@pytest.mark.parametrize("size", [(3, 40, 9), (70, 40, 9)], ids=str)
def test_some_sizes_are_known(varying, size):
    m, k, n = size
    sizes = {name: Dim.AUTO if name in varying else None for name in "mkn"}
    dynamic_shapes = {0: sizes["m"], 1: sizes["k"]}, {0: sizes["n"], 1: sizes["k"]}
    compiled = compiled_of(plain, draw(m, k), draw(n, k), dynamic_shapes=dynamic_shapes)
    for rows, inner, columns in itertools.product((m, 2, 80), (k, 17, 640), (n, 2, 33)):
        asked = {"m": (rows, m), "k": (inner, k), "n": (columns, n)}
        if all(name in varying or new == old for name, (new, old) in asked.items()):
            x, w = draw(rows, inner), draw(columns, inner)
            assert torch.equal(compiled(x, w), x @ w.mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "size", [(1, 1, 40, 1), (1, 2, 40, 9), (3, 3, 77, 5), (1, 4, 32, 4), (2, 64, 520, 6)], ids=str
)
def test_known_sizes(size, dtype):
    batch, m, k, n = size
    x, w = draw(batch, m, k, dtype=dtype), draw(batch, n, k, dtype=dtype)
    args = x, w, x[0].clone(), w[0].clone()
    for function in (plain, with_tail):

        def both(x, w, one_x, one_w, function=function):
            return function(x, w), function(one_x, one_w)

        torch.testing.assert_close(compiled_of(both, *args)(*args), both(*args))


@pytest.mark.parametrize(
    ("function", "rows", "varies", "expected"),
    [
        (plain, 8, True, 1),
        (with_tail, 8, True, 1),
        (plain, 8, False, 1),
        (plain, 9, False, 0),
        (turned_twice, 8, True, 0),
        (of_plain, 8, True, 0),
        (of_plain, 8, False, 0),
    ],
)
def test_which_kernels_have_a_part_for_few_rows(function, rows, varies, expected):
    args = torch.randn(rows, 64), torch.randn(*((64, 64) if function is of_plain else (9, 64)))
    module = scheduled(function, *args, dynamic_shapes=(AUTO, AUTO) if varies else None)
    scripts = [f.script() for _, f in module.functions_items() if isinstance(f, T.tirx.PrimFunc)]
    assert sum(DOTS in script for script in scripts) == expected
    assert any("if" in script and DOTS in script for script in scripts) == (varies and expected > 0)
