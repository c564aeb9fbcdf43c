"""Recipes: the steps that tensors come from, and no others, give the same tensors from other ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fxpasses.codegen.recipe import Listener, Recipe
from fxpasses.codegen.steps import Step, run_steps
from fxpasses.dialect.linear import pack_matrix

Tensors = dict[str, torch.Tensor]


def recorded(
    make: Callable[..., Tensors], *inputs: torch.Tensor
) -> tuple[Recipe, Tensors, list[torch.Tensor]]:
    with Listener(inputs) as listener:
        made = make(*inputs)
    return Recipe.from_data(listener.recipe(made).to_data()), made, listener.inputs


def through_views(a: torch.Tensor) -> Tensors:
    whole = a.new_zeros(4, 6)
    left, right = whole.split(3, dim=1)
    left.copy_(a)
    right[1:].add_(a[1:], alpha=2)
    lost = a.exp()
    lost.add_(1)
    whole.T[2].neg_()
    return {"whole": whole, "left": left, "same": a, "row": whole[1]}


def several_results(a: torch.Tensor) -> Tensors:
    values, places = a.sort(dim=1)
    return {"values": values, "places": places, "largest": torch.cat((a.topk(2).values, values), dim=1)}


def with_constants(a: torch.Tensor) -> Tensors:
    steps = torch.tensor([1.0, 2.0, 3.0])
    result = a * steps
    steps.mul_(10)
    return {
        "result": result,
        "steps": steps,
        "dtype": a.to(torch.bfloat16),
        "zeros": torch.zeros(2, dtype=torch.int8),
    }


def packed(a: torch.Tensor) -> Tensors:
    return {"ragged": pack_matrix(a, 2), "whole": pack_matrix(a.t(), 4), "wide": pack_matrix(a, 8)}


@pytest.mark.parametrize("make", [through_views, several_results, with_constants, packed])
def test_the_steps_give_the_same_from_other_tensors(make):
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    recipe, made, inputs = recorded(make, first)
    for source, expected in ((first, made), (second, make(second))):
        again = recipe.run([source, *(tensor.clone() for tensor in inputs[1:])])
        assert again.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (again[name].stride(), again[name].dtype) == (tensor.stride(), tensor.dtype)
            torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)


def test_steps_that_nothing_comes_from_are_left_out():
    recipe, *_ = recorded(through_views, torch.randn(4, 3))
    assert not any(step.op.startswith("aten::exp") for step in recipe.steps)
    assert recorded(lambda a: {"a": a}, torch.randn(3))[0].steps == ()


def test_what_passes_do_with_fake_tensors_is_no_step():
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.randn(3))

    def make(a: torch.Tensor) -> Tensors:
        fake.exp()
        return {"result": a + 1}

    assert [step.op for step in recorded(make, torch.randn(3))[0].steps] == ["aten::add.Tensor"]


@pytest.mark.parametrize(
    "make",
    [
        lambda a: {"result": torch.rand(3, generator=torch.Generator())},
        lambda a: {"result": a.clone().uniform_(generator=torch.Generator())},
    ],
)
def test_a_call_that_is_no_data_gives_no_recipe(make):
    with Listener([]) as listener:
        made = make(torch.randn(3))
    with pytest.raises(KeyError, match="no data"):
        listener.recipe(made)


def test_a_tensor_that_no_call_made_gives_no_recipe():
    with Listener([]) as listener:
        pass
    with pytest.raises(KeyError):
        listener.recipe({"a": torch.randn(3)})


def test_results_go_when_nothing_reads_them_any_more(monkeypatch):
    alive: list[int] = []
    seen: list[Any] = []
    original = torch.ops.aten.exp.default

    class Counting:
        def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
            alive.append(sum(ref() is not None for ref in seen))
            result = original(tensor)
            seen.append(weakref.ref(result))
            return result

    monkeypatch.setattr("fxpasses.codegen.steps._resolve", lambda name: Counting())
    steps = [Step("aten::exp.default", [{"tensor": 0}], {})]
    steps += [Step("aten::exp.default", [{"result": [i, 0]}], {}) for i in range(4)]
    (result,) = run_steps(steps, [(4, 0)])([torch.randn(3)], ())
    assert alive == [0, 1, 1, 1, 1]
    assert result.shape == (3,)
