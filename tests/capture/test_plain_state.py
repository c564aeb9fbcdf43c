"""A model whose next call computes something else, because of an attribute, is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.errors import CaptureError


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.step += 1
        return x + self.step


class Running(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sum = torch.zeros(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sum = self.sum + x
        return self.sum * 2


class FirstCall(nn.Module):
    first = True

    def __init__(self) -> None:
        super().__init__()
        self.options = {"first": True}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.options["first"]:
            self.options["first"] = False
            return x
        return x * 2


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kept = [torch.zeros(3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept[0] = self.kept[0] + x
        return self.kept[0]


class Inside(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Counter(), "self.step"),
        (Running(), "self.sum"),
        (FirstCall(), "self.options"),
        (Listed(), "self.kept"),
        (Inside(Counter()), "self.inner.step"),
        (torch.jit.script(Counter()), "self.step"),
        (torch.jit.script(Running()), "self.sum"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_state_that_would_be_lost(model: nn.Module, name: str) -> None:
    with pytest.raises(CaptureError, match=f"assigns {name} .*register_buffer"):
        fxp.capture(model, (torch.ones(3),))


def test_the_model_is_as_it_was() -> None:
    counter, first_call = Counter(), FirstCall()
    for model in (counter, first_call):
        with pytest.raises(CaptureError):
            fxp.capture(model, (torch.ones(3),))
        assert not model._forward_hooks
    assert counter.step == 0
    assert first_call.options == {"first": True}


def test_a_first_call_before_the_capture() -> None:
    model = FirstCall()
    x = torch.ones(3)
    model(x)
    torch.testing.assert_close(fxp.compile(model, (x,))(x), model(x))


class Harmless(nn.Module):
    """Attributes that are written and not read, or read only after they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.rows, self.shapes, self.last = 0, 0, [], None

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        self.rows = x.shape[0]
        self.shapes.append(tuple(x.shape))
        self.last = x * 2
        return self.last.reshape(self.rows, -1)


@pytest.mark.parametrize("dynamic", [None, {"x": {0: torch.export.Dim("n")}}], ids=["static", "dynamic"])
@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_attributes_that_play_no_part(dynamic: Any) -> None:
    model, x = Harmless(), torch.ones(3, 2, 2)
    compiled = fxp.compile(model, (x,), dynamic_shapes=dynamic)
    torch.testing.assert_close(compiled(x), (x * 2).reshape(3, -1))
    assert model.calls == 0
