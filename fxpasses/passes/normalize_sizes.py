"""`normalize_sizes`: every symbolic size computed in one way from the inputs' shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from fxpasses.program import Program

__all__ = ["normalize_sizes"]


def normalize_sizes(program: Program) -> Program:
    """Recompute each symbolic argument from its expression.

    However a graph arrived at a size (products of sizes, sizes of
    intermediate values), it is read by `aten.sym_size.int` from the first
    input that has the symbol, followed by plain arithmetic. Sizes that turn
    out to be constant become ints.
    """
    if not any(_is_symbolic(node) for node in program.nodes()):
        return program
    g = program.edit()

    def canonical(arg: Any) -> Any:
        if not isinstance(arg, fx.Node) or arg.op != "call_function":
            return arg
        val = arg.meta.get("val")
        if isinstance(val, torch.SymInt):
            return g._materialise(val)
        return val if isinstance(val, int) and not isinstance(val, bool) else arg

    for node in g.nodes():
        if node._erased or not any(_is_symbolic(arg) for arg in node.all_input_nodes):
            continue
        if _is_symbolic(node) and isinstance(node.meta["val"], torch.SymInt | int):
            continue
        with g.at(node):
            node.args, node.kwargs = map_aggregate((node.args, node.kwargs), canonical)  # type: ignore[misc]
    return g.finish()


def _is_symbolic(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(
        node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float
    )
