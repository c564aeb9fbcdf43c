"""A loop over several axes whose lengths are known only at run time has the index of the memory they run through."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.export import Dim

from fxpasses.codegen.plain_indices import plain_indices
from fxpasses.relax import tvm_api as T
from tests.codegen.helpers import compiled_of

FUNCTIONS = {
    "flip 0": lambda x: x.flip(0),
    "flip 0 and 2": lambda x: x.flip(0, 2),
    "stack": lambda x: torch.stack([x, x * 2], 1),
    "concatenate": lambda x: torch.cat([x, x.flip(0)], 1),
    "slice of a pad": lambda x: torch.nn.functional.pad(x, (0, 0, 0, 0, 1, 2))[:, 1:] + 1,
    "sum": lambda x: x.flip(0).sum((1, 2, 3)),
    "maximum": lambda x: x.flip(0).amax((2, 3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_of_four_sizes(name):
    function = FUNCTIONS[name]
    example = torch.randn(2, 3, 4, 5)
    sizes = {at: Dim(letter, min=1 if "max" in name else 0) for at, letter in enumerate("abcd")}
    compiled = compiled_of(function, example, dynamic_shapes=(sizes,))
    for shape in itertools.product((1, 3), (1, 5), (1, 2, 7), (1, 16, 31)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), function(x))
    if "max" not in name:
        for shape in ((0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)):
            x = torch.randn(shape)
            torch.testing.assert_close(compiled(x), function(x))


def _index(made):
    """The index of a load behind the pass, where it is *made* of a loop variable and three sizes."""
    f, i, *sizes = (T.tirx.Var(name, "int64") for name in ("f", "i", "b", "c", "d"))
    a = T.tirx.decl_buffer((T.tirx.Var("n", "int64"),), "float32", "a", layout=None)
    index = made(f, i, *sizes)
    store = T.tirx.BufferStore(a, T.tirx.BufferLoad(a, [index]), [f])
    loop = T.tirx.For(f, T.tirx.IntImm("int64", 0), sizes[0], T.tirx.ForKind.SERIAL, store)
    function = T.tirx.PrimFunc([a, i, *sizes], loop)
    (found,) = plain_indices()(T.tvm.IRModule({"main": function}))["main"].body.body.value.indices
    return index, found, f


def _step(index, f):
    return T.Analyzer().simplify(T.tirx.Sub(_at(index, f, f + 1), index))


def _at(index, f, place):
    return T.tvm_ffi.structural_map(index, [(T.tirx.Var, lambda var: place if var.same_as(f) else var)])


PLAIN = {
    "three axes": lambda f, i, b, c, d: ((i * b + f // (c * d)) * c + f % (c * d) // d) * d + f % d,
    "sizes in another order": lambda f, i, b, c, d: f // (c * d) * (d * c) + f % (d * c) // d * d + f % d + i,
    "sums as sizes": lambda f, i, b, c, d: (
        f // ((c + 2) * (d - 1)) * ((c + 2) * (d - 1))
        + f % ((c + 2) * (d - 1)) // (d - 1) * (d - 1)
        + f % (d - 1)
    ),
    "a multiple": lambda f, i, b, c, d: (f // d * d + f % d) * 3 + i,
    "four axes": lambda f, i, b, c, d: (
        ((f // (b * c * d) * b + f % (b * c * d) // (c * d)) * c + f % (c * d) // d) * d + f % d
    ),
}

KEPT = {
    "another length": lambda f, i, b, c, d: f // d * c + f % d,
    "backwards": lambda f, i, b, c, d: f // d * d + (d - 1 - f % d),
    "a divisor that it is in": lambda f, i, b, c, d: (f + c) // (f + 1),
    "no multiple": lambda f, i, b, c, d: f % (c + d) // d * d + f // (c + d) * (c + d) + f % d,
}


@pytest.mark.parametrize("name", PLAIN)
def test_axes_side_by_side_are_one_index(name):
    index, plain, f = _index(PLAIN[name])
    assert _step(plain, f).script() in ("T.int64(1)", "T.int64(3)")
    for values in itertools.product((0, 1, 2), (3, 5), (2, 3), (2, 7), range(0, 60, 7)):
        assert _number(plain, f, *values) == _number(index, f, *values)


@pytest.mark.parametrize("name", KEPT)
def test_other_indices_stay(name):
    index, plain, _ = _index(KEPT[name])
    assert plain.same_as(index)


def _number(index, f, i, b, c, d, place):
    names = {"f": place, "i": i, "b": b, "c": c, "d": d}
    value = T.tvm_ffi.structural_map(
        index, [(T.tirx.Var, lambda var: T.tirx.IntImm("int64", names[var.name]))]
    )
    return int(T.Analyzer().simplify(value))
