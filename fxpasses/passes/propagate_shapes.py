"""`propagate_shapes`: fake values computed anew from the inputs on."""

from __future__ import annotations

from fxpasses.program import Program
from fxpasses.tracing.fake_values import fake_value

__all__ = ["propagate_shapes"]


def propagate_shapes(program: Program) -> Program:
    """Recompute ``meta["val"]`` (dtype and shape, static or symbolic) of every call.

    Passes made with the `Editor` keep these up to date themselves; this is for
    graphs that other tools have edited.
    """
    g = program.edit()
    for node in g.graph.nodes:
        if node.op == "call_function":
            node.meta["val"] = fake_value(g.fake_mode, node)
    return g.finish()
