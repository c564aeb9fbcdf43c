"""`schedule`: the order of emission, with the calls that run in PyTorch in as few groups as can be.

Each call outside of TVM gets a *stage*: how many times the longest way from
the inputs to it goes out to PyTorch and comes back. Calls of one stage never
wait for each other through native code, so they form one group without a
cycle. A chain of that many changes needs that many groups, so no partition has
fewer.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from fxpasses.schema import draws_random

__all__ = ["Group", "schedule", "stages"]


@dataclass
class Group:
    """Calls that run in PyTorch one after the other, without a return in between."""

    nodes: list[fx.Node] = field(default_factory=list)


def schedule(graph: fx.Graph, outside: Mapping[fx.Node, str]) -> list[fx.Node | Group]:
    """The calls of *graph* in an order of emission; those in *outside* by groups."""
    stage = stages(graph, outside)
    by_stage: dict[int, Group] = {}
    native: dict[int, list[fx.Node]] = {}
    for node, number in stage.items():
        if _is_outside(node, outside):
            by_stage.setdefault(number, Group()).nodes.append(node)
        else:
            native.setdefault(number, []).append(node)
    items: list[fx.Node | Group] = []
    for number in range(max(stage.values(), default=0) + 1):
        items += native.get(number, [])
        if number in by_stage:
            items.append(by_stage[number])
    return items


def stages(graph: fx.Graph, outside: Mapping[fx.Node, str]) -> dict[fx.Node, int]:
    """The stage of each call: of a native one, how many groups must have run before it."""
    stage: dict[fx.Node, int] = {}
    last_random: fx.Node | None = None
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        operands = [operand for operand in node.all_input_nodes if operand in stage]
        out = _is_outside(node, outside)
        if draws_random(node.target, node.args, node.kwargs):
            if last_random is not None:
                operands.append(last_random)
            last_random = node
        stage[node] = max(
            (stage[o] + (1 if _is_outside(o, outside) and not out else 0) for o in operands), default=0
        )
    return stage


def _is_outside(node: fx.Node, outside: Mapping[fx.Node, str]) -> bool:
    """Whether *node* runs in PyTorch, or picks a result of a call that does."""
    while node.target is operator.getitem:
        node = node.args[0]  # type: ignore[assignment]
    return node in outside
