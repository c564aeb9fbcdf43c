"""Loops made of axes of unknown sizes are loops over each axis: each place once, and none divided for."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

from fxpasses.benchmark.threads import torch_threads
from fxpasses.codegen.axes_apart import axes_apart
from fxpasses.codegen.schedules.expressions import returning_none
from fxpasses.relax import tvm_api as T
from tests.codegen.helpers import compiled_of

FUNCTIONS = {
    "slice": lambda x: x[:, 1:] + 1,
    "slice of two": lambda x: x[:, :, 1:, 1:] * 2,
    "flip": lambda x: x.flip(1),
    "pad": lambda x: F.pad(x, (0, 0, 2, 1, 1, 0)),
    "broadcast": lambda x: x + x[:, :1] * x[:1, :, :1],
    "sum": lambda x: x.sum(-1) + 1,
    "sum between": lambda x: x.sum(2),
    "softmax": lambda x: x.softmax(-1),
    "argmax": lambda x: x.argmax(-1),
    "sort": lambda x: x.sort(-1).values,
    "product": lambda x: x @ x.mT,
    "permute": lambda x: x.permute(2, 0, 3, 1) + 1,
}
SIZES = (
    (1, 1, 1), (1, 1, 2000), (2000, 1, 1), (1, 2000, 1), (2, 3, 5), (7, 1, 40), (3, 31, 33), (1, 64, 65), (5, 128, 2),
)  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_four_sizes(name):
    function = FUNCTIONS[name]
    sizes = {at: Dim(letter, min=1) for at, letter in enumerate("abcd")}
    compiled = compiled_of(function, torch.randn(2, 3, 4, 5), dynamic_shapes=(sizes,))
    for count, lead, width in itertools.product((1, 2), SIZES, (1, 2, 17)):
        x = torch.randint(-9, 9, (*lead, width)) / 8
        with torch_threads(count):
            torch.testing.assert_close(compiled(x), function(x))


@pytest.mark.parametrize("name", ["flip", "sum", "permute", "product"])
@pytest.mark.parametrize("none", range(3))
def test_a_size_of_none(name, none):
    function = FUNCTIONS[name]
    sizes = {at: Dim(letter, min=0) for at, letter in enumerate("abc")}
    compiled = compiled_of(function, torch.randn(2, 3, 4, 5), dynamic_shapes=(sizes,))
    for shape in ((7, 6, 8), (1, 1, 1)):
        x = torch.randn(*(0 if at == none else size for at, size in enumerate(shape)), 5)
        torch.testing.assert_close(compiled(x), function(x))


def _written(body, kind):
    """A loop over *n* steps with a statement of its place, by the pass; the loops and the quotients in it."""
    n, m, c, f = (T.tirx.Var(name, "int64") for name in ("n", "m", "c", "f"))
    a = T.tirx.decl_buffer((n,), "int64", "a", layout=None)
    loop = T.tirx.For(f, T.tirx.IntImm("int64", 0), n, kind, T.tirx.BufferStore(a, body(f, m, c), [f]))
    function = axes_apart()(T.tvm.IRModule({"main": T.tirx.PrimFunc([a, m, c], loop)}))["main"]
    loops, quotients = [], []
    T.tvm_ffi.structural_walk(function.body, (T.tirx.For, returning_none(loops.append)))
    innermost = next(loop for loop in loops if not isinstance(loop.body, T.tirx.For)).body
    kinds = [(kind, returning_none(quotients.append)) for kind in (T.tirx.FloorDiv, T.tirx.FloorMod)]
    T.tvm_ffi.structural_walk(innermost, kinds)
    return len(loops), len(quotients)


@pytest.mark.parametrize(("kind", "around"), [("SERIAL", 0), ("PARALLEL", 1)])
def test_what_is_taken_apart(kind, around):
    kind, div, mod = getattr(T.tirx.ForKind, kind), T.tirx.floordiv, T.tirx.floormod
    assert _written(lambda f, m, c: div(f, m) * 3 + mod(f, m), kind) == (2 + around, 0)
    assert _written(lambda f, m, c: div(f, m * c) + div(mod(f, m * c), c) + mod(f, m * c), kind) == (
        3 + around,
        0,
    )
    assert _written(lambda f, m, c: f + m, kind) == (1, 0)
    assert _written(lambda f, m, c: div(f, T.tirx.IntImm("int64", 7)), kind) == (1, 1)
    assert _written(lambda f, m, c: div(f + c, m), kind) == (1, 1)
