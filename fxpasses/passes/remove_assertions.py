"""`remove_assertions`: run-time checks of sizes leave the graph; what they prove is in `ranges`."""

from __future__ import annotations

from fxpasses.program import Program
from fxpasses.schema import is_assertion

__all__ = ["remove_assertions"]


def remove_assertions(program: Program) -> Program:
    """Erase ``_assert_scalar``, ``_assert_tensor_metadata``, ``sym_constrain_range`` and their kin."""
    if not any(is_assertion(node.target) for node in program.nodes()):
        return program
    g = program.edit()
    for node in reversed(g.nodes()):
        if is_assertion(node.target):
            g.erase(node)
    return g.finish()
