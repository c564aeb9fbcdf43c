"""Everything that a program's data model holds, from capture through the passes to TVM and back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import fxpasses as fxp


class Case(NamedTuple):
    """A module, its arguments, and the dims that vary."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = {}
    dynamic_shapes: Any = None
    others: tuple[tuple[Any, ...], ...] = ()


class Lambda(nn.Module):
    """A module with tensors of its own, whose forward is given."""

    def __init__(self, function: Callable[..., Any], **tensors: Any) -> None:
        super().__init__()
        self.function = function
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Module):
                self.add_module(name, tensor)
            elif isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            elif isinstance(tensor, tuple):
                self.register_buffer(name, tensor[0], persistent=False)
            else:
                self.register_buffer(name, tensor)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


@dataclass
class Pair:
    """A container of the user's own."""

    left: torch.Tensor
    right: torch.Tensor


torch.export.register_dataclass(Pair, serialized_type_name="tests.Pair")
X = torch.randn(2, 3)
BATCH = torch.export.Dim("batch", min=1, max=64)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids))


class Positional(nn.Module):
    def forward(self, x: torch.Tensor, scale: int, flag: bool = True, name: str | None = None) -> Any:
        return (x * scale, scale) if flag else x


class Keywords(nn.Module):
    def forward(self, x: torch.Tensor, *, shift: torch.Tensor, scale: torch.Tensor | None = None) -> Any:
        return x + shift if scale is None else x * scale + shift


def _cache(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.cache[:, m.position : m.position + 1] = x[:, :1]
    m.total.add_(x.sum())
    return m.cache * m.total


def _in_place(m: Any, x: torch.Tensor) -> torch.Tensor:
    x.mul_(2)
    return x + 1


def _in_place_view(m: Any, x: torch.Tensor) -> torch.Tensor:
    x[:, 0].add_(5)
    return x.sum()


def _counter(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.count += 1
    return x * m.count


class Namesakes(nn.Module):
    """Arguments that are called like a parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.register_buffer("cache", torch.zeros(3))

    def forward(self, x: torch.Tensor, weight: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        cache.mul_(2)
        self.cache.add_(weight)
        return x * self.weight + weight - cache + self.cache


CASES: dict[str, Callable[[], Case]] = {
    "nested containers in and out": lambda: Case(
        Lambda(
            lambda m, batch, extra: {"sum": batch["a"] + batch["b"][0], "rest": [extra[0], (extra[1] * 2,)]}
        ),
        ({"a": X, "b": [X + 1]}, (X, X - 1)),
    ),
    "dataclass in and out": lambda: Case(
        Lambda(lambda m, pair: Pair(pair.left + pair.right, pair.left * 2)), (Pair(X, X + 1),)
    ),
    "keyword arguments": lambda: Case(Keywords(), (X,), {"shift": torch.ones(3), "scale": None}),
    "keyword arguments in another order": lambda: Case(
        Keywords(), (X,), {"scale": torch.full((3,), 2.0), "shift": torch.ones(3)}
    ),
    "constant arguments": lambda: Case(Positional(), (X, 3, True, "name")),
    "None and int outputs": lambda: Case(Lambda(lambda m, x: (None, x.relu(), 3, 2.5, True)), (X,)),
    "string output": lambda: Case(Lambda(lambda m, x: (x.relu(), "text")), (X,)),
    "no tensor output": lambda: Case(Lambda(lambda m, x: None), (X,)),
    "the same output twice": lambda: Case(Lambda(lambda m, x: (lambda y: (y, y))(x + 1)), (X,)),
    "an input as output": lambda: Case(Lambda(lambda m, x: (x, x + 1)), (X,)),
    "a parameter as output": lambda: Case(
        Lambda(lambda m, x: (m.w, x * m.w), w=nn.Parameter(torch.ones(3))), (X,)
    ),
    "unused input": lambda: Case(Lambda(lambda m, x, y: x + 1), (X, torch.ones(5))),
    "tied weights": lambda: Case(Tied(), (torch.tensor([[1, 2], [3, 6]]),)),
    "non-persistent buffer": lambda: Case(Lambda(lambda m, x: x * m.scale, scale=(torch.rand(3),)), (X,)),
    "lifted constant": lambda: Case(Lambda(lambda m, x: x + torch.tensor([1.0, 2.0, 3.0])), (X,)),
    "buffer mutation": lambda: Case(Lambda(_counter, count=torch.zeros(())), (X,)),
    "two mutated buffers, one in part": lambda: Case(
        Lambda(_cache, cache=torch.zeros(2, 4), total=torch.zeros(())).requires_grad_(False), (X,)
    ),
    "input mutation": lambda: Case(Lambda(_in_place), (X.clone(),)),
    "mutation of a view of an input": lambda: Case(Lambda(_in_place_view), (X.clone(),)),
    "buffer as output beside its mutation": lambda: Case(
        Lambda(lambda m, x: (m.count.add_(1), m.count.clone(), x)[1:], count=torch.zeros(2)), (X,)
    ),
    "old value of a mutated buffer": lambda: Case(
        Lambda(
            lambda m, x: (lambda old: (m.count.add_(x.sum()), old)[1])(m.count.clone()), count=torch.ones(2)
        ),
        (X,),
    ),
    "arguments and tensors of the same names": lambda: Case(
        Namesakes(), (X, torch.tensor([5.0, 6.0, 7.0]), torch.ones(3))
    ),
    "dynamic batch": lambda: Case(
        Lambda(lambda m, x: m.layer(x).relu(), layer=nn.Linear(3, 5)),
        (X,),
        dynamic_shapes=({0: BATCH},),
        others=tuple((torch.randn(n, 3),) for n in (1, 7, 33)),
    ),
    "size as output": lambda: Case(
        Lambda(lambda m, x: (x.shape[0] * 2, x.flatten())),
        (X,),
        dynamic_shapes=({0: BATCH},),
        others=((torch.randn(5, 3),), (torch.randn(1, 3),)),
    ),
    "two inputs that share a dim": lambda: Case(
        Lambda(lambda m, x, y: torch.cat([x, y], 1) @ m.w, w=torch.randn(5, 2)),
        (X, torch.randn(2, 2)),
        dynamic_shapes=({0: BATCH}, {0: BATCH}),
        others=((torch.randn(4, 3), torch.randn(4, 2)),),
    ),
}


def _fix_varargs(case: Case) -> Case:
    """`Lambda.forward` takes ``*args``, whose dynamic shapes are nested once more."""
    if isinstance(case.model, Lambda) and case.dynamic_shapes is not None:
        return case._replace(dynamic_shapes=(case.dynamic_shapes,))
    return case


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request: Any) -> Case:
    case = _fix_varargs(CASES[request.param]())
    for name in ("position",):
        setattr(case.model, name, 1)
    return case._replace(model=case.model.eval())


def capture(case: Case) -> fxp.Program:
    return fxp.capture(case.model, case.args, case.kwargs, dynamic_shapes=case.dynamic_shapes)


def states(program: fxp.Program) -> dict[str, torch.Tensor]:
    return {name: program.tensors[name].clone() for name in program.mutations if name in program.tensors}


def calls(case: Case) -> list[tuple[Any, ...]]:
    """Three calls; a case without other sizes is called with the same arguments."""
    return [case.args, *(case.others or (case.args, case.args))]


def assert_same_run(
    case: Case, subject: Callable[..., Any], state: Callable[[], dict[str, torch.Tensor]]
) -> None:
    """Outputs, written arguments and buffers agree with eager, call after call."""
    oracle = copy.deepcopy(case.model)
    for args in calls(case):
        expected_args, given_args = copy.deepcopy(args), copy.deepcopy(args)
        expected_kwargs, given_kwargs = copy.deepcopy(case.kwargs), copy.deepcopy(case.kwargs)
        with torch.no_grad():
            expected = oracle(*expected_args, **expected_kwargs)
        given = subject(*given_args, **given_kwargs)
        assert type(given) is type(expected)
        torch.testing.assert_close(_plain(given), _plain(expected))
        torch.testing.assert_close(_plain(given_args), _plain(expected_args))
        buffers = dict(oracle.named_buffers())
        for name, value in state().items():
            torch.testing.assert_close(value, buffers[name])


def _plain(value: Any) -> Any:
    return [
        leaf
        for leaf in torch.utils._pytree.tree_leaves(value)
        if leaf is not None and not isinstance(leaf, str)
    ]


def test_program_behaves_like_the_module(case):
    program = capture(case)
    before = copy.deepcopy(case.model.state_dict())
    assert_same_run(case, program, lambda: states(program))
    torch.testing.assert_close(case.model.state_dict(), before)  # the model's own tensors are untouched


def test_canonical_program_behaves_like_the_module(case):
    program = fxp.canonicalize(capture(case))
    assert not fxp.verify(program, "canonical"), str(fxp.verify(program, "canonical"))
    assert str(fxp.canonicalize(program)) == str(program)
    assert_same_run(case, program, lambda: states(program))


def test_compiled_program_behaves_like_the_module(case):
    compiled = fxp.compile(
        case.model, case.args, case.kwargs, dynamic_shapes=case.dynamic_shapes, strict=True
    )
    assert_same_run(case, compiled, lambda: dict(compiled.state))


def test_saved_program_behaves_like_the_module(case, tmp_path):
    compiled = fxp.compile(
        case.model, case.args, case.kwargs, dynamic_shapes=case.dynamic_shapes, strict=True
    )
    compiled.save(tmp_path / "model.fxp")
    loaded = fxp.load(tmp_path / "model.fxp")
    assert_same_run(case, loaded, lambda: dict(loaded.state))


def test_run_changes_nothing(case):
    program = capture(case)
    args, kwargs = copy.deepcopy((case.args, case.kwargs))
    before = states(program)
    _, mutations = program.run(*args, **kwargs)
    torch.testing.assert_close(_plain((args, kwargs)), _plain((case.args, case.kwargs)))
    torch.testing.assert_close(states(program), before)
    assert set(mutations) == set(program.mutations)


def test_round_trips(case, tmp_path):
    program = fxp.canonicalize(capture(case))
    again = fxp.Program.from_exported_program(program.to_exported_program())
    assert again.fingerprint == program.fingerprint
    assert_same_run(case, again, lambda: states(again))
    if "text" in [value for _, value in program.outputs]:
        with pytest.raises(fxp.errors.ArtifactError, match="output 1 is the string 'text'"):
            program.save(tmp_path / "program.pt2")
        return
    program.save(tmp_path / "program.pt2")
    stored = fxp.canonicalize(fxp.capture(tmp_path / "program.pt2"))
    assert stored.fingerprint == program.fingerprint
    assert_same_run(case, stored, lambda: states(stored))


def test_to_module(case):
    program = capture(case)
    module = program.to_module()
    assert isinstance(module, nn.Module)
    assert_same_run(case, module, dict)
