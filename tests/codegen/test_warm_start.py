"""A model that was compiled before is neither captured nor lowered again, and computes what it says now."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import fxpasses as fxp
from fxpasses.codegen import cache, compile
from fxpasses.errors import IndexRangeError

pytestmark = pytest.mark.usefixtures("cache_folder")


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each model that is captured."""
    done: list[str] = []
    to_program = compile.to_program
    monkeypatch.setattr(compile, "to_program", lambda *args: (done.append("captured"), to_program(*args))[1])
    return done


def agrees(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Compile *model* and hold it against eager; both start from one state, and both change theirs twice."""
    compiled = fxp.compile(model, args, kwargs)
    for _ in range(2):
        results, expected = compiled(*args, **kwargs), model(*args, **kwargs)
        assert pytree.tree_structure(results) == pytree.tree_structure(expected)
        torch.testing.assert_close(pytree.tree_leaves(results), pytree.tree_leaves(expected))
    return compiled


class Convolutions(nn.Module):
    """Batch norms to fold, weights to pack, channels to turn, a uniform buffer that becomes a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 64, 3, stride=2), nn.Linear(64, 5)
        self.register_buffer("ones", torch.ones(64))
        self.norm.running_mean.normal_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.norm(self.first(x)).relu()).mean((2, 3)) * self.ones
        return self.head(x + torch.linspace(0, 1, 64))


class Counter(nn.Module):
    """Changes a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(x)
        return x * self.count


@dataclasses.dataclass
class Result:
    values: torch.Tensor
    scale: float


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> dict[str, Any]:
        return {"result": Result(self.linear(x) * scale, scale), "x": x, "more": [x.argmax(-1), None]}


class Island(nn.Module):
    """Eigenvalues that span several powers of ten: in float32 the small ones depend on the order of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x @ self.weight @ self.weight.T @ x.T)


class Groups(nn.Module):
    """A product whose shape torch tells for bfloat16 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(2, 4, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.grouped_mm(x, self.experts, offs=torch.tensor([1, 3], dtype=torch.int32))


class Rounded(nn.Module):
    """Its decomposition makes tensors of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(self.linear(x), 0.1, 3, 0, 255)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, self.linear(x), x.sin()) + torch.arange(4)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...], dict[str, Any]]] = {
    "convolutions": (Convolutions, (torch.randn(1, 3, 12, 12),), {}),
    "buffer": (Counter, (torch.ones(3),), {}),
    "structured": (Structured, (torch.randn(2, 4),), {"scale": 3.0}),
    "island": (Island, (torch.randn(3, 4, dtype=torch.float64),), {}),
    "groups": (Groups, (torch.randn(3, 4),), {}),
    "rounded": (Rounded, (torch.randn(3, 4),), {}),
    "lstm": (lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True), (torch.randn(7, 2, 4),), {}),
    "attention": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True),
        (torch.randn(2, 5, 8),),
        {},
    ),
    "embedding": (lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), (torch.tensor([[1, 8]]),), {}),
    "complex": (lambda: nn.Sequential(nn.Linear(4, 4, dtype=torch.complex64)), (torch.randn(2, 4) + 1j,), {}),
    "bfloat16": (lambda: nn.Linear(4, 40, dtype=torch.bfloat16), (torch.randn(2, 4).bfloat16(),), {}),
    "branches": (Branches, (torch.randn(3, 4),), {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_second_time_nothing_is_captured(captures, name):
    make, args, kwargs = MODELS[name]
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(make().eval())
        agrees(models[-1], *args, **kwargs)
    assert captures == ["captured"]


@pytest.mark.parametrize("name", MODELS)
def test_other_weights_are_those_that_count(name):
    make, args, kwargs = MODELS[name]
    for seed in range(2):
        torch.manual_seed(seed)
        agrees(make().eval(), *args, **kwargs)


def test_weights_that_a_pass_takes_for_a_number_are_looked_at(captures):
    model = Convolutions().eval()
    x = torch.randn(1, 3, 12, 12)
    agrees(model, x)
    with torch.no_grad():
        model.ones[3] = 2.0
    agrees(model, x)
    model.ones[3] = 1.0
    agrees(model, x)
    assert len(captures) == 2


def test_the_program_has_weights_of_its_own(captures):
    model, x = Structured().eval(), torch.randn(2, 4)
    kept = model.linear.weight.detach().clone()
    for _ in range(2):
        compiled = fxp.compile(model, (x,))
        before = compiled(x)["result"].values
        with torch.no_grad():
            model.linear.weight.add_(1)
            torch.testing.assert_close(compiled(x)["result"].values, before, rtol=0, atol=0)
            model.linear.weight.copy_(kept)
    assert captures == ["captured"]


def test_code_that_has_changed_is_captured_anew(captures):
    model, x = Structured().eval(), torch.randn(2, 4)
    agrees(model, x)
    model.forward = lambda x: {"result": model.linear(x).relu()}
    agrees(model, x)
    agrees(model, x)
    assert len(captures) == 2


@pytest.mark.parametrize(
    "options", [{"strict": True}, {"checked": False}, {"target": {"kind": "llvm", "mcpu": "x86-64"}}]
)
def test_other_options_are_another_program(captures, options):
    model, x = Structured().eval(), torch.randn(2, 4)
    agrees(model, x)
    torch.testing.assert_close(
        fxp.compile(model, (x,), **options)(x)["result"].values, model(x)["result"].values
    )
    assert len(captures) == 2


def test_errors_name_the_line_of_the_model(captures):
    model, i = MODELS["embedding"][0]().eval(), torch.tensor([[1, 8]])
    said = []
    for _ in range(2):
        with pytest.raises(IndexRangeError) as error:
            fxp.compile(model, (i,))(i + 1)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert captures == ["captured"]


def test_dynamic_sizes_and_own_pipelines_are_captured(captures):
    model, x = Structured().eval(), torch.randn(2, 4)
    for _ in range(2):
        fxp.compile(model, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        fxp.compile(model, (x,), optimize=fxp.Pipeline())
    assert len(captures) == 4


def test_random_numbers_are_those_of_the_model(captures):
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train(), torch.randn(2, 4)
    for _ in range(2):
        compiled = fxp.compile(model, (x,), allow_random=True)
        torch.manual_seed(3)
        result = compiled(x)
        torch.manual_seed(3)
        torch.testing.assert_close(result, model(x))
    assert captures == ["captured"]


def test_a_function_and_the_tensors_around_it(captures):
    net, factor = nn.Linear(4, 4), torch.randn(4)

    def call(x: torch.Tensor) -> torch.Tensor:
        return net(x) * factor

    x = torch.randn(2, 4)
    agrees(call, x)
    agrees(call, x)
    assert captures == ["captured"]
    factor.add_(1)
    agrees(call, x)
    assert len(captures) == 2


def test_arguments_that_are_changed(captures):
    def change(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        return x + y

    for _ in range(2):
        compiled = fxp.compile(change, (torch.ones(3), torch.ones(3)))
        x = torch.arange(3.0)
        torch.testing.assert_close(compiled(x, torch.ones(3)), torch.tensor([1.0, 3.0, 5.0]))
        torch.testing.assert_close(x, torch.tensor([0.0, 2.0, 4.0]))
    assert captures == ["captured"]


def test_code_that_was_removed_is_built_again(captures):
    model, x = Structured().eval(), torch.randn(2, 4)
    agrees(model, x)
    for path, _, _ in cache.entries():
        if path.name.startswith("code"):
            path.unlink()
    agrees(model, x)
    assert len(captures) == 2
    agrees(model, x)
    assert len(captures) == 2


def test_a_program_from_the_cache_can_be_saved(tmp_path, captures):
    model, x = MODELS["convolutions"][0]().eval(), MODELS["convolutions"][1][0]
    for _ in range(2):
        fxp.compile(model, (x,)).save(tmp_path / "net.fxp")
        torch.testing.assert_close(fxp.load(tmp_path / "net.fxp")(x), model(x))
    assert captures == ["captured"]
