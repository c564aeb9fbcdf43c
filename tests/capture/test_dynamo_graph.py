"""Graphs as dynamo gives them to a backend: sizes as ints, parameters as inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxpasses as fxp
from fxpasses.capture.dynamo import from_dynamo
from fxpasses.errors import InputError


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("fixed", torch.ones(4))
        self.plain = torch.ones(4)

    def forward(self, x: torch.Tensor, times: int = 3) -> dict[str, Any]:
        self.count.add_(1)
        with torch.no_grad():
            y = self.layers[0](x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = self.layers[1](y).float()
        y = z + self.plain * times + self.count * self.fixed
        pairs = y.view(x.shape[0] // 2, -1) if x.shape[0] % 2 == 0 else y
        return {"flat": y.view(-1), "size": x.shape[0] * 2, "pairs": pairs}


@pytest.fixture
def programs() -> list[fxp.Program]:
    torch._dynamo.reset()
    return []


def backend(programs: list[fxp.Program]) -> Callable[[fx.GraphModule, list[Any]], Callable[..., Any]]:
    """Runs the captured program in the place of the graph."""

    def compiler(graph_module: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        program = from_dynamo(graph_module, inputs)
        programs.append(program)
        return lambda *args: program(*[args[i] for i in program.notes["inputs"]])

    return compiler


@pytest.mark.parametrize("dynamic", [True, None], ids=["dynamic", "automatic"])
def test_backend_of_torch_compile(programs: list[fxp.Program], dynamic: bool | None) -> None:
    model = Model()
    reference = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend(programs), dynamic=dynamic)
    for batch, times in ((4, 3), (6, 5), (3, 7), (1, 2)):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(compiled(x, times), reference(x, times))
        torch.testing.assert_close(model.count, reference.count)
    assert len(programs) >= 3


def test_names_and_what_is_frozen(programs: list[fxp.Program]) -> None:
    model = Model()
    torch.compile(model, backend=backend(programs))(torch.randn(4, 4))
    (program,) = programs
    kinds = {n.meta["role"].target: n.meta["role"].kind for n in program.placeholders}
    assert kinds["layers.0.weight"] == "param"
    assert kinds["layers.1.bias"] == "param"
    assert kinds["fixed"] == "buffer"
    assert kinds["count"] == "user"
    assert program.mutations.keys() == {"count"}
    assert program.tensors["layers.0.weight"].data_ptr() == model.layers[0].weight.data_ptr()
    inputs, frozen = program.notes["inputs"], program.notes["frozen"]
    assert not set(inputs) & set(frozen)
    assert len(inputs) == 2
    assert len(frozen) == 6


def test_sizes_are_read_off_the_tensors(programs: list[fxp.Program]) -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, y]).view(x.shape[0] + y.shape[0], 2, -1)

    torch.compile(function, backend=backend(programs), dynamic=True)(torch.ones(3, 4), torch.ones(5, 4))
    (program,) = programs
    assert all(n.meta["role"].target.startswith("l_") for n in program.inputs)
    assert len(program.inputs) == 2
    assert program(torch.ones(2, 8), torch.ones(7, 8))[0].shape == (9, 2, 4)


def test_graph_kept_from_a_backend() -> None:
    found: list[Any] = []

    def keep(graph_module: fx.GraphModule, inputs: list[Any]) -> Any:
        found.append((graph_module, inputs))
        return graph_module.forward

    torch._dynamo.reset()
    linear, x = nn.Linear(4, 4), torch.randn(3, 4)
    torch.compile(linear, backend=keep, dynamic=True)(x)
    program = fxp.capture(*found[0])
    assert program.notes["via"] == "dynamo"
    assert set(program.tensors) == {"weight", "bias"}
    torch.testing.assert_close(program(x)[0], linear(x).detach())
    with pytest.raises(InputError, match="has 4 inputs"):
        fxp.capture(found[0][0], found[0][1][:1])
    with pytest.raises(InputError, match="one door, 'dynamo'"):
        fxp.capture(*found[0], via="export")
