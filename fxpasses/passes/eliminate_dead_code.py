"""`eliminate_dead_code`: calls whose results nobody uses, and tensors that no call reads."""

from __future__ import annotations

from fxpasses.graph_modules import graph_modules
from fxpasses.program import Program
from fxpasses.schema import is_pure, is_random

__all__ = ["eliminate_dead_code"]


def eliminate_dead_code(program: Program) -> Program:
    """Erase unused pure and random calls, and placeholders of unused tensors.

    User inputs stay, used or not: they are the calling convention.
    """
    g = program.edit()
    mutated = {role.target for role, _ in program.outputs}
    for module in reversed(list(graph_modules(g.graph_module))):
        for node in reversed(list(module.graph.nodes)):
            if node.users or node.op == "output":
                continue
            if node.op == "placeholder":
                role = node.meta.get("role")
                if role is not None and role.kind != "user" and role.target not in mutated:
                    module.graph.erase_node(node)
            elif node.op == "get_attr" or is_pure(node) or is_random(node.target):
                module.graph.erase_node(node)
    return g.finish()
