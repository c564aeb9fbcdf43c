"""Results of a graph that are views of one value, or of an argument, share its memory.

A compiled program gives every result memory of its own. Behind a graph break, code
may write to one of two results and read the other. So the program gives the value
that both are views of, and the views are made of it afterwards. A view of an argument
is made of the argument: AOT autograd may take sizes, strides and offset of what it gets,
to make the view by itself.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

__all__ = ["split_off_views"]

Finish = Callable[..., Sequence[Any]]


def split_off_views(module: fx.GraphModule) -> tuple[fx.GraphModule, Finish | None]:
    """*module* without the views by which its results share memory, and the function that adds them.

    The function takes the results of the former and gives those of *module*;
    None where no two of them share memory, and none is a view of an argument.
    """
    results: Sequence[Any] = module.graph.output_node().args[0]  # type: ignore[assignment]
    bases = {result: _base(result) for result in results if isinstance(result, fx.Node)}
    views = Counter(bases.values())
    shared = {result for result, base in bases.items() if base is not result and base.op == "placeholder"}
    shared |= {result for result, base in bases.items() if views[base] > 1 and base.op == "call_function"}
    if not shared:
        return module, None
    finish = fx.Graph()
    given: dict[fx.Node, fx.Node] = {}  # nodes of the module whose values the views are made of
    made: dict[fx.Node, fx.Node] = {}

    def value(node: fx.Node, is_made_here: bool) -> fx.Node:
        if is_made_here and _is_view(node):
            if node not in made:
                operands = {arg: value(arg, arg is node.args[0]) for arg in node.all_input_nodes}
                made[node] = finish.node_copy(node, operands.__getitem__)
            return made[node]
        if node not in given:
            with finish.inserting_before(None):  # at the beginning
                given[node] = finish.placeholder(node.name)
        return given[node]

    finish.output(tuple(value(r, r in shared) if isinstance(r, fx.Node) else r for r in results))
    names = {node.name: node for node in given}
    rest = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    rest.graph_copy(module.graph, copies)
    rest.output(tuple(copies[names[str(node.target)]] for node in finish.find_nodes(op="placeholder")))
    rest.eliminate_dead_code()
    return fx.GraphModule(module, rest), fx.GraphModule({}, finish)


def _base(node: fx.Node) -> fx.Node:
    """The node whose memory *node* is in."""
    while _is_view(node):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _is_view(node: fx.Node) -> bool:
    """Whether *node* is a view of its first operand, or one of several."""
    if node.target is operator.getitem:
        return _is_view(node.args[0])  # type: ignore[arg-type]
    if not isinstance(node.target, OpOverload) or not isinstance(node.meta.get("val"), torch.Tensor | list):
        return False
    schema = node.target._schema
    aliases = [argument.alias_info for argument in (*schema.arguments[:1], *schema.returns[:1])]
    return len(aliases) == 2 and all(alias is not None and not alias.is_write for alias in aliases)
