"""Graph modules: a graph with the bodies of its control flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import fx
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.node import map_arg

from fxpasses.errors import FxpassesError

__all__ = ["body_of", "copy_graph_module", "graph_modules", "make_graph_module"]


def make_graph_module(graph: fx.Graph, bodies: Mapping[str, torch.nn.Module]) -> fx.GraphModule:
    """A GraphModule whose Python code is generated only when it is first called."""
    return _LazyGraphModule(dict(bodies), graph)


def copy_graph_module(module: fx.GraphModule) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """A copy of a graph module and its bodies, with the map from old to new nodes."""
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    bodies: dict[str, torch.nn.Module] = {}
    for node in module.graph.nodes:
        # `Graph.node_copy` looks for symbolic numbers among the arguments, which takes half of its time.
        mapping[node] = copy = graph.create_node(node.op, node.target, name=node.name, type_expr=node.type)
        copy.args = map_arg(node.args, mapping.__getitem__)
        if node.kwargs:
            copy.kwargs = map_arg(node.kwargs, mapping.__getitem__)
        copy.meta = node.meta.copy()
        body = body_of(node)
        if body is not None and node.target not in bodies:
            bodies[node.target], inner = copy_graph_module(body)
            mapping.update(inner)
    return make_graph_module(graph, bodies), mapping


def body_of(node: fx.Node) -> fx.GraphModule | None:
    """The control-flow body that a ``get_attr`` node names, or None."""
    if node.op != "get_attr":
        return None
    owner = node.graph.owning_module
    target = getattr(owner, str(node.target), None) if owner is not None else None
    return target if isinstance(target, fx.GraphModule) else None


def graph_modules(module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """A graph module and, after it, every control-flow body."""
    yield module
    seen = set()
    for node in module.graph.find_nodes(op="get_attr"):
        body = body_of(node)
        if body is None:
            raise FxpassesError(
                f"get_attr node {node.name!r} names {node.target!r}, which is no control-flow body; "
                "tensors of a Program are placeholders"
            )
        if id(body) not in seen:
            seen.add(id(body))
            yield from graph_modules(body)
