"""`order_nodes`: one order and one naming for each graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.graph_modules import body_of, make_graph_module
from fxpasses.program import Program
from fxpasses.schema import checks_values, draws_random

__all__ = ["order_nodes"]


def order_nodes(program: Program) -> Program:
    """Sort nodes depth first from the outputs and name them after their operators.

    Tensors come in the order of their first use, then the user inputs in the
    order of the signature. Random calls and assertions keep their order.
    """
    return program.replace(graph_module=_ordered(program.graph_module))


def _ordered(module: fx.GraphModule) -> fx.GraphModule:
    old = module.graph
    output = old.output_node()
    kept = [
        node
        for node in old.nodes
        if node.op == "call_function"
        and (checks_values(node) or draws_random(node.target, node.args, node.kwargs))
    ]
    order = _depth_first([*kept, output])
    placeholders = {node: i for i, node in enumerate(old.find_nodes(op="placeholder"))}
    user = [n for n in placeholders if _is_user(n)]
    rank = {node: i for i, node in enumerate(order)}
    tensors = sorted((n for n in placeholders if not _is_user(n)), key=lambda n: rank.get(n, len(rank)))
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    names = _Names()
    bodies: dict[str, torch.nn.Module] = {}
    sizes = [n for n in order if n.target is torch.ops.aten.sym_size.int and n.args[0] in placeholders]
    rest = [n for n in order if n.op not in ("placeholder", "output") and n not in set(sizes)]
    sizes.sort(key=lambda n: (placeholders[n.args[0]], n.args[1]))  # type: ignore[arg-type]
    for node in (*tensors, *user, *sizes, *rest, output):
        name = names.of(node)
        copy = graph.create_node(
            node.op,
            name if node.op == "placeholder" else node.target,
            fx.map_arg(node.args, mapping.__getitem__),  # type: ignore[arg-type]
            fx.map_arg(node.kwargs, mapping.__getitem__),  # type: ignore[arg-type]
            name=name,
        )
        copy.meta = dict(node.meta)
        body = body_of(node)
        if body is not None:
            copy.target = name
            bodies[name] = _ordered(body)
        mapping[node] = copy
    return make_graph_module(graph, bodies)


def _is_user(node: fx.Node) -> bool:
    role = node.meta.get("role")
    return role is None or role.kind == "user"


def _depth_first(roots: list[fx.Node]) -> list[fx.Node]:
    """All nodes that *roots* need, each after its arguments, in order of use."""
    done: dict[fx.Node, None] = {}
    for root in roots:
        if root in done:
            continue
        stack: list[tuple[fx.Node, Any]] = [(root, iter(root.all_input_nodes))]
        while stack:
            node, operands = stack[-1]
            operand = next(operands, None)
            if operand is None:
                stack.pop()
                done.setdefault(node)
            elif operand not in done:
                stack.append((operand, iter(operand.all_input_nodes)))
    return list(done)


class _Names:
    """``addmm``, ``addmm_1``, ... by operator; ``x0`` and ``p0`` for inputs and tensors."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def of(self, node: fx.Node) -> str:
        if node.op == "placeholder":
            role = node.meta.get("role")
            base = "input" if role is None or role.kind == "user" else "tensor"
            return f"{base}{self._next(base)}"
        if node.op == "output":
            return "output"
        base = self._base(node)
        count = self._next(base)
        return f"{base}_{count}" if count else base

    def _next(self, base: str) -> int:
        self._counts[base] = self._counts.get(base, -1) + 1
        return self._counts[base]

    def _base(self, node: fx.Node) -> str:
        if node.op == "get_attr":
            return "body"
        target = node.target
        if isinstance(target, OpOverload):
            return target._schema.name.replace("::", "_").removeprefix("aten_").strip("_")
        return getattr(target, "__name__", "call").strip("_")
