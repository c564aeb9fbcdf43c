"""`freeze`: weights become final."""

from __future__ import annotations

from torch import fx

from fxpasses.passes.fold_constants import FoldConstants
from fxpasses.program import Program

__all__ = ["freeze"]


def freeze(program: Program) -> Program:
    """*program* with what depends on its weights alone computed once, and unused tensors left out."""
    program = FoldConstants(parameters=True)(program)
    unused = [
        node
        for node in program.placeholders
        if not node.users and node.meta["role"].kind != "user" and not _is_changed(program, node)
    ]
    if not unused:
        return program
    g = program.edit()
    for node in unused:
        copy = g.node_map[node]
        copy.graph.erase_node(copy)
    return g.finish()


def _is_changed(program: Program, node: fx.Node) -> bool:
    name = node.meta["role"].target
    return any(role.kind == "buffer_mutation" and role.target == name for role, _ in program.outputs)
