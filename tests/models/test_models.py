"""Whole models: every door the same form, no islands, the numbers of eager, any batch size."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch.utils import _pytree as pytree

import fxpasses as fxp
from tests.models.zoo import DYNAMIC_BATCH, ZOO, Case

# Models of transformers check sizes with Python ifs, which symbolic_trace cannot follow.
SYMBOLIC = ("lstm_classifier", "mlp_batch_norm", "unet")


@functools.cache
def case(name: str) -> Case:
    return ZOO[name]()


@functools.cache
def canonical(name: str) -> fxp.Program:
    model, args, kwargs = case(name)
    return fxp.canonicalize(fxp.capture(model, args, kwargs, via="export"))


def eager(name, args=None, kwargs=None):
    model, own_args, own_kwargs = case(name)
    with torch.no_grad():
        return model(*(own_args if args is None else args), **(own_kwargs if kwargs is None else kwargs))


def assert_matches(got, want):
    assert type(got) is type(want)
    for given, expected in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
        # Sums of thousands of terms in another order: relative to the largest output, not to each.
        scale = expected.abs().max().item() if expected.is_floating_point() else 0.0
        torch.testing.assert_close(given, expected, rtol=0.0, atol=2e-5 * max(scale, 1e-6))


@pytest.mark.parametrize("name", ZOO)
def test_canonical_form(name):
    program = canonical(name)
    report = fxp.verify(program, "canonical", strict=True)
    assert not report, str(report)
    assert str(fxp.canonicalize(program)) == str(program)
    assert_matches(program.run(*case(name).args, **case(name).kwargs)[0], eager(name))


SLOW_IN_DYNAMO = ("mobilenet_v2", "swin")
BY_DISPATCH = ("lstm_classifier", "unet", "gpt2", "t5_encoder")
DOORS = [
    *(
        pytest.param(name, "dynamo", marks=pytest.mark.sweep if name in SLOW_IN_DYNAMO else ())
        for name in ZOO
    ),
    *((name, "symbolic_trace") for name in SYMBOLIC),
    *(pytest.param(name, "make_fx", marks=() if name in BY_DISPATCH else pytest.mark.sweep) for name in ZOO),
]


@pytest.mark.parametrize(("name", "via"), DOORS)
def test_all_doors_lead_to_one_form(name, via):
    model, args, kwargs = case(name)
    program = fxp.canonicalize(fxp.capture(model, args, kwargs, via=via))
    assert program.notes["via"] == via
    assert str(program) == str(canonical(name))
    assert fxp.fingerprint(program) == fxp.fingerprint(canonical(name))
    if via == "symbolic_trace":
        traced = fxp.canonicalize(fxp.capture(torch.fx.symbolic_trace(model), args, kwargs))
        assert str(traced) == str(canonical(name))
        assert {role.target for role in _roles(traced)} == {role.target for role in _roles(canonical(name))}


def _roles(program):
    return [node.meta["role"] for node in program.placeholders]


@pytest.mark.parametrize("name", ZOO)
def test_compiled_without_islands(name):
    model, args, kwargs = case(name)
    compiled = fxp.compile(canonical(name), strict=True)
    assert_matches(compiled(*args, **kwargs), eager(name))


@pytest.mark.parametrize("name", DYNAMIC_BATCH)
def test_one_compile_serves_every_batch(name):
    model, args, kwargs = case(name)
    batch = torch.export.Dim("batch", min=1, max=64)

    def resized(tensor, size):
        return torch.cat([tensor] * size)[:size].clone() if isinstance(tensor, torch.Tensor) else tensor

    shapes = pytree.tree_map(
        lambda leaf: {0: batch} if isinstance(leaf, torch.Tensor) else None, (args, kwargs)
    )
    dynamic = {**dict(zip(_names(model), shapes[0], strict=False)), **shapes[1]}
    compiled = fxp.compile(model, args, kwargs, dynamic_shapes=dynamic, strict=True)
    for size in (1, 2, 7, 33):
        new_args, new_kwargs = pytree.tree_map(lambda leaf, n=size: resized(leaf, n), (args, kwargs))
        assert_matches(compiled(*copy.deepcopy(new_args), **new_kwargs), eager(name, new_args, new_kwargs))


def _names(model):
    import inspect

    return list(inspect.signature(model.forward).parameters)
