"""Conditions go around the loops that do not change them: rows of many sizes that are not known run in vectors."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.export import Dim

from fxpasses.benchmark.threads import torch_threads
from fxpasses.codegen.outer_conditions import conditions_outside
from fxpasses.relax import tvm_api as T
from tests.codegen.helpers import compiled_of

FUNCTIONS = {
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "normalize": lambda x: torch.nn.functional.normalize(x, dim=-1),
    "layer_norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
    "max": lambda x: x.max(-1),
    "sum of two": lambda x: (x + 1).sum((-2, -1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_of_four_sizes(name):
    function = FUNCTIONS[name]
    sizes = {at: Dim(letter, min=1 if at == 3 else 0) for at, letter in enumerate("abcd")}
    compiled = compiled_of(function, torch.randn(2, 3, 4, 5), dynamic_shapes=(sizes,))
    for count, lead, width in itertools.product(
        (1, 2), ((1, 1, 1), (2, 0, 3), (2, 3, 5), (7, 1, 40)), (1, 2, 15, 16, 17, 64, 129)
    ):
        x = torch.randn(*lead, width)
        with torch_threads(count):
            torch.testing.assert_close(compiled(x), function(x), rtol=1e-5, atol=1e-5)


def _outside(body):
    n, m = (T.tirx.Var(name, "int64") for name in "nm")
    a = T.tirx.decl_buffer((n,), "float32", "a", layout=None)
    i, j = (T.tirx.Var(name, "int64") for name in "ij")
    condition, value = body(a, n, m, i, j)
    zero = T.tirx.IntImm("int64", 0)
    inner = T.tirx.IfThenElse(condition, T.tirx.BufferStore(a, value, [j]), None)
    loops = inner
    for var, extent in ((j, n), (i, m)):
        loops = T.tirx.For(var, zero, extent, T.tirx.ForKind.SERIAL, loops)
    function = T.tirx.PrimFunc([a, m], loops)
    return conditions_outside()(T.tvm.IRModule({"main": function}))["main"].body


def test_a_condition_goes_up_to_the_loop_that_changes_it():
    one = T.tirx.const(1.0, "float32")
    around = _outside(lambda a, n, m, i, j: (i < n, one))
    assert isinstance(around.body, T.tirx.IfThenElse)
    assert isinstance(around.body.then_case, T.tirx.For)
    assert isinstance(_outside(lambda a, n, m, i, j: (m < n, one)), T.tirx.IfThenElse)
    kept = _outside(lambda a, n, m, i, j: (j < m, one))
    assert isinstance(kept.body, T.tirx.For)


def test_a_condition_on_what_is_stored_stays():
    one = T.tirx.const(1.0, "float32")
    zero = T.tirx.IntImm("int64", 0)
    kept = _outside(lambda a, n, m, i, j: (T.tirx.BufferLoad(a, [zero]) < one, one))
    assert isinstance(kept.body.body, T.tirx.IfThenElse)
