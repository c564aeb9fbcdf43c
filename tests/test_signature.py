"""The messages of a call that does not fit, from an eager program and a compiled one alike."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp
from fxpasses.errors import InputError
from fxpasses.signature import Signature


class Model(torch.nn.Module):
    def forward(self, x, batch, *, scale, mode="sum"):
        y = torch.cat([x, batch["y"]], 1)
        return (y * scale).sum(1) if mode == "sum" else y


N = torch.export.Dim("n", min=1, max=16)
ARGS = (torch.randn(2, 3), {"y": torch.randn(2, 4)})
KWARGS = {"scale": torch.ones(7), "mode": "sum"}


@pytest.fixture(scope="module")
def program():
    shapes = {"x": {0: N}, "batch": {"y": {0: N}}, "scale": None, "mode": None}
    return fxp.capture(Model(), ARGS, KWARGS, dynamic_shapes=shapes)


@pytest.fixture(scope="module", params=["eager", "compiled"])
def call(request, program):
    return program if request.param == "eager" else fxp.compile(program)


def x(*size, **options):
    return torch.zeros(*size, **options)


BAD = {
    "missing argument": (lambda call: call(ARGS[0], **KWARGS), r"missing argument \"batch\['y'\]\""),
    "missing keyword": (lambda call: call(*ARGS, mode="sum"), r"missing argument 'scale'"),
    "unexpected keyword": (lambda call: call(*ARGS, **KWARGS, more=1), r"unexpected argument 'more'"),
    "too many": (lambda call: call(*ARGS, 1, **KWARGS), r"3 positional arguments given, 2 expected"),
    "wrong dtype": (
        lambda call: call(x(2, 3, dtype=torch.float64), ARGS[1], **KWARGS),
        r"argument 'x': expected float32\[.*, 3\], got float64\[2, 3\]; convert it with .to\(torch.float32\)",
    ),
    "wrong rank": (
        lambda call: call(x(3), ARGS[1], **KWARGS),
        r"argument 'x': expected 2 dims .*got float32\[3\]",
    ),
    "wrong size": (
        lambda call: call(x(2, 5), ARGS[1], **KWARGS),
        r"argument 'x': dim 1 is 5, expected 3 .*must be named in dynamic_shapes",
    ),
    "sizes that should agree": (
        lambda call: call(x(3, 3), ARGS[1], **KWARGS),
        r"argument \"batch\['y'\]\": dim 0 is 2, but .* is 3 by an earlier argument",
    ),
    "out of range": (
        lambda call: call(x(17, 3), {"y": x(17, 4)}, **KWARGS),
        r"argument 'x': dim 0 is 17, outside the range \[1, 16\]",
    ),
    "no tensor": (lambda call: call([1.0], ARGS[1], **KWARGS), r"nested differently"),
    "a number for a tensor": (
        lambda call: call(1.0, ARGS[1], **KWARGS),
        r"argument 'x': a tensor .*got 1.0 of type float",
    ),
    "another nesting": (lambda call: call(ARGS[0], [ARGS[1]["y"]], **KWARGS), r"nested differently"),
    "another constant": (
        lambda call: call(*ARGS, scale=KWARGS["scale"], mode="none"),
        r"argument 'mode': the program was captured with the constant 'sum'.*capture again",
    ),
    "sparse": (
        lambda call: call(x(2, 3).to_sparse(), ARGS[1], **KWARGS),
        r"argument 'x': a dense tensor expected.*\.to_dense\(\)",
    ),
    "meta device": (
        lambda call: call(x(2, 3, device="meta"), ARGS[1], **KWARGS),
        r"argument 'x': a CPU tensor expected, got one on meta",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_calls(name, call):
    attempt, message = BAD[name]
    with pytest.raises(InputError, match=message):
        attempt(call)


def test_good_calls(call):
    for n in (1, 2, 16):
        a, b = torch.randn(n, 3), torch.randn(n, 4)
        expected = Model()(a, {"y": b}, **KWARGS)
        torch.testing.assert_close(call(a, {"y": b}, mode="sum", scale=KWARGS["scale"]), expected)


def test_positional_arguments_may_be_given_by_name():
    def weighted(x, pair, scale, *, shift):
        return x * scale + pair[0] - pair[1] + shift

    a, b, c, d, e = torch.randn(5, 3).unbind()
    program = fxp.capture(weighted, (a, (b, c), d), {"shift": e})
    for call in (program, fxp.compile(program)):
        expected = weighted(a, (b, c), d, shift=e)
        torch.testing.assert_close(call(a, (b, c), shift=e, scale=d), expected)
        with pytest.raises(InputError, match="unexpected argument 'x'"):
            call(a, (b, c), d, shift=e, x=a)
        with pytest.raises(InputError, match=r"unexpected argument 'pair'"):
            call(x=a, pair=(b, c), scale=d, shift=e)


def test_derived_dims_are_checked():
    n = torch.export.Dim("n", min=1, max=64)
    program = fxp.capture(
        Derived(), (torch.zeros(2), torch.zeros(5)), dynamic_shapes=({0: n}, {0: 2 * n + 1})
    )
    torch.testing.assert_close(program(torch.ones(3), torch.ones(7)), torch.ones(3) * 7)
    with pytest.raises(InputError, match=r"argument 'y': dim 0 is 6, expected 2\*.* \+ 1 = 7"):
        program(torch.ones(3), torch.ones(6))


class Derived(torch.nn.Module):
    def forward(self, x, y):
        return x * y.sum()


def test_json_round_trip(program):
    signature = program.signature
    again = Signature.from_json(signature.to_json())
    assert again == signature
    leaves = again.flatten(ARGS, KWARGS)
    assert again.check(leaves) == signature.check(leaves)
