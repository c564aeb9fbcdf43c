"""The log of calls: equal for equal programs, other for others, and the model stays as it was."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fxpasses.capture.call_log import call_log
from fxpasses.capture.source import make_source

X = torch.randn(2, 4)


def digest(model: Any, *args: Any, **kwargs: Any) -> str | None:
    log = call_log(make_source(model, args, kwargs))
    return None if log is None else log.digest


class Net(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))
        self.other = options.pop("other", torch.ones(4))
        self.options = {"slope": 0.5, "assign": False, "swap": False, "inplace": False, **options}

    def forward(self, x: torch.Tensor) -> Any:
        y = torch.nn.functional.leaky_relu(self.linear(x), self.options["slope"])
        seen = self.seen + 1
        if self.options["assign"]:
            self.seen = seen
        if self.options["inplace"]:
            self.seen.add_(1)
        results = (y * self.other, y.sum())
        return results[::-1] if self.options["swap"] else results


def test_two_models_of_one_kind_have_one_log():
    torch.manual_seed(1)
    first = digest(Net(), X)
    torch.manual_seed(2)
    assert first is not None
    assert digest(Net(), torch.randn(2, 4)) == first


@pytest.mark.parametrize(
    "options",
    [
        {"slope": 0.25},
        {"slope": 1},
        {"assign": True},
        {"inplace": True},
        {"swap": True},
        {"other": torch.full((4,), 2.0)},
        {"other": torch.ones(4, dtype=torch.float64)},
        {"other": torch.ones(8)[::2]},
    ],
    ids=str,
)
def test_what_the_model_does_is_in_the_log(options):
    assert digest(Net(), X) != digest(Net(**options), X) is not None


def test_an_int_and_a_float_are_not_the_same():
    assert digest(lambda x: x + 1, X) != digest(lambda x: x + 1.0, X)


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.randn(3, 4),),
        (X.double(),),
        (torch.randn(4, 2).T,),
        (torch.randn(2, 8)[:, ::2],),
        (torch.randn(5, 4)[3:],),
        (nn.Parameter(X),),
    ],
)
def test_what_the_arguments_are_is_in_the_log(arguments):
    assert digest(Net(), *arguments) != digest(Net(), X)


def test_values_of_arguments_count_where_they_are_no_tensors():
    def scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * 2 if factor > 0 else x

    assert digest(scaled, X, 1.0) != digest(scaled, X, 2.0)
    assert digest(scaled, X, 1.0) != digest(scaled, X, factor=1.0)


def test_names_of_arguments_and_containers_of_results_count():
    assert digest(lambda a: (a, a), X) != digest(lambda b: (b, b), X)
    assert digest(lambda a: (a, a), X) != digest(lambda a: [a, a], X)


def test_parameters_that_share_memory_count_and_arguments_do_not():
    """Arguments that do so in the example are captured apart."""

    def both(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a.add_(1)
        return a + b

    assert digest(both, X, X.view(2, 4)) == digest(both, X, X) == digest(both, X, X.clone())
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = digest(tied, X)
    assert before == digest(plain, X)
    tied[1].weight = tied[0].weight
    assert digest(tied, X) != before


def test_constants_made_on_the_way_count():
    assert digest(lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]), X) != digest(
        lambda x: x + torch.tensor([1.0, 2.0, 3.0, 5.0]), X
    )


class Counts(nn.Module):
    """Assigns a plain attribute; *reads* tells whether it plays a part."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads, self.calls, self.window = reads, 0, 7

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.window = min(self.window, x.shape[-1])
        return x * (self.calls if self.reads else self.window)


class Keeps(nn.Module):
    """Puts a tensor into an attribute."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.last, self.all, self.named = where, None, [], {"last": None}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        if self.where == "attribute":
            self.last = y
        elif self.where == "list":
            self.all.append(y)
        elif self.where == "dict":
            self.named["last"] = y
        else:
            self.new = y
        return y


class Hooks(nn.Module):
    """Puts a hook and a module in place in its first call, as some models do that collect what is on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(4, 4), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "ready"):
            self.linear.register_forward_hook(lambda module, args, output: output * 2)
            self.more = nn.Identity()
            self.ready = True
        return self.more(self.linear(x))


def test_a_model_that_changes_itself_in_its_first_call():
    model = Hooks()
    assert digest(model, X) is None
    assert not model.linear._forward_hooks
    assert [*model._modules] == ["linear"]
    assert not hasattr(model, "ready")
    torch.testing.assert_close(model(X), model.linear(X))
    assert digest(model, X) is not None


@pytest.mark.parametrize("where", ["attribute", "list", "dict", "new"])
def test_a_model_that_keeps_tensors_has_none_and_stays_as_it_was(where):
    model = Keeps(where)
    assert digest(model, X) is None
    assert (model.last, model.all, model.named) == (None, [], {"last": None})
    assert not hasattr(model, "new")


def test_tensors_that_a_function_keeps_are_forgotten():
    @functools.lru_cache
    def mask(size: int) -> tuple[torch.Tensor, int]:
        return torch.ones(size, size).tril(), size

    @functools.cache
    def other(size: int) -> int:
        return size

    def model(x: torch.Tensor) -> torch.Tensor:
        return mask(x.shape[-1])[0] * other(3)

    assert digest(model, X) is None
    assert mask.cache_info().currsize == 0
    assert other.cache_info().currsize == 1
    torch.testing.assert_close(model(X), torch.ones(4, 4).tril() * 3)
    assert digest(model, X) is not None  # what is kept now is a tensor


def test_attributes_with_numbers():
    model = Counts(reads=False)
    assert digest(model, X) is not None
    assert digest(Counts(reads=True), X) is None
    assert (model.calls, model.window) == (0, 7)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[x > 0],
        lambda x: x * 2 if x.sum() > 0 else x,
        lambda x: torch.ops.aten.normal_.default(x.clone(), generator=torch.Generator()),
        lambda x: torch.cond(x.shape[0] > 1, lambda y: y + 1, lambda y: y - 1, (x,)).foo,
    ],
)
def test_what_cannot_be_told_has_none(function):
    assert digest(function, X) is None


@pytest.mark.parametrize(
    ("make", "args"),
    [
        (lambda: nn.LSTM(4, 3), (torch.randn(5, 2, 4),)),
        (lambda: nn.BatchNorm1d(4).train(), (X,)),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train(), (X,)),
        (lambda: nn.MultiheadAttention(4, 2, batch_first=True).eval(), (torch.randn(1, 3, 4),) * 3),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), (X,)),
    ],
)
def test_the_model_stays_as_it_was(make: Callable[[], nn.Module], args: tuple[Any, ...]):
    model = make()
    state = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    attributes = {name: dict(module.__dict__) for name, module in model.named_modules()}
    random = torch.get_rng_state()
    first, second = digest(model, *args), digest(model, *args)
    assert first == second is not None
    assert torch.equal(torch.get_rng_state(), random)
    after = model.state_dict(keep_vars=True)
    for name, (tensor, value) in state.items():
        assert after[name] is tensor
        torch.testing.assert_close(tensor, value, rtol=0, atol=0)
    for name, module in model.named_modules():
        assert attributes[name].keys() == module.__dict__.keys()
    model(*args)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 4, device="meta"),
        torch.eye(2, 4).to_sparse(),
        torch.quantize_per_tensor(torch.ones(2, 4), 1.0, 0, torch.quint8),
    ],
    ids=["meta", "sparse", "quantized"],
)
def test_tensors_without_plain_memory_have_none(tensor):
    model = nn.Module()
    model.register_buffer("buffer", tensor)
    model.forward = lambda x: x + 1
    assert digest(model, X) is None
    assert digest(lambda x: x, tensor) is None


def test_what_it_prints_and_warns_of_is_told_when_asked(capsys):
    def talks(x: torch.Tensor) -> torch.Tensor:
        print("hello")
        warnings.warn("careful", stacklevel=2)
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = call_log(make_source(talks, (X,), {}))
    assert log is not None
    assert capsys.readouterr().out == ""
    with pytest.warns(UserWarning, match="careful"):
        log.tell()
    assert capsys.readouterr().out == "hello\n"
