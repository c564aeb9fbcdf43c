"""`remove_assertions`: run-time checks of sizes leave the graph; what they prove is in `ranges`."""

from __future__ import annotations

from fxpasses.program import Program
from fxpasses.schema import checks_tensor, checks_values, is_assertion

__all__ = ["remove_assertions"]


def remove_assertions(program: Program) -> Program:
    """Erase ``_assert_scalar``, ``_assert_tensor_metadata``, ``sym_constrain_range`` and their kin.

    What stays are assertions of values: of tensors, and of numbers that no range
    tells (``u0 <= s0``). Only the run can show whether they hold. The messages
    of the latter go, since each way of capture words them otherwise.
    """
    if not any(is_assertion(node.target) for node in program.nodes()):
        return program
    g = program.edit()
    for node in reversed(g.nodes()):
        if checks_tensor(node):
            continue
        if checks_values(node):
            node.args = (node.args[0], "")
            node.kwargs = {}
        elif is_assertion(node.target):
            g.erase(node)
    return g.finish()
