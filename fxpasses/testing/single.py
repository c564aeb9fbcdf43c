"""`single_op_program`: a program that is one call of one operator."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from fxpasses.program import Input, Output, Program, make_graph_module
from fxpasses.rewrite import fake_value
from fxpasses.schema import bind

__all__ = ["single_op_program"]


def single_op_program(op: OpOverload, *args: Any, **kwargs: Any) -> tuple[Program, tuple[torch.Tensor, ...]]:
    """A program ``f(*tensors) = op(*args, **kwargs)`` and its tensors.

    Every tensor among the arguments becomes an input; numbers, lists and None
    stay in the call. Several results are returned as a tuple.
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
        node.meta["val"] = mode.from_tensor(arg, static_shapes=True)
        tensors.append(arg)
        return node

    args, kwargs = bind(op, args, kwargs)
    call = graph.call_function(op, *map_aggregate((args, kwargs), lift))
    call.meta["val"] = val = fake_value(mode, call)
    results: list[fx.Node] = [call]
    if isinstance(val, tuple | list):
        results = []
        for index, item in enumerate(val):
            results.append(graph.call_function(operator.getitem, (call, index)))
            results[-1].meta["val"] = item
    output = graph.output(tuple(results))
    output.meta["roles"] = tuple(Output("user") for _ in results)
    whole: Any = tuple(results) if isinstance(val, tuple | list) else 0
    program = Program(
        graph_module=make_graph_module(graph, {}),
        tensors={},
        in_spec=pytree.tree_structure((tuple(tensors), {})),
        out_spec=pytree.tree_structure(whole),
    )
    return program, tuple(tensors)
