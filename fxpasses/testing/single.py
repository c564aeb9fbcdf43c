"""Small programs made of single calls: `single_op_program` and `calls_program`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from fxpasses.graph_modules import make_graph_module
from fxpasses.program import Input, Output, Program
from fxpasses.schema import bind
from fxpasses.tracing.fake_values import fake_value

__all__ = ["Call", "calls_program", "single_op_program"]

Call = tuple[OpOverload, tuple[Any, ...], dict[str, Any]]


def single_op_program(op: OpOverload, *args: Any, **kwargs: Any) -> tuple[Program, tuple[torch.Tensor, ...]]:
    """A program ``f(*tensors) = op(*args, **kwargs)`` and its tensors.

    Every tensor among the arguments becomes an input; numbers, lists and None
    stay in the call. Several results are returned as a tuple.
    """
    program, tensors = calls_program([(op, args, kwargs)])
    return program.replace(out_spec=program.out_spec.child(0)), tensors


def calls_program(
    calls: Sequence[Call], dynamic: bool = False, results: Sequence[int] | None = None
) -> tuple[Program, tuple[torch.Tensor, ...]]:
    """A program of independent calls ``(op, args, kwargs)``, and its tensors.

    The result has one entry for each call, a tuple where the call has several
    results (*results* says which of them are used, all without it). With
    *dynamic* every size other than 0 and 1 is a symbol, the same one for the
    same size.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv())
    graph = fx.Graph()
    tensors: list[torch.Tensor] = []

    def lift(arg: Any) -> Any:
        if not isinstance(arg, torch.Tensor):
            return arg
        node = graph.placeholder(f"x{len(tensors)}")
        node.meta["role"] = Input("user", node.name)
        node.meta["val"] = _fake(mode, arg, node.name, dynamic)
        tensors.append(arg)
        return node

    bound = [(op, *map_aggregate(bind(op, args, kwargs), lift)) for op, args, kwargs in calls]
    returned: list[fx.Node] = []
    structure: list[Any] = []
    for op, args, kwargs in bound:
        call = graph.call_function(op, args, kwargs)
        call.meta["val"] = val = fake_value(mode, call)
        if not isinstance(val, tuple | list):
            returned.append(call)
            structure.append(0)
            continue
        used = range(len(val)) if results is None else results
        structure.append(tuple(_taken(graph, call, index, returned) for index in used))
    output = graph.output(tuple(returned))
    output.meta["roles"] = tuple(Output("user") for _ in returned)
    ranges = {symbol: mode.shape_env.var_to_range[symbol] for symbol in mode.shape_env.var_to_range}
    program = Program(
        graph_module=make_graph_module(graph, {}),
        tensors={},
        in_spec=pytree.tree_structure((tuple(tensors), {})),
        out_spec=pytree.tree_structure(tuple(structure)),
        ranges=ranges,
    )
    return program, tuple(tensors)


def _taken(graph: fx.Graph, call: fx.Node, index: int, returned: list[fx.Node]) -> Any:
    """Add result *index* of *call* to *returned*, or the parts of a result that is a list; its structure."""
    part = graph.call_function(operator.getitem, (call, index))
    part.meta["val"] = val = call.meta["val"][index]
    if isinstance(val, tuple | list):
        return tuple(_taken(graph, part, place, returned) for place in range(len(val)))
    returned.append(part)
    return 0


def _fake(mode: Any, tensor: torch.Tensor, name: str, dynamic: bool) -> torch.Tensor:
    if not dynamic:
        return mode.from_tensor(tensor, static_shapes=True)
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DUCK] * tensor.dim())
    return mode.from_tensor(tensor, source=ConstantSource(name), symbolic_context=context)
