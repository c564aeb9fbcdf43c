"""The law of capture: every door gives the same canonical text and fingerprint."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

import fxpasses as fxp
from fxpasses.capture import DOORS
from fxpasses.errors import CaptureError
from tests.capture.models import EXAMPLES, example


def _dynamo_graph(model: Any, args: Any) -> fxp.Program:
    found: list[Any] = []

    def backend(graph_module: fx.GraphModule, inputs: list[Any]) -> Any:
        found.append((graph_module, inputs))
        return graph_module.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(copy.deepcopy(model), backend=backend, fullgraph=True)(*map(torch.clone, args))
    return fxp.capture(*found[0])


def _make_fx_graph(pre_dispatch: bool) -> Callable[[Any, Any], fxp.Program]:
    def capture(model: Any, args: Any) -> fxp.Program:
        with torch.no_grad():
            graph = make_fx(copy.deepcopy(model), pre_dispatch=pre_dispatch)(*map(torch.clone, args))
        return fxp.capture(graph, args)

    return capture


def _jit_trace(model: Any, args: Any) -> fxp.Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(
            copy.deepcopy(model), tuple(map(torch.clone, args)), check_trace=False, strict=False
        )
    return fxp.capture(script, args)


def _jit_script(model: Any, args: Any) -> fxp.Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(copy.deepcopy(model))
    return fxp.capture(script, args)


WAYS: dict[str, Callable[[Any, Any], fxp.Program]] = {
    **{f"via {name}": lambda model, args, name=name: fxp.capture(model, args, via=name) for name in DOORS},
    "symbolic_trace graph": lambda model, args: fxp.capture(fx.symbolic_trace(model), args),
    "make_fx graph": _make_fx_graph(pre_dispatch=False),
    "make_fx graph above autograd": _make_fx_graph(pre_dispatch=True),
    "dynamo graph": _dynamo_graph,
    "traced TorchScript": _jit_trace,
    "scripted TorchScript": _jit_script,
    "ExportedProgram": lambda model, args: fxp.capture(torch.export.export(_module(model), args)),
}

# What a door has lost before we look at its graph.
LOST = {
    ("assigned", "via dynamo"): "dynamo drops the assignment; refused",
    ("assigned", "via torchscript"): "torch.jit.trace drops the assignment; refused",
    ("assigned", "traced TorchScript"): "torch.jit.trace drops the assignment",
    ("assigned", "symbolic_trace graph"): "symbolic_trace puts a Proxy into the model",
    ("assigned", "dynamo graph"): "the assignment is in the bytecode, not in the graph",
    ("assigned", "make_fx graph"): "make_fx puts a new tensor into the model",
    ("assigned", "make_fx graph above autograd"): "make_fx puts a new tensor into the model",
    ("counter", "symbolic_trace graph"): "symbolic_trace counts while it traces",
    ("counter", "dynamo graph"): "a buffer that changes stays an input, so that dynamo's caller sees it",
    ("in_place", "symbolic_trace graph"): "torch's proxies take no x[...] = value",
    ("mixed", "via dynamo"): "dynamo's region of autocast is lost in torch.export; refused",
    ("mixed", "symbolic_trace graph"): "symbolic_trace drops the region of autocast",
    ("mixed", "scripted TorchScript"): "TorchScript decides about autocast at run time; refused",
    ("recurrent", "dynamo graph"): "dynamo breaks the graph at an LSTM",
    ("recurrent", "make_fx graph"): "below autograd the LSTM is a kernel of oneDNN",
    ("tied_embedding", "dynamo graph"): "None is in the bytecode, not in the graph",
    ("tied_embedding", "traced TorchScript"): "TorchScript cannot return the dict",
}


def _module(model: Any) -> torch.nn.Module:
    if isinstance(model, torch.nn.Module):
        return model
    module = torch.nn.Module()
    module.forward = model
    return module


@pytest.mark.parametrize("name", EXAMPLES)
def test_doors_agree(name: str) -> None:
    model, args = example(name)
    reference = fxp.canonicalize(fxp.capture(model, args, via="export"))
    different = []
    for way, capture in WAYS.items():
        if (name, way) in LOST:
            continue
        program = fxp.canonicalize(capture(model, args))
        if str(program) != str(reference):
            different.append(f"{way}:\n{program}")
        elif program.fingerprint != reference.fingerprint:
            different.append(f"{way}: same text, another fingerprint")
    assert not different, "\n".join([f"{name} via export:\n{reference}", *different])


@pytest.mark.parametrize("way", ["via export", "via make_fx", "via symbolic_trace", "via dynamo"])
def test_doors_agree_on_dynamic_sizes(way: str) -> None:
    batch = torch.export.Dim("batch")
    for name in ("mlp", "attention", "in_place", "tied_embedding"):
        model, args = example(name)
        shapes = tuple({0: batch} for _ in args)
        reference = fxp.canonicalize(fxp.capture(model, args, dynamic_shapes=shapes, via="export"))
        program = fxp.canonicalize(fxp.capture(model, args, dynamic_shapes=shapes, via=way.split()[1]))
        assert str(program) == str(reference), name
        assert program.fingerprint == reference.fingerprint


@pytest.mark.parametrize(
    ("name", "way"), [pair for pair, reason in LOST.items() if reason.endswith("refused")]
)
def test_what_would_be_lost_is_refused(name: str, way: str) -> None:
    model, args = example(name)
    with pytest.raises(CaptureError):
        WAYS[way](model, args)


def test_numbers_where_the_text_differs() -> None:
    """The LSTM of make_fx is another kernel, and computes the same."""
    model, args = example("recurrent")
    program = fxp.capture(make_fx(model)(*args), args)
    with torch.no_grad():
        torch.testing.assert_close(program(*args), model(*args))
